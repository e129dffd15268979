"""From batches of samples to the bytes of Kafka messages: a JSON object a sample, or an Arrow IPC stream of many.

Knows no Kafka and no file; takes batches as `sample_columns` promises them. Invariant: every row is in exactly one
message, in order, and the contract's decoder reads from it just what the batch said (a null is a missing value).
JSON is put together by Arrow's string kernels, a column at a time: no Python per row or cell.
"""

from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from dimflow.errors import ProduceError
from dimflow.sample_columns import Column
from model_contract.arrow_samples import encode_arrow
from model_contract.sample_decoding import ARROW_CONTENT_TYPE, JSON_CONTENT_TYPE
from model_contract.schema import ModelSchema

__all__ = ["ArrowEncoder", "EncodedSamples", "JsonEncoder", "SampleEncoder"]

_CONTROL_CHARACTERS = [chr(code) for code in range(32)]


@dataclass(frozen=True, slots=True)
class EncodedSamples:
    """Messages of one batch.

    Attributes:
        values: the messages' bytes.
        rows: samples in each of them.
    """

    values: list[bytes]
    rows: list[int]


class SampleEncoder(Protocol):
    """Makes messages of batches."""

    @property
    def content_type(self) -> bytes | None:
        """Value of the messages' `content-type` header; None sends none, which means JSON."""
        ...

    @property
    def rows_per_message(self) -> int:
        """Samples in a full message."""
        ...

    def encode(self, batch: pa.RecordBatch) -> EncodedSamples:
        """Messages with all rows of the batch, in order.

        Raises:
            ProduceError: a row alone is larger than a message may be.
        """
        ...


class ArrowEncoder:
    """Arrow IPC streams of up to `rows_per_message` samples.

    Args:
        schema: which columns there may be.
        rows_per_message: 1 or more; fewer where the message would be larger than `max_bytes`.
        max_bytes: of one message; Kafka's own limit is 1 MiB unless it is told otherwise.
    """

    content_type = ARROW_CONTENT_TYPE.encode()

    def __init__(self, schema: ModelSchema, rows_per_message: int = 4096, max_bytes: int = 900_000) -> None:
        if rows_per_message < 1:
            message = f"rows_per_message: {rows_per_message}, expected 1 or more"
            raise ProduceError(message)
        self._schema = schema
        self.rows_per_message = rows_per_message
        self._max_bytes = max_bytes

    def encode(self, batch: pa.RecordBatch) -> EncodedSamples:
        """See `SampleEncoder.encode`."""
        values: list[bytes] = []
        rows: list[int] = []
        at, step = 0, self.rows_per_message
        while at < batch.num_rows:
            piece = batch.slice(at, step)
            value = encode_arrow(pa.Table.from_batches([piece]), self._schema)
            if len(value) > self._max_bytes:
                if piece.num_rows == 1:
                    message = f"row {at} of a batch: {len(value)} bytes as Arrow, expected at most {self._max_bytes}"
                    raise ProduceError(message)
                step = max(1, piece.num_rows * self._max_bytes // (len(value) + self._max_bytes // 8))
                continue
            values.append(value)
            rows.append(piece.num_rows)
            at += piece.num_rows
        return EncodedSamples(values, rows)


class JsonEncoder:
    """One JSON object a sample: `{"label": 1, "ts_ms": …, "sparse": {…}, "dense": {…}}`, missing values as null.

    Args:
        schema: which columns are slots and which are dense features.
        max_bytes: of one message.
    """

    content_type = JSON_CONTENT_TYPE.encode()
    rows_per_message = 1

    def __init__(self, schema: ModelSchema, max_bytes: int = 900_000) -> None:
        self._schema = schema
        self._max_bytes = max_bytes

    def encode(self, batch: pa.RecordBatch) -> EncodedSamples:
        """See `SampleEncoder.encode`."""
        parts: list[Column | str] = ['{"label":', _json_texts(batch.column("label"))]
        if "ts_ms" in batch.schema.names:
            parts += [',"ts_ms":', _json_texts(batch.column("ts_ms"))]
        for key, names in (("sparse", self._schema.slot_names), ("dense", self._schema.dense_names)):
            if names:
                parts.append(f',"{key}":{{')
                for place, name in enumerate(names):
                    parts += [f'{"," if place else ""}"{name}":', _json_texts(batch.column(name))]
                parts.append("}")
        parts.append("}")
        texts = _joined(parts)
        sizes: Column = pc.binary_length(texts)
        largest: int = pc.max(sizes).as_py() or 0
        if largest > self._max_bytes:
            row = pc.index(sizes, largest).as_py()
            message = f"row {row} of a batch: {largest} bytes as JSON, expected at most {self._max_bytes}"
            raise ProduceError(message)
        values: list[bytes] = texts.cast(pa.large_binary()).to_pylist()
        return EncodedSamples(values, [1] * len(values))


def _joined(parts: list[Column | str]) -> Column:
    """Each row's texts one after the other; a null reads `null`."""
    texts = [pa.scalar(part, pa.large_string()) if isinstance(part, str) else part for part in parts]
    empty = pa.scalar("", pa.large_string())
    return pc.binary_join_element_wise(*texts, empty, null_handling="replace", null_replacement="null")


def _json_texts(values: Column) -> Column:
    """Large_string (B,): each value as JSON; nulls stay null, but inside a list they read `null`."""
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _json_lists(values)
    if pa.types.is_dictionary(kind):
        return _json_texts(pc.cast(values, kind.value_type))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _quoted(pc.cast(values, pa.large_string()))
    return pc.cast(values, pa.large_string())


def _json_lists(values: Column) -> Column:
    inner = _json_texts(pc.list_flatten(values)).fill_null("null")
    lengths: Column = pc.list_value_length(values)
    ends = pc.cumulative_sum(lengths.cast(pa.int32()).fill_null(0))
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    texts = pc.binary_join(pa.ListArray.from_arrays(offsets, inner), pa.scalar(",", pa.large_string()))
    return pc.if_else(pc.is_null(values), None, _wrapped("[", texts, "]"))


def _quoted(texts: Column) -> Column:
    """JSON strings; escapes only where a text needs it."""
    if pc.any(pc.match_substring_regex(texts, r'["\\\x00-\x1f]')).as_py():
        texts = pc.replace_substring(texts, "\\", "\\\\")
        texts = pc.replace_substring(texts, '"', '\\"')
        for character in _CONTROL_CHARACTERS:
            texts = pc.replace_substring(texts, character, f"\\u{ord(character):04x}")
    return _wrapped('"', texts, '"')


def _wrapped(left: str, texts: Column, right: str) -> Column:
    kind = pa.large_string()
    return pc.binary_join_element_wise(pa.scalar(left, kind), texts, pa.scalar(right, kind), pa.scalar("", kind))
