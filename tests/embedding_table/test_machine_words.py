"""Rows of every width against numpy, with neighbours that must stay as they are."""

import numpy as np
import pytest

from embedding_table.machine_words import (
    add_row,
    add_rows,
    add_rows_fetching,
    add_scaled_row,
    add_scaled_row_noting_products,
    copy_row,
    fill_row,
    prefetch,
    prefetch_row,
    sum_of_squares,
)
from model_contract.compiled import kernel

WIDTHS = [*range(18), 31, 32, 33, 47, 64, 100]


@kernel
def _fill(target: np.ndarray, at: int, width: int, value: np.float32) -> None:
    fill_row(target, at, width, value)


@kernel
def _copy(target: np.ndarray, at: int, source: np.ndarray, start: int, width: int) -> None:
    copy_row(target, at, source, start, width)


@kernel
def _add(target: np.ndarray, at: int, source: np.ndarray, start: int, width: int) -> None:
    add_row(target, at, source, start, width)


@kernel
def _add_scaled(target: np.ndarray, at: int, source: np.ndarray, start: int, width: int, scale: np.float32) -> None:
    add_scaled_row(target, at, source, start, width, scale)


@kernel
def _add_scaled_noting(
    target: np.ndarray,
    at: int,
    source: np.ndarray,
    start: int,
    width: int,
    scale: np.float32,
    sums: np.ndarray,
    squares: np.ndarray,
    to: int,
) -> None:
    add_scaled_row_noting_products(target, at, source, start, width, scale, sums, squares, to)


@kernel
def _squares(source: np.ndarray, start: int, width: int) -> np.float32:
    return sum_of_squares(source, start, width)


@kernel
def _add_rows(target: np.ndarray, width: int, source: np.ndarray, starts: np.ndarray) -> None:
    add_rows(target, 1, width, source, starts, 1, starts.size)


@kernel
def _add_rows_fetching(target: np.ndarray, width: int, source: np.ndarray, starts: np.ndarray, ahead: int) -> None:
    add_rows_fetching(target, 1, width, source, starts, 1, starts.size - ahead, ahead)


@kernel
def _fetch(array: np.ndarray, position: int) -> None:
    prefetch(array, position)
    prefetch_row(array, position, np.uint64(100))


@pytest.mark.parametrize("width", WIDTHS)
def test_rows_of_any_width(width: int) -> None:
    rng = np.random.default_rng(width)
    source = rng.standard_normal(200).astype(np.float32)
    start, at = 3, 7
    row = source[start : start + width]
    original = rng.standard_normal(200).astype(np.float32)
    scale = np.float32(0.37)

    def expected(changed: np.ndarray) -> np.ndarray:
        whole = original.copy()
        whole[at : at + width] = changed
        return whole

    held = original[at : at + width]
    target = original.copy()
    _fill(target, at, width, scale)
    np.testing.assert_array_equal(target, expected(np.full(width, scale)))
    target = original.copy()
    _copy(target, at, source, start, width)
    np.testing.assert_array_equal(target, expected(row))
    target = original.copy()
    _add(target, at, source, start, width)
    np.testing.assert_array_equal(target, expected(held + row))
    target = original.copy()
    _add_scaled(target, at, source, start, width, scale)
    np.testing.assert_allclose(target, expected(held + scale * row), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(_squares(source, start, width), np.sum(row.astype(np.float64) ** 2), rtol=1e-6)


@pytest.mark.parametrize("width", WIDTHS)
def test_products_are_of_the_row_as_it_was(width: int) -> None:
    rng = np.random.default_rng(width)
    source, original, sums, squares = rng.standard_normal((4, 200)).astype(np.float32)
    scale, start, at, to = np.float32(0.37), 3, 7, 20
    target, plain = original.copy(), original.copy()
    _add_scaled(plain, at, source, start, width, scale)
    noted = source[start : start + width] * original[at : at + width]
    expected_sums, expected_squares = sums.copy(), squares.copy()
    expected_sums[to : to + width] += noted
    expected_squares[to : to + width] += noted * noted
    _add_scaled_noting(target, at, source, start, width, scale, sums, squares, to)
    np.testing.assert_array_equal(target, plain)
    np.testing.assert_array_equal(sums, expected_sums)
    np.testing.assert_allclose(squares, expected_squares, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("width", [*WIDTHS, 128, 130])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_add_rows(width: int, count: int) -> None:
    rng = np.random.default_rng(width)
    source = rng.standard_normal(500).astype(np.float32)
    starts = rng.integers(0, 500 - width, count).astype(np.uint64)
    target = rng.standard_normal(width + 2).astype(np.float32)
    expected = target.copy()
    for start in starts[1:].tolist():
        expected[1:-1] += source[start : start + width]
    fetched = target.copy()
    _add_rows(target, width, source, starts)
    np.testing.assert_array_equal(target, expected)
    _add_rows_fetching(fetched, width, source, np.append(starts, np.array([0, 1 << 40, 499], np.uint64)), 3)
    np.testing.assert_array_equal(fetched, expected)


@pytest.mark.parametrize("position", [0, -(1 << 40), 1 << 40])
def test_prefetch_changes_nothing_wherever_it_points(position: int) -> None:
    array = np.arange(4, dtype=np.float32)
    _fetch(array, position)
    np.testing.assert_array_equal(array, [0, 1, 2, 3])
