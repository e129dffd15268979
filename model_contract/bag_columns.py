"""Columns of values to the bags of feature ids that a `SampleBatch` holds.

Knows Arrow arrays in memory, but no wire form. Invariants: a null and an empty text are the slot's missing id, an
empty list is one missing id, so no bag is ever empty; text and integers never pass through Python objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model_contract.compiled import kernel
from model_contract.errors import SampleError
from model_contract.feature_id import hash_integers, hash_interleaved_texts, hash_texts, hash_unsigned
from model_contract.samples import Reason

__all__ = ["Bags", "SlotColumn", "assemble_bags", "ids_of", "interleaved_bags"]

_ALL_VALID = np.empty(0, np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class SlotColumn:
    """The ids of one slot over B samples.

    Attributes:
        ids: (k,) uint64.
        lengths: (B,) int64, how many of the ids each sample has, 0 where it has none; None when each has exactly one.
    """

    ids: NDArray[np.uint64]
    lengths: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Bags:
    """Sample-major CSR, as in `SampleBatch`.

    Attributes:
        ids: (L,) uint64.
        offsets: (B * F + 1,) int64.
    """

    ids: NDArray[np.uint64]
    offsets: NDArray[np.int64]


def ids_of(values: "pa.Array[Any]", seed: np.uint64) -> NDArray[np.uint64]:
    """Ids (n,) uint64 of an Arrow array of text, integers, nulls, or a dictionary of those.

    Args:
        values: n values, validated.
        seed: the slot's seed, see `feature_id.slot_seed`.

    Raises:
        SampleError: the array is of another type.
    """
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _ids_of_dictionary(values, seed)
    out = np.empty(len(values), np.uint64)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        data, offsets = _text_buffers(values)
        hash_texts(data, offsets, _valid(values), seed, out)
    elif pa.types.is_signed_integer(kind):
        hash_integers(_numbers(values, np.int64), _valid(values), seed, out)
    elif pa.types.is_unsigned_integer(kind):
        hash_unsigned(_numbers(values, np.uint64), _valid(values), seed, out)
    elif pa.types.is_null(kind):
        nothing = _frozen(np.empty(0, np.uint8))
        hash_texts(nothing, _frozen(np.zeros(len(values) + 1, np.int64)), _ALL_VALID, seed, out)
    else:
        message = f"values of type {kind}; expected text or integers"
        raise SampleError(Reason.WRONG_TYPE, message)
    return out


def interleaved_bags(values: "pa.Array[Any]", seeds: NDArray[np.uint64]) -> Bags:
    """Bags of one value each, from the texts of F slots in turn.

    Args:
        values: (B * F,) large_string, sample-major; null is missing.
        seeds: (F,) uint64, the slots' seeds.
    """
    ids = np.empty(len(values), np.uint64)
    data, offsets = _text_buffers(values)
    hash_interleaved_texts(data, offsets, _valid(values), seeds, ids)
    return Bags(ids, np.arange(len(ids) + 1, dtype=np.int64))


def assemble_bags(columns: Sequence[SlotColumn], missing_ids: NDArray[np.uint64]) -> Bags:
    """Interleaves F columns of B samples each into sample-major bags.

    Args:
        columns: one for each slot, in the schema's order.
        missing_ids: (F,) uint64, what an empty bag gets.
    """
    if all(column.lengths is None for column in columns):
        ids = np.stack([column.ids for column in columns], axis=1).reshape(-1)
        return Bags(ids, np.arange(len(ids) + 1, dtype=np.int64))
    rows = len(columns[0].ids if columns[0].lengths is None else columns[0].lengths)
    sizes = np.ones((rows, len(columns)), np.int64)
    for slot, column in enumerate(columns):
        if column.lengths is not None:
            np.maximum(column.lengths, 1, out=sizes[:, slot])
    offsets = np.zeros(rows * len(columns) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    ids = np.empty(offsets[-1], np.uint64)
    for slot, column in enumerate(columns):
        starts = offsets[slot : -1 : len(columns)].copy()
        if column.lengths is None:
            ids[starts] = column.ids
        else:
            _fill_bags(column.ids, column.lengths, missing_ids[slot], starts, ids)
    return Bags(ids, offsets)


@kernel
def _fill_bags(
    column: NDArray[np.uint64],
    lengths: NDArray[np.int64],
    missing: np.uint64,
    starts: NDArray[np.int64],
    out: NDArray[np.uint64],
) -> None:
    at = 0
    for row in range(len(lengths)):
        start = starts[row]
        if lengths[row] == 0:
            out[start] = missing
        for i in range(lengths[row]):
            out[start + i] = column[at + i]
        at += lengths[row]


def _ids_of_dictionary(values: "pa.Array[Any]", seed: np.uint64) -> NDArray[np.uint64]:
    # one slot more, at the end, for null indices: ids of n words and of the missing value
    dictionary = cast("pa.DictionaryArray[Any, Any]", values)
    words = dictionary.dictionary
    if pa.types.is_dictionary(words.type):
        message = "a dictionary of dictionaries; expected a dictionary of text or integers"
        raise SampleError(Reason.WRONG_TYPE, message)
    if pa.types.is_null(words.type):  # may claim any length without holding a byte
        return ids_of(pa.nulls(len(values)), seed)
    ids = np.concatenate([ids_of(words, seed), ids_of(pa.nulls(1), seed)])
    indices = _numbers(dictionary.indices, np.int64)
    if dictionary.indices.null_count:
        indices = np.where(_valid(dictionary.indices), indices, len(words))
    return cast("NDArray[np.uint64]", ids[indices])


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    # Arrow's buffers are read-only or not by how they came to be; one kind means one compiled kernel
    array.flags.writeable = False
    return array


def _valid(values: "pa.Array[Any]") -> NDArray[np.bool_]:
    if not values.null_count:
        return _frozen(_ALL_VALID)
    return _frozen(values.is_valid().to_numpy(zero_copy_only=False).view())


def _numbers(values: "pa.Array[Any]", dtype: type[np.generic]) -> NDArray[Any]:
    """The raw numbers of an integer array; what stands at a null is anything."""
    raw = values.buffers()[1]
    if raw is None:
        return _frozen(np.zeros(len(values), dtype))
    width = values.type.bit_width // 8
    raw_type = np.dtype(f"{'i' if pa.types.is_signed_integer(values.type) else 'u'}{width}")
    numbers = _view(raw, raw_type, len(values), values.offset * width)
    return _frozen(numbers.astype(dtype, copy=False).view())


def _text_buffers(values: "pa.Array[Any]") -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    wide = pa.types.is_large_string(values.type)
    _, offsets_buffer, data_buffer = values.buffers()
    data = np.empty(0, np.uint8) if data_buffer is None else _view(data_buffer, np.dtype(np.uint8), data_buffer.size, 0)
    if offsets_buffer is None or len(values) == 0:  # an empty array may come without offsets
        return _frozen(data.view()), _frozen(np.zeros(1, np.int64))
    width = 8 if wide else 4
    offsets = _view(offsets_buffer, np.dtype(f"i{width}"), len(values) + 1, values.offset * width)
    return _frozen(data.view()), _frozen(offsets.astype(np.int64, copy=False).view())


def _view(buffer: pa.Buffer, dtype: np.dtype[Any], count: int, offset_bytes: int) -> NDArray[Any]:
    return np.frombuffer(cast("Any", buffer), dtype, count, offset_bytes)  # the stubs forget that it is a buffer
