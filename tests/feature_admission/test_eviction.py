"""Laws of eviction, one suite over all policies, and the linear choice of the lowest rows."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from feature_admission.age import AgeEviction
from feature_admission.eviction import EvictionPolicy, ages_s, lowest_rows
from feature_admission.least_frequent import LeastFrequentEviction

POLICIES: dict[str, Callable[[], EvictionPolicy]] = {
    "age": lambda: AgeEviction(100),
    "age_of_all": lambda: AgeEviction(1),
    "age_of_none": lambda: AgeEviction(10_000),
    "least_frequent": LeastFrequentEviction,
    "least_frequent_with_age": lambda: LeastFrequentEviction(max_age_s=150),
}


MakeRows = Callable[[int, int], Any]


@pytest.fixture(params=sorted(POLICIES))
def policy(request: pytest.FixtureRequest) -> EvictionPolicy:
    return POLICIES[request.param]()


@pytest.fixture(params=[1, 2, 3])
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_is_a_policy(policy: EvictionPolicy) -> None:
    assert isinstance(policy, EvictionPolicy)


@pytest.mark.parametrize("n", [0, 1, 2, 57, 3_000])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0, 2.0])
def test_names_enough_rows_once_each(
    policy: EvictionPolicy, rows_of: MakeRows, now_s: int, seed: int, n: int, share: float
) -> None:
    rows = rows_of(seed, n)
    needed = round(share * n)
    chosen = policy.select(rows, needed, now_s)
    assert chosen.dtype == np.uint32
    assert min(needed, n) <= len(chosen) <= n
    assert len(np.unique(chosen)) == len(chosen)
    assert np.isin(chosen, rows.handles).all()
    places = np.flatnonzero(np.isin(rows.handles, chosen))
    assert np.array_equal(rows.handles[places], chosen), "in the order of the rows"


def test_changes_nothing_and_repeats_itself(policy: EvictionPolicy, rows_of: MakeRows, now_s: int, seed: int) -> None:
    rows = rows_of(seed, 500)
    for array in (rows.handles, rows.slots, rows.counts, rows.last_seen_s):
        array.flags.writeable = False
    first = policy.select(rows, 50, now_s)
    assert np.array_equal(first, policy.select(rows, 50, now_s))


def test_a_row_never_named_stays_away_from_the_answer(
    policy: EvictionPolicy, rows_of: MakeRows, now_s: int, seed: int
) -> None:
    """Pinned rows are not among the live rows, so their handles cannot come back."""
    rows = rows_of(seed, 500)
    live = type(rows)(rows.handles[9:], rows.slots[9:], rows.bands[9:], rows.counts[9:], rows.last_seen_s[9:])
    chosen = policy.select(live, 500, now_s)
    assert not np.isin(rows.handles[:9], chosen).any()


def test_needing_more_names_no_fewer(policy: EvictionPolicy, rows_of: MakeRows, now_s: int, seed: int) -> None:
    rows = rows_of(seed, 800)
    previous = policy.select(rows, 0, now_s)
    for needed in (1, 10, 100, 400, 800):
        chosen = policy.select(rows, needed, now_s)
        assert np.isin(previous, chosen).all()
        previous = chosen


def test_half_a_million_rows_are_quick(policy: EvictionPolicy, rows_of: MakeRows, now_s: int) -> None:
    rows = rows_of(1, 500_000)
    started = time.process_time()
    policy.select(rows, 50_000, now_s)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize("n", [0, 1, 5, 400])
def test_lowest_rows_equal_those_of_a_full_sort(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 6, n).astype(np.float32)
    ties = rng.integers(0, 4, n).astype(np.uint32)
    order = np.lexsort((np.arange(n), ties, keys))
    for wanted in range(-1, n + 3):
        expected = np.sort(order[: max(0, wanted)])
        assert np.array_equal(lowest_rows(keys, ties, wanted), expected), (seed, wanted)


def test_ages_do_not_wrap_around(rows_with: Callable[..., Any], now_s: int) -> None:
    assert ages_s(rows_with([-5, now_s], [0, 0]), now_s).tolist() == [-5, now_s]
