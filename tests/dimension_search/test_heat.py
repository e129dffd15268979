"""Popularity bands: by heat, with hysteresis."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimension_search.errors import SearchError
from dimension_search.heat import HeatBands

NOW_S = 1_700_000_000
thresholds = st.sets(st.floats(0.01, 1e6), max_size=4).map(sorted).map(tuple)
counts = st.floats(0, 2e6, width=32)


def band(bands: HeatBands, count: float, age_s: int, held: int) -> int:
    found = bands.bands_of(
        np.array([count], np.float32), np.array([NOW_S - age_s], np.uint32), NOW_S, np.array([held], np.int32)
    )
    assert found.dtype == np.int32
    return int(found[0])


def test_heat_is_the_count_halved_for_every_half_life() -> None:
    bands = HeatBands(half_life_s=100)
    heat = bands.heat(
        np.array([8, 8, 8, 0], np.float32), np.array([NOW_S, NOW_S - 100, NOW_S - 300, NOW_S], np.uint32), NOW_S
    )

    assert heat.tolist() == [8, 4, 1, 1]  # a row is there because it was looked up once


def test_a_row_seen_after_now_counts_as_seen_now() -> None:
    assert HeatBands().heat(np.array([5], np.float32), np.array([NOW_S + 50], np.uint32), NOW_S).tolist() == [5]


@given(thresholds, counts, counts, st.integers(0, 100_000), st.integers(0, 100_000), st.integers(0, 4))
def test_a_hotter_row_is_never_in_a_colder_band(
    limits: tuple[float, ...], a: float, b: float, age_a: int, age_b: int, held: int
) -> None:
    bands = HeatBands(limits)
    held = min(held, bands.bands - 1)
    (a, age_a), (b, age_b) = (min(a, b), max(age_a, age_b)), (max(a, b), min(age_a, age_b))

    assert 0 <= band(bands, a, age_a, held) <= band(bands, b, age_b, held) < bands.bands


@given(thresholds, counts, st.integers(0, 100_000), st.integers(0, 4), st.floats(1, 3))
def test_a_row_stays_until_its_heat_has_left_its_band_by_the_hysteresis(
    limits: tuple[float, ...], count: float, age_s: int, held: int, hysteresis: float
) -> None:
    bands = HeatBands(limits, hysteresis=hysteresis)
    held = min(held, bands.bands - 1)
    heat = float(bands.heat(np.array([count], np.float32), np.array([NOW_S - age_s], np.uint32), NOW_S)[0])
    edges = (0.0, *limits, np.inf)
    found = band(bands, count, age_s, held)

    if heat >= edges[held + 1]:
        assert edges[found] <= heat < edges[found + 1]  # it rises at once
    elif heat * hysteresis >= edges[held]:
        assert found == held
    else:
        assert edges[found] <= heat * hysteresis < edges[found + 1]
    assert band(bands, count, age_s, found) == found


def test_a_row_near_a_threshold_does_not_flutter() -> None:
    bands = HeatBands((10.0,), hysteresis=1.25)
    held, seen = 0, []
    for count in (9.9, 10.1, 9.0, 8.1, 9.9, 7.9, 9.9, 10.0):
        held = band(bands, count, 0, held)
        seen.append(held)

    assert seen == [0, 1, 1, 1, 1, 0, 0, 1]


@pytest.mark.parametrize(("limits", "born"), [((), 0), ((2.0, 8.0), 0), ((1.0, 8.0), 1), ((0.25, 0.5), 2)])
def test_a_row_is_born_where_it_would_stay(limits: tuple[float, ...], born: int) -> None:
    bands = HeatBands(limits)

    assert bands.birth_band == born == band(bands, 1.0, 0, born)
    assert bands.bands == len(limits) + 1


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"thresholds": (2.0, 2.0)}, "thresholds are"),
        ({"thresholds": (0.0,)}, "thresholds are"),
        ({"thresholds": (float("nan"),)}, "thresholds are"),
        ({"half_life_s": 0}, "half_life_s is 0"),
        ({"hysteresis": 0.9}, "hysteresis is 0.9"),
    ],
)
def test_bands_that_cannot_be_told_apart_are_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(SearchError, match=told):
        HeatBands(**wrong)
