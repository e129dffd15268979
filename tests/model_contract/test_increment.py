import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_contract.dense_rounding import narrowed
from model_contract.errors import (
    BadChecksum,
    BadHeader,
    BadMagic,
    BadRanges,
    HeaderTooLarge,
    IncrementError,
    InvalidContent,
    LimitExceeded,
    SchemaMismatch,
    Truncated,
    UnsupportedVersion,
)
from model_contract.increment import (
    DenseTensor,
    Increment,
    IncrementHeader,
    IncrementLimits,
    RowBlock,
    decode,
    encode,
)

NOTHING_SHARED = np.zeros(0, np.float32)
GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "increment_v2.bin"


def block(slot: int, band: int, columns: list[int], ids: list[int], start: float = 0.0) -> RowBlock:
    values = np.arange(len(ids) * len(columns), dtype=np.float32).reshape(len(ids), len(columns)) + np.float32(start)
    data = values.astype("<f4").view(np.uint8).reshape(len(ids), 4 * len(columns))
    return RowBlock(slot, band, np.array(columns, np.uint16), "fp32", np.array(ids, np.uint64), data, NOTHING_SHARED)


def packed(precision: str, ids: list[int], row_bytes: int, shared: list[float], slot: int = 0) -> RowBlock:
    """Rows whose bytes mean nothing to this format."""
    data = np.arange(len(ids) * row_bytes, dtype=np.uint8).reshape(len(ids), row_bytes)
    columns = np.array([0, 1, 3], np.uint16)
    return RowBlock(slot, 0, columns, precision, np.array(ids, np.uint64), data, np.array(shared, np.float32))


def golden_increment() -> Increment:
    header = IncrementHeader(
        kind="increment",
        schema_fingerprint="0123456789abcdef",
        lineage="a1b2",
        epoch=3,
        sequence=42,
        base_sequence=40,
        created_ms=1_506_826_800_500,
        newest_sample_ms=1_506_826_800_490,
        samples_trained=123_456_789,
        offsets=(("samples", 0, 1000), ("samples", 1, 2000)),
        sample_times=((1_506_826_800_400, 7), (1_506_826_800_490, 1)),
        metrics={"auc": 0.7625, "log_loss": 0.5},
    )
    blocks = (
        block(0, 0, [0, 1, 3], [5, 7, 2**64 - 1]),
        block(0, 1, [1], [6], 0.5),
        block(2, 0, [0, 1, 2, 3], [], 0.0),
        block(3, 0, [], [9, 10], 0.0),
        packed("int4_greedy_coded", [20, 21, 22], 4, [0.25, -1.0]),
        packed("int4_greedy_coded", [23], 4, [0.5, -1.0]),
        packed("fp16", [24], 6, []),
    )
    dense = (
        DenseTensor("top.0.bias", np.array([-1.5, 2.25], np.float32)),
        DenseTensor("top.0.weight", np.arange(6, dtype=np.float32).reshape(2, 3)),
        DenseTensor("bottom.0.bias", np.array([-1.5, 2.25, 2.0**-20], np.float32), "float16"),
        DenseTensor("bottom.0.weight", np.array([[-1.5], [3e38]], np.float32), "bfloat16"),
    )
    return Increment(header, blocks, np.array([11, 12], np.uint64), dense)


def as_values(increment: Increment) -> Any:
    """Everything in an increment as plain values that compare by ==, rows in any order."""
    return (
        increment.header,
        sorted(
            (
                b.slot,
                b.band,
                b.columns.tolist(),
                b.precision,
                b.shared.tobytes(),
                b.data.shape[1],
                sorted(zip(b.ids.tolist(), b.data.tolist(), strict=True)),
            )
            for b in increment.blocks
        ),
        sorted(increment.tombstones.tolist()),
        sorted((t.name, t.dtype, t.values.shape, as_sent(t)) for t in increment.dense),
    )


def as_sent(tensor: DenseTensor) -> bytes:
    return narrowed(tensor.name, tensor.values, tensor.dtype).tobytes()


ids_lists = st.lists(st.integers(1, 2**64 - 1), max_size=6, unique=True)


