"""The three products of a linear layer, whatever the sizes, against numpy on what the factors hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding_table.kernel_arrays import empty_on_lines
from model_contract.compiled import kernel
from stream_trainer.amx_code import configure_tiles, release_tiles
from stream_trainer.amx_products import (
    ADD_AND_STOP,
    BLOCK_FLOATS,
    NOTHING,
    STOP_SILENT,
    Ending,
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
    kind: int,
    a: np.ndarray,
    b: np.ndarray,
    cut: np.uint64,
    left: np.ndarray,
    right: np.ndarray,
    out: np.ndarray,
    terms: np.uint64,
    ending: Ending,
) -> None:
    block = np.empty(BLOCK_FLOATS, np.float32)
    zero = np.uint64(0)
    if kind == 0:  # a b^T, b in two pieces
        count = blocks(b.shape[0])
        pack_left(a, left, terms)
        pack_right_turned(b, right, min(cut, count), count, terms)
        pack_right_turned(b, right, zero, min(cut, count), terms)
        steps = blocks(a.shape[1])
    elif kind == 1:  # a b, b in two pieces
        steps = blocks(b.shape[0])
        rows = np.uint64(b.shape[0])
        border = min(cut * np.uint64(32), rows)
        pack_left(a, left, terms)
        pack_right(b, zero, border, right, zero, steps, terms)
        pack_right(b, border, rows, right, min(cut, steps), steps, terms)
    else:  # a^T b, both in two pieces
        steps = blocks(a.shape[0])
        border = min(cut * np.uint64(32), np.uint64(a.shape[0]))
        for first, last in ((zero, border), (border, np.uint64(a.shape[0]))):
            pack_left_turned(a[first:last], left, first // np.uint64(32), steps, terms)
            pack_right(b[first:last], zero, last - first, right, first // np.uint64(32), steps, terms)
    configure_tiles()
    multiply(left, right, steps, out, block, terms, ending)
    release_tiles()


EMPTY = np.empty(0, np.float32)
PLAIN = Ending(NOTHING, EMPTY, EMPTY, EMPTY)


def run(
    kind: int,
    a: np.ndarray,
    b: np.ndarray,
    shape: tuple[int, int],
    summed: int,
    cut: int,
    terms: int,
    ending: Ending = PLAIN,
) -> np.ndarray:
    left, right = (np.full(packed_size(n, summed, terms), 0x7FC0, np.uint16) for n in shape)  # NaN where not packed
    out = np.full(shape, np.nan, np.float32)
    _product(kind, a, b, np.uint64(cut), left, right, out, np.uint64(terms), ending)
    return out


def product(a: np.ndarray, b: np.ndarray, terms: int, ending: Ending = PLAIN) -> np.ndarray:
    """a b^T."""
    return run(0, a, b, (a.shape[0], b.shape[0]), a.shape[1], 0, terms, ending)


@needs_amx
@settings(deadline=None, max_examples=60)
@given(m=SIZES, n=SIZES, k=SIZES, cut=st.integers(0, 3), seed=st.integers(0, 9), terms=st.sampled_from([1, 3]))
def test_products_of_a_layer(m: int, n: int, k: int, cut: int, seed: int, terms: int) -> None:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((m, k)).astype(np.float32)
    weight = generator.standard_normal((n, k)).astype(np.float32)
    slope = generator.standard_normal((m, n)).astype(np.float32)
    held_x, held_weight, held_slope = (rounded(m) if terms == 1 else m.astype(np.float64) for m in (x, weight, slope))
    tolerance = {"rtol": 1e-5, "atol": 1e-4 if terms == 1 else 2e-5}
    np.testing.assert_allclose(run(0, x, weight, (m, n), k, cut, terms), held_x @ held_weight.T, **tolerance)
    np.testing.assert_allclose(run(1, slope, weight, (m, k), n, cut, terms), held_slope @ held_weight, **tolerance)
    np.testing.assert_allclose(run(2, slope, x, (n, k), m, cut, terms), held_slope.T @ held_x, **tolerance)


@needs_amx
@pytest.mark.parametrize("terms", [1, 3])
def test_large_factors_in_several_groups(terms: int) -> None:
    generator = np.random.default_rng(1)
    a, b = (generator.integers(-3, 4, (1200, 700)).astype(np.float32) for _ in range(2))
    assert np.array_equal(product(a, b, terms), a @ b.T)


@needs_amx
@pytest.mark.parametrize("size", [64, 1024])
def test_three_terms_are_as_exact_as_the_blas(size: int) -> None:
    """Mean square error against float64 no larger than float32's own, for factors of mixed magnitude."""
    generator = np.random.default_rng(size)
    a, b = (generator.standard_normal((300, size)) * 10.0 ** generator.integers(-3, 4, size) for _ in range(2))
    a, b = a.astype(np.float32), b.astype(np.float32)
    exact = a.astype(np.float64) @ b.T.astype(np.float64)
    scale = np.abs(a.astype(np.float64)) @ np.abs(b.T.astype(np.float64))
    ours, theirs = (np.sqrt((((c - exact) / scale) ** 2).mean()) for c in (product(a, b, 3), a @ b.T))
    assert ours < 1.5 * theirs
    assert ours < 1e-7


@needs_amx
@pytest.mark.parametrize("terms", [1, 3])
@pytest.mark.parametrize(("m", "n"), [(32, 64), (40, 33), (7, 5), (300, 130)])
def test_endings_are_done_to_every_block(m: int, n: int, terms: int) -> None:
    generator = np.random.default_rng(m)
    a, b = (generator.integers(-3, 4, (rows, 50)).astype(np.float32) for rows in (m, n))
    plain = a @ b.T
    bias = generator.integers(-9, 10, n).astype(np.float32)
    found = product(a, b, terms, Ending(ADD_AND_STOP, bias, EMPTY, EMPTY))
    assert np.array_equal(found, np.maximum(plain + bias, 0))
    outputs = np.maximum(generator.standard_normal((m, n)), 0).astype(np.float32)
    sums = np.ones(n, np.float32)
    found = product(a, b, terms, Ending(STOP_SILENT, EMPTY, outputs.reshape(-1), sums))
    passed = np.where(outputs > 0, plain, 0)
    assert np.array_equal(found, passed)
    assert np.array_equal(sums, 1 + passed.sum(axis=0))


def test_memory_starts_on_a_cache_line() -> None:
    for size in (0, 1, 1000):
        memory = empty_on_lines(size, np.uint16)
        assert memory.shape == (size,)
        assert memory.dtype == np.uint16
        assert memory.ctypes.data % 64 == 0 or size == 0


@pytest.mark.parametrize(
    ("outer", "summed", "tiles"), [(1, 1, 2), (32, 32, 2), (33, 32, 4), (33, 33, 8), (1024, 100, 256)]
)
def test_factors_take_whole_panels(outer: int, summed: int, tiles: int) -> None:
    assert packed_size(outer, summed, 1) == tiles * 512
    assert packed_size(outer, summed, 3) == 3 * tiles * 512
