"""Widths by rule; the laws of every planner are in test_planner."""

import numpy as np
import pytest

from dimension_search.budget import DimensionBudget
from dimension_search.evidence import BlockEvidence
from dimension_search.fixed_widths import FixedSteps, PowerLaw, UniformWidth
from dimension_search.planner import Planner
from tests.dimension_search.evidences import falling, shaped_evidence


def slots(rows: list[list[int]], dim: int = 32, importance: list[float] | None = None) -> BlockEvidence:
    scale = np.ones(len(rows)) if importance is None else np.array(importance)
    spectra = scale[:, None, None] * np.broadcast_to(falling(dim, 0.9), (len(rows), len(rows[0]), dim))
    return shaped_evidence(spectra, rows)


def widths(planner: Planner, evidence: BlockEvidence, budget: DimensionBudget) -> list[list[int]]:
    return planner.choose(evidence, budget).sum(axis=2).tolist()


def test_uniform_is_the_widest_that_fits_for_all() -> None:
    evidence = slots([[10, 10], [1, 4]])

    assert widths(UniformWidth(), evidence, DimensionBudget(25 * (5 * 4 + 4), 32)) == [[5, 5], [5, 5]]
    assert widths(UniformWidth(), evidence, DimensionBudget(25 * (5 * 4 + 4) - 1, 32)) == [[4, 4], [4, 4]]
    assert widths(UniformWidth(), evidence, DimensionBudget(25 * 24, 32, steps=(2, 4, 8))) == [[4, 4], [4, 4]]
    assert widths(UniformWidth(), evidence, DimensionBudget(0, 32, floor=3, steps=(2, 4, 8))) == [[4, 4], [4, 4]]


def test_the_power_law_gives_large_slots_powers_of_two_below_small_ones() -> None:
    evidence = slots([[100_000], [1_000], [10]])
    found = [width for (width,) in widths(PowerLaw(), evidence, DimensionBudget(100_000 * 12 + 1_000 * 50 + 2_000, 32))]

    assert found == [2, 8, 32]  # 100 times the rows: 100^-0.3, a quarter


def test_without_temperature_the_power_law_is_uniform() -> None:
    evidence = slots([[100_000], [1_000], [10]])

    assert widths(PowerLaw(alpha=0), evidence, DimensionBudget(101_010 * 40, 32)) == [[8], [8], [8]]


def test_the_power_law_never_goes_below_a_floor_that_is_a_step() -> None:
    evidence = slots([[100_000], [10]])

    assert widths(PowerLaw(), evidence, DimensionBudget(100_000 * 25, 32, floor=3, steps=(4, 16))) == [[4], [16]]


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (1.0, [64, 64, 64]),
        (0.6, [64, 32, 8]),
        (0.45, [64, 16, 4]),
        (0.3, [32, 8, 1]),
        (0.14, [16, 4, 1]),
        (0, [1, 1, 1]),
    ],
)
def test_steps_go_by_the_rank_of_importance_per_row(share: float, expected: list[int]) -> None:
    evidence = slots([[100], [100], [100]], dim=64, importance=[2, 3, 1])
    found = widths(FixedSteps(), evidence, DimensionBudget(int(300 * (64 * 4 + 4) * share), 64))

    assert [found[1][0], found[0][0], found[2][0]] == expected


def test_many_rows_make_a_slot_less_important_each() -> None:
    evidence = slots([[1000], [10]], dim=64, importance=[2, 1])
    found = widths(FixedSteps(), evidence, DimensionBudget(60_000, 64))

    assert found[1] > found[0]
