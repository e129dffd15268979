from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_contract.json_samples import JsonSampleDecoder
from model_contract.samples import Decoded, Reason, SampleBatch
from model_contract.schema import ModelSchema, SparseSlot

Plain = Callable[[ModelSchema, list[dict[str, Any]]], SampleBatch]
Same = Callable[[SampleBatch, SampleBatch], None]
AsJson = Callable[[Any], bytes]

POISON: list[tuple[bytes | None, Reason, str]] = [
    (None, Reason.NULL_MESSAGE, "tombstone"),
    (b"", Reason.NOT_JSON, "not JSON"),
    (b" \n", Reason.NOT_JSON, "not JSON"),
    (b'{"label":1', Reason.NOT_JSON, "not JSON"),
    (b'{"label":1}}', Reason.NOT_JSON, "not JSON"),
    (b'{"label":1}{"label":0}', Reason.NOT_JSON, "not JSON"),
    (b'{"label":1}\n{"label":0}', Reason.NOT_JSON, "not JSON"),
    (b'{"label":1,}', Reason.NOT_JSON, "not JSON"),
    (b"\x00\x01\x02", Reason.NOT_JSON, "not JSON"),
    (b'\xef\xbb\xbf{"label":1}', Reason.NOT_JSON, "not JSON"),
    (b'{"label":1,"sparse":{"user":"\xff"}}', Reason.NOT_JSON, "not JSON"),
    (b'{"label":1,"sparse":{"user":"\\ud800"}}', Reason.NOT_JSON, "not JSON"),
    (b'{"label":1,"sparse":{"user":"a\nb"}}', Reason.NOT_JSON, "not JSON"),
    (b"[" * 200_000, Reason.NOT_JSON, "not JSON"),
    (b'{"label":1,"sparse":{"user":' + b"9" * 5000 + b"}}", Reason.NOT_JSON, "digits"),
    (b"[]", Reason.WRONG_TYPE, "expected an object"),
    (b"null", Reason.WRONG_TYPE, "got null"),
    (b'"label"', Reason.WRONG_TYPE, "got str"),
    (b'{"label":1,"sparse":[]}', Reason.WRONG_TYPE, "/sparse: got list"),
    (b'{"label":1,"sparse":null}', Reason.WRONG_TYPE, "/sparse: got null"),
    (b'{"label":1,"dense":3}', Reason.WRONG_TYPE, "/dense: got int 3"),
    (b'{"label":1,"sparse":{"user":1.5}}', Reason.WRONG_TYPE, "/sparse/user: got float 1.5"),
    (b'{"label":1,"sparse":{"user":true}}', Reason.WRONG_TYPE, "/sparse/user: got bool"),
    (b'{"label":1,"sparse":{"user":["a"]}}', Reason.WRONG_TYPE, "/sparse/user: got list"),
    (b'{"label":1,"sparse":{"user":{}}}', Reason.WRONG_TYPE, "/sparse/user: got dict"),
    (b'{"label":1,"sparse":{"tags":["a",2.0]}}', Reason.WRONG_TYPE, "/sparse/tags/1: got float"),
    (b'{"label":1,"sparse":{"a/b.c":false}}', Reason.WRONG_TYPE, "/sparse/a~1b.c: got bool"),
    (b'{"label":1,"dense":{"price":"3"}}', Reason.WRONG_TYPE, "/dense/price: got str"),
    (b'{"label":1,"dense":{"price":true}}', Reason.WRONG_TYPE, "/dense/price: got bool"),
    (b'{"label":1,"ts_ms":"now"}', Reason.WRONG_TYPE, "/ts_ms: got str"),
    (b'{"label":1,"ts_ms":1.0}', Reason.WRONG_TYPE, "/ts_ms: got float"),
    (b'{"label":1,"weight":"x"}', Reason.WRONG_TYPE, "/weight: got str"),
    (b'{"label":1,"id":1.5}', Reason.WRONG_TYPE, "/id: got float"),
    (b'{"label":1,"dense":{"price":NaN}}', Reason.NOT_FINITE, "NaN"),
    (b'{"label":1,"dense":{"price":-Infinity}}', Reason.NOT_FINITE, "-Infinity"),
    (b'{"label":1,"dense":{"price":1e999}}', Reason.NOT_FINITE, "/dense/price: got inf"),
    (b'{"label":NaN}', Reason.NOT_FINITE, "NaN"),
    (b'{"label":1,"weight":Infinity}', Reason.NOT_FINITE, "Infinity"),
    (b'{"label":1,"dense":{"price":1e39}}', Reason.OUT_OF_RANGE, "/dense/price: got 1e+39"),
    (b'{"label":1,"dense":{"price":' + b"9" * 400 + b"}}", Reason.OUT_OF_RANGE, "/dense/price"),
    (b'{"label":1,"ts_ms":-1}', Reason.OUT_OF_RANGE, "/ts_ms: got -1"),
    (b'{"label":1,"ts_ms":9007199254740993}', Reason.OUT_OF_RANGE, "/ts_ms"),
    (b'{"label":1,"weight":-0.5}', Reason.OUT_OF_RANGE, "/weight: got -0.5"),
    (b"{}", Reason.BAD_LABEL, "no label"),
    (b'{"sparse":{"user":"u"}}', Reason.BAD_LABEL, "no label"),
    (b'{"label":2}', Reason.BAD_LABEL, "/label: got 2"),
    (b'{"label":-1}', Reason.BAD_LABEL, "/label: got -1"),
    (b'{"label":null}', Reason.BAD_LABEL, "/label: got None"),
    (b'{"label":"1"}', Reason.BAD_LABEL, "/label: got '1'"),
    (b'{"label":true}', Reason.BAD_LABEL, "/label: got True"),
    (b'{"label":1.0}', Reason.BAD_LABEL, "/label: got 1.0"),
    (b'{"label":1,"lable":0}', Reason.UNKNOWN_FIELD, "unknown field 'lable'"),
    (b'{"label":1,"user":"u"}', Reason.UNKNOWN_FIELD, "unknown field 'user'"),
    (b'{"label":1,"sparse":{"usr":"u"}}', Reason.UNKNOWN_SLOT, "/sparse: unknown slot 'usr'"),
    (b'{"label":1,"sparse":{"s0":"u"}}', Reason.UNKNOWN_SLOT, "/sparse: unknown slot 's0'"),
    (b'{"label":1,"sparse":{"price":1}}', Reason.UNKNOWN_SLOT, "unknown slot 'price'"),
    (b'{"label":1,"dense":{"user":1}}', Reason.UNKNOWN_DENSE, "unknown dense feature 'user'"),
    (b'{"label":1,"sparse":{"user":"' + b"x" * 1_000_000 + b'"}}', Reason.TOO_LARGE, "expected at most 1000000"),
    (b'{"label":1,"sparse":{"tags":[' + b"1," * 1000 + b"1]}}", Reason.TOO_MANY_VALUES, "/sparse/tags: got 1001"),
    (b'{"label":2,"label":1}', Reason.WRONG_TYPE, "label"),  # a key given twice, first wrong and then right
    (b'{"label":1,"dense":{"price":NaN,"price":1}}', Reason.NOT_FINITE, "NaN"),
]


