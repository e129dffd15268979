import sys
import threading
from dataclasses import replace
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest

from embedding_table.row_codecs import CODECS
from model_contract.increment import DenseTensor, Increment
from model_contract.prediction_request import PredictionRequestDecoder
from model_contract.samples import SampleBatch
from serving.errors import IncrementRefused, ModelNotLoaded, RefusalReason, ReplicaBusy
from serving.replica import Replica


def batch_of(model: Any, instances: list[dict[str, Any]]) -> SampleBatch:
    return PredictionRequestDecoder(model.schema).decode(msgspec.json.encode({"instances": instances}))


def loaded(model: Any) -> Replica:
    replica = Replica(model.schema, 64 << 20)
    replica.load_base(model.base())
    return replica


def without(increment: Increment, name: str) -> Increment:
    return replace(increment, dense=tuple(tensor for tensor in increment.dense if tensor.name != name))


def test_scores_equal_a_plain_dlrm_through_base_and_increments(model: Any) -> None:
    replica = loaded(model)
    for _ in range(12):
        instances = [model.instance() for _ in range(25)]
        scores = replica.score(batch_of(model, instances))
        np.testing.assert_allclose(scores.probabilities, [model.probability(i) for i in instances], atol=1e-6)
        replica.apply(model.step(changed=30, died=10, born=10))


def test_scores_equal_a_plain_dlrm_of_decoded_rows_in_every_precision(
    kit: ModuleType, rng: np.random.Generator
) -> None:
    model = kit.PlainModel(kit.schema_with_dense(), rng, codecs=tuple(CODECS))
    replica = loaded(model)
    for _ in range(12):
        instances = [model.instance() for _ in range(25)]
        scores = replica.score(batch_of(model, instances))
        np.testing.assert_allclose(scores.probabilities, [model.probability(i) for i in instances], atol=1e-6)
        replica.apply(model.step(changed=30, died=10, born=10))
    assert set(replica.footprint.precision_bytes) == set(CODECS)


def test_a_deleted_id_is_scored_like_one_that_never_was(model: Any) -> None:
    replica = loaded(model)
    increment = model.step(died=20, born=0)
    dead = {int(row_id) for row_id in increment.tombstones} - set(model.rows)
    replica.apply(increment)
    assert dead

    handles = replica._store.find(np.array(sorted(dead), np.uint64))  # type: ignore[union-attr]
    assert (handles == 0xFFFFFFFF).all()
    scores = replica.score(batch_of(model, [{"sparse": {"user": "nobody"}, "dense": {}}]))
    assert scores.unknown == 1
    assert scores.lookups == len(model.schema.sparse)


def test_the_version_says_where_it_comes_from(model: Any) -> None:
    replica = loaded(model)
    version = replica.apply(model.step())

    assert (version.lineage, version.sequence, version.base_sequence) == ("first", 1, 0)
    assert version.name == "first-1"
    assert version.samples_trained == 100
    assert replica.version is version


def test_footprint_counts_rows_and_bytes(model: Any) -> None:
    assert Replica(model.schema, 64 << 20).footprint.total_bytes == 0
    replica = loaded(model)
    footprint = replica.footprint

    assert footprint.rows == len(model.rows)
    assert footprint.row_bytes >= sum((row.values.size + 2) * 4 for row in model.rows.values())
    assert footprint.index_bytes >= 12 * len(model.rows)
    assert footprint.dense_bytes == 4 * sum(values.size for values in model.tensors.values())
    assert footprint.precision_bytes.keys() == {"fp32"}
    assert sum((row.values.size + 2) * 4 for row in model.rows.values()) <= footprint.precision_bytes["fp32"]
    assert footprint.precision_bytes["fp32"] < footprint.row_bytes
    assert footprint.total_bytes == footprint.row_bytes + footprint.index_bytes + footprint.dense_bytes


def test_memory_does_not_grow_while_the_same_rows_change(model: Any) -> None:
    replica = loaded(model)
    for _ in range(20):
        replica.apply(model.step(changed=1000, died=0, born=0))
    settled = replica.footprint.total_bytes
    for _ in range(200):
        replica.apply(model.step(changed=1000, died=5, born=5))

    assert replica.footprint.total_bytes <= settled + 8 * 65536


def test_versions_follow_while_most_rows_go_and_blocks_are_compacted(kit: ModuleType, rng: np.random.Generator) -> None:
    model = kit.PlainModel(kit.schema_with_dense(), rng, vocabulary=8000)
    replica = loaded(model)
    before = replica.footprint.row_bytes
    instances = [model.instance() for _ in range(30)]
    for died in (5000, 5000, 5000, 5000, 0, 0, 0):
        replica.apply(model.step(changed=20, died=died, born=0))
        scores = replica.score(batch_of(model, instances))
        np.testing.assert_allclose(scores.probabilities, [model.probability(i) for i in instances], atol=1e-6)
        assert replica.footprint.rows == len(model.rows)

    assert replica.footprint.row_bytes < before


