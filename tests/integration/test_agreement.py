"""Trainer and server are one model: what goes through a real Redis scores the same in a replica as in the trainer."""

import dataclasses
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from model_contract.dense_transform import transform_dense
from model_contract.dlrm import Dlrm
from model_contract.samples import SampleBatch
from serving.process import assemble
from serving.settings import ServingSettings
from stream_trainer.checkpoint_store import CheckpointStore
from stream_trainer.delivery import Delivery
from stream_trainer.learner import Learner
from stream_trainer.publisher import Publisher
from tests.stream_trainer.samples import SCHEMA, learner, samples

MODEL = """
[model]
name = "{name}"
dim = 4
bottom = [6]
top = [8]

[[sparse]]
name = "user"

[[sparse]]
name = "item"

[[sparse]]
name = "tags"
pooling = "mean"
multi = true

[[dense]]
name = "x"
transform = "standardise"
"""

ROWS = 10_000


def trainers_probabilities(model: Learner, batch: SampleBatch) -> np.ndarray:
    """By the trainer's own rows and the module form of the network, without any of the server's code."""
    handles = model.table.find(batch.ids)
    slots = np.searchsorted(batch.offsets, np.arange(len(handles)), side="right") - 1
    absent = handles == 0xFFFFFFFF
    handles[absent] = model.table.missing_handles[slots[absent] % len(SCHEMA.sparse)]
    emb = np.empty((batch.rows, len(SCHEMA.sparse), SCHEMA.dim), np.float32)
    model.table.gather(handles, batch.offsets, SCHEMA.pooling_codes, emb)
    moments = model.preparation.moments.moments()
    dense = transform_dense(SCHEMA, batch.dense, moments.mean, moments.std)
    network = Dlrm(SCHEMA)
    network.load_flat(model.step.parameters)
    with torch.no_grad():
        logits = network(torch.from_numpy(emb), torch.from_numpy(dense))
    return torch.sigmoid(logits.double()).numpy()


@pytest.mark.parametrize("late", [False, True], ids=["from-the-start", "joins-late"])
def test_ten_thousand_scores_agree_to_a_millionth(tmp_path: Path, redis_server, late: bool) -> None:
    name = redis_server.fresh_prefix("m")
    schema = dataclasses.replace(SCHEMA, name=name)
    (tmp_path / "model.toml").write_text(MODEL.format(name=name))
    served = assemble(ServingSettings(model_file=tmp_path / "model.toml", redis=redis_server.url, poll_ms=20))
    assert served.schema == schema

    model = learner(schema, memory_bytes=2 << 20, admission_threshold=2)
    store = CheckpointStore(tmp_path / "state", model.merge_admission)
    publisher = Publisher(redis_server.url, name, kept_bases=2, stream_increments=100)
    delivery = Delivery(store, publisher, model.step.layout, compact_ratio=0.1, compact_increments=4)
    state = delivery.start(model.fresh_state(1_000))
    if not late:
        served.subscriber.start()
    generator = np.random.default_rng(7)
    manifest = state.manifest
    for cut in range(12):
        for _ in range(4):
            model.learn(model.prepare(samples(generator, 300, schema, ids=5000), cut), cut)
        model.table.erase(model.table.live_rows().handles[::11])  # tombstones in every increment
        manifest = msgspec.structs.replace(manifest, sequence=manifest.sequence + 1, created_ms=1_000 + cut)
        delivery.offer(model.take_cut(manifest))
    delivery.close()
    if late:
        served.subscriber.start()

    try:
        deadline = time.monotonic() + 30
        while served.replica.version is None or served.replica.version.sequence < manifest.sequence:
            assert time.monotonic() < deadline, served.feed_log.state
            time.sleep(0.01)
        batch = samples(generator, ROWS, schema, ids=8000)  # ids with a row, without one, and erased ones
        found = served.replica.score(batch).probabilities
    finally:
        assert served.subscriber.stop(10)
        store.close()
        publisher.close()

    expected = trainers_probabilities(model, batch)
    assert found.shape == (ROWS,)
    assert np.abs(found - expected).max() <= 1e-6
    assert expected.std() > 0.01  # a model that says the same of everything would agree with anything
    assert served.feed_log.state.refused == {}
