"""An increment or base as bytes, and back.

Format version 2, little-endian, C order:

    8 bytes   magic "DIMFLOW1"
    u32       format version
    u32       H, bytes of the header
    u32       CRC-32 (that of zlib) of everything but these four bytes
    H bytes   JSON header, see `increment_header`
    0..63     zero bytes, up to a multiple of 64
    rest      buffer, no gaps: ids of all blocks, tombstones, what the rows of each block share, dense tensors of 32
              bits, those of 16 bits, rows of all blocks

Blocks are sorted by (slot, band, columns, precision, bytes of what is shared): rows of one (slot, band) differ in
precision, and while it changes its columns, rows of both come. Ids inside a block and tombstones ascend, tensors are
sorted by name: the same content gives the same bytes. Version 1 had float32 rows alone; it is not read any more.

Knows no Redis, no schema, no codec and no table. Invariants: decoding any bytes at all raises nothing but
`IncrementError` kinds; its arrays are views of the bytes handed in, except for dense tensors of 16 bits, which take
twice their bytes; limits are checked before anything is made of them. Decided: what packed rows decode to, and NaN in
tensors, is not looked at, and that no id stands in two blocks is the writer's promise. A change of the format is a new
version with a new golden file, never an edit of an old one.
"""

import struct
import zlib
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_contract.dense_rounding import WIRE_DTYPES, narrowed, widened
from model_contract.errors import (
    BadChecksum,
    BadMagic,
    HeaderTooLarge,
    InvalidContent,
    LimitExceeded,
    SchemaMismatch,
    Truncated,
    UnsupportedVersion,
)
from model_contract.increment_content import (
    DenseTensor,
    DenseType,
    Increment,
    IncrementHeader,
    IncrementKind,
    IncrementLimits,
    RowBlock,
)
from model_contract.increment_header import header_bytes, parse_header

__all__ = [
    "FORMAT_VERSION",
    "MAGIC",
    "DenseTensor",
    "DenseType",
    "Increment",
    "IncrementHeader",
    "IncrementKind",
    "IncrementLimits",
    "RowBlock",
    "decode",
    "encode",
]

MAGIC = b"DIMFLOW1"
FORMAT_VERSION = 2

_PREFIX = struct.Struct("<8sIII")  # magic, version, header bytes, CRC-32
_BEFORE_CRC = struct.Struct("<8sII")
_ALIGNMENT_BYTES = 64
_WORD_BYTES = 8  # of the widest element, what an address must be a multiple of


def encode(increment: Increment) -> bytes:
    """The bytes of an increment. Rows, blocks and tensors may come in any order.

    Raises:
        InvalidContent: an array of another shape or dtype than documented, an id that is 0 or stands twice in its
            block, a block or tensor given twice, a metric that is not finite, tombstones in a base, a tensor that its
            16 bits cannot hold.
        BadHeader: a header field out of its range.
        LimitExceeded, HeaderTooLarge: more than a reader with default limits takes.
    """
    for name, value in increment.header.metrics.items():
        if not np.isfinite(value):
            message = f"metric {name} is {value}; expected a finite number"
            raise InvalidContent(message)
    blocks = tuple(sorted(map(_sorted_block, increment.blocks), key=_block_order))
    _check_apart(blocks)
    tombstones = _array("tombstones", np.sort(increment.tombstones), "<u8", 1)
    _check_ids("tombstones", tombstones)
    dense = sorted(increment.dense, key=lambda tensor: tensor.name)
    sent = [_tensor_as_sent(tensor) for tensor in dense]
    header = header_bytes(replace(increment, blocks=blocks, tombstones=tombstones, dense=tuple(dense)))
    parts: list[bytes | memoryview] = [header, bytes(-(_PREFIX.size + len(header)) % _ALIGNMENT_BYTES)]
    for array in (
        *(block.ids for block in blocks),
        tombstones,
        *(block.shared for block in blocks),
        *(array for array in sent if array.itemsize == 4),
        *(array for array in sent if array.itemsize == 2),
        *(block.data for block in blocks),
    ):
        if array.size:
            parts.append(array.reshape(-1).data.cast("B"))
    checksum = zlib.crc32(_BEFORE_CRC.pack(MAGIC, FORMAT_VERSION, len(header)))
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return b"".join([_PREFIX.pack(MAGIC, FORMAT_VERSION, len(header), checksum), *parts])


