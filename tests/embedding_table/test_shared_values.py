"""Runs of values in one array, against a dict."""

import numpy as np
import pytest

from embedding_table.shared_values import SharedValues


@pytest.mark.parametrize("seed", range(3))
def test_runs_stay_what_they_are_while_others_come_and_go(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shared = SharedValues()
    held: dict[int, np.ndarray] = {}
    for number in range(300):
        if held and rng.random() < 0.45:
            at = list(held)[int(rng.integers(len(held)))]
            del held[at]
            shared.drop(at)
        else:
            run = np.full(int(rng.choice([2, 512])), number, np.float32)
            at = shared.add(run)
            assert at not in held
            held[at] = run
        for at, run in held.items():
            np.testing.assert_array_equal(shared.values[at : at + run.size], run)


def test_what_was_dropped_makes_room() -> None:
    shared = SharedValues()
    for _ in range(100):
        shared.drop(shared.add(np.ones(512, np.float32)))
    assert shared.values.size == 1024


def test_an_old_array_keeps_what_it_had() -> None:
    shared = SharedValues()
    at, old = shared.add(np.arange(512, dtype=np.float32)), shared.values
    for _ in range(5):
        shared.add(np.full(512, -1, np.float32))
    assert shared.values is not old
    np.testing.assert_array_equal(old[at : at + 512], np.arange(512))


def test_nothing_takes_no_place() -> None:
    shared = SharedValues()
    assert shared.add(np.zeros(0, np.float32)) == 0
    shared.drop(0)
    assert shared.add(np.ones(2, np.float32)) == 1
