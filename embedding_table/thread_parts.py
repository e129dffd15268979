"""Runs the parts of one piece of work at the same time: the parts are kernels, which hold no interpreter lock.

Knows nothing of the work. Invariant: `in_parts` returns when every part has ended, and raises what the first failed
part raised. Threads start with the first piece of work, never at import.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Lock

__all__ = ["available_threads", "in_parts"]

_lock = Lock()
_executors: dict[int, ThreadPoolExecutor] = {}


def available_threads() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_parts(work: Callable[[int], None], parts: int) -> None:
    """Calls work(0) .. work(parts - 1), each in its own thread, the caller's among them."""
    if parts <= 1:
        work(0)
        return
    executor = _executor()
    futures = [executor.submit(work, part) for part in range(1, parts)]
    try:
        work(0)
    finally:
        wait(futures)
    for future in futures:
        future.result()


def _executor() -> ThreadPoolExecutor:
    with _lock:
        process = os.getpid()  # a forked child has none of its parent's threads
        if process not in _executors:
            _executors.clear()
            _executors[process] = ThreadPoolExecutor(available_threads(), thread_name_prefix="table")
        return _executors[process]
