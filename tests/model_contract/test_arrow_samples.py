from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_contract.arrow_samples import ArrowSampleDecoder, encode_arrow
from model_contract.errors import SampleError
from model_contract.feature_id import feature_id, missing_id
from model_contract.samples import Reason, SampleBatch
from model_contract.schema import ModelSchema, SparseSlot

Plain = Callable[[ModelSchema, list[dict[str, Any]]], SampleBatch]
Same = Callable[[SampleBatch, SampleBatch], None]


def stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


GOOD = {
    "label": [1, 0, 1, 0],
    "ts_ms": [5, None, 0, 2**53],
    "weight": [None, 0.5, 2.0, 0.0],
    "user": ["u1", None, "", "ü"],
    "tags": [["a", None, "b"], [], None, [""]],
    "a/b.c": [7, -7, None, 2**62],
    "price": [1.5, None, -2.0, 1e30],
    "age": [3, 4, None, 0],
}


def rows_of(columns: dict[str, list[Any]], rows: range) -> list[dict[str, Any]]:
    flat, dense = ("label", "ts_ms", "weight"), ("price", "age", "raw")
    return [
        {
            **{name: columns[name][i] for name in flat if name in columns},
            "dense": {name: columns[name][i] for name in dense if name in columns},
            "sparse": {
                name: [] if values[i] is None and name == "tags" else values[i]
                for name, values in columns.items()
                if name not in {*flat, *dense, "id"}
            },
        }
        for i in rows
    ]


def variants() -> dict[str, pa.Table]:
    plain_table = pa.table(GOOD)
    lists = pa.array(GOOD["tags"], pa.list_(pa.string()))
    return {
        "plain": plain_table,
        "large": plain_table.set_column(3, "user", pa.array(GOOD["user"], pa.large_string())).set_column(
            4, "tags", lists.cast(pa.large_list(pa.large_string()))
        ),
        "dictionary": plain_table.set_column(3, "user", pa.array(GOOD["user"]).dictionary_encode()).set_column(
            4,
            "tags",
            pa.ListArray.from_arrays(
                pa.array([0, 3, None, None, 4], pa.int32()), pa.array(["a", None, "b", ""]).dictionary_encode()
            ),
        ),
        "narrow": plain_table.set_column(0, "label", pa.array(GOOD["label"], pa.uint8()))
        .set_column(6, "price", pa.array([1.5, None, -2.0, 1e30], pa.float32()))
        .set_column(7, "age", pa.array(GOOD["age"], pa.float16())),
        "float label": plain_table.set_column(0, "label", pa.array(GOOD["label"], pa.float64())),
        "with id": plain_table.append_column("id", pa.array([{"any": 1}] * 4)),
    }


@pytest.fixture(scope="module")
def decoder(schema: ModelSchema) -> ArrowSampleDecoder:
    return ArrowSampleDecoder(schema, max_values_per_bag=3)


@pytest.mark.parametrize("name", sorted(variants()))
def test_columns_of_every_type_decode_as_the_plain_decoder_does(
    decoder: ArrowSampleDecoder, schema: ModelSchema, plain: Plain, same_batch: Same, name: str
) -> None:
    table = variants()[name]
    expected = plain(schema, rows_of(GOOD, range(4)))
    if name == "dictionary":
        expected = plain(schema, rows_of({**GOOD, "tags": [["a", None, "b"], None, None, [""]]}, range(4)))
    decoded = decoder.decode([encode_arrow(table, schema)])
    assert decoded.rejects == ()
    same_batch(decoded.batch, expected)
    sliced = decoder.decode([stream(table.slice(1, 2)), stream(table.slice(3))])
    same_batch(sliced.batch, expected.slice(1, 4))
    assert sliced.source_index.tolist() == [0, 0, 1]