@pytest.fixture(scope="module")
def decoder(schema: ModelSchema) -> JsonSampleDecoder:
    return JsonSampleDecoder(schema)


def test_good_samples_decode_as_the_plain_decoder_does(
    schema: ModelSchema, records: list[dict[str, Any]], plain: Plain, same_batch: Same, as_json: AsJson
) -> None:
    for repeats in (1, 40):  # few records and many take different ways
        decoded = JsonSampleDecoder(schema).decode([as_json(record) for record in records * repeats])
        assert decoded.rejects == ()
        assert decoded.source_index.tolist() == list(range(7 * repeats))
        same_batch(decoded.batch, plain(schema, records * repeats))


values = st.none() | st.text(max_size=5) | st.integers(-(2**70), 2**70) | st.integers(-5, 5)


@pytest.mark.parametrize("rows", [1, 3, 70])
@given(data=st.data())
def test_columns_of_any_mixture_decode_as_the_plain_decoder_does(
    single_schema: ModelSchema, plain: Plain, same_batch: Same, as_json: AsJson, rows: int, data: st.DataObject
) -> None:
    few = data.draw(st.lists(st.tuples(values, values, values), min_size=1, max_size=8))
    records = [
        {"label": i % 2, "sparse": dict(zip(single_schema.slot_names, few[i % len(few)], strict=True))}
        for i in range(rows)
    ]
    decoded = JsonSampleDecoder(single_schema).decode([as_json(record) for record in records])
    assert decoded.rejects == ()
    same_batch(decoded.batch, plain(single_schema, records))


def test_one_slot_alone(plain: Plain, same_batch: Same, as_json: AsJson) -> None:
    schema = ModelSchema("one", (SparseSlot("user"),))
    records = [{"label": 1, "sparse": {"user": value}} for value in ("ab", None, 3)]
    for repeats in (1, 50):
        decoded = JsonSampleDecoder(schema).decode([as_json(record) for record in records * repeats])
        same_batch(decoded.batch, plain(schema, records * repeats))


@pytest.mark.parametrize(("message", "reason", "words"), POISON, ids=range(len(POISON)))
def test_poison_is_refused_with_its_reason_and_harms_no_neighbour(
    decoder: JsonSampleDecoder,
    schema: ModelSchema,
    records: list[dict[str, Any]],
    plain: Plain,
    same_batch: Same,
    as_json: AsJson,
    message: bytes | None,
    reason: Reason,
    words: str,
) -> None:
    good = [as_json(record) for record in records]
    decoded = decoder.decode([*good[:3], message, *good[3:], message])
    assert [(reject.index, reject.reason) for reject in decoded.rejects] == [(3, reason), (8, reason)]
    assert words in decoded.rejects[0].detail
    assert len(decoded.rejects[0].detail) < 400
    assert decoded.source_index.tolist() == [0, 1, 2, 4, 5, 6, 7]
    same_batch(decoded.batch, plain(schema, records))


