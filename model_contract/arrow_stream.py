"""One Kafka message to an Arrow table: an IPC stream of record batches, checked before anything is made of it.

Knows the encapsulation of the format, no schema of ours. Invariants: what comes out has passed Arrow's full
validation, so that kernels may trust its offsets; rows are counted, and compressed bodies refused, from the metadata
alone, so that a small message cannot ask for much memory (Kafka compresses whole batches of messages itself).

Source: Arrow columnar format 1.5, sections "Encapsulated message format" and "IPC streaming format"; the field
numbers are those of Message.fbs.
"""

import struct
from dataclasses import dataclass

import pyarrow as pa

from model_contract.errors import SampleError
from model_contract.samples import Reason

__all__ = ["ArrowMessage", "read_stream"]

_MAX_IPC_MESSAGES = 10_000  # in one stream: each costs a walk in Python, and a hostile one needs few bytes
_CONTINUATION = 0xFFFFFFFF
_HEADER_TYPE, _HEADER, _BODY_LENGTH = 1, 2, 3  # fields of Message
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3  # values of its header type
_DICTIONARY_DATA = 1  # field of DictionaryBatch: the record batch inside
_ROWS, _COMPRESSION = 0, 3  # fields of RecordBatch


@dataclass(frozen=True, slots=True, eq=False)
class ArrowMessage:
    """A message that was read.

    Attributes:
        table: its rows, validated.
        schema_key: the bytes of its schema; equal keys mean that tables may be concatenated.
    """

    table: pa.Table
    schema_key: bytes


def read_stream(data: bytes, max_rows: int) -> ArrowMessage:
    """Reads a whole IPC stream.

    Args:
        data: the message.
        max_rows: most rows it may hold.

    Raises:
        SampleError: not an IPC stream, damaged, compressed inside, followed by other bytes, or too many rows.
    """
    try:
        rows = _counted_rows(data)
        schema_bytes = struct.unpack_from("<i", data, 4)[0]
    except struct.error as error:
        message = "not an Arrow IPC stream, or cut short"
        raise SampleError(Reason.BAD_ARROW, message) from error
    if rows > max_rows:
        message = f"stream of {rows} rows; expected at most {max_rows}"
        raise SampleError(Reason.TOO_LARGE, message)
    try:
        source = pa.BufferReader(data)
        table = pa.ipc.open_stream(source).read_all()
        table.validate(full=True)
        end = source.tell()
    except (pa.ArrowException, OSError, ValueError) as error:
        message = f"Arrow IPC stream cannot be read: {error}"
        raise SampleError(Reason.BAD_ARROW, message) from error
    if end != len(data):
        message = f"{len(data) - end} bytes after the end of the stream; expected none"
        raise SampleError(Reason.BAD_ARROW, message)
    return ArrowMessage(table, data[8 : 8 + schema_bytes])


def _counted_rows(data: bytes) -> int:
    """Rows of all record batches by their metadata; struct.error where the bytes do not lead on."""
    at = rows = 0
    for _ in range(_MAX_IPC_MESSAGES):
        if at >= len(data):
            message = (
                f"{len(data)} bytes without an end-of-stream mark; expected one, as rows after the last may be lost"
            )
            raise SampleError(Reason.BAD_ARROW, message)
        mark, size = struct.unpack_from("<Ii", data, at)
        if mark != _CONTINUATION or size < 0:
            message = f"bytes {data[at : at + 8]!r} at {at}; expected the start of an Arrow IPC message"
            raise SampleError(Reason.BAD_ARROW, message)
        if size == 0:
            return rows
        table = _root(data, at + 8)
        kind = _scalar(data, table, _HEADER_TYPE, "<B")
        if kind in {_DICTIONARY_BATCH, _RECORD_BATCH}:
            batch = _child(data, table, _HEADER)
            if kind == _DICTIONARY_BATCH:
                batch = _child(data, batch, _DICTIONARY_DATA)
            if _field(data, batch, _COMPRESSION):
                message = "record batch with a compressed body; expected none (set Kafka's compression instead)"
                raise SampleError(Reason.BAD_ARROW, message)
            batch_rows = _scalar(data, batch, _ROWS, "<q")
            rows += batch_rows if kind == _RECORD_BATCH and batch_rows > 0 else 0
        at += 8 + size + max(_scalar(data, table, _BODY_LENGTH, "<q"), 0)
    message = f"more than {_MAX_IPC_MESSAGES} IPC messages in one stream; expected larger batches"
    raise SampleError(Reason.BAD_ARROW, message)


def _root(data: bytes, at: int) -> int:
    return at + int(struct.unpack_from("<I", data, at)[0])


def _field(data: bytes, table: int, number: int) -> int:
    """Position of a flatbuffer table's field, 0 where it is absent."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    if vtable < 0:
        message = "flatbuffer table before the message"
        raise struct.error(message)
    entry = 4 + 2 * number
    if entry >= struct.unpack_from("<H", data, vtable)[0]:
        return 0
    offset: int = struct.unpack_from("<H", data, vtable + entry)[0]
    return table + offset if offset else 0


def _scalar(data: bytes, table: int, number: int, form: str) -> int:
    position = _field(data, table, number)
    return int(struct.unpack_from(form, data, position)[0]) if position else 0


def _child(data: bytes, table: int, number: int) -> int:
    position = _field(data, table, number)
    if not position:
        message = f"flatbuffer table without field {number}"
        raise struct.error(message)
    return _root(data, position)
