"""The three products of a linear layer, whatever the sizes, against numpy on factors rounded to bfloat16."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_contract.compiled import kernel
from stream_trainer.amx_code import configure_tiles, release_tiles
from stream_trainer.amx_products import (
    CORNER,
    aligned_empty,
    blocks,
    multiply,
    pack_left,
    pack_left_turned,
    pack_right,
    pack_right_turned,
    packed_size,
)
from tests.stream_trainer.amx_cases import needs_amx, rounded

SIZES = st.integers(1, 100)


@kernel
def _product(
    kind: int, a: np.ndarray, b: np.ndarray, cut: np.uint64, left: np.ndarray, right: np.ndarray, out: np.ndarray
) -> None:
    corner = np.empty(CORNER, np.float32)
    zero = np.uint64(0)
    if kind == 0:  # a b^T, b in two pieces
        count = blocks(b.shape[0])
        pack_left(a, left)
        pack_right_turned(b, right, min(cut, count), count)
        pack_right_turned(b, right, zero, min(cut, count))
        steps = blocks(a.shape[1])
    elif kind == 1:  # a b, b in two pieces
        steps = blocks(b.shape[0])
        rows = np.uint64(b.shape[0])
        border = min(cut * np.uint64(32), rows)
        pack_left(a, left)
        pack_right(b, zero, border, right, zero, steps)
        pack_right(b, border, rows, right, min(cut, steps), steps)
    else:  # a^T b, both in two pieces
        steps = blocks(a.shape[0])
        border = min(cut * np.uint64(32), np.uint64(a.shape[0]))
        for first, last in ((zero, border), (border, np.uint64(a.shape[0]))):
            pack_left_turned(a[first:last], left, first // np.uint64(32), steps)
            pack_right(b[first:last], zero, last - first, right, first // np.uint64(32), steps)
    configure_tiles()
    multiply(left, right, steps, out, corner)
    release_tiles()


def run(kind: int, a: np.ndarray, b: np.ndarray, shape: tuple[int, int], summed: int, cut: int) -> np.ndarray:
    left, right = (np.full(packed_size(outer, summed), 0x7FC0, np.uint16) for outer in shape)  # NaN where not packed
    out = np.full(shape, np.nan, np.float32)
    _product(kind, a, b, np.uint64(cut), left, right, out)
    return out


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a b^T."""
    return run(0, a, b, (a.shape[0], b.shape[0]), a.shape[1], 0)


@needs_amx
@settings(deadline=None, max_examples=60)
@given(m=SIZES, n=SIZES, k=SIZES, cut=st.integers(0, 3), seed=st.integers(0, 9))
def test_products_of_a_layer(m: int, n: int, k: int, cut: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((m, k)).astype(np.float32)
    weight = generator.standard_normal((n, k)).astype(np.float32)
    slope = generator.standard_normal((m, n)).astype(np.float32)
    tolerance = {"rtol": 1e-5, "atol": 1e-4}
    np.testing.assert_allclose(run(0, x, weight, (m, n), k, cut), rounded(x) @ rounded(weight).T, **tolerance)
    np.testing.assert_allclose(run(1, slope, weight, (m, k), n, cut), rounded(slope) @ rounded(weight), **tolerance)
    np.testing.assert_allclose(run(2, slope, x, (n, k), m, cut), rounded(slope).T @ rounded(x), **tolerance)


@needs_amx
def test_large_factors_in_several_groups() -> None:
    generator = np.random.default_rng(1)
    a, b = (generator.integers(-3, 4, (1200, 700)).astype(np.float32) for _ in range(2))
    assert np.array_equal(product(a, b), a @ b.T)


def test_memory_starts_on_a_cache_line() -> None:
    for size in (0, 1, 1000):
        memory = aligned_empty(size, np.uint16)
        assert memory.shape == (size,)
        assert memory.dtype == np.uint16
        assert memory.ctypes.data % 64 == 0 or size == 0


@pytest.mark.parametrize(
    ("outer", "summed", "tiles"), [(1, 1, 2), (32, 32, 2), (33, 32, 4), (33, 33, 8), (1024, 100, 256)]
)
def test_factors_take_whole_panels(outer: int, summed: int, tiles: int) -> None:
    assert packed_size(outer, summed) == tiles * 512