def decode(
    data: bytes | bytearray | memoryview,
    *,
    limits: IncrementLimits | None = None,
    expected_fingerprint: str | None = None,
) -> Increment:
    """Reads an increment. Its arrays are read-only views of `data`, which must not change while they live.

    Args:
        data: the whole increment.
        limits: what to accept, `IncrementLimits()` if None.
        expected_fingerprint: the schema the caller serves; None accepts any.

    Raises:
        Truncated, BadMagic, UnsupportedVersion, LimitExceeded, HeaderTooLarge, BadChecksum: found without reading
            the header.
        BadHeader, LimitExceeded, InvalidContent, BadRanges, SchemaMismatch, Truncated: found by reading it. All are
            `IncrementError`.
    """
    limits = limits or IncrementLimits()
    view = _aligned(memoryview(data).cast("B").toreadonly())
    size = _checked_header_size(view, limits)
    header = parse_header(view[_PREFIX.size : _PREFIX.size + size], limits)
    if expected_fingerprint is not None and header.schema_fingerprint != expected_fingerprint:
        message = f"increment is of schema {header.schema_fingerprint}; expected {expected_fingerprint}"
        raise SchemaMismatch(message)
    start = _PREFIX.size + size
    start += -start % _ALIGNMENT_BYTES
    if start + header.buffer_bytes != len(view):
        message = f"increment has {len(view)} bytes; its header promises {start + header.buffer_bytes}"
        raise Truncated(message)
    if any(view[_PREFIX.size + size : start]):
        message = "bytes between header and buffer are not all zero"
        raise InvalidContent(message)
    buffer = view[start:]

    def array(span: tuple[int, int], dtype: str) -> NDArray[Any]:
        return np.frombuffer(buffer[span[0] : span[1]], dtype)

    blocks = tuple(
        RowBlock(
            slot=block.slot,
            band=block.band,
            columns=np.array(block.columns, np.uint16),
            precision=block.precision,
            ids=array(block.ids, "<u8"),
            data=array(block.data, "u1").reshape(block.rows, block.row_bytes),
            shared=array(block.shared, "<f4"),
        )
        for block in header.blocks
    )
    _check_apart(blocks)
    for block in blocks:
        _check_ids(f"ids of block ({block.slot}, {block.band})", block.ids)
    tombstones: NDArray[np.uint64] = array(header.tombstones.ids, "<u8")
    _check_ids("tombstones", tombstones)
    dense = tuple(
        DenseTensor(
            tensor.name,
            widened(array(tensor.values, WIRE_DTYPES[tensor.dtype]).reshape(tensor.shape), tensor.dtype),
            tensor.dtype,
        )
        for tensor in header.dense
    )
    return Increment(header.content(), blocks, tombstones, dense)


