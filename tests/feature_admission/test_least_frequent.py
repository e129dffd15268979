"""Which rows least-frequent names; the laws are in test_eviction."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from feature_admission.errors import PolicySettingError
from feature_admission.least_frequent import LeastFrequentEviction

MakeRows = Callable[..., Any]


def test_the_rarest_go_and_no_more_than_needed(rows_with: MakeRows, now_s: int) -> None:
    assert LeastFrequentEviction().select(rows_with([1, 1, 1, 1], [5, 0.5, 7, 0.25]), 2, now_s).tolist() == [101, 103]
    assert len(LeastFrequentEviction().select(rows_with([9_999], [0]), 0, now_s)) == 0


def test_among_equal_counts_the_longest_unused_goes(rows_with: MakeRows, now_s: int) -> None:
    assert LeastFrequentEviction().select(rows_with([1, 8, 3], [2, 2, 2]), 1, now_s).tolist() == [101]


def test_rows_past_their_age_go_before_rarer_ones(rows_with: MakeRows, now_s: int) -> None:
    policy = LeastFrequentEviction(max_age_s=60)
    aged = rows_with([1, 100, 1, 100], [0, 50, 1, 60])
    assert policy.select(aged, 0, now_s).tolist() == [101, 103]
    assert policy.select(aged, 1, now_s).tolist() == [101, 103]
    assert policy.select(aged, 3, now_s).tolist() == [100, 101, 103]


@pytest.mark.parametrize("seed", range(5))
def test_no_kept_row_is_rarer_than_one_that_went(rows_of: MakeRows, now_s: int, seed: int) -> None:
    live = rows_of(seed, 1_000)
    for needed in (1, 17, 500, 999):
        went = np.isin(live.handles, LeastFrequentEviction().select(live, needed, now_s))
        assert went.sum() == needed
        assert live.counts[went].max() <= live.counts[~went].min()


def test_an_age_of_nothing_is_refused() -> None:
    with pytest.raises(PolicySettingError, match="max_age_s"):
        LeastFrequentEviction(max_age_s=0)
