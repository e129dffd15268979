"""Laws of admission, one suite over all policies."""

import time
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from feature_admission.admission import AdmissionPolicy, checked_counts, checked_ids, state_array
from feature_admission.always_admit import AlwaysAdmit
from feature_admission.count_min import CountMinAdmission
from feature_admission.errors import ObservationError, StateMismatchError

MEMORY_BYTES = 1 << 18
POLICIES: dict[str, Callable[[int], AdmissionPolicy]] = {
    "always": lambda seed: AlwaysAdmit(),
    "forever": lambda seed: CountMinAdmission(2, MEMORY_BYTES, seed=seed),
    "plain": lambda seed: CountMinAdmission(
        3, MEMORY_BYTES, half_life_observations=5_000, conservative=False, seed=seed
    ),
    "by_observations": lambda seed: CountMinAdmission(5, MEMORY_BYTES, half_life_observations=700, depth=3, seed=seed),
    "by_seconds": lambda seed: CountMinAdmission(40, MEMORY_BYTES, half_life_s=90.5, depth=5, seed=seed),
}


@pytest.fixture(params=sorted(POLICIES))
def make(request: pytest.FixtureRequest) -> Callable[[int], AdmissionPolicy]:
    return POLICIES[request.param]


@pytest.fixture(params=[1, 2])
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def zipf_ids(rng: np.random.Generator, n: int) -> NDArray[np.uint64]:
    return rng.zipf(1.3, n).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def feed(policy: AdmissionPolicy, seed: int, steps: int = 30, start_s: int = 1_700_000_000) -> None:
    rng = np.random.default_rng(seed)
    for step in range(steps):
        ids = zipf_ids(rng, int(rng.integers(0, 400)))
        counts = rng.integers(0, 4, len(ids)).astype(np.uint32) if step % 2 else None
        policy.observe(ids, counts, start_s + step * 20)


def same_state(left: AdmissionPolicy, right: AdmissionPolicy) -> bool:
    a, b = left.state(), right.state()
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_is_a_policy(make: Callable[[int], AdmissionPolicy]) -> None:
    assert isinstance(make(0), AdmissionPolicy)


def test_answering_changes_nothing(make: Callable[[int], AdmissionPolicy], seed: int) -> None:
    policy, untouched = make(seed), make(seed)
    feed(policy, seed)
    feed(untouched, seed)
    ids = zipf_ids(np.random.default_rng(seed + 1), 5_000)
    answers = [policy.admitted(ids) for _ in range(3)]
    assert np.array_equal(answers[0], answers[1])
    assert np.array_equal(answers[0], answers[2])
    assert same_state(policy, untouched)
    assert [p.pages.tobytes() for p in policy.take_dirty_pages()] == [
        p.pages.tobytes() for p in untouched.take_dirty_pages()
    ]


def test_arguments_are_not_written(make: Callable[[int], AdmissionPolicy], seed: int) -> None:
    ids = zipf_ids(np.random.default_rng(seed), 300)
    counts = np.arange(300, dtype=np.uint32)
    ids.flags.writeable = counts.flags.writeable = False
    policy = make(seed)
    policy.observe(ids, counts, 1)
    policy.admitted(ids)


def test_seeded_runs_are_equal(make: Callable[[int], AdmissionPolicy], seed: int) -> None:
    first, second = make(seed), make(seed)
    feed(first, seed)
    feed(second, seed)
    assert same_state(first, second)


def test_state_is_a_copy_that_restores_idempotently(make: Callable[[int], AdmissionPolicy], seed: int) -> None:
    policy, other = make(seed), make(seed)
    feed(policy, seed)
    saved = policy.state()
    feed(policy, seed + 1, start_s=1_700_001_000)
    feed(other, seed + 2)
    for _ in range(2):
        other.restore(saved)
        assert {name: array.tobytes() for name, array in other.state().items()} == {
            name: array.tobytes() for name, array in saved.items()
        }
    assert not other.take_dirty_pages()
    other.observe(np.array([seed], np.uint64), now_s=1_700_000_600)
    assert sum(pages.pages.nbytes for pages in other.take_dirty_pages()) < 2_000, "nothing of before the restore"
    other.restore(saved)
    feed(other, seed + 1, start_s=1_700_001_000)
    assert same_state(policy, other)


def test_dirty_pages_lead_from_the_old_state_to_the_new(make: Callable[[int], AdmissionPolicy], seed: int) -> None:
    policy, follower = make(seed), make(seed)
    feed(policy, seed)
    follower.restore(policy.state())
    policy.take_dirty_pages()
    taken = []
    for later in range(1, 4):
        feed(policy, seed + later, steps=1, start_s=1_700_000_000 + 10_000 * later)  # beyond 64 half-lives in seconds
        taken.append(policy.take_dirty_pages())
        policy.observe(np.array([later], np.uint64), np.array([60_000], np.uint32), 1_700_000_000)  # or in ids
    taken.append(policy.take_dirty_pages())
    for pages in taken:
        follower.apply_pages(pages)
        follower.apply_pages(pages)  # absolute bytes: twice is once
    assert same_state(policy, follower)
    assert not policy.take_dirty_pages()
    assert not follower.take_dirty_pages()