@st.composite
def increments(draw: st.DrawFn) -> Increment:
    base = draw(st.booleans())
    base_sequence = draw(st.integers(0, 2**62))
    natural = st.integers(0, 2**63 - 1)
    header = IncrementHeader(
        kind="base" if base else "increment",
        schema_fingerprint=draw(st.text(min_size=1, max_size=16)),
        lineage=draw(st.text(min_size=1, max_size=8)),
        epoch=draw(natural),
        sequence=base_sequence + (0 if base else draw(st.integers(1, 9))),
        base_sequence=base_sequence,
        created_ms=draw(natural),
        newest_sample_ms=draw(natural),
        samples_trained=draw(natural),
        offsets=tuple(draw(st.lists(st.tuples(st.text(min_size=1, max_size=4), natural, natural), max_size=3))),
        sample_times=tuple(sorted(draw(st.dictionaries(natural, natural, max_size=4)).items())),
        metrics=draw(
            st.dictionaries(st.text(max_size=4), st.floats(allow_nan=False, allow_infinity=False), max_size=3)
        ),
    )
    blocks = []
    for slot, band in draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=4, unique=True)):
        columns = sorted(draw(st.sets(st.integers(0, 15), max_size=4)))
        blocks.append(block(slot, band, columns, draw(ids_lists), draw(st.floats(-9, 9, width=32))))
        for precision in draw(st.sets(st.sampled_from(["fp16", "int4", "other"]))):
            shared = draw(st.lists(st.floats(-9, 9, width=32), max_size=2))
            blocks.append(packed(precision, draw(ids_lists), draw(st.integers(0, 7)), shared, slot=10 + slot))
            blocks[-1] = replace(blocks[-1], band=band)
            if shared:
                blocks.append(replace(blocks[-1], shared=blocks[-1].shared + np.float32(1)))
    tombstones = np.array([] if base else draw(ids_lists), np.uint64)
    shapes = st.lists(st.integers(1, 4), max_size=3)
    names = draw(st.lists(st.text(min_size=1, max_size=4), max_size=3, unique=True))
    types = st.sampled_from(["float32", "float16", "bfloat16"])
    dense = tuple(
        DenseTensor(name, np.full(draw(shapes), np.pi * i, np.float32), draw(types)) for i, name in enumerate(names)
    )
    return Increment(header, tuple(blocks), tombstones, dense)


@given(increments())
def test_decoding_gives_back_what_was_encoded(increment: Increment) -> None:
    data = encode(increment)
    again = decode(data, expected_fingerprint=increment.header.schema_fingerprint)
    assert as_values(again) == as_values(increment)
    assert encode(again) == data
    for part in again.blocks:
        assert part.ids.dtype == np.uint64
        assert part.data.dtype == np.uint8
        assert part.shared.dtype == np.float32
        assert part.columns.dtype == np.uint16
        assert np.all(part.ids[1:] > part.ids[:-1])


@given(increments(), st.randoms(use_true_random=False))
def test_same_content_gives_same_bytes_in_any_order(increment: Increment, random: Any) -> None:
    def shuffled(items: Any) -> Any:
        items = list(items)
        random.shuffle(items)
        return items

    blocks = []
    for part in shuffled(increment.blocks):
        order = np.array(shuffled(range(len(part.ids))), np.int64)
        blocks.append(replace(part, ids=part.ids[order], data=np.asfortranarray(part.data[order])))
    other = Increment(
        replace(increment.header, metrics=dict(shuffled(increment.header.metrics.items()))),
        tuple(blocks),
        np.array(shuffled(increment.tombstones.tolist()), np.uint64),
        tuple(shuffled(increment.dense)),
    )
    assert encode(other) == encode(increment)


def test_golden_bytes_decode_and_encode_the_same() -> None:
    data = GOLDEN.read_bytes()
    assert as_values(decode(data)) == as_values(golden_increment())
    assert encode(golden_increment()) == data


def test_the_bytes_of_version_1_are_refused_by_their_version() -> None:
    with pytest.raises(UnsupportedVersion, match="format version 1; this reader knows 2"):
        decode(GOLDEN.with_name("increment_v1.bin").read_bytes())


