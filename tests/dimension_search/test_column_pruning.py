"""Pruning of single columns as published; the laws of every planner are in test_planner."""

from dataclasses import replace

import numpy as np
import pytest

from dimension_search.budget import DimensionBudget
from dimension_search.column_pruning import ColumnPruning
from dimension_search.evidence import BlockEvidence
from tests.dimension_search.evidences import falling, random_evidence, shaped_evidence


def one_band(first: list[list[float]], rows: list[int]) -> BlockEvidence:
    return shaped_evidence(np.array(first)[:, None, :], [[n] for n in rows])


def chosen(evidence: BlockEvidence, budget: DimensionBudget, measure: str = "sseds") -> list[list[int]]:
    kept = ColumnPruning(measure).choose(evidence, budget)  # type: ignore[arg-type]
    return [np.flatnonzero(columns).tolist() for columns in kept.reshape(-1, evidence.dim)]


def test_the_columns_with_the_best_scores_stay_wherever_they_are() -> None:
    evidence = one_band([[1, 9, 2, 8], [3, 0, 7, 4]], [10, 10])

    assert chosen(evidence, DimensionBudget(10 * (5 * 4 + 2 * 4), 4)) == [[1, 3], [0, 2, 3]]
    assert chosen(evidence, DimensionBudget(10 * (5 * 4 + 2 * 4) - 1, 4)) == [[1, 3], [2, 3]]


def test_what_a_column_costs_plays_no_part_in_its_rank() -> None:
    evidence = one_band([[5, 5, 5, 5], [4, 4, 4, 4]], [1_000_000, 1])

    assert chosen(evidence, DimensionBudget(16_000_100, 4)) == [[0, 1, 2], [0]]


@pytest.mark.parametrize("measure", ["sseds", "squared", "magnitude"])
def test_each_measure_reads_its_own_sums(measure: str) -> None:
    evidence = one_band([[1, 1, 1]], [1])
    best = {"sseds": 0, "squared": 1, "magnitude": 2}
    unlike = replace(
        evidence,
        first=np.array([[[9.0, 1, 1]]]),
        squared=np.array([[[1.0, 9, 1]]]),
        magnitude=np.array([[[1.0, 1, 9]]]),
    )

    assert ColumnPruning(measure).name == measure  # type: ignore[arg-type]
    assert chosen(unlike, DimensionBudget(8, 3), measure) == [[best[measure]]]


def test_magnitude_is_a_mean_over_lookups() -> None:
    evidence = one_band([[4, 4], [6, 6]], [1, 1])
    evidence = replace(evidence, lookups=np.array([[1.0], [100.0]]))

    assert chosen(evidence, DimensionBudget(8 + 12, 2), "magnitude") == [[0, 1], [0]]


def test_a_floor_takes_the_best_columns_of_what_scores_nothing() -> None:
    evidence = one_band([[9, 8, 7, 6], [1, 3, 4, 2]], [10, 10])

    assert chosen(evidence, DimensionBudget(0, 4, floor=2)) == [[0, 1], [1, 2]]
    assert chosen(evidence, DimensionBudget(10 * 16, 4, floor=0)) == [[0, 1, 2], []]


def test_steps_round_down_and_keep_bands_nested() -> None:
    spectra = np.array([[[0, 0, 5, 1, 0], [6, 1, 1, 1, 1]]], float)
    evidence = shaped_evidence(spectra, [[1, 1]])

    assert chosen(evidence, DimensionBudget(12 + 11, 5, steps=(2, 4))) == [[], [0, 2]]
    assert chosen(evidence, DimensionBudget(12 + 12, 5, steps=(2, 4))) == [[2, 3], [2, 3]]
    assert chosen(evidence, DimensionBudget(1000, 5, steps=(2, 4))) == [[0, 1, 2, 3], [0, 1, 2, 3]]


def test_it_never_grows_beyond_the_floor() -> None:
    evidence = shaped_evidence(falling(8, 0.5)[None, None], [[10]], widths=np.array([[3]]))

    assert chosen(evidence, DimensionBudget(10**6, 8)) == [[0, 1, 2]]
    assert chosen(evidence, DimensionBudget(10**6, 8, floor=5)) == [[0, 1, 2, 3, 4]]


def test_a_floor_is_met_by_adding_to_what_was_bought_not_beside_it() -> None:
    evidence = random_evidence(11, slots=3, bands=3, dim=6, whole=True)
    budget = DimensionBudget(10**6, 6, floor=3)
    for share in np.linspace(0, 1, 23):
        widths = ColumnPruning().choose(evidence, replace(budget, max_bytes=int(10**6 * share))).sum(axis=2)
        if budget.bytes_of(evidence.rows, widths).sum() > 10**6 * share:
            assert (widths[:, -1] == 3).all() and (widths[:, :-1] == 0).all()
