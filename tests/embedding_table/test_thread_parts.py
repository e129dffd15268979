"""Parts run at the same time, all of them end, the first failure is told."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from embedding_table import thread_parts
from embedding_table.thread_parts import available_threads, in_parts, parts_of


def test_parts_run_side_by_side() -> None:
    together = threading.Barrier(2, timeout=20)
    done: list[int] = []

    def part(number: int) -> None:
        together.wait()
        done.append(number)

    in_parts(part, 2)
    assert sorted(done) == [0, 1]


def test_one_part_runs_in_the_caller() -> None:
    names: list[str] = []
    in_parts(lambda _: names.append(threading.current_thread().name), 1)
    assert names == [threading.current_thread().name]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_failure_is_raised_after_all_have_ended(failing: int) -> None:
    ended: list[int] = []

    def part(number: int) -> None:
        if number == failing:
            message = f"part {number}"
            raise ValueError(message)
        ended.append(number)

    with pytest.raises(ValueError, match=f"part {failing}"):
        in_parts(part, 3)
    assert sorted(ended) == sorted({0, 1, 2} - {failing})


def test_there_is_at_least_one_thread() -> None:
    assert available_threads() >= 1


def test_who_is_free_takes_the_next_part() -> None:
    released = threading.Event()
    done: list[int] = []

    def part(number: int) -> None:
        if number == 0:
            assert released.wait(20)  # as long as the other thread has parts left
        done.append(number)
        if len(done) == 9:
            released.set()

    in_parts(part, 10, 2)
    assert done == [*range(1, 10), 0]


def test_nobody_waits_for_a_thread_that_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    with ThreadPoolExecutor(1) as busy:
        monkeypatch.setattr(thread_parts, "_executor", lambda: busy)
        other_work = busy.submit(released.wait, 20)
        names: list[str] = []
        in_parts(lambda _: names.append(threading.current_thread().name), 4, 2)
        assert not other_work.done()
        released.set()
    assert names == [threading.current_thread().name] * 4


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_no_more_threads_than_asked_for_and_every_part_once(threads: int) -> None:
    names: set[str] = set()
    done: list[int] = []

    def part(number: int) -> None:
        names.add(threading.current_thread().name)
        done.append(number)

    in_parts(part, 100, threads)
    assert sorted(done) == list(range(100))
    assert len(names) <= threads


def test_parts_follow_the_size() -> None:
    assert parts_of(5, 10, 2) == 2
    assert parts_of(59, 10, 2) == 5
    assert parts_of(1000, 10, 2) == 8
    assert parts_of(1000, 10, 3) == 12
    assert parts_of(1000, 10, 1) == 1
