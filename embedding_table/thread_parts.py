"""Runs the parts of one piece of work at the same time: the parts are kernels, which hold no interpreter lock.

Knows nothing of the work. Whoever is free takes the next part, so that cores of unequal speed, or one that is late,
end together where there are more parts than threads. Invariant: `in_parts` returns when every part has ended, and
raises what the first failed part raised. Threads start with the first piece of work, never at import.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import count
from threading import Lock

__all__ = ["available_threads", "in_parts", "parts_of"]

_PARTS_A_THREAD = 4

_lock = Lock()
_executors: dict[int, ThreadPoolExecutor] = {}


def available_threads() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parts_of(size: int, unit: int, threads: int) -> int:
    """Into how many parts to cut work of `size`: a few a thread where each is a `unit` at least, else one a thread.

    A single thread gets all of it at once.
    """
    if threads == 1:
        return 1
    return max(threads, min(_PARTS_A_THREAD * threads, size // unit))


def in_parts(work: Callable[[int], None], parts: int, threads: int | None = None) -> None:
    """Calls work(0) .. work(parts - 1), in the caller's thread and others.

    Args:
        work: what to do.
        parts: how many.
        threads: that work at a time, the caller's among them; None for as many as there are cores.
    """
    if parts <= 1:
        work(0)
        return
    numbers = count()
    failures: dict[int, BaseException] = {}

    def take() -> None:
        while (part := next(numbers)) < parts:
            try:
                work(part)
            except BaseException as failure:  # noqa: BLE001 - raised below, when all have ended
                failures[part] = failure

    executor = _executor()
    helpers = min(parts, threads or available_threads()) - 1
    futures = [executor.submit(take) for _ in range(helpers)]
    try:
        take()
    finally:
        wait([future for future in futures if not future.cancel()])  # who has not begun is not needed any more
    if failures:
        raise failures[min(failures)]


def _executor() -> ThreadPoolExecutor:
    with _lock:
        process = os.getpid()  # a forked child has none of its parent's threads
        if process not in _executors:
            _executors.clear()
            _executors[process] = ThreadPoolExecutor(available_threads(), thread_name_prefix="table")
        return _executors[process]