def test_pages_carry_what_changed_only(make: Callable[[int], AdmissionPolicy], seed: int) -> None:
    policy = make(seed)
    feed(policy, seed)
    policy.take_dirty_pages()
    policy.observe(np.array([seed], np.uint64), now_s=1_700_000_600)
    assert sum(pages.pages.nbytes for pages in policy.take_dirty_pages()) < 2_000


def test_ids_never_seen(make: Callable[[int], AdmissionPolicy], seed: int) -> None:
    policy = make(seed)
    unseen = np.random.default_rng(seed).integers(0, 1 << 63, 10_000).astype(np.uint64)
    before = policy.admitted(unseen)
    assert before.shape == (10_000,)
    assert before.dtype == np.bool_
    feed(policy, seed)
    after = policy.admitted(unseen)
    if isinstance(policy, AlwaysAdmit):
        assert before.all()
        assert after.all()
    else:
        assert not before.any()
        assert after.mean() < 0.01
    assert policy.admitted(np.empty(0, np.uint64)).shape == (0,)


def test_ids_at_the_ends_of_the_range(make: Callable[[int], AdmissionPolicy], seed: int) -> None:
    policy = make(seed)
    ends = np.array([0, 1, 1 << 63, (1 << 64) - 1], np.uint64)
    for _ in range(50):
        policy.observe(ends, now_s=1)
    assert policy.admitted(ends).all()


def test_a_hundred_thousand_ids_are_quick(make: Callable[[int], AdmissionPolicy], seed: int) -> None:
    policy = make(seed)
    ids = zipf_ids(np.random.default_rng(seed), 100_000)
    policy.observe(ids[:1], now_s=1)  # compiles
    policy.admitted(ids[:1])
    started = time.process_time()
    policy.observe(ids, now_s=1)
    policy.admitted(ids)
    assert time.process_time() - started < 0.2  # a Python loop over ids would take several times as long


def test_memory_bound_holds(make: Callable[[int], AdmissionPolicy], seed: int) -> None:
    policy = make(seed)
    before = policy.memory_bytes
    rng = np.random.default_rng(seed)
    for step in range(20):
        policy.observe(rng.integers(0, 1 << 63, 20_000).astype(np.uint64), now_s=step)
    held = sum(array.nbytes for array in policy.state().values())
    assert before == policy.memory_bytes
    assert held <= policy.memory_bytes <= MEMORY_BYTES


@pytest.mark.parametrize(
    ("ids", "counts"),
    [
        (np.zeros(3, np.int64), None),
        (np.zeros((3, 1), np.uint64), None),
        (np.zeros(3, np.uint64), np.ones(2, np.uint32)),
        (np.zeros(3, np.uint64), np.ones(3, np.int64)),
    ],
)
def test_wrong_arrays_are_refused(make: Callable[[int], AdmissionPolicy], ids, counts) -> None:
    policy = make(0)
    with pytest.raises(ObservationError, match="expected uint"):
        policy.observe(ids, counts, 1)
    assert same_state(policy, make(0))


def test_foreign_state_is_refused_and_changes_nothing(make: Callable[[int], AdmissionPolicy]) -> None:
    policy = make(1)
    feed(policy, 1)
    saved = policy.state()
    for name, other in POLICIES.items():
        foreign = other(1)
        feed(foreign, 2)
        try:
            policy.restore(foreign.state())
        except StateMismatchError as error:
            assert "expected" in str(error) or "no array" in str(error), name
            assert {k: v.tobytes() for k, v in policy.state().items()} == {k: v.tobytes() for k, v in saved.items()}
        else:
            assert type(foreign) is type(policy)
            policy.restore(saved)


def test_checks_make_contiguous_arrays() -> None:
    every_second = np.arange(10, dtype=np.uint64)[::2]
    assert checked_ids(every_second).flags.c_contiguous
    assert checked_counts(None, 5).shape == (0,)
    assert checked_counts(np.arange(10, dtype=np.uint32)[::2], 5).flags.c_contiguous


def test_state_array_names_what_it_misses() -> None:
    with pytest.raises(StateMismatchError, match="no array 'cells'"):
        state_array({"clock": np.zeros(1)}, "cells", np.zeros(1))
    with pytest.raises(StateMismatchError, match="float32"):
        state_array({"cells": np.zeros(1)}, "cells", np.zeros(1, np.float32))
