"""Entries chosen from codebooks, and rows that no form can hold."""

import numpy as np

from embedding_table.packed_words import BLOCK, CODED, CODES, HALF
from embedding_table.row_scales import scales_of


def _ends(*pairs: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    array = np.array(pairs, np.float32)
    return array[:, 0].copy(), array[:, 1].copy()


def _codebooks(scales: list[float], biases: list[float]) -> np.ndarray:
    def filled(entries: list[float]) -> list[float]:
        return entries + entries[-1:] * (CODES - len(entries))

    return np.array(filled(scales) + filled(biases), np.float32)


def test_binary16_ends_at_65520() -> None:
    found = scales_of(
        _ends((-65519, 0), (-65520, 0), (0, 15 * 65519.0), (0, 15 * 65520.0), (-3e38, 3e38)),
        4,
        HALF,
        np.zeros(0, np.float32),
    )
    assert (found.scale > 0).tolist() == [True, False, True, False, False]


def test_the_nearest_bias_and_the_least_scale_that_reaches() -> None:
    shared = _codebooks([0.125, 0.25, 1], [-2, -1, 0.5])
    found = scales_of(_ends((-1.75, 1), (-1.25, 2), (-1.5, -1.5), (0.5, 2), (-1, 15)), 4, CODED, shared)
    np.testing.assert_array_equal(found.bias, [-2, -1, -2, 0.5, -1])
    np.testing.assert_array_equal(found.scale, [0.25, 0.25, 0.125, 0.125, 0])  # the last one reaches beyond 1 * 15 - 1
    assert found.scale_code[:4].tolist() == [1, 1, 0, 0]
    assert found.bias_code[:4].tolist() == [0, 1, 0, 2]
    assert found.least[0] == 8  # 7 * 0.25 would do with steps of 0.125


def test_codebooks_hold_what_lies_a_step_outside_and_no_more() -> None:
    shared = _codebooks([0.5], [-1, 1])
    found = scales_of(_ends((-1.5, 0), (-1.51, 0), (1.5, 2), (1.51, 2)), 4, CODED, shared)
    assert (found.scale > 0).tolist() == [True, False, True, False]


def test_a_block_holds_what_lies_a_step_outside_and_no_more() -> None:
    shared = np.array([0.5, -1], np.float32)
    found = scales_of(_ends((-1.5, 7), (-1.51, 0), (0, 7.01), (0, 0)), 4, BLOCK, shared)
    assert (found.scale > 0).tolist() == [True, False, False, True]
    for form, scales in ((BLOCK, np.array([1e38, 0], np.float32)), (CODED, _codebooks([1e38], [0]))):
        assert scales_of(_ends((0, 1)), 4, form, scales).scale[0] == 0  # code 15 would be infinite
