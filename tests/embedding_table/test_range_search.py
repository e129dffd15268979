"""The search against PyTorch's own, row by row and bit by bit."""

import numpy as np
import pytest
import torch

from embedding_table.range_search import greedy_ranges


def _torch_ranges(rows: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    found = [
        torch.choose_qparams_optimized(torch.from_numpy(row), row.size, n_bins=200, ratio=0.16, bit_width=bits)
        for row in rows
    ]
    return np.array([low.item() for _, low in found]), np.array([high.item() for high, _ in found])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("width", [1, 2, 3, 8, 16, 33])
def test_ranges_are_those_of_pytorch(width: int, bits: int) -> None:
    rng = np.random.default_rng(width)
    rows = rng.standard_normal((101, width)) * np.exp(rng.uniform(-6, 6, (101, 1))) + rng.standard_normal((101, 1))
    rows = rows.astype(np.float32)
    rows[5], rows[6] = 0, 0.25
    rows[7:40] -= rows[7:40, ::-1].copy()  # as much below zero as above: both moves cost the same
    expected = _torch_ranges(rows, bits)

    for threads in (1, 3):
        low, high = greedy_ranges(rows, bits, threads)
        np.testing.assert_array_equal(low, expected[0])
        np.testing.assert_array_equal(high, expected[1])
    if width == 33:
        whole = (low == rows.min(axis=1)) & (high == rows.max(axis=1))
        assert 0 < whole.sum() < 101  # some ranges were narrowed, some not


def test_a_step_too_small_to_move_an_end_ends_the_search() -> None:
    """PyTorch's loop would run for ever."""
    rows = np.array([[1000, 1000.00006], [3e38, -3e38], [1e-45, 0]], np.float32)
    low, high = greedy_ranges(rows, 4, 1)
    np.testing.assert_array_equal(low[:1], rows[:1].min(axis=1))
    np.testing.assert_array_equal(high[:1], rows[:1].max(axis=1))


def test_no_rows_and_no_columns() -> None:
    for shape in ((0, 4), (3, 0)):
        low, high = greedy_ranges(np.zeros(shape, np.float32), 4, 2)
        assert low.shape == high.shape == shape[:1]
