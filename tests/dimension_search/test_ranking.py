"""Which columns a width means."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dimension_search.evidence import BlockEvidence
from dimension_search.ranking import leading_columns, rank_columns
from tests.dimension_search.evidences import evidences, falling, shaped_evidence


@given(evidences, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_the_columns_of_a_band_contain_those_of_colder_ones(evidence: BlockEvidence, seed: int) -> None:
    widths = np.random.default_rng(seed).integers(0, evidence.dim + 1, (evidence.slots, evidence.bands))
    columns = leading_columns(evidence, np.sort(widths, axis=1))

    assert (columns.sum(axis=2) == np.sort(widths, axis=1)).all()
    assert (columns[:, :-1] <= columns[:, 1:]).all()


@given(evidences)
@settings(max_examples=60, deadline=None)
def test_nothing_moves_where_the_width_stays(evidence: BlockEvidence) -> None:
    assert (leading_columns(evidence, evidence.widths) == evidence.active).all()


@given(evidences)
@settings(max_examples=30, deadline=None)
def test_a_ranking_names_every_column_once(evidence: BlockEvidence) -> None:
    assert (np.sort(rank_columns(evidence), axis=1) == np.arange(evidence.dim)).all()


def test_held_by_most_bands_then_by_saliency_then_by_what_others_do() -> None:
    evidence = shaped_evidence(np.broadcast_to(falling(5, 0.5), (2, 2, 5)), [[1, 1], [1, 1]])
    active = np.array([[[0, 1, 0, 0, 0], [1, 1, 0, 0, 1]], [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]], bool)
    squared = np.zeros((2, 2, 5))
    squared[0, 1] = [3, 1, 0, 0, 4]  # column 1 does least and is held by both bands
    squared[1, 1] = [0, 0, 5, 6, 0]  # columns 2 and 3 are new to slot 0; slot 1 makes more of 3
    evidence = replace(evidence, active=active, squared=squared)

    assert rank_columns(evidence)[0].tolist() == [1, 4, 0, 3, 2]
