"""Parts run at the same time, all of them end, the first failure is told."""

import threading

import pytest

from embedding_table.thread_parts import available_threads, in_parts


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
