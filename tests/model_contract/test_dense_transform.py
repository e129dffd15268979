import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_contract.dense_transform import RunningMoments, transform_dense
from model_contract.errors import SchemaError
from model_contract.schema import DenseFeature, ModelSchema, SparseSlot

SCHEMA = ModelSchema(
    "m",
    (SparseSlot("s"),),
    (DenseFeature("a"), DenseFeature("b", "log1p"), DenseFeature("c", "standardise"), DenseFeature("d", "log1p")),
)
MEAN = np.array([9.0, 9.0, 2.0, 9.0], np.float32)
STD = np.array([9.0, 9.0, 4.0, 9.0], np.float32)

numbers = st.floats(-1e6, 1e6, width=32) | st.just(math.nan)


def by_definition(value: float, transform: str, mean: float, std: float) -> float:
    if math.isnan(value):
        return 0.0
    if transform == "log1p":
        return math.copysign(math.log1p(abs(value)), value)
    return (value - mean) / std if transform == "standardise" else value


@given(st.lists(st.tuples(numbers, numbers, numbers, numbers), max_size=6))
def test_each_value_is_transformed_by_its_definition(rows: list[tuple[float, ...]]) -> None:
    dense = np.array(rows, np.float32).reshape(-1, 4)
    before = dense.copy()
    out = transform_dense(SCHEMA, dense, MEAN, STD)
    expected = [
        [
            by_definition(v, f.transform, float(m), float(s))
            for v, f, m, s in zip(row, SCHEMA.dense, MEAN, STD, strict=True)
        ]
        for row in dense.tolist()
    ]
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, np.array(expected, np.float32).reshape(-1, 4), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(dense, before)


def test_a_model_without_dense_features() -> None:
    schema = ModelSchema("m", (SparseSlot("s"),))
    nothing = np.empty(0, np.float32)
    assert transform_dense(schema, np.empty((3, 0), np.float32), nothing, nothing).shape == (3, 0)


@given(st.lists(st.lists(st.tuples(numbers, numbers), max_size=5), max_size=5))
def test_moments_are_those_of_everything_observed(batches: list[list[tuple[float, float]]]) -> None:
    running = RunningMoments(2)
    for batch in batches:
        running.observe(np.array(batch, np.float32).reshape(-1, 2))
    everything = np.array([row for batch in batches for row in batch], np.float64).reshape(-1, 2)
    moments = running.moments()
    for i in range(2):
        seen = everything[:, i][~np.isnan(everything[:, i])]
        mean, std = (seen.mean(), seen.std()) if len(seen) else (0.0, 0.0)
        np.testing.assert_allclose(moments.mean[i], mean, rtol=1e-5, atol=1e-3)
        if std > 1.0:
            np.testing.assert_allclose(moments.std[i], std, rtol=1e-4)
        assert moments.std[i] > 0
    assert moments.mean.dtype == moments.std.dtype == np.float32


def test_merging_is_observing_both() -> None:
    generator = np.random.default_rng(3)
    left, right, both = RunningMoments(3), RunningMoments(3), RunningMoments(3)
    for running, size in ((left, 100), (right, 7), (left, 1), (right, 500)):
        batch = generator.normal(1e4, 3.0, (size, 3)).astype(np.float32)
        batch[generator.random((size, 3)) < 0.2] = np.nan
        running.observe(batch)
        both.observe(batch)
    left.merge(right)
    np.testing.assert_allclose(left.moments().mean, both.moments().mean, rtol=1e-6)
    np.testing.assert_allclose(left.moments().std, both.moments().std, rtol=1e-5)


def test_a_constant_and_nothing_have_a_deviation_of_one() -> None:
    running = RunningMoments(2)
    running.observe(np.array([[5.0, np.nan], [5.0, np.nan]], np.float32))
    assert running.moments().mean.tolist() == [5.0, 0.0]
    assert running.moments().std.tolist() == [1.0, 1.0]


def test_state_restores_and_is_a_copy() -> None:
    running = RunningMoments(2)
    running.observe(np.array([[1.0, 2.0], [3.0, 5.0]], np.float32))
    state = running.state()
    running.observe(np.array([[9.0, 9.0]], np.float32))
    again = RunningMoments(2)
    again.restore(state)
    assert again.moments().mean.tolist() == [2.0, 3.5]
    again.observe(np.array([[9.0, 9.0]], np.float32))
    np.testing.assert_array_equal(again.moments().std, running.moments().std)
    for name in state:
        with pytest.raises(SchemaError, match=name):
            RunningMoments(2).restore({key: value for key, value in state.items() if key != name})
    with pytest.raises(SchemaError, match="shape"):
        RunningMoments(3).restore(state)