def test_all_poison_at_once(decoder: JsonSampleDecoder, same_batch: Same, as_json: AsJson) -> None:
    good = as_json({"label": 1, "sparse": {"user": "u"}})
    messages = [entry for message, _, _ in POISON for entry in (message, good)]
    decoded = decoder.decode(messages)
    assert [(r.index, r.reason) for r in decoded.rejects] == [
        (2 * i, reason) for i, (_, reason, _) in enumerate(POISON)
    ]
    assert decoded.source_index.tolist() == list(range(1, len(messages), 2))
    same_batch(decoded.batch, decoder.decode([good] * len(POISON)).batch)


def test_nothing_and_nothing_good(
    decoder: JsonSampleDecoder, schema: ModelSchema, plain: Plain, same_batch: Same
) -> None:
    for messages in ([], [None], [b"{", None]):
        decoded = decoder.decode(messages)
        assert len(decoded.rejects) == len(messages)
        assert decoded.source_index.tolist() == []
        same_batch(decoded.batch, plain(schema, []))


# Pieces that become other samples, or samples at all, only when some are read as one text.
PIECES = [
    b'{"label":1,', b'"sparse":{}}', b'{"label":1}{"label":0}', b'{"label":1} {"label":0}', b'{"label":1}\n{"label":0}',
    b'{"label":1},{"label":0}', b'{"label":', b"1}", b"}", b"{", b"", b" ", b"\n", b'{"label":1,"id":"', b'"}',
    b'{"label":1}', b'{"label":0,"sparse":{"user":"u"}}', b'\n{"label":1}\n', b'{"label":1}\r', b",", b'"', b"[", b"]",
    b'{"label":0}\n', b"0", None,
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=8))
def test_a_message_means_the_same_alone_and_among_others(
    decoder: JsonSampleDecoder, same_batch: Same, messages: list[bytes | None]
) -> None:
    decoded = decoder.decode(messages)
    alone = []
    for i, message in enumerate(messages):
        one = decoder.decode([message])
        assert one.batch.rows + len(one.rejects) == 1
        alone.append(Decoded(one.batch, one.source_index + i, tuple(one.rejects)))
    rejected = {reject.index: (reject.reason, reject.detail) for reject in decoded.rejects}
    assert rejected == {i: (r.reason, r.detail) for i, one in enumerate(alone) for r in one.rejects}
    if alone:
        same_batch(decoded.batch, SampleBatch.concatenate([one.batch for one in alone]))
        assert decoded.source_index.tolist() == [i for i, one in enumerate(alone) if one.batch.rows]


def test_samples_that_parse_only_when_joined_are_refused(decoder: JsonSampleDecoder) -> None:
    messages = [b'{"label":1,', b'"sparse":{}}', b'{"label":1}{"label":0}']  # three values in three lines, if joined
    decoded = decoder.decode(messages)
    assert decoded.batch.rows == 0
    assert [reject.reason for reject in decoded.rejects] == [Reason.NOT_JSON] * 3


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_any_bytes_at_all_are_decoded_or_refused(decoder: JsonSampleDecoder, messages: list[bytes]) -> None:
    decoded = decoder.decode(messages)
    assert decoded.batch.rows + len(decoded.rejects) == len(messages)


@given(st.data())
def test_damaged_samples_are_decoded_or_refused(decoder: JsonSampleDecoder, data: st.DataObject) -> None:
    text = bytearray(
        b'{"label":1,"ts_ms":15,"weight":0.5,"sparse":{"user":"u1","tags":["a",7]},"dense":{"price":1.5e3,"age":null}}'
    )
    for _ in range(data.draw(st.integers(1, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    decoded = decoder.decode([b'{"label":1}', bytes(text), b'{"label":0}'])
    assert decoded.batch.rows + len(decoded.rejects) == 3
    assert {0, 2} <= set(decoded.source_index.tolist())


def test_limits_are_the_given_ones(schema: ModelSchema) -> None:
    small = JsonSampleDecoder(schema, max_bytes=40, max_values_per_bag=2)
    exact = b'{"label":1}'.ljust(40)
    decoded = small.decode(
        [exact, exact + b" ", b'{"label":1,"sparse":{"tags":[1,2]}}', b'{"label":1,"sparse":{"tags":[1,2,3]}}']
    )
    assert decoded.source_index.tolist() == [0, 2]
    assert [reject.reason for reject in decoded.rejects] == [Reason.TOO_LARGE, Reason.TOO_MANY_VALUES]


def test_values_are_never_mutated_nor_kept(decoder: JsonSampleDecoder) -> None:
    messages = [b'{"label":1}', None, b"{"]
    before = list(messages)
    decoder.decode(messages)
    assert messages == before


def test_details_show_the_start_of_what_was_sent(decoder: JsonSampleDecoder) -> None:
    (reject,) = decoder.decode([b'{"label": 1, "x']).rejects
    assert '{"label": 1' in reject.detail
