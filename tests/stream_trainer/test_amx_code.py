"""One tile and one block at a time, against numpy, at every edge of a matrix."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model_contract.compiled import kernel
from stream_trainer.amx_code import (
    BLOCK,
    TILE,
    configure_tiles,
    multiply_block,
    pack_pairs,
    pack_pairs_turned,
    pack_rows,
    pack_rows_turned,
    release_tiles,
)
from tests.stream_trainer.amx_cases import bf16_bits, from_bits, needs_amx

pytestmark = needs_amx
ROOT = Path(__file__).resolve().parent.parent.parent
KINDS = ("rows", "rows turned", "pairs", "pairs turned")
EDGES = [(40, 50), (32, 32), (16, 32), (32, 16), (16, 16), (15, 31), (17, 33), (31, 15), (7, 1), (1, 7), (0, 5)]


@kernel
def _pack(
    kind: int,
    source: np.ndarray,
    start: np.uint64,
    stride: np.uint64,
    rows: np.uint64,
    columns: np.uint64,
    tiles: np.ndarray,
    at: np.uint64,
    terms: np.uint64,
) -> None:
    if kind == 0:
        pack_rows(source, start, stride, rows, columns, tiles, at, terms)
    elif kind == 1:
        pack_rows_turned(source, start, stride, rows, columns, tiles, at, terms)
    elif kind == 2:
        pack_pairs(source, start, stride, rows, columns, tiles, at, terms)
    else:
        pack_pairs_turned(source, start, stride, rows, columns, tiles, at, terms)


@kernel
def _multiply(
    left: np.ndarray, right: np.ndarray, at: np.uint64, steps: np.uint64, block: np.ndarray, terms: np.uint64
) -> None:
    configure_tiles()
    multiply_block(left, at, right, np.uint64(0), steps, block, terms)
    release_tiles()


def packed(kind: str, matrix: np.ndarray, rows: int, columns: int, terms: int = 1) -> np.ndarray:
    """The tiles that a kernel makes of a matrix's first rows and columns; around them nothing may be written."""
    tiles = np.full((2 + terms) * TILE, 7, np.uint16)
    numbers = (np.uint64(n) for n in (0, matrix.shape[1], rows, columns))
    _pack(KINDS.index(kind), matrix.reshape(-1), *numbers, tiles, np.uint64(TILE), np.uint64(terms))
    assert (tiles[:TILE] == 7).all()
    assert (tiles[-TILE:] == 7).all()
    return tiles[TILE:-TILE]


def laid_out(kind: str, bits: np.ndarray) -> np.ndarray:
    """A tile's bits, from those of a matrix that may be smaller."""
    height, width = (16, 32) if kind.startswith("rows") else (32, 16)
    there = np.zeros((height, width), np.uint16)
    bits = bits[:height, :width]
    there[: bits.shape[0], : bits.shape[1]] = bits
    if height == 32:
        there = there.reshape(16, 2, 16).transpose(0, 2, 1)
    words = np.ascontiguousarray(there).view(np.uint32).reshape(16, 16)
    return np.ascontiguousarray(words.T if kind.endswith("turned") else words).view(np.uint16).ravel()


def read_back(kind: str, tile: np.ndarray) -> np.ndarray:
    """The matrix (16, 32) or (32, 16) that a tile holds, f64: where `laid_out` puts what."""
    height, width = (16, 32) if kind.startswith("rows") else (32, 16)
    places = np.arange(height * width, dtype=np.uint16).reshape(height, width)
    values = np.empty(height * width)
    values[laid_out(kind, places)] = from_bits(tile)
    return values.reshape(height, width)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "columns"), EDGES)
def test_a_tile_holds_what_is_there_and_zeros(kind: str, rows: int, columns: int) -> None:
    matrix = np.random.default_rng(rows * 100 + columns).standard_normal((40, 50)).astype(np.float32)
    assert np.array_equal(packed(kind, matrix, rows, columns), laid_out(kind, bf16_bits(matrix[:rows, :columns])))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "columns"), [(40, 50), (17, 31), (3, 7)])
def test_three_terms_leave_nothing_out(kind: str, rows: int, columns: int) -> None:
    generator = np.random.default_rng(rows)
    matrix = generator.standard_normal((40, 50)) * 10.0 ** generator.integers(-20, 20, (40, 50))
    matrix = matrix.astype(np.float32)
    matrix[0, :6] = [0, -0.0, 1 + 2**-23, -(2 - 2**-23), 2**-8 + 2**-17, 3e38]
    first, second, third = (read_back(kind, tile) for tile in packed(kind, matrix, rows, columns, 3).reshape(3, -1))
    there = np.zeros_like(first)
    rows, columns = min(rows, there.shape[0]), min(columns, there.shape[1])
    there[:rows, :columns] = matrix[:rows, :columns]
    assert np.array_equal(first + second + third, there)
    assert (np.abs(second) <= 2.0**-8 * np.abs(first)).all()
    assert (np.abs(third) <= 2.0**-8 * np.abs(second)).all()


