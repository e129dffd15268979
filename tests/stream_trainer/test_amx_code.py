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
from tests.stream_trainer.amx_cases import bf16_bits, needs_amx

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
) -> None:
    if kind == 0:
        pack_rows(source, start, stride, rows, columns, tiles, at)
    elif kind == 1:
        pack_rows_turned(source, start, stride, rows, columns, tiles, at)
    elif kind == 2:
        pack_pairs(source, start, stride, rows, columns, tiles, at)
    else:
        pack_pairs_turned(source, start, stride, rows, columns, tiles, at)


@kernel
def _multiply(left: np.ndarray, right: np.ndarray, steps: np.uint64, out: np.ndarray, stride: np.uint64) -> None:
    configure_tiles()
    multiply_block(left, np.uint64(0), right, np.uint64(0), steps, out, np.uint64(3), stride)
    release_tiles()


def packed(kind: str, matrix: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The tile that a kernel makes of a matrix's first rows and columns; around it nothing may be written."""
    tiles = np.full(3 * TILE, 7, np.uint16)
    numbers = (np.uint64(n) for n in (0, matrix.shape[1], rows, columns))
    _pack(KINDS.index(kind), matrix.reshape(-1), *numbers, tiles, np.uint64(TILE))
    assert (tiles[:TILE] == 7).all()
    assert (tiles[2 * TILE :] == 7).all()
    return tiles[TILE : 2 * TILE]


def expected_tile(kind: str, matrix: np.ndarray, rows: int, columns: int) -> np.ndarray:
    height, width = (16, 32) if kind.startswith("rows") else (32, 16)
    there = np.zeros((height, width), np.uint16)
    rows, columns = min(rows, height), min(columns, width)
    there[:rows, :columns] = bf16_bits(matrix[:rows, :columns])
    if height == 32:
        there = there.reshape(16, 2, 16).transpose(0, 2, 1)
    words = np.ascontiguousarray(there).view(np.uint32).reshape(16, 16)
    return np.ascontiguousarray(words.T if kind.endswith("turned") else words).view(np.uint16).ravel()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "columns"), EDGES)
def test_a_tile_holds_what_is_there_and_zeros(kind: str, rows: int, columns: int) -> None:
    matrix = np.random.default_rng(rows * 100 + columns).standard_normal((40, 50)).astype(np.float32)
    assert np.array_equal(packed(kind, matrix, rows, columns), expected_tile(kind, matrix, rows, columns))


def test_what_is_not_there_is_not_read() -> None:
    """The last row ends where the memory does; a NaN behind the edge must not get in."""
    matrix = np.full((4, 20), np.nan, np.float32)
    matrix[:3, :5] = 1
    for kind in KINDS:
        assert set(packed(kind, matrix, 3, 5).tolist()) == {0, 0x3F80}


def test_values_are_rounded_to_nearest_even_and_keep_infinity_and_nan() -> None:
    special = [1.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 3.4e38, np.inf, -np.inf, 1e-30]
    matrix = np.zeros((16, 32), np.float32)
    matrix[0, : len(special)] = special
    matrix[1, 0] = np.nan
    tile = packed("rows", matrix, 16, 32)
    assert tile[: len(special)].tolist() == bf16_bits(np.array(special, np.float32)).tolist()
    assert tile[2:5].tolist() == [0x3F80, 0x3F82, 0x3F81]
    assert tile[5] == 0x7F80  # beyond the largest bfloat16
    assert np.isnan((tile[32:33].astype(np.uint32) << 16).view(np.float32)[0])


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_block_is_the_sum_over_its_steps(steps: int) -> None:
    generator = np.random.default_rng(steps)
    a = generator.integers(-8, 9, (BLOCK, 32 * steps)).astype(np.float32)  # small integers: every sum is exact
    b = generator.integers(-8, 9, (32 * steps, BLOCK)).astype(np.float32)
    left = [
        expected_tile("rows", np.ascontiguousarray(a[16 * half : 16 * half + 16, 32 * step :]), 16, 32)
        for step in range(steps)
        for half in range(2)
    ]
    right = [
        expected_tile("pairs", np.ascontiguousarray(b[32 * step :, 16 * half : 16 * half + 16]), 32, 16)
        for step in range(steps)
        for half in range(2)
    ]
    out = np.full(3 + 32 * 37, -1, np.float32)
    _multiply(np.concatenate(left), np.concatenate(right), np.uint64(steps), out, np.uint64(37))
    rows = out[3:].reshape(32, 37)
    assert np.array_equal(rows[:, :32], a @ b)
    assert (rows[:, 32:] == -1).all()
    assert (out[:3] == -1).all()


def test_a_new_kernel_may_call_a_cached_one(tmp_path: Path) -> None:
    """The second process compiles a caller, and has the code of what it calls from the cache."""
    called = """
import numpy as np
from stream_trainer.amx_products import pack_left
one = np.ones((1, 1), np.float32)
tiles = np.empty(1024, np.uint16)
pack_left(one, tiles)
"""
    caller = """
import numba
@numba.njit
def pack(matrix, out):
    pack_left(matrix, out)
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
