"""The stable 64-bit id of a (slot, value) pair: XXH64 of the value's text under a seed made of the slot's name.

Knows no schema and no wire form. Invariants: an id depends on the slot's name and the canonical value alone, so
producers, trainer and server in any language compute the same; 0 is never an id (a hash of 0 becomes 1). A value is
text in UTF-8; an integer is its decimal text, so 7 and "7" are one value; the empty text is the missing value.

Source: Yann Collet, xxHash fast digest algorithm, specification 0.1.1, section "XXH64 algorithm description".
"""

import numpy as np
from numpy.typing import NDArray

from model_contract.compiled import kernel

__all__ = [
    "feature_id",
    "hash_integers",
    "hash_interleaved_texts",
    "hash_texts",
    "hash_unsigned",
    "missing_id",
    "slot_seed",
    "xxh64",
]

_PRIME_1 = np.uint64(0x9E3779B185EBCA87)
_PRIME_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_PRIME_3 = np.uint64(0x165667B19E3779F9)
_PRIME_4 = np.uint64(0x85EBCA77C2B2AE63)
_PRIME_5 = np.uint64(0x27D4EB2F165667C5)
_DECIMAL_BYTES = 20  # the longest 64-bit integer: -9223372036854775808 or 18446744073709551615


@kernel
def _rotated(value: np.uint64, bits: int) -> np.uint64:
    return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))


@kernel
def _word(data: NDArray[np.uint8], at: int, size: int) -> np.uint64:
    word = np.uint64(0)
    for i in range(size):
        word |= np.uint64(data[at + i]) << np.uint64(8 * i)
    return word


@kernel
def _round(lane: np.uint64, word: np.uint64) -> np.uint64:
    return _rotated(lane + word * _PRIME_2, 31) * _PRIME_1


@kernel
def xxh64(data: NDArray[np.uint8], start: int, stop: int, seed: np.uint64) -> np.uint64:
    """XXH64 of `data[start:stop]`; data (n,) uint8."""
    at = start
    if stop - start >= 32:
        lane_1 = seed + _PRIME_1 + _PRIME_2
        lane_2 = seed + _PRIME_2
        lane_3 = seed
        lane_4 = seed - _PRIME_1
        while at + 32 <= stop:
            lane_1 = _round(lane_1, _word(data, at, 8))
            lane_2 = _round(lane_2, _word(data, at + 8, 8))
            lane_3 = _round(lane_3, _word(data, at + 16, 8))
            lane_4 = _round(lane_4, _word(data, at + 24, 8))
            at += 32
        value = _rotated(lane_1, 1) + _rotated(lane_2, 7) + _rotated(lane_3, 12) + _rotated(lane_4, 18)
        for lane in (lane_1, lane_2, lane_3, lane_4):
            value = (value ^ _round(np.uint64(0), lane)) * _PRIME_1 + _PRIME_4
    else:
        value = seed + _PRIME_5
    value += np.uint64(stop - start)
    while at + 8 <= stop:
        value = _rotated(value ^ _round(np.uint64(0), _word(data, at, 8)), 27) * _PRIME_1 + _PRIME_4
        at += 8
    if at + 4 <= stop:
        value = _rotated(value ^ (_word(data, at, 4) * _PRIME_1), 23) * _PRIME_2 + _PRIME_3
        at += 4
    while at < stop:
        value = _rotated(value ^ (np.uint64(data[at]) * _PRIME_5), 11) * _PRIME_1
        at += 1
    value = (value ^ (value >> np.uint64(33))) * _PRIME_2
    value = (value ^ (value >> np.uint64(29))) * _PRIME_3
    return value ^ (value >> np.uint64(32))


@kernel
def _id_of(data: NDArray[np.uint8], start: int, stop: int, seed: np.uint64) -> np.uint64:
    value = xxh64(data, start, stop, seed)
    return value if value != np.uint64(0) else np.uint64(1)


