"""Which rows age names; the laws are in test_eviction."""

from collections.abc import Callable
from typing import Any

import pytest

from feature_admission.age import AgeEviction
from feature_admission.errors import PolicySettingError

MakeRows = Callable[..., Any]


@pytest.mark.parametrize("needed", [0, 1, 2])
def test_rows_past_their_age_go_even_if_fewer_are_needed(rows_with: MakeRows, now_s: int, needed: int) -> None:
    chosen = AgeEviction(60).select(rows_with([10, 61, 60, 500], [1, 99, 1, 99]), needed, now_s)
    assert chosen.tolist() == [101, 103]


def test_the_longest_unused_fill_up_what_is_needed(rows_with: MakeRows, now_s: int) -> None:
    chosen = AgeEviction(60).select(rows_with([10, 61, 60, 500, -5], [1, 9, 1, 9, 0]), 3, now_s)
    assert chosen.tolist() == [101, 102, 103]


def test_among_equal_ages_the_rarest_goes(rows_with: MakeRows, now_s: int) -> None:
    chosen = AgeEviction(60).select(rows_with([5, 5, 5], [3, 1, 2]), 2, now_s)
    assert chosen.tolist() == [101, 102]


def test_an_age_of_nothing_is_refused() -> None:
    with pytest.raises(PolicySettingError, match="max_age_s"):
        AgeEviction(0)
