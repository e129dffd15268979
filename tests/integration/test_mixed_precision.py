"""Rows of mixed precision on their way through a real Redis: the server scores what the decoded rows score."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import redis
import torch

from embedding_table.row_codecs import CODECS, PackedRows, RowCodec
from embedding_table.table import RowsOfBlock
from model_contract.dense_layout import DenseLayout
from model_contract.dense_transform import transform_dense
from model_contract.dlrm import Dlrm
from model_contract.increment import Increment, decode
from model_contract.redis_keys import RedisKeys
from model_contract.samples import SampleBatch
from model_contract.schema import ModelSchema
from serving.process import ServingParts, assemble
from serving.settings import ServingSettings
from stream_trainer.checkpoint_store import CheckpointStore
from stream_trainer.delivery import Delivery
from stream_trainer.outgoing import encode_state
from stream_trainer.publisher import Publisher
from tests.integration.test_agreement import MODEL
from tests.stream_trainer.samples import SCHEMA, learner, samples

ROWS = 5_000


class ByTraffic:
    """The rarer a row, the fewer bits; the rarest share codebooks that not all of them fit."""

    names = ("int4_greedy_coded", "int8_minmax_block", "int8_greedy", "fp16", "fp32")

    def __init__(self) -> None:
        rows = np.random.default_rng(0).uniform(-0.5, 0.5, (400, SCHEMA.dim)).astype(np.float32)
        self._shared = {name: CODECS[name].encode(rows).shared for name in self.names if CODECS[name].form}

    def split(self, block: RowsOfBlock) -> Sequence[tuple[np.ndarray, RowCodec, np.ndarray | None]]:
        tier = np.searchsorted([1.5, 2.5, 5, 30], block.counts)
        return [(np.flatnonzero(tier == k), CODECS[name], self._shared.get(name)) for k, name in enumerate(self.names)]


@dataclasses.dataclass
class Published:
    """What Redis holds of a model, row by row as it decodes."""

    rows: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    precision: dict[int, str] = dataclasses.field(default_factory=dict)
    changed_tier: set[int] = dataclasses.field(default_factory=set)
    last: Increment | None = None

    @classmethod
    def read(cls, url: str, model: str) -> "Published":
        keys, found = RedisKeys(model), cls()
        with redis.Redis.from_url(url) as client:
            head: Any = {name.decode(): value.decode() for name, value in client.hgetall(keys.head).items()}
            lineage, base = head["lineage"], int(head["base_sequence"])
            chunks: Any = [client.get(keys.base_chunk(lineage, base, i)) for i in range(int(head["base_chunks"]))]
            found.apply(decode(b"".join(chunks)))
            entries: Any = client.xrange(keys.increments(lineage))
        for entry, fields in entries:
            if int(entry.split(b"-")[0]) > base:
                found.apply(decode(fields[b"data"]))
        return found

    def apply(self, increment: Increment) -> None:
        for row_id in increment.tombstones.tolist():
            self.rows.pop(row_id, None)
            self.precision.pop(row_id, None)
        for block in increment.blocks:
            packed = PackedRows(block.precision, block.columns.size, block.data, block.shared)
            for row_id, values in zip(block.ids.tolist(), CODECS[block.precision].decode(packed), strict=True):
                self.rows[row_id] = np.zeros(SCHEMA.dim, np.float32)
                self.rows[row_id][block.columns] = values
                if self.precision.get(row_id, block.precision) != block.precision:
                    self.changed_tier.add(row_id)
                self.precision[row_id] = block.precision
        self.last = increment

    def probabilities(self, schema: ModelSchema, batch: SampleBatch) -> np.ndarray:
        """By the rows above and the module form of the network."""
        assert self.last is not None
        slots, offsets = len(schema.sparse), batch.offsets
        missing = [self.rows[row_id] for row_id in schema.missing_ids.tolist()]
        emb = np.zeros((batch.rows * slots, schema.dim), np.float32)
        for bag in range(len(emb)):
            ids = batch.ids[offsets[bag] : offsets[bag + 1]].tolist()
            for row_id in ids:
                emb[bag] += self.rows.get(row_id, missing[bag % slots])
            if schema.sparse[bag % slots].pooling == "mean" and ids:
                emb[bag] /= len(ids)
        tensors = {tensor.name: tensor.values for tensor in self.last.dense}
        dense = transform_dense(schema, batch.dense, tensors["dense_mean"], tensors["dense_std"])
        network = Dlrm(schema)
        network.load_flat(
            DenseLayout(schema).join([tensor for tensor in self.last.dense if not tensor.name.startswith("dense_")])
        )
        with torch.no_grad():
            logits = network(torch.from_numpy(emb.reshape(batch.rows, slots, schema.dim)), torch.from_numpy(dense))
        return torch.sigmoid(logits.double()).numpy()


def _served_precision(served: ServingParts, ids: list[int]) -> list[str]:
    store = served.replica._store
    assert store is not None
    owners = store.views.slab_store[store.find(np.array(ids, np.uint64)) >> np.uint32(12)]
    return [store._arena.codec(owner).name for owner in owners.tolist()]


@pytest.mark.parametrize("late", [False, True], ids=["from-the-start", "joins-late"])
def test_scores_agree_with_decoded_rows_to_a_millionth(tmp_path: Path, redis_server: Any, late: bool) -> None:
    name = redis_server.fresh_prefix("m")
    schema = dataclasses.replace(SCHEMA, name=name)
    (tmp_path / "model.toml").write_text(MODEL.format(name=name))
    served = assemble(ServingSettings(model_file=tmp_path / "model.toml", redis=redis_server.url, poll_ms=20))
    model = learner(schema, memory_bytes=4 << 20, admission_threshold=1)
    store = CheckpointStore(tmp_path / "state", model.merge_admission)
    publisher = Publisher(redis_server.url, name, kept_bases=2, stream_increments=100)
    often = (
        {"compact_ratio": 0.1, "compact_increments": 4} if late else {"compact_ratio": 1e9, "compact_increments": 99}
    )
    tiers = ByTraffic()
    delivery = Delivery(
        store, publisher, model.step.layout, tiers_of=lambda state: tiers, dense_dtype="bfloat16", **often
    )
    manifest = delivery.start(model.fresh_state(1_000)).manifest
    if not late:
        served.subscriber.start()
    generator = np.random.default_rng(7)
    many = samples(generator, 25_000, schema, ids=200_000)  # so many of one tier that coded scales pay
    model.learn(model.prepare(many, 0), 0)
    for cut in range(14):
        for _ in range(3):
            model.learn(model.prepare(samples(generator, 300, schema, ids=5000), cut), cut)
        model.table.erase(model.table.live_rows().handles[::17])
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
        batch = samples(generator, ROWS, schema, ids=8000)
        found = served.replica.score(batch).probabilities
    finally:
        assert served.subscriber.stop(10)
        store.close()
        publisher.close()

    published = Published.read(redis_server.url, name)
    expected = published.probabilities(schema, batch)
    assert np.abs(found - expected).max() <= 1e-6
    assert expected.std() > 0.01
    assert served.feed_log.state.refused == {}
    assert served.replica.footprint.rows == len(published.rows) == model.table.rows
    assert set(ByTraffic.names) <= set(published.precision.values())
    ids = list(published.rows)
    assert _served_precision(served, ids) == [published.precision[row_id] for row_id in ids]
    assert set(served.replica.footprint.precision_bytes) == set(published.precision.values())
    if not late:
        assert len(published.changed_tier) > 100


def test_a_cut_read_back_from_the_disk_has_the_tiers_and_bytes_that_were_published(
    tmp_path: Path, redis_server: Any
) -> None:
    """What the next life sends of a trainer that died before it could."""
    schema = dataclasses.replace(SCHEMA, name=redis_server.fresh_prefix("m"))
    model = learner(schema, memory_bytes=2 << 20, admission_threshold=1)
    store = CheckpointStore(tmp_path, model.merge_admission)
    publisher = Publisher(redis_server.url, schema.name, kept_bases=2, stream_increments=100)
    layout, generator = model.step.layout, np.random.default_rng(3)
    delivery = Delivery(
        store, publisher, layout, compact_ratio=1e9, compact_increments=99, tiers_of=lambda state: ByTraffic()
    )
    manifest = delivery.start(model.fresh_state(1_000)).manifest
    for cut in range(3):
        model.learn(model.prepare(samples(generator, 300, schema, ids=500), cut), cut)
        manifest = msgspec.structs.replace(manifest, sequence=manifest.sequence + 1)
        delivery.offer(model.take_cut(manifest))
    delivery.close()
    publisher.close()
    with redis.Redis.from_url(redis_server.url) as client:
        entries: Any = client.xrange(RedisKeys(schema.name).increments(manifest.lineage))
    assert len(entries) == 3
    for sequence, (_, fields) in enumerate(entries, 1):
        cut_again = store.read_delta(sequence)
        assert cut_again is not None
        assert encode_state(cut_again, "increment", layout, ByTraffic()) == fields[b"data"]
        assert len({block.precision for block in decode(fields[b"data"]).blocks}) > 2
    store.close()