def test_three_terms_of_nan_and_infinity_are_nan() -> None:
    matrix = np.zeros((16, 32), np.float32)
    matrix[0, :4] = [np.nan, np.inf, -np.inf, 1]
    matrix[1, :2] = np.array([0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)  # NaNs whose bits overflow
    total = sum(read_back("rows", tile) for tile in packed("rows", matrix, 16, 32, 3).reshape(3, -1))
    assert np.isnan(total[0, :3]).all()
    assert np.isnan(total[1, :2]).all()
    assert total[0, 3] == 1


def test_what_is_not_there_is_not_read() -> None:
    """The last row ends where the memory does; a NaN behind the edge must not get in."""
    matrix = np.full((4, 20), np.nan, np.float32)
    matrix[:3, :5] = 1
    for kind in KINDS:
        assert set(packed(kind, matrix, 3, 5).tolist()) == {0, 0x3F80}
        assert set(packed(kind, matrix, 3, 5, 3).tolist()) == {0, 0x3F80}


def test_values_are_rounded_to_nearest_even_and_keep_infinity_and_nan() -> None:
    special = [1.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 3.4e38, np.inf, -np.inf, 1e-30]
    matrix = np.zeros((16, 32), np.float32)
    matrix[0, : len(special)] = special
    matrix[1, 0] = np.nan
    tile = packed("rows", matrix, 16, 32)
    assert tile[: len(special)].tolist() == bf16_bits(np.array(special, np.float32)).tolist()
    assert tile[2:5].tolist() == [0x3F80, 0x3F82, 0x3F81]
    assert tile[5] == 0x7F80  # beyond the largest bfloat16
    assert np.isnan(from_bits(tile[32:33])[0])


def _factors(a: np.ndarray, b: np.ndarray, terms: int) -> tuple[np.ndarray, np.ndarray]:
    """The tiles of a left factor (32, k) and of a right one (k, 32)."""
    left, right = [], []
    for step in range(0, a.shape[1], 32):
        for half in (0, 16):
            rows = np.ascontiguousarray(a[half : half + 16, step : step + 32])
            left.append(packed("rows", rows, 16, 32, terms))
            right.append(packed("pairs", np.ascontiguousarray(b[step : step + 32, half : half + 16]), 32, 16, terms))
    return np.concatenate(left), np.concatenate(right)


@pytest.mark.parametrize("terms", [1, 3])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_block_is_the_sum_over_its_steps(steps: int, terms: int) -> None:
    generator = np.random.default_rng(steps)
    a = generator.integers(-8, 9, (BLOCK, 32 * steps)).astype(np.float32)  # small integers: every sum is exact
    b = generator.integers(-8, 9, (32 * steps, BLOCK)).astype(np.float32)
    left, right = _factors(a, b, terms)
    before = np.full(TILE, 0x7FC0, np.uint16)  # NaN
    block = np.full(BLOCK * BLOCK + 1, -1, np.float32)
    _multiply(np.concatenate([before, left]), right, np.uint64(TILE), np.uint64(steps), block, np.uint64(terms))
    assert np.array_equal(block[:-1].reshape(BLOCK, BLOCK), a @ b)
    assert block[-1] == -1


@pytest.mark.parametrize(("size", "lost"), [(8, 0), (16, 0), (24, 2.0**-22)])
def test_a_product_in_three_terms_has_all_bits_that_float32_can_hold(size: int, lost: float) -> None:
    """Factors of 8, 16 and 24 bits on a diagonal, so that nothing is summed: up to 16 all is exact but the result."""
    generator = np.random.default_rng(size)
    values = [generator.integers(2 ** (size - 1), 2**size, 32).astype(np.float32) for _ in range(2)]
    left, right = _factors(np.diag(values[0]), np.diag(values[1]), 3)
    block = np.empty(BLOCK * BLOCK, np.float32)
    _multiply(left, right, np.uint64(0), np.uint64(1), block, np.uint64(3))
    exact = values[0].astype(np.float64) * values[1]
    found = block.reshape(BLOCK, BLOCK)
    assert (np.abs(found.diagonal() - exact) <= (2.0**-24 + lost) * exact).all()
    assert (found[~np.eye(BLOCK, dtype=bool)] == 0).all()


def test_a_new_kernel_may_call_a_cached_one(tmp_path: Path) -> None:
    """The second process compiles a caller, and has the code of what it calls from the cache."""
    called = """
import numpy as np
from stream_trainer.amx_products import pack_left
one = np.ones((1, 1), np.float32)
tiles = np.empty(1024, np.uint16)
pack_left(one, tiles, np.uint64(1))
"""
    caller = """
import numba
@numba.njit
def pack(matrix, out):
    pack_left(matrix, out, np.uint64(1))
pack(one, tiles)
print(tiles[0] == 0x3F80)
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    for program in (called, called + caller):
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"