def test_golden_bytes_read_by_the_definition() -> None:
    """A second reader, from the words of the format alone."""
    data = GOLDEN.read_bytes()
    magic, version, size, checksum = struct.unpack("<8sIII", data[:20])
    assert (magic, version) == (b"DIMFLOW1", 2)
    assert zlib.crc32(data[:16] + data[20:]) == checksum
    header = json.loads(data[20 : 20 + size])
    start = -(-(20 + size) // 64) * 64
    assert set(data[20 + size : start]) <= {0}
    buffer = data[start:]
    covered = []

    def array(span: list[int], form: str) -> tuple[Any, ...]:
        covered.append(tuple(span))
        width = struct.calcsize(form)
        return struct.unpack(f"<{(span[1] - span[0]) // width}{form}", buffer[span[0] : span[1]])

    assert [(b["slot"], b["band"], b["precision"]) for b in header["blocks"]] == [
        (0, 0, "fp16"),
        (0, 0, "fp32"),
        (0, 0, "int4_greedy_coded"),
        (0, 0, "int4_greedy_coded"),
        (0, 1, "fp32"),
        (2, 0, "fp32"),
        (3, 0, "fp32"),
    ]
    forms = {"fp32": "f"}
    rows = [
        (array(b["ids"], "Q"), array(b["shared"], "f"), array(b["data"], forms.get(b["precision"], "B")))
        for b in header["blocks"]
    ]
    assert rows[:5] == [
        ((24,), (), tuple(range(6))),
        ((5, 7, 2**64 - 1), (), tuple(map(float, range(9)))),
        ((23,), (0.5, -1.0), tuple(range(4))),  # 00 00 00 3f comes before 00 00 80 3e
        ((20, 21, 22), (0.25, -1.0), tuple(range(12))),
        ((6,), (), (0.5,)),
    ]
    assert [(b["row_bytes"], b["shared_values"]) for b in header["blocks"]][:4] == [(6, 0), (12, 0), (4, 2), (4, 2)]
    assert array(header["tombstones"]["ids"], "Q") == (11, 12)
    half, brain, *plain = header["dense"]
    assert [array(t["values"], "f") for t in plain] == [(-1.5, 2.25), (0, 1, 2, 3, 4, 5)]
    assert array(half["values"], "e") == (-1.5, 2.25, 2.0**-20)
    assert array(brain["values"], "H") == (0xBFC0, 0x7F62)  # upper halves of float32, the second one rounded up
    assert [t["dtype"] for t in header["dense"]] == ["float16", "bfloat16", "float32", "float32"]
    assert [t["shape"] for t in header["dense"]] == [[3], [2, 1], [2], [2, 3]]
    edges = sorted(span for span in covered if span[0] != span[1])
    assert edges[0][0] == 0
    assert edges[-1][1] == len(buffer)
    assert all(left[1] == right[0] for left, right in zip(edges[:-1], edges[1:], strict=True))


def test_every_flipped_bit_is_refused() -> None:
    data = bytearray(encode(golden_increment()))
    for at in range(len(data)):
        for bit in range(8):
            data[at] ^= 1 << bit
            with pytest.raises(IncrementError):
                decode(bytes(data))
            data[at] ^= 1 << bit
    decode(bytes(data))


def test_every_cut_and_every_addition_is_refused() -> None:
    data = encode(golden_increment())
    for length in range(len(data)):
        with pytest.raises((Truncated, BadChecksum)):
            decode(data[:length])
    for more in (b"\0", data):
        with pytest.raises(BadChecksum):
            decode(data + more)


@given(st.binary(max_size=300))
def test_any_bytes_at_all_are_refused(data: bytes) -> None:
    with pytest.raises(IncrementError):
        decode(data)
    with pytest.raises(IncrementError):
        decode(b"DIMFLOW1\2\0\0\0" + data)


def sealed(header: Any, buffer: bytes = b"", *, text: bytes | None = None) -> bytes:
    """Bytes with a right checksum around any header: what a broken or hostile writer could send."""
    text = json.dumps(header).encode() if text is None else text
    body = text + bytes(-(20 + len(text)) % 64) + buffer
    prefix = struct.pack("<8sII", b"DIMFLOW1", 2, len(text))
    return prefix + struct.pack("<I", zlib.crc32(body, zlib.crc32(prefix))) + body


def opened(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = struct.unpack_from("<I", data, 12)[0]
    return json.loads(data[20 : 20 + size]), data[-(-(20 + size) // 64) * 64 :]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def test_sealing_opens_again() -> None:
    data = encode(golden_increment())
    assert as_values(decode(sealed(*opened(data)))) == as_values(golden_increment())


odd_values = (
    st.none()
    | st.booleans()
    | st.integers(-5, 300)
    | st.sampled_from([2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63)])
    | st.floats()
    | st.text(max_size=3)
    | st.lists(st.integers(0, 2**63 - 1), max_size=4)
    | st.just({})
)


@settings(max_examples=400)
@given(st.data())
def test_a_header_with_anything_in_it_is_read_or_refused(data: st.DataObject) -> None:
    header, buffer = opened(encode(golden_increment()))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from([place for place in places(header) if place]))
        owner: Any = header
        for key in path[:-1]:
            owner = owner[key]
        if data.draw(st.booleans()) or isinstance(owner, list):
            owner[path[-1]] = data.draw(odd_values)
        else:
            del owner[path[-1]]
    try:
        again = decode(sealed(header, buffer + data.draw(st.binary(max_size=2))))
    except IncrementError:
        return
    assert as_values(decode(encode(again))) == as_values(again)


def tampered(**changes: Any) -> bytes:
    header, buffer = opened(encode(golden_increment()))
    return sealed({**header, **changes}, buffer)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", Truncated),
        (b"DIMFLOW1", Truncated),
        (b"DIMFLOW2" + bytes(20), BadMagic),
        (b"DIMFLOW1" + struct.pack("<III", 1, 0, 0), UnsupportedVersion),
        (b"DIMFLOW1" + struct.pack("<III", 3, 0, 0), UnsupportedVersion),
        (b"DIMFLOW1" + struct.pack("<III", 2, 2**32 - 1, 0), HeaderTooLarge),
        (b"DIMFLOW1" + struct.pack("<III", 2, 1, 0), Truncated),
        (sealed(None, text=b"{"), BadHeader),
        (sealed(None, text=b"[" * 100_000), BadHeader),
        (sealed(None, text=b"\xff"), BadHeader),
        (sealed([]), BadHeader),
        (sealed({}), BadHeader),
        (tampered(more=1), BadHeader),
        (tampered(kind="other"), BadHeader),
        (tampered(sequence=-1), BadHeader),
        (tampered(metrics={"auc": None}), BadHeader),
        (tampered(sequence=40), InvalidContent),
        (tampered(kind="base"), InvalidContent),
        (tampered(kind="base", base_sequence=42), InvalidContent),  # a base with tombstones
        (tampered(sample_times=[[5, 1], [5, 1]]), InvalidContent),
        (tampered(buffer_bytes=0), BadRanges),
        (tampered(tombstones={"rows": 2, "ids": [0, 16]}), BadRanges),
        (tampered(tombstones={"rows": 3, "ids": [88, 112]}), BadRanges),
        (tampered(blocks=opened(encode(golden_increment()))[0]["blocks"][::-1]), InvalidContent),
        (sealed(opened(encode(golden_increment()))[0]), Truncated),
        (sealed(opened(encode(golden_increment()))[0], bytes(200)), Truncated),
    ],
)
def test_each_kind_of_damage_has_its_error(data: bytes, kind: type[IncrementError]) -> None:
    with pytest.raises(kind) as caught:
        decode(data)
    assert type(caught.value) is kind
    assert kind.reason == caught.value.reason != IncrementError.reason