def _checked_header_size(view: memoryview, limits: IncrementLimits) -> int:
    """Checks everything that needs no JSON and returns the bytes of the header."""
    if len(view) < _PREFIX.size:
        message = f"increment has {len(view)} bytes; expected at least {_PREFIX.size}"
        raise Truncated(message)
    magic, version, size, checksum = _PREFIX.unpack_from(view)
    if magic != MAGIC:
        message = f"increment starts with {magic!r}; expected {MAGIC!r}"
        raise BadMagic(message)
    if version != FORMAT_VERSION:
        message = f"increment has format version {version}; this reader knows {FORMAT_VERSION}"
        raise UnsupportedVersion(message)
    if len(view) > limits.max_bytes:
        message = f"increment has {len(view)} bytes; this reader takes at most {limits.max_bytes}"
        raise LimitExceeded(message)
    if size > limits.max_header_bytes:
        message = f"increment header has {size} bytes; this reader takes at most {limits.max_header_bytes}"
        raise HeaderTooLarge(message)
    if len(view) < _PREFIX.size + size:
        message = f"increment has {len(view)} bytes; its header alone has {size}"
        raise Truncated(message)
    seen = zlib.crc32(view[_PREFIX.size :], zlib.crc32(view[: _BEFORE_CRC.size]))
    if seen != checksum:
        message = f"CRC-32 of the bytes is {seen:#010x}; expected {checksum:#010x}: damaged or cut short"
        raise BadChecksum(message)
    return int(size)


def _aligned(view: memoryview) -> memoryview:
    """The view itself where its address suits u64 arrays, as bytes objects do, else a copy that does."""
    bytes_of = np.frombuffer(view, np.uint8)
    if bytes_of.size and bytes_of.ctypes.data % _WORD_BYTES:
        return bytes_of.copy().data.toreadonly()
    return view


def _array(what: str, values: NDArray[Any], dtype: str, axes: int | None) -> NDArray[Any]:
    if values.dtype != np.dtype(dtype) or (axes is not None and values.ndim != axes):
        shape = "any shape" if axes is None else f"{axes} axes"
        message = f"{what}: {values.dtype} of shape {values.shape}; expected {np.dtype(dtype)} of {shape}"
        raise InvalidContent(message)
    return np.ascontiguousarray(values, dtype).reshape(values.shape)


def _check_ids(what: str, ids: NDArray[np.uint64]) -> None:
    if len(ids) and (ids[0] == 0 or not np.all(ids[1:] > ids[:-1])):
        message = f"{what} hold 0, one id twice, or do not ascend"
        raise InvalidContent(message)


def _tensor_as_sent(tensor: DenseTensor) -> NDArray[Any]:
    values: NDArray[np.float32] = _array(f"dense tensor {tensor.name}", tensor.values, "<f4", None)
    if tensor.dtype not in WIRE_DTYPES:
        message = f"dense tensor {tensor.name} is to be sent as {tensor.dtype}; expected one of {list(WIRE_DTYPES)}"
        raise InvalidContent(message)
    return narrowed(tensor.name, values, tensor.dtype)


def _block_order(block: RowBlock) -> tuple[int, int, list[int], str, bytes]:
    return block.slot, block.band, block.columns.tolist(), block.precision, block.shared.tobytes()


def _check_apart(blocks: tuple[RowBlock, ...]) -> None:
    for left, right in pairwise(blocks):
        if _block_order(left) >= _block_order(right):
            message = f"block (slot {right.slot}, band {right.band}) of {right.precision} comes twice, or out of order"
            raise InvalidContent(message)


def _sorted_block(block: RowBlock) -> RowBlock:
    what = f"block (slot {block.slot}, band {block.band})"
    ids: NDArray[np.uint64] = _array(f"ids of {what}", block.ids, "<u8", 1)
    columns: NDArray[np.uint16] = _array(f"columns of {what}", block.columns, "<u2", 1)
    data: NDArray[np.uint8] = _array(f"rows of {what}", block.data, "u1", 2)
    shared: NDArray[np.float32] = _array(f"shared values of {what}", block.shared, "<f4", 1)
    if len(data) != len(ids):
        message = f"rows of {what} have shape {data.shape}; expected {len(ids)} of them"
        raise InvalidContent(message)
    if not np.all(ids[1:] > ids[:-1]):
        order = np.argsort(ids)
        ids, data = ids[order], data.take(order, 0)
    _check_ids(f"ids of {what}", ids)
    return replace(block, columns=columns, ids=ids, data=data, shared=shared)