def test_absent_columns_are_missing(
    decoder: ArrowSampleDecoder, schema: ModelSchema, plain: Plain, same_batch: Same
) -> None:
    decoded = decoder.decode([stream(pa.table({"label": [1, 0]}))])
    same_batch(decoded.batch, plain(schema, [{"label": 1}, {"label": 0}]))
    nulls = pa.table({"label": [1, 0], "user": pa.nulls(2), "price": pa.nulls(2)})
    same_batch(decoder.decode([stream(nulls)]).batch, decoded.batch)


def test_fixed_size_lists(decoder: ArrowSampleDecoder, schema: ModelSchema, plain: Plain, same_batch: Same) -> None:
    values = [["a", "b"], None, ["c", None]]
    tags = pa.array(values, pa.list_(pa.string(), 2))
    decoded = decoder.decode([stream(pa.table({"label": [1, 0, 1], "tags": tags}))])
    same_batch(decoded.batch, plain(schema, rows_of({"label": [1, 0, 1], "tags": values}, range(3))))


def hashed(values: Any, kind: pa.DataType, name: str) -> pa.Table:
    fields = [pa.field("label", pa.int8()), pa.field(name, kind, metadata={"dimflow": "feature_id", "more": "x"})]
    return pa.table([pa.array([1] * len(values), pa.int8()), pa.array(values, kind)], pa.schema(fields))


def test_marked_columns_hold_ids_already(decoder: ArrowSampleDecoder) -> None:
    batch = decoder.decode([stream(hashed([5, None, 2**64 - 1], pa.uint64(), "user"))]).batch
    assert batch.ids[::3].tolist() == [5, missing_id("user"), 2**64 - 1]
    batch = decoder.decode([stream(hashed([[5, 6], None, [], [None]], pa.list_(pa.uint64()), "tags"))]).batch
    absent = missing_id("tags")
    assert [
        batch.ids[batch.offsets[3 * row + 1] : batch.offsets[3 * row + 2]].tolist() for row in range(batch.rows)
    ] == [[5, 6], [absent], [absent], [absent]]
    unmarked = decoder.decode([stream(pa.table({"label": [1], "user": pa.array([5], pa.uint64())}))]).batch
    assert unmarked.ids[0] == feature_id("user", 5)


def bad(column: str, values: Any, label: Any = (1, 0, 1)) -> pa.Table:
    columns = {"label": pa.array(label) if isinstance(label, tuple) else label}
    return pa.table({**columns, column: values})