def test_zero_ids_doubled_ids_and_order_are_refused_in_the_buffer() -> None:
    header, buffer = opened(encode(golden_increment()))
    ids = [24, 5, 7, 2**64 - 1, 23, 20, 21, 22, 6, 9, 10, 11, 12]
    assert struct.unpack_from("<13Q", buffer) == tuple(ids)
    for at, wrong in ((0, 0), (2, 5), (2, 4), (8, 0), (12, 11), (11, 0)):
        words = [*ids[:at], wrong, *ids[at + 1 :]]
        with pytest.raises(InvalidContent):
            decode(sealed(header, struct.pack("<13Q", *words) + buffer[104:]))


def test_blocks_that_differ_in_nothing_are_refused_by_the_bytes_of_what_they_share() -> None:
    header, buffer = opened(encode(golden_increment()))
    (first, _), (second, end) = (header["blocks"][at]["shared"] for at in (2, 3))
    assert struct.unpack("<4f", buffer[first:end]) == (0.5, -1.0, 0.25, -1.0)
    for pairs in ((0.25, -1.0, 0.25, -1.0), (0.25, -1.0, 0.5, -1.0)):
        with pytest.raises(InvalidContent, match="comes twice, or out of order"):
            decode(sealed(header, buffer[:first] + struct.pack("<4f", *pairs) + buffer[end:]))
    assert second == first + 8


