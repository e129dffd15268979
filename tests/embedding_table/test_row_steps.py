"""Steps of several rows of every width against single rows, with neighbours that must stay as they are."""

import numpy as np
import pytest

from embedding_table.row_steps import step_rows, step_rows_noting_products
from model_contract.compiled import kernel

WIDTHS = [*range(18), 31, 33, 64, 65, 100, 128, 130]


@kernel
def _step(
    target: np.ndarray,
    starts: np.ndarray,
    source: np.ndarray,
    origins: np.ndarray,
    steps: np.ndarray,
    begin: int,
    end: int,
    width: int,
) -> None:
    step_rows(target, starts, source, origins, steps, begin, end, width)


@kernel
def _step_noting(
    target: np.ndarray,
    starts: np.ndarray,
    source: np.ndarray,
    origins: np.ndarray,
    steps: np.ndarray,
    begin: int,
    end: int,
    width: int,
    sums: np.ndarray,
    squares: np.ndarray,
    to: int,
) -> None:
    step_rows_noting_products(target, starts, source, origins, steps, begin, end, width, sums, squares, to)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("begin", "end"), [(0, 4), (1, 3), (2, 2)])
def test_rows_step_one_after_another(width: int, begin: int, end: int) -> None:
    rng = np.random.default_rng(width)
    target, source = rng.standard_normal((2, 700)).astype(np.float32)
    starts = rng.permutation(5)[:4].astype(np.uint64) * np.uint64(135) + np.uint64(3)
    origins = rng.integers(0, 500, 4).astype(np.uint64)
    steps = rng.standard_normal(4).astype(np.float32)
    sums, squares = rng.standard_normal((2, 150)).astype(np.float32)
    expected, noted = target.astype(np.float64), target.copy()
    expected_sums, expected_squares = sums.astype(np.float64), squares.astype(np.float64)
    for k in range(begin, end):
        row = slice(int(starts[k]), int(starts[k]) + width)
        added = source[int(origins[k]) : int(origins[k]) + width].astype(np.float64)
        expected_sums[7 : 7 + width] += expected[row] * added
        expected_squares[7 : 7 + width] += (expected[row] * added) ** 2
        expected[row] += steps[k] * added
    _step(target, starts, source, origins, steps, begin, end, width)
    _step_noting(noted, starts, source, origins, steps, begin, end, width, sums, squares, 7)
    np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(noted, target)
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(squares, expected_squares, rtol=1e-5, atol=1e-6)
