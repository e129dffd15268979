from types import SimpleNamespace

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from model_contract.feature_id import feature_id
from model_contract.json_columns import FeatureColumns, filled_column
from model_contract.schema import DenseFeature, ModelSchema, SparseSlot

MULTI = ModelSchema("m", (SparseSlot("tags", multi=True),))
values = st.none() | st.text(max_size=4) | st.integers(-9, 9) | st.integers(-(2**66), 2**66)


@given(st.lists(values | st.lists(values, max_size=3), max_size=8))
def test_lists_and_single_values_mix(column: list[object]) -> None:
    records = [SimpleNamespace(sparse=SimpleNamespace(s0=value), dense=SimpleNamespace()) for value in column]
    bags = FeatureColumns(MULTI).bags(records)
    seen = [bags.ids[a:b].tolist() for a, b in zip(bags.offsets[:-1], bags.offsets[1:], strict=True)]
    expected = []
    for value in column:
        entries = (value or [None]) if isinstance(value, list) else [value]
        expected.append([feature_id("tags", "" if entry is None else entry) for entry in entries])
    assert seen == expected


def test_text_that_looks_like_a_number_keeps_its_text() -> None:
    schema = ModelSchema("m", (SparseSlot("user"),))
    texts = ["012", " 12", "1_2", "12", "+12", "12.0", "٣"]
    for column in (texts, [5, *texts], [*texts, 5]):
        for repeats in (1, 30):
            records = [SimpleNamespace(sparse=SimpleNamespace(s0=value), dense=None) for value in column * repeats]
            assert (
                FeatureColumns(schema).bags(records).ids.tolist() == [feature_id("user", v) for v in column] * repeats
            )


def test_dense_none_is_nan() -> None:
    schema = ModelSchema("m", (SparseSlot("user"),), (DenseFeature("x"), DenseFeature("y")))
    records = [SimpleNamespace(dense=SimpleNamespace(d0=x, d1=y)) for x, y in ((1.5, None), (None, -2.0))]
    np.testing.assert_array_equal(FeatureColumns(schema).dense(records), np.array([[1.5, np.nan], [np.nan, -2]], "f4"))


def test_filled_columns() -> None:
    records = [SimpleNamespace(ts_ms=value) for value in (3, None, 2**53)]
    assert filled_column(records, "ts_ms", pa.int64(), 0).tolist() == [3, 0, 2**53]
    assert filled_column(records[::2], "ts_ms", pa.int64(), 0).tolist() == [3, 2**53]