def test_without_a_base_there_is_nothing_to_score_or_to_build_on(model: Any) -> None:
    replica = Replica(model.schema, 64 << 20)

    with pytest.raises(ModelNotLoaded):
        replica.score(batch_of(model, [model.instance()]))
    with pytest.raises(ModelNotLoaded):
        replica.apply(model.step())


def test_who_does_not_wait_is_told_that_the_replica_is_busy(model: Any) -> None:
    replica = loaded(model)
    batch = batch_of(model, [model.instance()])

    with replica._changing(), pytest.raises(ReplicaBusy):
        replica.score(batch, wait=False)
    assert replica.score(batch, wait=False).version is replica.version


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda i: without(i, "top.0.bias"), RefusalReason.BAD_DENSE),
        (lambda i: without(i, "dense_std"), RefusalReason.BAD_DENSE),
        (lambda i: with_std(i, 0.0), RefusalReason.BAD_DENSE),
        (lambda i: replace(i, dense=(*i.dense, DenseTensor("x", np.zeros(1, np.float32)))), RefusalReason.BAD_DENSE),
        (
            lambda i: replace(without(i, "top.0.bias"), dense=(*without(i, "top.0.bias").dense, nan_bias(i))),
            RefusalReason.NOT_FINITE,
        ),
        (lambda i: replace(i, blocks=i.blocks[1:]), RefusalReason.NO_MISSING_ROW),
    ],
    ids=["lacks a tensor", "lacks a moment", "no spread", "unknown tensor", "nan", "lacks a missing row"],
)
def test_a_bad_base_or_increment_leaves_the_old_version(
    kit: ModuleType, rng: np.random.Generator, damage: Any, reason: RefusalReason
) -> None:
    model = kit.PlainModel(kit.schema_with_dense(), rng)
    replica = loaded(model)
    before = replica.version
    batch = batch_of(model, [model.instance() for _ in range(20)])
    scores = replica.score(batch).probabilities

    with pytest.raises(IncrementRefused) as caught:
        replica.load_base(damage(model.base()))
    assert caught.value.reason == reason
    if reason is not RefusalReason.NO_MISSING_ROW:
        with pytest.raises(IncrementRefused):
            replica.apply(damage(model.step()))
    assert replica.version is before
    np.testing.assert_array_equal(replica.score(batch).probabilities, scores)


def with_std(increment: Increment, value: float) -> Increment:
    moments = DenseTensor("dense_std", np.full(3, value, np.float32))
    return replace(increment, dense=(*without(increment, "dense_std").dense, moments))


def nan_bias(increment: Increment) -> DenseTensor:
    bias = next(tensor for tensor in increment.dense if tensor.name == "top.0.bias")
    return DenseTensor("top.0.bias", np.full_like(bias.values, np.nan))


def test_a_base_that_scores_nonsense_is_refused(kit: ModuleType, rng: np.random.Generator) -> None:
    model = kit.PlainModel(kit.schema_without_dense(), rng)
    replica = loaded(model)
    for row in model.rows.values():
        row.values[:] = 3e30

    with np.errstate(all="ignore"), pytest.raises(IncrementRefused, match="not_finite.*missing values"):
        replica.load_base(model.base())


def test_rows_in_use_by_a_request_are_not_given_back(model: Any) -> None:
    replica = loaded(model)
    old = replica.version
    assert old is not None
    store = replica._store
    assert store is not None
    ids = np.array(sorted(model.rows), np.uint64)
    handles = store.find(ids)
    ids_held = store._arena.ids(handles)

    old.readers.enter()
    for _ in range(5):
        replica.apply(model.step(changed=1000, died=0, born=0))
    np.testing.assert_array_equal(store._arena.ids(handles), ids_held)  # nobody else got their places
    np.testing.assert_array_equal(ids_held, ids)
    assert len(replica._retired) == 5
    old.readers.leave()
    replica.apply(model.step())
    assert len(replica._retired) == 1


def test_every_score_under_load_comes_from_exactly_one_version(kit: ModuleType, model: Any) -> None:
    """Threads score without pause while versions change under them, a base among them."""
    replica = loaded(model)
    instances = [model.instance() for _ in range(40)]
    batch = batch_of(model, instances)
    truth = {"first-0": [model.probability(i) for i in instances]}
    steps: list[Increment] = []
    for number in range(60):
        increment = model.step(changed=60, died=10, born=10)
        truth[f"first-{model.sequence}"] = [model.probability(i) for i in instances]
        steps.append(model.base() if number == 30 else increment)
    seen: set[str] = set()
    wrong: list[str] = []
    done = threading.Event()

    def score() -> None:
        while not done.is_set():
            scores = replica.score(batch)
            seen.add(scores.version.name)
            if np.abs(scores.probabilities - truth[scores.version.name]).max() > 1e-6:
                wrong.append(scores.version.name)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=score) for _ in range(3)]
    try:
        for thread in threads:
            thread.start()
        for increment in steps:
            version = (replica.load_base if increment.header.kind == "base" else replica.apply)(increment)
            kit.eventually(lambda name=version.name: name in seen, "somebody is answered from it")
    finally:
        done.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)

    assert wrong == []
    assert seen >= truth.keys() - {"first-0"}
