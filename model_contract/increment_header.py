"""The JSON header of an increment: what the buffer holds and where each array lies in it.

Knows no checksum, no codec, and touches no buffer. Invariant: the ranges are the only ones that counts and shapes allow
(ids of all blocks, tombstones, what the rows of all blocks share, tensors of 32 bits, tensors of 16 bits, rows of all
blocks, without a gap), so no two arrays overlap, none leaves the buffer, and each is aligned to its element.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, NamedTuple

import msgspec

from model_contract.errors import BadHeader, BadRanges, HeaderTooLarge, InvalidContent, LimitExceeded
from model_contract.increment_content import DenseType, Increment, IncrementHeader, IncrementKind, IncrementLimits

__all__ = ["WireBlock", "WireHeader", "WireTensor", "header_bytes", "parse_header"]

_MAX_AXES = 8

Natural = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Short = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
Range = tuple[Natural, Natural]  # first byte and the byte after the last, from the buffer's start


class WireBlock(msgspec.Struct, forbid_unknown_fields=True):
    """A `RowBlock` whose arrays are ranges of the buffer."""

    slot: Short
    band: Short
    columns: list[Short]
    precision: Name
    rows: Natural
    row_bytes: Short
    shared_values: Short
    ids: Range
    shared: Range
    data: Range

    @property
    def place(self) -> tuple[int, int, list[int], str]:
        """What blocks are sorted by; those that agree in it differ in what their rows share."""
        return self.slot, self.band, self.columns, self.precision


class WireTombstones(msgspec.Struct, forbid_unknown_fields=True):
    """The ids that lost their row."""

    rows: Natural
    ids: Range


class WireTensor(msgspec.Struct, forbid_unknown_fields=True):
    """A `DenseTensor` whose values are a range of the buffer."""

    name: Name
    shape: Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]], msgspec.Meta(max_length=_MAX_AXES)]
    dtype: DenseType
    values: Range


class WireHeader(msgspec.Struct, forbid_unknown_fields=True):
    """The whole header; the first fields are those of `IncrementHeader`."""

    kind: IncrementKind
    schema_fingerprint: Name
    lineage: Name
    epoch: Natural
    sequence: Natural
    base_sequence: Natural
    created_ms: Natural
    newest_sample_ms: Natural
    samples_trained: Natural
    offsets: tuple[tuple[Name, Natural, Natural], ...]
    sample_times: tuple[tuple[Natural, Natural], ...]
    metrics: dict[str, float]
    blocks: list[WireBlock]
    tombstones: WireTombstones
    dense: list[WireTensor]
    buffer_bytes: Natural

    def content(self) -> IncrementHeader:
        """The part of the header that is about the increment as a whole."""
        return IncrementHeader(**{name: getattr(self, name) for name in IncrementHeader.__slots__})


_DECODER = msgspec.json.Decoder(WireHeader)
_NO_RANGE = (0, 0)


class _Span(NamedTuple):
    where: str
    owner: WireBlock | WireTombstones | WireTensor
    field: str
    nbytes: int


def _spans(header: WireHeader) -> Iterator[_Span]:
    """Every array in the order of the buffer: the widest elements first keeps all of them aligned without gaps."""
    for i, block in enumerate(header.blocks):
        yield _Span(f"ids of block {i}", block, "ids", 8 * block.rows)
    yield _Span("tombstones", header.tombstones, "ids", 8 * header.tombstones.rows)
    for i, block in enumerate(header.blocks):
        yield _Span(f"shared values of block {i}", block, "shared", 4 * block.shared_values)
    for size in (4, 2):
        for tensor in header.dense:
            if (4 if tensor.dtype == "float32" else 2) == size:
                yield _Span(f"dense tensor {tensor.name}", tensor, "values", size * math.prod(tensor.shape))
    for i, block in enumerate(header.blocks):
        yield _Span(f"rows of block {i}", block, "data", block.row_bytes * block.rows)


def header_bytes(increment: Increment) -> bytes:
    """The header of an increment whose blocks and tensors are sorted; counts and shapes are read, values are not.

    Raises:
        BadHeader: a field out of its range.
        InvalidContent: fields that contradict each other.
        LimitExceeded, HeaderTooLarge: more than a reader with default limits takes.
    """
    try:
        blocks = [
            WireBlock(
                slot=int(block.slot),
                band=int(block.band),
                columns=block.columns.tolist(),
                precision=block.precision,
                rows=len(block.ids),
                row_bytes=block.data.shape[1],
                shared_values=block.shared.size,
                ids=_NO_RANGE,
                shared=_NO_RANGE,
                data=_NO_RANGE,
            )
            for block in increment.blocks
        ]
        header = WireHeader(
            **{name: getattr(increment.header, name) for name in IncrementHeader.__slots__},
            blocks=blocks,
            tombstones=WireTombstones(len(increment.tombstones), _NO_RANGE),
            dense=[WireTensor(t.name, list(t.values.shape), t.dtype, _NO_RANGE) for t in increment.dense],
            buffer_bytes=0,
        )
        at = 0
        for span in _spans(header):
            setattr(span.owner, span.field, (at, at + span.nbytes))
            at += span.nbytes
        header.buffer_bytes = at
        text = msgspec.json.encode(header, order="deterministic")
    except (TypeError, ValueError, OverflowError) as error:
        message = f"increment header cannot be written: {error}"
        raise BadHeader(message) from error
    limits = IncrementLimits()  # a writer never sends what no reader takes
    if len(text) > limits.max_header_bytes:
        message = f"increment header has {len(text)} bytes; readers take at most {limits.max_header_bytes}"
        raise HeaderTooLarge(message)
    parse_header(text, limits)
    return text


def parse_header(text: bytes | memoryview, limits: IncrementLimits) -> WireHeader:
    """Reads and checks a header: types and bounds, then limits, then order, then ranges.

    Raises:
        BadHeader: not the JSON of an increment's header.
        LimitExceeded: more rows, blocks, columns or tensors than the limits.
        InvalidContent: fields that contradict each other, or entries out of order.
        BadRanges: ranges that do not tile the buffer.
    """
    try:
        header = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        message = f"increment header cannot be read: {error}"
        raise BadHeader(message) from error
    _check_limits(header, limits)
    _check_content(header)
    at = 0
    for span in _spans(header):
        seen, expected = getattr(span.owner, span.field), (at, at + span.nbytes)
        if seen != expected:
            message = f"{span.where} lie at bytes {seen}; expected {expected} from the counts and shapes before"
            raise BadRanges(message)
        at += span.nbytes
    if at != header.buffer_bytes:
        message = f"buffer_bytes is {header.buffer_bytes}; the ranges cover {at}"
        raise BadRanges(message)
    return header


def _check_limits(header: WireHeader, limits: IncrementLimits) -> None:
    for name, seen, most in (
        ("blocks", len(header.blocks), limits.max_blocks),
        ("rows", sum(block.rows for block in header.blocks), limits.max_rows),
        ("columns of a block", max((len(block.columns) for block in header.blocks), default=0), limits.max_dim),
        ("tombstones", header.tombstones.rows, limits.max_rows),
        ("dense tensors", len(header.dense), limits.max_tensors),
        ("bytes of the buffer", header.buffer_bytes, limits.max_bytes),
    ):
        if seen > most:
            message = f"increment has {seen} {name}; this reader takes at most {most}"
            raise LimitExceeded(message)


def _check_content(header: WireHeader) -> None:
    is_base = header.kind == "base"
    if is_base != (header.sequence == header.base_sequence) or header.sequence < header.base_sequence:
        message = (
            f"{header.kind} has sequence {header.sequence} on base {header.base_sequence}; "
            "expected the same for a base and a higher sequence for an increment"
        )
        raise InvalidContent(message)
    if is_base and header.tombstones.rows:
        message = f"base has {header.tombstones.rows} tombstones; expected none"
        raise InvalidContent(message)
    for i, block in enumerate(header.blocks):
        if any(left >= right for left, right in pairwise(block.columns)):
            message = f"columns of block {i} are {block.columns}; expected ascending"
            raise InvalidContent(message)
    for left, right in pairwise(header.blocks):
        apart = left.place < right.place or (left.place == right.place and left.shared_values and right.shared_values)
        if not apart:
            message = (
                f"block (slot, band, columns, precision) {right.place} comes after {left.place}; expected ascending"
            )
            raise InvalidContent(message)
    for before, after in pairwise(tensor.name for tensor in header.dense):
        if before >= after:
            message = f"dense tensor {after!r} comes after {before!r}; expected ascending"
            raise InvalidContent(message)
    for (bucket, _), (following, _) in pairwise(header.sample_times):
        if bucket >= following:
            message = f"sample time {following} comes after {bucket}; expected ascending"
            raise InvalidContent(message)
