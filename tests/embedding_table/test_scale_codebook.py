"""Learned entries: ascending, covering, exact where they can be, and near where it counts."""

import numpy as np
import pytest

from embedding_table.row_ranges import short_floats
from embedding_table.scale_codebook import learn_block_range, learn_codebooks, steps_of


def _ends(rng: np.random.Generator, rows: int) -> tuple[np.ndarray, np.ndarray]:
    size = np.exp(rng.uniform(-5, 1, rows))
    low = (-size * rng.uniform(0.7, 1.3, rows)).astype(np.float32)
    return low, (low + size * rng.uniform(1.5, 2.5, rows)).astype(np.float32)


@pytest.mark.parametrize("rows", [0, 1, 2, 300, 20_000, 100_000])
def test_entries_ascend_and_cover(rows: int) -> None:
    ends = _ends(np.random.default_rng(rows), rows)
    shared = learn_codebooks(ends, ends, 4)
    assert shared.shape == (512,)
    assert shared.dtype == np.float32
    scales, biases = shared[:256], shared[256:]
    assert (np.diff(scales) >= 0).all()
    assert (np.diff(biases) >= 0).all()
    assert (scales > 0).all()
    np.testing.assert_array_equal(short_floats(shared), shared)
    if rows:
        bias = biases[np.abs(biases[None, :].astype(np.float64) - ends[0][:1000, None]).argmin(axis=1)]
        assert (steps_of(ends[0][:1000], ends[1][:1000], bias, 4) <= scales[-1] * (1 + 2.0**-12)).all()
        assert biases[0] <= ends[0].min() + scales[-1]
        assert biases[-1] >= ends[0].max() - scales[-1]


def test_few_ends_are_kept_exactly() -> None:
    low = np.repeat(np.array([-0.5, -0.25, 1], np.float32), 50)
    high = low + np.float32(1.5)
    shared = learn_codebooks((low, high), (low, high), 4)
    assert np.unique(shared[256:]).tolist() == [-0.5, -0.25, 1]
    assert np.unique(shared[:256]).tolist() == [0.10003662109375]  # the next above 0.1


def test_a_bias_is_near_in_steps_of_its_row() -> None:
    """Small rows lie closer to their entry than large ones: on average within a tenth of a step, whatever its size."""
    low, high = _ends(np.random.default_rng(5), 50_000)
    shared = learn_codebooks((low, high), (low, high), 4)
    middles = (shared[257:].astype(np.float64) + shared[256:-1]) / 2
    off = np.abs(low - shared[256:][np.searchsorted(middles, low)]) / steps_of(low, high, low, 4)
    assert off.mean() < 0.1
    small = np.argsort(high - low)[:10_000]
    assert off[small].mean() < 0.2


def test_the_same_ends_give_the_same_entries() -> None:
    ends = _ends(np.random.default_rng(6), 70_000)
    np.testing.assert_array_equal(learn_codebooks(ends, ends, 8), learn_codebooks(ends, ends, 8))


def test_a_block_range_reaches_from_end_to_end() -> None:
    scale, bias = learn_block_range((np.array([-1, 0.3], np.float32), np.array([2, 0.3], np.float32)), 8)
    assert bias == -1
    assert abs(255 * scale + bias - 2) < scale
    assert learn_block_range((np.zeros(0, np.float32),) * 2, 8)[0] > 0
    assert learn_block_range((np.ones(1, np.float32),) * 2, 8)[0] > 0