POISON: list[tuple[bytes | None, Reason, str]] = [
    (None, Reason.NULL_MESSAGE, "tombstone"),
    (b"", Reason.BAD_ARROW, "end-of-stream"),
    (b'{"label":1}', Reason.BAD_ARROW, "expected the start of an Arrow IPC message"),
    (b"\0" * (65 << 10), Reason.TOO_LARGE, "expected at most 65536"),
    (stream(pa.table({"user": ["a"]})), Reason.BAD_LABEL, "no column label"),
    (stream(pa.table({"label": [1, 0, 2]})), Reason.BAD_LABEL, "column label, row 2: got 2; expected 0 or 1"),
    (stream(pa.table({"label": [1, None]})), Reason.BAD_LABEL, "column label, row 1: got None"),
    (stream(pa.table({"label": [0.5]})), Reason.BAD_LABEL, "row 0: got 0.5"),
    (stream(pa.table({"label": [float("nan")]})), Reason.BAD_LABEL, "row 0: got nan"),
    (stream(pa.table({"label": ["1"]})), Reason.WRONG_TYPE, "column label of type string"),
    (stream(pa.table({"label": [True]})), Reason.WRONG_TYPE, "column label of type bool"),
    (stream(bad("usr", ["a", "b", "c"])), Reason.UNKNOWN_SLOT, "column 'usr' is unknown"),
    (stream(pa.table([pa.array([1]), pa.array([1])], ["label", "label"])), Reason.UNKNOWN_FIELD, "comes twice"),
    (stream(bad("user", [1.0, 2.0, 3.0])), Reason.WRONG_TYPE, "column user: values of type double"),
    (stream(bad("user", [True, False, None])), Reason.WRONG_TYPE, "column user: values of type bool"),
    (stream(bad("user", [["a"], ["b"], ["c"]])), Reason.WRONG_TYPE, "the slot is not multi-valued"),
    (stream(bad("tags", [[1.5], [], None])), Reason.WRONG_TYPE, "column tags: values of type double"),
    (stream(bad("tags", [[None], [], None])), Reason.WRONG_TYPE, "column tags of type list<item: null>"),
    (stream(bad("tags", [["a"] * 3, [], ["a"] * 4])), Reason.TOO_MANY_VALUES, "column tags, row 2"),
    (stream(bad("price", [1.0, float("nan"), 2.0])), Reason.NOT_FINITE, "column price, row 1: got nan"),
    (stream(bad("price", [None, 1.0, float("-inf")])), Reason.NOT_FINITE, "column price, row 2: got -inf"),
    (stream(bad("price", [1e39, 1.0, 2.0])), Reason.OUT_OF_RANGE, "column price, row 0: got 1e+39"),
    (stream(bad("price", ["1", "2", "3"])), Reason.WRONG_TYPE, "column price of type string"),
    (stream(bad("ts_ms", [1, 2, -1])), Reason.OUT_OF_RANGE, "column ts_ms, row 2: got -1"),
    (stream(bad("ts_ms", pa.array([1, 2, 2**64 - 1], pa.uint64()))), Reason.OUT_OF_RANGE, "row 2: got 1844"),
    (stream(bad("ts_ms", [1.0, 2.0, 3.0])), Reason.WRONG_TYPE, "column ts_ms of type double"),
    (stream(bad("weight", [1.0, -0.5, 3.0])), Reason.OUT_OF_RANGE, "column weight, row 1: got -0.5"),
    (stream(bad("weight", [1.0, float("inf"), 3.0])), Reason.NOT_FINITE, "column weight, row 1: got inf"),
    (stream(hashed([5, 0], pa.uint64(), "user")), Reason.OUT_OF_RANGE, "column user, row 1: got 0"),
    (stream(hashed([[5], [6, 0]], pa.list_(pa.uint64()), "tags")), Reason.OUT_OF_RANGE, "column tags, row 1"),
    (stream(hashed([5], pa.int64(), "user")), Reason.WRONG_TYPE, "column user of type int64"),
    (stream(pa.table({"label": pa.array([1] * 101, pa.int8())})), Reason.TOO_LARGE, "101 rows; expected at most 100"),
]


@pytest.mark.parametrize(("message", "reason", "words"), POISON, ids=range(len(POISON)))
def test_poison_is_refused_whole_with_its_reason_and_harms_no_neighbour(
    schema: ModelSchema, plain: Plain, same_batch: Same, message: bytes | None, reason: Reason, words: str
) -> None:
    decoder = ArrowSampleDecoder(schema, max_bytes=1 << 16, max_rows=100, max_values_per_bag=3)
    good = stream(pa.table(GOOD))
    decoded = decoder.decode([good, message, good, message])
    assert [(reject.index, reject.reason) for reject in decoded.rejects] == [(1, reason), (3, reason)]
    assert words in decoded.rejects[0].detail
    assert len(decoded.rejects[0].detail) < 400
    assert decoded.source_index.tolist() == [0] * 4 + [2] * 4
    expected = plain(schema, rows_of(GOOD, range(4)))
    same_batch(decoded.batch, SampleBatch.concatenate([expected, expected]))


