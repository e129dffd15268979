"""Rows of every width and form from bytes that numpy made, with neighbours that must stay as they are."""

import numpy as np
import pytest

from embedding_table.packed_words import (
    BLOCK,
    CODED,
    CODES,
    HALF,
    add_unpacked,
    as_half,
    copy_bytes,
    range_at,
    set_half_at,
    set_unpacked,
)
from model_contract.compiled import kernel

WIDTHS = [1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 17, 31, 32, 33, 47, 64]


@kernel
def _set(target: np.ndarray, memory: np.ndarray, width: int, bits: int, scale: np.float32, bias: np.float32) -> None:
    set_unpacked(target, 3, memory, 5, width, bits, scale, bias)


@kernel
def _add(target: np.ndarray, memory: np.ndarray, width: int, bits: int, scale: np.float32, bias: np.float32) -> None:
    add_unpacked(target, 3, memory, 5, width, bits, scale, bias)


@kernel
def _rounded(values: np.ndarray, memory: np.ndarray) -> None:
    for place in range(values.size):
        set_half_at(memory, np.uint64(2 * place), values[place])
        values[place] = as_half(values[place])


@kernel
def _range(memory: np.ndarray, at: int, form: int, shared: np.ndarray, first: int) -> tuple[np.float32, np.float32]:
    return range_at(memory, at, form, shared, first)


@kernel
def _copy(target: np.ndarray, source: np.ndarray, count: int) -> None:
    copy_bytes(target, 3, source, 5, count)


@pytest.mark.parametrize("count", [0, 1, 7, 64, 100])
def test_bytes_are_copied_and_their_neighbours_left_alone(count: int) -> None:
    source = np.arange(120, dtype=np.uint8)
    target = np.full(120, 255, np.uint8)
    _copy(target, source, count)
    assert target[3 : 3 + count].tolist() == list(range(5, 5 + count))
    assert (target[:3] == 255).all()
    assert (target[3 + count :] == 255).all()


def _row(rng: np.random.Generator, width: int, bits: int) -> tuple[bytes, np.ndarray]:
    """Bytes of a row and its codes or values."""
    if bits == 32:
        values = rng.standard_normal(width).astype("<f4")
        return values.tobytes(), values
    if bits == 16:
        halves = rng.standard_normal(width).astype("<f2")
        return halves.tobytes(), halves.astype(np.float32)
    codes = rng.integers(0, 1 << bits, width)
    if bits == 8:
        return codes.astype(np.uint8).tobytes(), codes.astype(np.float32)
    share = 8 // bits
    parts = np.append(codes, np.zeros(-width % share, np.int64)).reshape(-1, share)
    packed = np.bitwise_or.reduce(parts << (bits * np.arange(share)), axis=1)
    return packed.astype(np.uint8).tobytes(), codes.astype(np.float32)


@pytest.mark.parametrize("bits", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("width", WIDTHS)
def test_rows_are_unpacked_bit_by_bit(width: int, bits: int) -> None:
    rng = np.random.default_rng(width)
    row, codes = _row(rng, width, bits)
    memory = np.frombuffer(b"\xa5" * 5 + row + b"\xa5" * 70, np.uint8).copy()
    scale, bias = np.float32(0.0375), np.float32(-1.5)
    values = scale * codes + bias if bits <= 8 else codes
    before = rng.standard_normal(width + 6).astype(np.float32)

    replaced, added = before.copy(), before.copy()
    _set(replaced, memory, width, bits, scale, bias)
    _add(added, memory, width, bits, scale, bias)

    np.testing.assert_array_equal(replaced, np.concatenate([before[:3], values, before[width + 3 :]]))
    np.testing.assert_array_equal(added[3 : width + 3], before[3 : width + 3] + values)
    np.testing.assert_array_equal(np.delete(added, np.s_[3 : width + 3]), np.delete(before, np.s_[3 : width + 3]))


def test_halves_round_as_numpy_does() -> None:
    rng = np.random.default_rng(1)
    values = (rng.standard_normal(5000) * np.exp(rng.uniform(-20, 12, 5000))).astype(np.float32)
    values[:6] = [0, -0.0, 65519, 65520, 1e-8, 2**-25]
    with np.errstate(over="ignore"):
        expected = values.astype("<f2")
    memory = np.zeros(2 * values.size, np.uint8)

    _rounded(values, memory)

    assert memory.tobytes() == expected.tobytes()
    np.testing.assert_array_equal(values, expected.astype(np.float32))


def test_scale_and_bias_are_where_each_form_keeps_them() -> None:
    shared = np.arange(3 + 2 * CODES, dtype=np.float32)
    halves = np.array([0.5, -7], "<f2").tobytes()
    memory = np.frombuffer(b"xyz" + halves + bytes([200, 9]), np.uint8).copy()

    assert _range(memory, 3, HALF, shared, 0) == (0.5, -7)
    assert _range(memory, 7, CODED, shared, 3) == (203, 3 + CODES + 9)
    assert _range(memory, 0, BLOCK, shared, 2) == (2, 3)