@kernel
def hash_texts(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    valid: NDArray[np.bool_],
    seed: np.uint64,
    out: NDArray[np.uint64],
) -> None:
    """Ids of texts laid out as Arrow does: text i is `data[offsets[i]:offsets[i + 1]]`.

    Args:
        data: (bytes,) uint8, UTF-8.
        offsets: (n + 1,) int32 or int64.
        valid: (n,) bool, False where the value is missing; (0,) when all are there.
        seed: the slot's seed.
        out: (n,) uint64, written; may be strided.
    """
    missing = _id_of(data, 0, 0, seed)
    for i in range(len(out)):
        if len(valid) == 0 or valid[i]:
            out[i] = _id_of(data, offsets[i], offsets[i + 1], seed)
        else:
            out[i] = missing


@kernel
def hash_interleaved_texts(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    valid: NDArray[np.bool_],
    seeds: NDArray[np.uint64],
    out: NDArray[np.uint64],
) -> None:
    """As `hash_texts` for the values of F slots in turn: text i is of slot i modulo F; seeds (F,) uint64."""
    slot = 0
    for i in range(len(out)):
        there = len(valid) == 0 or valid[i]
        out[i] = _id_of(data, offsets[i], offsets[i + 1] if there else offsets[i], seeds[slot])
        slot = slot + 1 if slot + 1 < len(seeds) else 0


@kernel
def _decimal_id(digits: NDArray[np.uint8], magnitude: np.uint64, negative: bool, seed: np.uint64) -> np.uint64:
    at = len(digits)
    while True:
        rest = magnitude // np.uint64(10)
        at -= 1
        digits[at] = np.uint8(48) + np.uint8(magnitude - rest * np.uint64(10))
        magnitude = rest
        if magnitude == np.uint64(0):
            break
    if negative:
        at -= 1
        digits[at] = np.uint8(45)
    return _id_of(digits, at, len(digits), seed)


@kernel
def hash_integers(
    values: NDArray[np.int64], valid: NDArray[np.bool_], seed: np.uint64, out: NDArray[np.uint64]
) -> None:
    """Ids of integers, each as its decimal text.

    Args:
        values: (n,) any signed integer type.
        valid: (n,) bool, False where the value is missing; (0,) when all are there.
        seed: the slot's seed.
        out: (n,) uint64, written; may be strided.
    """
    digits = np.empty(_DECIMAL_BYTES, np.uint8)
    missing = _id_of(digits, 0, 0, seed)
    for i in range(len(out)):
        if len(valid) == 0 or valid[i]:
            value = np.int64(values[i])
            # two's complement: the negation of the least integer wraps to its magnitude
            magnitude = np.uint64(0) - np.uint64(value) if value < 0 else np.uint64(value)
            out[i] = _decimal_id(digits, magnitude, bool(value < 0), seed)
        else:
            out[i] = missing


@kernel
def hash_unsigned(
    values: NDArray[np.uint64], valid: NDArray[np.bool_], seed: np.uint64, out: NDArray[np.uint64]
) -> None:
    """As `hash_integers` for values (n,) of any unsigned integer type."""
    digits = np.empty(_DECIMAL_BYTES, np.uint8)
    missing = _id_of(digits, 0, 0, seed)
    for i in range(len(out)):
        if len(valid) == 0 or valid[i]:
            out[i] = _decimal_id(digits, np.uint64(values[i]), False, seed)
        else:
            out[i] = missing


def slot_seed(slot: str) -> np.uint64:
    """Seed of all hashes of one slot: XXH64 of its name in UTF-8, seed 0."""
    data = np.frombuffer(slot.encode(), np.uint8)
    return np.uint64(xxh64(data, 0, len(data), np.uint64(0)))


def feature_id(slot: str, value: str | int) -> int:
    """The id of one value; for tools and tests, the decoders hash whole columns."""
    data = np.frombuffer(str(value).encode(), np.uint8)
    return int(_id_of(data, 0, len(data), slot_seed(slot)))


def missing_id(slot: str) -> int:
    """The id that stands for a value of the slot that is null, absent or empty."""
    return feature_id(slot, "")
