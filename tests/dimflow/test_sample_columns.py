"""File columns become sample columns, or the message says which one cannot and why."""

import datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from dimflow.errors import SampleFileError
from dimflow.sample_columns import FileColumns, sample_batch
from model_contract.schema import DenseFeature, ModelSchema, SparseSlot

SCHEMA = ModelSchema("m", (SparseSlot("user"), SparseSlot("tags", multi=True)), (DenseFeature("x"),))
DEFAULT = FileColumns()
GOOD = {
    "label": pa.array([0, 1, 1]),
    "ts_ms": pa.array([1, None, 3], pa.int64()),
    "user": pa.array([7, None, 9]),
    "tags": pa.array([["a"], [], None]),
    "x": pa.array([1.5, None, 2.0]),
}


def converted(columns: FileColumns = DEFAULT, schema: ModelSchema = SCHEMA, **changes: pa.Array) -> pa.RecordBatch:
    arrays = GOOD | changes
    return sample_batch(pa.RecordBatch.from_pydict(arrays), schema, columns, first_row=100)


def test_columns_are_named_and_ordered_as_in_the_schema() -> None:
    batch = converted(FileColumns(label="click", time="at"), click=pa.array([True, False, True]), at=GOOD["ts_ms"])
    assert batch.schema.names == ["label", "ts_ms", "user", "tags", "x"]
    assert batch.schema.field("label").type == pa.int8()
    assert batch.schema.field("x").type == pa.float32()
    assert batch.to_pylist() == [
        {"label": 1, "ts_ms": 1, "user": 7, "tags": ["a"], "x": 1.5},
        {"label": 0, "ts_ms": None, "user": None, "tags": [], "x": None},
        {"label": 1, "ts_ms": 3, "user": 9, "tags": None, "x": 2.0},
    ]


def test_without_time() -> None:
    assert converted(FileColumns(time=None)).schema.names == ["label", "user", "tags", "x"]
    assert FileColumns(time=None).needed(SCHEMA) == ["label", "user", "tags", "x"]


@pytest.mark.parametrize(
    "labels",
    [
        pa.array([0, 1, 1], pa.uint8()),
        pa.array([0.0, 1.0, 1.0]),
        pa.array([False, True, True]),
        pa.array(["0", "1", "1"]),
    ],
)
def test_kinds_of_labels(labels: pa.Array) -> None:
    assert converted(label=labels).column("label").to_pylist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (pa.array([5, 6, 7], pa.uint32()), [5, 6, 7]),
        (pa.array([1_500, 2_500, None], pa.timestamp("us")), [1, 2, None]),
        (pa.array([2, 3, 4], pa.timestamp("s", tz="UTC")), [2_000, 3_000, 4_000]),
        (pa.array([datetime.date(1970, 1, 2)] * 3), [86_400_000] * 3),
    ],
)
def test_kinds_of_times(times: pa.Array, expected: list[int | None]) -> None:
    assert converted(ts_ms=times).column("ts_ms").to_pylist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array(["a", None, "é"]), ["a", None, "é"]),
        (pa.array(["a", None, "b"], pa.large_string()), ["a", None, "b"]),
        (pa.array(["a", None, "b"]).dictionary_encode(), ["a", None, "b"]),
        (pa.array([1, 2, (1 << 64) - 1], pa.uint64()), [1, 2, (1 << 64) - 1]),
        (pa.array([1.0, None, np.nan]), [1, None, None]),
        (pa.nulls(3), [None, None, None]),
    ],
)
def test_kinds_of_slots(values: pa.Array, expected: list[object]) -> None:
    assert converted(user=values).column("user").to_pylist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([[1], [2, 3], None]), [[1], [2, 3], None]),
        (pa.array([["a"], None, ["b"]], pa.large_list(pa.string())), [["a"], None, ["b"]]),
        (pa.array(["a|b", None, "c"]), [["a", "b"], None, ["c"]]),
    ],
)
def test_kinds_of_multi_valued_slots(values: pa.Array, expected: list[object]) -> None:
    assert converted(FileColumns(list_separator="|"), tags=values).column("tags").to_pylist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([1, 2, 3], pa.int16()), [1.0, 2.0, 3.0]),
        (pa.array([np.nan, 2.5, None]), [None, 2.5, None]),
        (pa.array([True, False, None]), [1.0, 0.0, None]),
        (pa.array([Decimal("1.5"), None, Decimal("2.0")]), [1.5, None, 2.0]),
        (pa.array(["1.5", None, "2"]), [1.5, None, 2.0]),
    ],
)
def test_kinds_of_dense_features(values: pa.Array, expected: list[object]) -> None:
    assert converted(x=values).column("x").to_pylist() == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": pa.array([0, 2, 1])}, r"'label', row 101: 2, expected 0 or 1"),
        ({"label": pa.array([0, 1, None])}, r"'label', row 102: None, expected 0 or 1"),
        ({"label": pa.array([0.5, 1, 1])}, r"'label', row 100: 0\.5, expected 0 or 1"),
        ({"label": pa.array(["yes", "no", "no"])}, "'label' of type string: expected 0 or 1"),
        ({"ts_ms": pa.array([1.0, 2.0, 3.0])}, "'ts_ms' of type double"),
        ({"ts_ms": pa.array([(1 << 64) - 1] * 3, pa.uint64())}, "'ts_ms' of type uint64"),
        ({"user": pa.array([True, False, True])}, "'user' of type bool"),
        ({"user": pa.array([1.5, 2.0, 3.0])}, "'user' of type double: expected whole numbers"),
        ({"user": pa.array([[1], [2], [3]])}, "'user' of type list.*needs multi"),
        ({"tags": pa.array([[1.5], [2.0], [3.0]])}, "'tags' of type list"),
        ({"x": pa.array([1.0, float("inf"), 2.0])}, r"'x', row 101: inf, expected a finite float32"),
        ({"x": pa.array([1.0, 1.0, 1e39])}, r"'x', row 102: 1e\+39, expected a finite float32"),
        ({"x": pa.array(["much", "1", "2"])}, "'x' of type string: expected numbers"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, pa.Array], message: str) -> None:
    with pytest.raises(SampleFileError, match=message):
        converted(**changes)
