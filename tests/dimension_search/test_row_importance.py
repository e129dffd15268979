"""Levels of importance by decayed count."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dimension_search.row_importance import LEVELS, least_count, levels_of


def test_a_level_begins_at_its_least_count_and_ends_below_the_next() -> None:
    least = np.array([least_count(level) for level in range(LEVELS)], np.float32)

    assert levels_of(least).tolist() == list(range(LEVELS))
    assert levels_of(np.nextafter(least[1:], np.float32(0))).tolist() == list(range(LEVELS - 1))
    np.testing.assert_array_equal(least[2:] / least[1:-1], 2)


@given(st.lists(st.floats(0, 1e9, width=32), min_size=2))
def test_more_traffic_is_no_lower_level(counts: list[float]) -> None:
    levels = levels_of(np.sort(np.array(counts, np.float32)))

    assert levels.min() >= 0
    assert levels.max() < LEVELS
    assert np.all(np.diff(levels) >= 0)
