"""What is encoded is what the contract's decoder reads, value for value."""

import json
import time

import numpy as np
import pyarrow as pa
import pytest

from dimflow.errors import ProduceError
from dimflow.sample_encoding import ArrowEncoder, JsonEncoder, SampleEncoder
from model_contract.sample_decoding import SampleDecoder
from model_contract.schema import DenseFeature, ModelSchema, SparseSlot

SCHEMA = ModelSchema(
    "m",
    (SparseSlot("user"), SparseSlot("item.id"), SparseSlot("tags", multi=True), SparseSlot("codes", multi=True)),
    (DenseFeature("x"), DenseFeature("y")),
    bottom=(4,),
)
ENCODERS = {
    "arrow": lambda: ArrowEncoder(SCHEMA, 100),
    "arrow_of_one": lambda: ArrowEncoder(SCHEMA, 1),
    "json": lambda: JsonEncoder(SCHEMA),
}
TEXTS = [
    "plain",
    "",
    'quo"te',
    "back\\slash",
    "new\nline",
    "tab\t\x00\x1f\x7f",
    "é 漢 🎈",
    "\\n",
    '\\"',
    "</x>",
    "null",
]


@pytest.fixture(params=sorted(ENCODERS))
def encoder(request: pytest.FixtureRequest) -> SampleEncoder:
    made: SampleEncoder = ENCODERS[request.param]()
    return made


def samples(seed: int, n: int) -> pa.RecordBatch:
    """All kinds of columns, with nulls in each and empty lists."""
    rng = np.random.default_rng(seed)

    def holes(values: list[object]) -> list[object]:
        return [None if rng.random() < 0.2 else value for value in values]

    def text() -> str:
        return TEXTS[rng.integers(len(TEXTS))]

    floats = (rng.normal(size=n) * 10.0 ** rng.integers(-30, 30, n)).astype(np.float32)
    return pa.RecordBatch.from_pydict(
        {
            "label": pa.array(rng.integers(0, 2, n), pa.int8()),
            "ts_ms": pa.array(holes(rng.integers(1, 1 << 50, n).tolist()), pa.int64()),
            "user": pa.array(holes(rng.integers(-(1 << 63), 1 << 63, n).tolist()), pa.int64()),
            "item.id": pa.array(holes([text() for _ in range(n)])).dictionary_encode(),
            "tags": pa.array(
                holes([holes([text() for _ in range(rng.integers(0, 4))]) for _ in range(n)]), pa.list_(pa.string())
            ),
            "codes": pa.array(holes([rng.integers(0, 99, 3).tolist() for _ in range(n)]), pa.large_list(pa.int32())),
            "x": pa.array(holes(floats.tolist()), pa.float32()),
            "y": pa.array(holes(rng.integers(-5, 5, n).tolist()), pa.float32()),
        }
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_decoder_reads_what_was_said(encoder: SampleEncoder, seed: int) -> None:
    batch = samples(seed, 350)
    whole = ArrowEncoder(SCHEMA, 1_000).encode(batch)
    reference = SampleDecoder(SCHEMA).decode(whole.values, ["application/vnd.apache.arrow.stream"]).batch
    for piece, rows in ((batch, slice(0, 350)), (batch.slice(40, 200), slice(40, 240))):
        encoded = encoder.encode(piece)
        content_type = (encoder.content_type or b"").decode()
        decoded = SampleDecoder(SCHEMA).decode(encoded.values, [content_type] * len(encoded.values))
        assert decoded.rejects == ()
        expected = reference.slice(rows.start, rows.stop)
        for name in ("labels", "weights", "ts_ms", "dense", "ids"):
            assert np.array_equal(getattr(decoded.batch, name), getattr(expected, name), equal_nan=name == "dense"), (
                name
            )
        assert np.array_equal(np.diff(decoded.batch.offsets), np.diff(expected.offsets))
        assert sum(encoded.rows) == piece.num_rows
        assert len(encoded.rows) == len(encoded.values)


@pytest.mark.parametrize("seed", [1, 2])
def test_json_is_what_the_standard_library_reads(seed: int) -> None:
    batch = samples(seed, 300)
    for value, row in zip(JsonEncoder(SCHEMA).encode(batch).values, batch.to_pylist(), strict=True):
        read = json.loads(value)
        assert list(read) == ["label", "ts_ms", "sparse", "dense"]
        assert read["label"] == row["label"]
        assert read["ts_ms"] == row["ts_ms"]
        assert read["sparse"] == {name: row[name] for name in SCHEMA.slot_names}
        for name in SCHEMA.dense_names:
            assert (read["dense"][name] is None) == (row[name] is None)
            if row[name] is not None:
                assert np.float32(read["dense"][name]) == np.float32(row[name])


def test_every_control_character_is_escaped() -> None:
    schema = ModelSchema("m", (SparseSlot("s"),))
    texts = [chr(code) + "x" for code in range(0x120)]
    batch = pa.RecordBatch.from_pydict({"label": pa.array([0] * len(texts), pa.int8()), "s": texts})
    values = JsonEncoder(schema).encode(batch).values
    assert [json.loads(value)["sparse"]["s"] for value in values] == texts


def test_arrow_messages_hold_so_many_rows() -> None:
    assert ArrowEncoder(SCHEMA, 100).encode(samples(1, 350)).rows == [100, 100, 100, 50]
    assert ArrowEncoder(SCHEMA).encode(samples(1, 0)).values == []
    assert JsonEncoder(SCHEMA).encode(samples(1, 0)).values == []


def test_large_arrow_messages_are_cut_smaller() -> None:
    schema = ModelSchema("m", (SparseSlot("s"),))
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 3_000, 500)
    batch = pa.RecordBatch.from_pydict(
        {"label": pa.array([1] * 500, pa.int8()), "s": ["x" * int(length) for length in lengths]}
    )
    encoded = ArrowEncoder(schema, 500, max_bytes=20_000).encode(batch)
    assert max(map(len, encoded.values)) <= 20_000
    assert sum(encoded.rows) == 500
    texts = [row for value in encoded.values for row in pa.ipc.open_stream(value).read_all()["s"].to_pylist()]
    assert texts == batch.column("s").to_pylist()
    assert len(encoded.values) < 90, "not many more messages than 760 kB need"


@pytest.mark.parametrize("make", [ArrowEncoder, JsonEncoder])
def test_a_row_too_large_is_refused_with_its_number(make) -> None:
    schema = ModelSchema("m", (SparseSlot("s"),))
    batch = pa.RecordBatch.from_pydict({"label": pa.array([1, 1], pa.int8()), "s": ["x", "y" * 30_000]})
    with pytest.raises(ProduceError, match="row 1 of a batch: 30.* expected at most 20000"):
        make(schema, max_bytes=20_000).encode(batch)


def test_no_message_of_nothing() -> None:
    with pytest.raises(ProduceError, match="rows_per_message: 0"):
        ArrowEncoder(SCHEMA, 0)


@pytest.mark.parametrize("name", ["arrow", "json"])
def test_quick(name: str) -> None:
    encoder: SampleEncoder = ENCODERS[name]()
    table = pa.Table.from_batches([samples(1, 500)] * 40).combine_chunks()
    batch = table.to_batches()[0]
    encoder.encode(samples(1, 2))
    started = time.process_time()
    encoder.encode(batch)
    assert time.process_time() - started < 1.0  # 20,000 rows; json.dumps a row takes longer
