"""The kernels: columns spread evenly, independent between rows."""

import numpy as np
import pytest

from feature_admission.sketch_cells import add_counts, estimate_counts, weight_at


@pytest.mark.parametrize("width", [16, 1_000, 65_537])
def test_consecutive_ids_spread_over_the_whole_row(width: int) -> None:
    """Chi-square of the cells hit by consecutive ids: within six sigma of a uniform spread."""
    n = 40 * width
    cells, dirty = np.zeros(width, np.float32), np.zeros(width // 64 + 1, np.uint8)
    clock, total = np.zeros(2, np.int64), np.zeros(1)
    seeds = np.array([12345], np.uint64)
    ids = np.arange(n, dtype=np.uint64)
    add_counts(cells, dirty, clock, total, ids, np.empty(0, np.uint32), seeds, width, 0, -1, False, 1e9)
    chi_square = float(((cells - 40) ** 2 / 40).sum())
    assert abs(chi_square - width) < 6 * np.sqrt(2 * width)
    assert cells.sum() == total[0] == clock[0] == n
    assert dirty[: (width + 63) // 64].all()


def test_rows_disagree_about_who_collides() -> None:
    """Two ids that share a cell in one row share one in the next no more often than by chance."""
    width, depth = 256, 2
    cells, dirty = np.zeros(width * depth, np.float32), np.zeros(width * depth // 64, np.uint8)
    clock, total = np.zeros(2, np.int64), np.zeros(1)
    seeds = np.array([1, 2], np.uint64)
    one = np.array([0], np.uint64)
    add_counts(cells, dirty, clock, total, one, np.empty(0, np.uint32), seeds, width, 0, -1, False, 1e9)
    others = np.arange(1, 400_000, dtype=np.uint64)
    first = estimate_counts(cells, others, seeds[:1], width, 1.0) > 0
    both = estimate_counts(cells, others, seeds, width, 1.0) > 0
    assert first.mean() == pytest.approx(1 / width, rel=0.2)
    assert both.mean() == pytest.approx(1 / width**2, abs=6 * np.sqrt(1 / width**2 / len(others)))


def test_weight_doubles_each_half_life() -> None:
    clock = np.zeros(2, np.int64)
    for half_lives in range(60):
        clock[0] = 1_000 * half_lives
        assert weight_at(clock, 1_000) == 2.0**half_lives
    clock[0] = 500
    assert weight_at(clock, 1_000) == pytest.approx(2**0.5)
    assert weight_at(clock, 0) == 1.0
