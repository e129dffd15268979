"""Widths change while samples come in: whatever the plan, the server behind a real Redis scores as the trainer does."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from dimension_search.heat import HeatBands
from dimension_search.principal import PrincipalPlanner
from embedding_table.table import ABSENT
from model_contract.dense_transform import transform_dense
from model_contract.dlrm import Dlrm
from model_contract.samples import SampleBatch
from model_contract.schema import Align, ModelSchema
from serving.process import ServingParts, assemble
from serving.settings import ServingSettings
from stream_trainer.alignment_switch import aligned_state
from stream_trainer.checkpoint_store import CheckpointStore
from stream_trainer.delivery import Delivery
from stream_trainer.dimension_rules import DimensionRules
from stream_trainer.learner import Learner
from stream_trainer.process import make_learner
from stream_trainer.publisher import Publisher
from stream_trainer.recipe import Recipe
from tests.integration.test_agreement import MODEL
from tests.stream_trainer.samples import SCHEMA, samples, settings

ROWS = 2_000
DIM = 8
BANDS = HeatBands((0.03, 0.5))


class RandomColumns:
    """Plans at random: nested columns, some bands given up, both wider and narrower than before."""

    name = "random"

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def worth(self, evidence: Any) -> np.ndarray:
        return np.ones(evidence.active.shape)

    def choose(self, evidence: Any, budget: Any) -> np.ndarray:
        columns = self._generator.random((evidence.slots, evidence.bands, evidence.dim)) < self._generator.random()
        columns[:, -1] |= self._generator.random((evidence.slots, evidence.dim)) < 0.3
        columns[:, -1, 0] = True
        hotter_first = np.logical_or.accumulate(columns, axis=1)  # nested: a hotter band has all of a colder one
        return np.asarray(hotter_first)


class Loop:
    """Trainer and server of one model, a cut published whenever asked."""

    def __init__(self, folder: Path, redis_url: str, schema: ModelSchema, rules: DimensionRules, seed: int) -> None:
        self.folder, self.redis_url, self.schema = folder, redis_url, schema
        text = MODEL.format(name=schema.name).replace("dim = 4", f'dim = {DIM}\nalign = "{schema.align}"')
        (folder / "model.toml").write_text(text)
        options = settings(admission_threshold=1 + seed % 2, memory_bytes=4 << 20)
        self.model: Learner = make_learner(schema, options, None, rules)
        self.store = CheckpointStore(folder / "state", self.model.merge_admission)
        self.publisher = Publisher(redis_url, schema.name, kept_bases=2, stream_increments=100)
        self.delivery = Delivery(
            self.store, self.publisher, self.model.step.layout, compact_ratio=0.5, compact_increments=8
        )
        self.manifest = self.delivery.start(self.model.fresh_state(1_000)).manifest
        self.generator = np.random.default_rng(seed)
        self.now_s = 100
        self.server = self.serve()

    def serve(self) -> ServingParts:
        parts = assemble(ServingSettings(model_file=self.folder / "model.toml", redis=self.redis_url, poll_ms=10))
        parts.subscriber.start()
        return parts

    def learn(self, batches: int, ids: int = 2_000) -> None:
        for _ in range(batches):
            self.now_s += 1
            batch = samples(self.generator, 256, self.schema, ids)
            self.model.learn(self.model.prepare(batch, self.now_s), self.now_s)

    def publish(self) -> None:
        self.manifest = msgspec.structs.replace(self.manifest, sequence=self.manifest.sequence + 1)
        self.delivery.offer(self.model.take_cut(self.manifest))

    def follow(self, server: ServingParts) -> None:
        deadline = time.monotonic() + 30
        while server.replica.version is None or server.replica.version.sequence < self.manifest.sequence:
            assert time.monotonic() < deadline, server.feed_log.state
            time.sleep(0.005)

    def scores(self, batch: SampleBatch, server: ServingParts | None = None) -> np.ndarray:
        self.follow(server or self.server)
        return (server or self.server).replica.score(batch).probabilities

    def own_scores(self, batch: SampleBatch) -> np.ndarray:
        """By the trainer's rows and the module form of the network, without any of the server's code."""
        slots = len(self.schema.sparse)
        handles = self.model.table.find(batch.ids)
        bags = np.repeat(np.arange(batch.rows * slots), np.diff(batch.offsets))
        absent = handles == ABSENT
        handles[absent] = self.model.table.missing_handles[bags[absent] % slots]
        emb = np.empty((batch.rows, slots, DIM), np.float32)
        self.model.table.gather(handles, batch.offsets, self.schema.pooling_codes, emb)
        moments = self.model.preparation.moments.moments()
        dense = transform_dense(self.schema, batch.dense, moments.mean, moments.std)
        network = Dlrm(self.schema)
        network.load_flat(self.model.step.parameters)
        with torch.no_grad():
            logits = network(torch.from_numpy(emb), torch.from_numpy(dense))
        return torch.sigmoid(logits.double()).numpy()

    def check(self, batch: SampleBatch, server: ServingParts | None = None) -> np.ndarray:
        """The server says what the trainer says."""
        expected = self.own_scores(batch)
        self.publish()
        found = self.scores(batch, server)
        assert np.abs(found - expected).max() <= 1e-6
        return found

    def close(self) -> None:
        self.delivery.close()
        self.store.close()
        self.publisher.close()


def rules_with(planner: Any, **changes: Any) -> DimensionRules:
    values: dict[str, Any] = {
        "heat": BANDS,
        "half_life_samples": 2_000,
        "first_search_samples": 512,
        "search_every_samples": 1_024,
        "window_samples": 512,
        "judge_samples": 256,
        "tolerance": np.inf,
        **changes,
    }
    return DimensionRules(planner=planner, **values)


@pytest.fixture
def loop(tmp_path: Path, redis_server: Any) -> Iterator[Any]:
    made: list[Loop] = []
    servers: list[ServingParts] = []

    def make(rules: DimensionRules, seed: int = 0, align: Align = "zero_pad") -> Loop:
        schema = dataclasses.replace(SCHEMA, name=redis_server.fresh_prefix("m"), dim=DIM, align=align)
        made.append(Loop(tmp_path, redis_server.url, schema, rules, seed))
        servers.append(made[-1].server)
        serve = made[-1].serve

        def remembered() -> ServingParts:
            servers.append(serve())
            return servers[-1]

        made[-1].serve = remembered  # type: ignore[method-assign]
        return made[-1]

    yield make
    for server in servers:
        assert server.subscriber.stop(10)
    for one in made:
        one.close()


def settle(model: Learner) -> None:
    """Puts a linear alignment past the measuring of its statistics, away from the identity."""
    if align := model.step.layout.align:
        model.step.parameters[align.batches] = 1000
        tail = model.step.parameters[align.weight : align.scale]
        tail += 0.2 * np.random.default_rng(0).standard_normal(tail.size, np.float32)


@pytest.mark.parametrize(
    ("seed", "align"),
    [(0, "zero_pad"), (1, "zero_pad"), (2, "zero_pad"), (3, "zero_pad"), (0, "linear"), (3, "linear")],
)
def test_the_server_follows_every_plan_without_a_restart(loop: Any, seed: int, align: Align) -> None:
    planner = PrincipalPlanner() if seed == 0 else RandomColumns(seed)
    limit = {"max_bytes": 60_000} if seed == 0 else {}
    after = "cold_first_layer" if seed == 3 else "keep"
    run: Loop = loop(rules_with(planner, drop_cold=seed % 2 == 0, after_resize=after, **limit), seed, align)
    settle(run.model)
    held_out = samples(np.random.default_rng(seed + 50), ROWS, run.schema, 3_000)
    keeper = run.model.dimensions
    assert keeper is not None
    slow, draining = np.random.default_rng(seed), 0
    for _ in range(30):
        run.learn(1)
        run.model.tidy(run.now_s, int(slow.integers(20, 300)))
        draining += run.model.table.resizing
        found = run.check(held_out)
    assert keeper.searches > 3
    assert draining > 3
    assert found.std() > 0.01  # one that says the same of everything would agree with anything
    assert run.server.feed_log.state.refused == {}

    late = run.serve()
    run.learn(1)
    run.check(held_out, late)  # starts from a base, somewhere between the plans
    assert late.replica.version is not None
    np.testing.assert_array_equal(run.scores(held_out), run.scores(held_out, late))


@pytest.mark.parametrize(("seed", "align"), [(0, "zero_pad"), (1, "zero_pad"), (2, "zero_pad"), (2, "linear")])
def test_growth_leaves_the_servers_scores_bit_equal(loop: Any, seed: int, align: Align) -> None:
    run: Loop = loop(rules_with(RandomColumns(seed), search_every_samples=0), seed, align)
    settle(run.model)
    run.learn(8)
    generator = np.random.default_rng(seed)
    narrow = generator.random((len(run.schema.sparse) * BANDS.bands, DIM)) < 0.4
    table = run.model.table
    table.begin_resize([np.flatnonzero(columns).astype(np.uint16) for columns in narrow])
    table.resize_some(1 << 20)
    held_out = samples(generator, ROWS, run.schema, 3_000)
    before = run.check(held_out)

    wide = narrow | (generator.random(narrow.shape) < 0.5)
    table.begin_resize([np.flatnonzero(columns).astype(np.uint16) for columns in wide])
    slices = 0
    while table.resizing:
        table.resize_some(100)
        assert run.check(held_out).tobytes() == before.tobytes()
        slices += 1
    assert slices > 3


def test_a_trainer_that_stops_in_the_midst_of_a_resize_goes_on_with_what_the_server_has(loop: Any) -> None:
    run: Loop = loop(rules_with(RandomColumns(1), search_every_samples=0))
    run.learn(8)
    held_out = samples(np.random.default_rng(5), ROWS, run.schema, 3_000)
    run.check(held_out)
    table = run.model.table
    table.begin_resize([np.arange(3, dtype=np.uint16)] * (len(run.schema.sparse) * BANDS.bands))
    table.resize_some(200)
    assert table.resizing
    before = run.check(held_out)
    run.close()

    other: Learner = make_learner(
        run.schema,
        settings(admission_threshold=1, memory_bytes=4 << 20),
        None,
        rules_with(RandomColumns(1), search_every_samples=0),
    )
    run.store = CheckpointStore(run.folder / "state", other.merge_admission)
    stored = run.store.load()
    assert stored is not None
    other.restore(stored.state)
    run.model = other
    run.publisher = Publisher(run.redis_url, run.schema.name, kept_bases=2, stream_increments=100)
    run.delivery = Delivery(run.store, run.publisher, other.step.layout, compact_ratio=0.5, compact_increments=8)
    run.manifest = run.delivery.start(stored.state).manifest
    np.testing.assert_allclose(run.own_scores(held_out), before, atol=1e-6)
    while other.table.resizing:
        other.table.resize_some(100)
        run.check(held_out)
    after = run.check(held_out)
    assert np.abs(after - before).max() > 1e-4  # rows lost columns, and the server knows


def test_a_model_goes_over_to_a_linear_alignment_and_servers_of_the_new_file_say_the_same(loop: Any) -> None:
    run: Loop = loop(rules_with(RandomColumns(2)))
    for _ in range(12):
        run.learn(1)
        run.model.tidy(run.now_s)
    held_out = samples(np.random.default_rng(5), ROWS, run.schema, 3_000)
    before, old_server = run.check(held_out), run.server
    run.close()

    schema = dataclasses.replace(run.schema, align="linear")
    other = make_learner(
        schema, settings(admission_threshold=1, memory_bytes=4 << 20), None, rules_with(RandomColumns(2))
    )
    run.store = CheckpointStore(run.folder / "state", other.merge_admission)
    stored = run.store.load()
    assert stored is not None
    state = aligned_state(stored.state, schema, Recipe())
    other.restore(state)
    run.schema, run.model = schema, other
    run.publisher = Publisher(run.redis_url, schema.name, kept_bases=2, stream_increments=100)
    run.delivery = Delivery(run.store, run.publisher, other.step.layout, compact_ratio=0.5, compact_increments=8)
    run.manifest = run.delivery.start(state).manifest
    text = (run.folder / "model.toml").read_text().replace("zero_pad", "linear")
    (run.folder / "model.toml").write_text(text)
    run.server = run.serve()
    assert run.scores(held_out).tobytes() == before.tobytes()
    for _ in range(3):
        run.learn(2)
        run.model.tidy(run.now_s)
        run.check(held_out)

    assert old_server.replica.score(held_out).probabilities.tobytes() == before.tobytes()  # goes on with what it has
    run.close()  # and the folder, with a base of either kind in it, is a state of the new model file
    run.store = CheckpointStore(run.folder / "state", other.merge_admission)
    again = run.store.load()
    assert again is not None
    assert aligned_state(again.state, schema, Recipe()) is again.state
    assert again.state.manifest.lineage == run.manifest.lineage