def test_bad_rows_reject_their_own_message_among_those_of_one_schema(decoder: ArrowSampleDecoder) -> None:
    prices = [[1.0, 2.0], [1.0, float("nan")], [3.0], [1e39, float("inf")], [4.0]]
    labels = [[1, 0], [1, 0], [1], [1, 1], [7]]
    messages = [stream(pa.table({"label": lab, "price": price})) for lab, price in zip(labels, prices, strict=True)]
    decoded = decoder.decode(messages)
    assert decoded.source_index.tolist() == [0, 0, 2]
    assert decoded.batch.dense[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert [(r.index, r.reason, r.detail.split(":")[0]) for r in decoded.rejects] == [
        (1, Reason.NOT_FINITE, "column price, row 1"),
        (3, Reason.NOT_FINITE, "column price, row 1"),
        (4, Reason.BAD_LABEL, "column label, row 0"),
    ]


@given(st.lists(st.sampled_from(range(len(POISON) + 6)), max_size=6))
def test_a_message_means_the_same_alone_and_among_others(
    schema: ModelSchema, same_batch: Same, choice: list[int]
) -> None:
    decoder = ArrowSampleDecoder(schema, max_bytes=1 << 16, max_rows=100, max_values_per_bag=3)
    pool = [*(message for message, _, _ in POISON), *map(stream, variants().values())]
    messages = [pool[i] for i in choice]
    decoded = decoder.decode(messages)
    alone = [decoder.decode([message]) for message in messages]
    assert {r.index: (r.reason, r.detail) for r in decoded.rejects} == {
        i: (r.reason, r.detail) for i, one in enumerate(alone) for r in one.rejects
    }
    assert decoded.source_index.tolist() == [i for i, one in enumerate(alone) for _ in range(one.batch.rows)]
    if alone:
        same_batch(decoded.batch, SampleBatch.concatenate([one.batch for one in alone]))


def test_dictionaries_too_many_for_one_index_type(single_schema: ModelSchema, plain: Plain, same_batch: Same) -> None:
    columns = []
    for start in (0, 100):
        words = pa.array([f"u{i}" for i in range(start, start + 100)])
        user = pa.DictionaryArray.from_arrays(pa.array(np.arange(100), pa.int8()), words)
        columns.append(pa.table({"label": pa.array([1] * 100, pa.int8()), "user": user}))
    decoded = ArrowSampleDecoder(single_schema).decode([stream(table) for table in columns])
    assert decoded.rejects == ()
    expected = plain(single_schema, [{"label": 1, "sparse": {"user": f"u{i}"}} for i in range(200)])
    same_batch(decoded.batch, expected)


def test_streams_of_several_batches_and_of_none(decoder: ArrowSampleDecoder) -> None:
    table = pa.table({"label": [1, 0, 1, 0, 1]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    decoded = decoder.decode([sink.getvalue().to_pybytes(), stream(table.slice(5)), stream(table)])
    assert decoded.batch.labels.tolist() == [1, 0, 1, 0, 1] * 2
    assert decoded.source_index.tolist() == [0] * 5 + [2] * 5
    assert decoded.rejects == ()
    assert decoder.decode([]).batch.rows == 0


@given(st.data())
def test_damaged_messages_are_decoded_or_refused(decoder: ArrowSampleDecoder, data: st.DataObject) -> None:
    good = stream(pa.table(GOOD))
    damaged = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    decoded = decoder.decode([good, bytes(damaged), good])
    assert {0, 2} <= set(decoded.source_index.tolist())
    assert {reject.index for reject in decoded.rejects} <= {1}


def test_encode_arrow_refuses_what_the_decoder_would(schema: ModelSchema) -> None:
    with pytest.raises(SampleError, match="unknown"):
        encode_arrow(pa.table({"label": [1], "nobody": [1]}), schema)
    with pytest.raises(SampleError, match="no column label"):
        encode_arrow(pa.table({"user": [1]}), schema)


def test_values_hash_as_in_json(single_schema: ModelSchema) -> None:
    one = ModelSchema("one", (SparseSlot("user"),))
    batch = ArrowSampleDecoder(one).decode([stream(pa.table({"label": [1, 1], "user": [12, -5]}))]).batch
    assert batch.ids.tolist() == [feature_id("user", "12"), feature_id("user", "-5")]