def test_bytes_in_the_padding_are_refused() -> None:
    header, buffer = opened(encode(golden_increment()))
    text = json.dumps(header).encode()
    padding = -(20 + len(text)) % 64
    assert padding > 0
    data = sealed(header, buffer)
    at = 20 + len(text)
    body = data[20:at] + b"\1" + data[at + 1 :]
    crc = struct.pack("<I", zlib.crc32(body, zlib.crc32(data[:16])))
    with pytest.raises(InvalidContent, match="not all zero"):
        decode(data[:16] + crc + body)


@pytest.mark.parametrize(
    "limits",
    [
        IncrementLimits(max_bytes=100),
        IncrementLimits(max_rows=10),
        IncrementLimits(max_rows=1),
        IncrementLimits(max_blocks=6),
        IncrementLimits(max_tensors=3),
        IncrementLimits(max_dim=3),
    ],
)
def test_limits_are_kept(limits: IncrementLimits) -> None:
    with pytest.raises(LimitExceeded):
        decode(encode(golden_increment()), limits=limits)
    with pytest.raises(HeaderTooLarge):
        decode(encode(golden_increment()), limits=IncrementLimits(max_header_bytes=10))


def test_limits_hold_what_they_say() -> None:
    data = encode(golden_increment())
    exact = IncrementLimits(len(data), len(data), max_rows=11, max_blocks=7, max_tensors=4, max_dim=4)
    assert as_values(decode(data, limits=exact)) == as_values(golden_increment())


def test_huge_claims_in_a_small_message_allocate_nothing() -> None:
    header, buffer = opened(encode(golden_increment()))
    for shape in ([2**62], [2**31, 2**31], [2**63 - 1] * 8, [0, 2**62]):
        header["dense"][0]["shape"] = shape
        with pytest.raises(IncrementError):
            decode(sealed(header, buffer))
    header, buffer = opened(encode(golden_increment()))
    for name, value in (("rows", 2**28), ("row_bytes", 65_535), ("shared_values", 65_535), ("shared_values", 65_536)):
        header, buffer = opened(encode(golden_increment()))
        header["blocks"][3][name] = value
        with pytest.raises(IncrementError):
            decode(sealed(header, buffer))


def test_another_schema_is_refused() -> None:
    data = encode(golden_increment())
    decode(data, expected_fingerprint="0123456789abcdef")
    with pytest.raises(SchemaMismatch, match="of schema 0123456789abcdef; expected 00"):
        decode(data, expected_fingerprint="00")


def test_decoding_copies_nothing_and_hands_out_nothing_writeable() -> None:
    data = encode(golden_increment())
    whole = np.frombuffer(data, np.uint8)
    again = decode(data)
    arrays = [array for b in again.blocks for array in (b.ids, b.data, b.shared)] + [t.values for t in again.dense]
    narrow = [t.values for t in again.dense if t.dtype != "float32"]
    for array in arrays:
        assert not array.flags.writeable
        assert array.flags.aligned
        assert array.size == 0 or np.shares_memory(array, whole) != any(array is one for one in narrow)


@pytest.mark.parametrize("shift", range(9))
def test_bytes_at_any_address_give_aligned_arrays(shift: int) -> None:
    data = encode(golden_increment())
    moved = memoryview(bytearray(shift) + data)[shift:]
    again = decode(moved)
    assert as_values(again) == as_values(golden_increment())
    for part in again.blocks:
        assert part.ids.flags.aligned
        assert part.shared.flags.aligned


