import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_contract.arrow_stream import read_stream
from model_contract.errors import SampleError
from model_contract.samples import Reason


def stream(*tables: pa.Table, compression: str | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, tables[0].schema, options=options) as writer:
        for table in tables:
            writer.write_table(table)
    return sink.getvalue().to_pybytes()


TABLE = pa.table(
    {
        "label": pa.array([0, 1, 1], pa.int8()),
        "user": pa.array(["a", None, "ü"]),
        "tags": pa.array([["x", "y"], [], None]),
        "kind": pa.array(["p", "q", "p"]).dictionary_encode(),
    }
)


def reason_of(data: bytes, max_rows: int = 100) -> str:
    with pytest.raises(SampleError) as caught:
        read_stream(data, max_rows)
    return caught.value.reason


def test_tables_come_back() -> None:
    assert read_stream(stream(TABLE), 3).table.equals(TABLE)
    assert read_stream(stream(TABLE, TABLE.slice(1)), 5).table.num_rows == 5
    assert read_stream(stream(TABLE.slice(3)), 0).table.num_rows == 0


def test_schema_keys_are_equal_exactly_when_schemas_are() -> None:
    key = read_stream(stream(TABLE), 9).schema_key
    assert read_stream(stream(TABLE.slice(1)), 9).schema_key == key
    assert read_stream(stream(TABLE.select(["label"])), 9).schema_key != key
    marked = TABLE.replace_schema_metadata({"a": "b"})
    assert read_stream(stream(marked), 9).schema_key != key


def test_rows_are_limited_over_all_batches() -> None:
    assert reason_of(stream(TABLE), 2) == Reason.TOO_LARGE
    assert reason_of(stream(TABLE, TABLE), 5) == Reason.TOO_LARGE


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_bodies_are_refused_before_they_grow(compression: str) -> None:
    bomb = pa.table({"label": np.zeros(1_000_000, np.int64)})
    assert reason_of(stream(bomb, compression=compression), 10_000_000) == Reason.BAD_ARROW
    words = pa.table({"kind": pa.array(["word" * 100]).dictionary_encode()})
    assert reason_of(stream(words, compression=compression)) == Reason.BAD_ARROW


def test_every_cut_is_refused() -> None:
    data = stream(TABLE, TABLE)
    for length in range(len(data)):
        assert reason_of(data[:length]) == Reason.BAD_ARROW, length


def test_bytes_after_the_end_are_refused() -> None:
    assert reason_of(stream(TABLE) + b"\0") == Reason.BAD_ARROW
    assert reason_of(stream(TABLE) + stream(TABLE)) == Reason.BAD_ARROW


def test_a_stream_of_very_many_messages_is_refused() -> None:
    one = stream(pa.table({"label": np.zeros(10_001, np.int8)}))
    assert read_stream(one, 20_000).table.num_rows == 10_001
    sink = pa.BufferOutputStream()
    table = pa.table({"label": np.zeros(10_001, np.int8)})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    assert reason_of(sink.getvalue().to_pybytes(), 20_000) == Reason.BAD_ARROW


@pytest.mark.parametrize("data", [b"", b"{}", b'{"label":1}', b"x" * 100, b"\xff" * 64, b"ARROW1\0\0" + b"\0" * 64])
def test_other_bytes_are_refused(data: bytes) -> None:
    assert reason_of(data) == Reason.BAD_ARROW


def test_offsets_and_indices_that_lead_outside_are_refused() -> None:
    data = pa.py_buffer(b"abc")
    outside = pa.py_buffer(struct.pack("<3i", 0, 1_000_000, 2))
    text = pa.StringArray.from_buffers(2, outside, data)
    assert reason_of(stream(pa.table({"user": text}))) == Reason.BAD_ARROW
    invalid = pa.StringArray.from_buffers(1, pa.py_buffer(struct.pack("<2i", 0, 1)), pa.py_buffer(b"\xff"))
    assert reason_of(stream(pa.table({"user": invalid}))) == Reason.BAD_ARROW
    words = pa.DictionaryArray.from_arrays(pa.array([0, 5], pa.int8()), pa.array(["a"]), safe=False)
    assert reason_of(stream(pa.table({"user": words}))) == Reason.BAD_ARROW


@given(st.data())
def test_damaged_streams_are_read_or_refused(data: st.DataObject) -> None:
    damaged = bytearray(stream(TABLE))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_stream(bytes(damaged), 100).table.validate(full=True)
    except SampleError as error:
        assert error.reason in {Reason.BAD_ARROW, Reason.TOO_LARGE}


@given(st.binary(max_size=200))
def test_any_bytes_at_all_are_refused(data: bytes) -> None:
    assert reason_of(data) == Reason.BAD_ARROW
    prefixed = struct.pack("<Ii", 0xFFFFFFFF, len(data)) + data
    assert reason_of(prefixed) in {Reason.BAD_ARROW, Reason.TOO_LARGE}
