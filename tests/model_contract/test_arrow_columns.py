import numpy as np
import pyarrow as pa
import pytest

from model_contract.arrow_columns import FEATURE_ID_METADATA, ArrowColumns
from model_contract.errors import SampleError
from model_contract.samples import Reason
from model_contract.schema import ModelSchema


@pytest.fixture(scope="module")
def columns(schema: ModelSchema) -> ArrowColumns:
    return ArrowColumns(schema, max_values_per_bag=2)


def test_every_fault_of_a_batch_is_reported_with_all_its_rows(columns: ArrowColumns) -> None:
    batch = pa.record_batch(
        {
            "label": [1, 2, 3, 0],
            "price": [1.0, float("nan"), None, 1e39],
            "tags": [["a"], ["a", "b", "c"], ["a"] * 4, None],
        }
    )
    samples, faults = columns.read(batch)
    assert [(f.column, f.reason, f.rows.tolist()) for f in faults] == [
        ("label", Reason.BAD_LABEL, [1, 2]),
        ("price", Reason.NOT_FINITE, [1]),
        ("price", Reason.OUT_OF_RANGE, [3]),
        ("tags", Reason.TOO_MANY_VALUES, [1, 2]),
    ]
    assert samples.rows == 4  # the caller removes the rows
    assert faults[0].detail(2, 40) == "column label, row 40: got 3; expected 0 or 1"


def test_a_clean_batch_has_no_fault(columns: ArrowColumns) -> None:
    batch = pa.record_batch({"label": [1.0, 0.0], "raw": pa.array([None, 2], pa.int8()), "weight": [0, 3]})
    samples, faults = columns.read(batch)
    assert faults == []
    np.testing.assert_array_equal(samples.dense[:, 2], np.array([np.nan, 2], np.float32))
    assert samples.weights.tolist() == [0.0, 3.0]
    assert samples.labels.tolist() == [1.0, 0.0]


def test_names(columns: ArrowColumns) -> None:
    columns.check_names(pa.schema([(name, pa.int8()) for name in ("label", "id", "ts_ms", "weight", "user", "price")]))
    for names in (["user"], ["label", "User"], ["label", "label"]):
        with pytest.raises(SampleError):
            columns.check_names(pa.schema([(name, pa.int8()) for name in names]))


def test_only_this_metadata_marks_ids() -> None:
    assert pa.field("a", pa.uint64(), metadata={"dimflow": "feature_id"}).metadata == FEATURE_ID_METADATA