GOLD = golden_increment()


@pytest.mark.parametrize(
    ("increment", "kind"),
    [
        (replace(GOLD, blocks=(block(0, 0, [0], [5, 5]),)), InvalidContent),
        (replace(GOLD, blocks=(block(0, 0, [0], [0]),)), InvalidContent),
        (replace(GOLD, blocks=(block(0, 0, [1, 0], [5]),)), InvalidContent),
        (replace(GOLD, blocks=(block(0, 0, [0, 0], [5]),)), InvalidContent),
        (replace(GOLD, blocks=(block(0, 0, [0], [5]), block(0, 0, [0], [6]))), InvalidContent),
        (replace(GOLD, blocks=(replace(block(0, 0, [0], [5]), ids=np.array([5], np.int64)),)), InvalidContent),
        (replace(GOLD, blocks=(replace(block(0, 0, [0], [5]), data=np.zeros((1, 1))),)), InvalidContent),
        (replace(GOLD, blocks=(replace(block(0, 0, [0], [5]), data=np.zeros((2, 4), np.uint8)),)), InvalidContent),
        (replace(GOLD, blocks=(replace(block(0, 0, [0], [5]), data=np.zeros(4, np.uint8)),)), InvalidContent),
        (replace(GOLD, blocks=(replace(block(0, 0, [0], [5]), data=np.zeros((1, 65_536), np.uint8)),)), BadHeader),
        (replace(GOLD, blocks=(replace(block(0, 0, [0], [5]), shared=np.zeros(1)),)), InvalidContent),
        (replace(GOLD, blocks=(packed("a", [5], 1, [1.0]), packed("a", [6], 1, [1.0]))), InvalidContent),
        (replace(GOLD, blocks=(packed("a", [5], 1, []), packed("a", [6], 1, [1.0]))), InvalidContent),
        (replace(GOLD, blocks=(replace(block(0, 0, [0], [5]), precision=""),)), BadHeader),
        (replace(GOLD, blocks=(replace(block(0, 0, [0], [5]), slot=-1),)), BadHeader),
        (replace(GOLD, blocks=(block(0, 0, list(range(1025)), [5]),)), LimitExceeded),
        (replace(GOLD, tombstones=np.array([3, 3], np.uint64)), InvalidContent),
        (replace(GOLD, tombstones=np.array([3], np.int64)), InvalidContent),
        (replace(GOLD, dense=(GOLD.dense[0], GOLD.dense[0])), InvalidContent),
        (replace(GOLD, dense=(DenseTensor("w", np.zeros(2)),)), InvalidContent),
        (replace(GOLD, dense=(DenseTensor("w", np.zeros(2, np.float32), "float8"),)), InvalidContent),  # type: ignore[arg-type]
        (replace(GOLD, dense=(DenseTensor("w", np.full(2, 65_520, np.float32), "float16"),)), InvalidContent),
        (replace(GOLD, dense=(DenseTensor("w", np.zeros((0, 2), np.float32)),)), BadHeader),
        (replace(GOLD, header=replace(GOLD.header, metrics={"auc": float("nan")})), InvalidContent),
        (replace(GOLD, header=replace(GOLD.header, sequence=40)), InvalidContent),
        (replace(GOLD, header=replace(GOLD.header, epoch=-1)), BadHeader),
        (replace(GOLD, header=replace(GOLD.header, lineage="")), BadHeader),
        (replace(GOLD, header=replace(GOLD.header, created_ms=1.5)), BadHeader),
    ],
)
def test_a_writer_sends_nothing_that_no_reader_takes(increment: Increment, kind: type[IncrementError]) -> None:
    with pytest.raises(kind):
        encode(increment)


def test_encoding_leaves_its_input_alone() -> None:
    rows = block(0, 0, [0, 1], [9, 5, 7])
    before = rows.ids.copy(), rows.data.copy()
    encode(replace(GOLD, blocks=(rows,)))
    np.testing.assert_array_equal(rows.ids, before[0])
    np.testing.assert_array_equal(rows.data, before[1])
