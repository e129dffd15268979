"""A schema with every kind of feature, and a plain second implementation of decoding."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import settings

from model_contract.samples import SampleBatch
from model_contract.schema import DenseFeature, ModelSchema, SparseSlot

settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
settings.load_profile("fixed")


@pytest.fixture(scope="session")
def schema() -> ModelSchema:
    return ModelSchema(
        "films",
        sparse=(SparseSlot("user"), SparseSlot("tags", pooling="mean", multi=True), SparseSlot("a/b.c")),
        dense=(DenseFeature("price", "log1p"), DenseFeature("age", "standardise"), DenseFeature("raw")),
        dim=4,
    )


@pytest.fixture(scope="session")
def single_schema() -> ModelSchema:
    return ModelSchema("clicks", sparse=(SparseSlot("user"), SparseSlot("article"), SparseSlot("hour")))


def plain_id(slot: str, value: str | int | None) -> int:
    text = "" if value is None else str(value)
    return xxhash.xxh64_intdigest(text.encode(), seed=xxhash.xxh64_intdigest(slot.encode(), seed=0)) or 1


def plain_batch(schema: ModelSchema, records: Sequence[dict[str, Any]]) -> SampleBatch:
    ids: list[int] = []
    offsets = [0]
    for record in records:
        for slot in schema.sparse:
            value = record.get("sparse", {}).get(slot.name)
            values = value if isinstance(value, list) else [value]
            ids += [plain_id(slot.name, entry) for entry in values or [None]]
            offsets.append(len(ids))
    dense = [[record.get("dense", {}).get(name) for name in schema.dense_names] for record in records]
    number = {"label": 0, "weight": 1.0, "ts_ms": 0}
    columns = {
        key: [default if record.get(key) is None else record[key] for record in records]
        for key, default in number.items()
    }
    return SampleBatch(
        labels=np.array(columns["label"], np.float32),
        weights=np.array(columns["weight"], np.float32),
        ts_ms=np.array(columns["ts_ms"], np.int64),
        dense=np.array([[np.nan if x is None else x for x in row] for row in dense], np.float32).reshape(
            len(records), len(schema.dense)
        ),
        ids=np.array(ids, np.uint64),
        offsets=np.array(offsets, np.int64),
    )


def assert_same_batch(left: SampleBatch, right: SampleBatch) -> None:
    for name in SampleBatch.__slots__:
        ours, theirs = getattr(left, name), getattr(right, name)
        assert ours.dtype == theirs.dtype, name
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


@pytest.fixture(scope="session")
def plain() -> Callable[[ModelSchema, Sequence[dict[str, Any]]], SampleBatch]:
    return plain_batch


@pytest.fixture(scope="session")
def same_batch() -> Callable[[SampleBatch, SampleBatch], None]:
    return assert_same_batch


@pytest.fixture(scope="session")
def records() -> list[dict[str, Any]]:
    """Good samples that use every freedom the form allows."""
    return [
        {"label": 1, "sparse": {"user": 7, "tags": ["a", "b", 3], "a/b.c": "x"}, "dense": {"price": 2.5, "age": 3}},
        {"label": 0},
        {"label": 1, "sparse": {"user": None, "tags": [], "a/b.c": ""}, "dense": {"price": None}},
        {"label": 0, "sparse": {"tags": "one"}, "ts_ms": 1506826800026, "weight": 0.25, "id": "r-1"},
        {"label": 1, "sparse": {"user": -(2**63), "tags": [None, "", "ü€😀"]}, "id": 12, "weight": None, "ts_ms": None},
        {"label": 0, "sparse": {"user": 2**64, "tags": 5, "a/b.c": 10**40}, "dense": {"raw": -0.0, "age": 10**20}},
        {
            "label": 1,
            "sparse": {"user": "7", "tags": ["3"], "a/b.c": "x" * 1000},
            "dense": {"raw": 3.4028234663852886e38},
        },
    ]


@pytest.fixture(scope="session")
def as_json() -> Callable[[Any], bytes]:
    return lambda record: json.dumps(record).encode()
