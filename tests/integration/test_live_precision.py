"""Precision changes while samples come in: the server behind a real Redis scores from rows as the plan packs them."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dimension_search.column_pruning import ColumnPruning
from dimension_search.precision_plan import PrecisionPlan
from model_contract.dense_transform import transform_dense
from model_contract.samples import SampleBatch
from serving.process import ServingParts
from stream_trainer.delivery import Delivery
from stream_trainer.dimension_rules import DimensionRules
from stream_trainer.learner import Learner
from stream_trainer.precision_keeper import PrecisionKeeper, PrecisionRules
from stream_trainer.precision_pass import PrecisionPass
from stream_trainer.prepared_batch import PreparedBatch
from stream_trainer.process import make_learner
from stream_trainer.tiers_of_cut import TiersOfCut
from tests.integration.test_live_resize import BANDS, DIM, ROWS, Loop, rules_with
from tests.stream_trainer.samples import SCHEMA, samples, settings


class PreciseLoop(Loop):
    """A loop whose trainer searches for precision as well."""

    def __init__(
        self, folder: Path, redis_url: str, name: str, rules: DimensionRules, precision: PrecisionRules
    ) -> None:
        super().__init__(folder, redis_url, replace(SCHEMA, name=name, dim=DIM), rules, 0)
        self.close()
        self.plans: list[PrecisionPlan] = []
        options = settings(admission_threshold=1, memory_bytes=4 << 20)
        self.model: Learner = make_learner(
            self.schema, options, None, rules, precision=precision, on_precision=self.plans.append
        )
        self.store = type(self.store)(folder / "precise", self.model.merge_admission)
        self.publisher = type(self.publisher)(redis_url, name, kept_bases=2, stream_increments=100)
        self.delivery = Delivery(
            self.store,
            self.publisher,
            self.model.step.layout,
            compact_ratio=0.5,
            compact_increments=8,
            tiers_of=TiersOfCut(self.schema.slot_names),
        )
        self.manifest = self.delivery.start(self.model.fresh_state(1_000)).manifest

    @property
    def keeper(self) -> PrecisionKeeper:
        assert self.model.precision is not None
        return self.model.precision

    def settle(self) -> None:
        """All that is to be moved or marked is."""
        while self.model.needs_quiet:
            self.model.tidy(self.now_s)

    def packed_scores(self, batch: SampleBatch) -> np.ndarray:
        """By the trainer's own decoding of its own rows, with the network's kernels."""
        slots = len(self.schema.sparse)
        handles = self.model.table.find(batch.ids)
        bags = np.repeat(np.arange(batch.rows * slots), np.diff(batch.offsets))
        absent = handles == 0xFFFFFFFF
        handles[absent] = self.model.table.missing_handles[bags[absent] % slots]
        moments = self.model.preparation.moments.moments()
        prepared = PreparedBatch(
            handles=handles,
            offsets=batch.offsets,
            dense=transform_dense(self.schema, batch.dense, moments.mean, moments.std),
            labels=batch.labels,
            weights=batch.weights,
        )
        codec_pass = PrecisionPass(self.schema, self.model.step.layout)
        read = codec_pass.read(self.model.table, prepared)
        tiers = self.delivery._tiers_of(self.model.take_cut(self.manifest))
        values = read.values if tiers is None else read.decoded(tiers)  # type: ignore[arg-type]
        logits = codec_pass.predict(self.model.step.parameters, prepared, read, values)
        return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))))


@pytest.fixture
def precise(tmp_path: Path, redis_server: Any) -> Iterator[Any]:
    made: list[PreciseLoop] = []
    servers: list[ServingParts] = []

    def make(rules: DimensionRules, precision: PrecisionRules) -> PreciseLoop:
        made.append(PreciseLoop(tmp_path, redis_server.url, redis_server.fresh_prefix("m"), rules, precision))
        servers.append(made[-1].server)
        return made[-1]

    yield make
    for server in servers:
        assert server.subscriber.stop(10)
    for one in made:
        one.close()


def test_the_server_scores_from_the_tiers_of_every_plan(precise: Any) -> None:
    rules = PrecisionRules(
        first_search_samples=512,
        search_every_samples=3_000,
        settle_samples=512,
        window_samples=512,
        judge_samples=256,
        tolerance=0.02,
    )
    dimensions = rules_with(ColumnPruning("magnitude"), max_share=0.6, search_every_samples=4_096)
    run: PreciseLoop = precise(dimensions, rules)
    held_out = samples(np.random.default_rng(50), ROWS, run.schema, 3_000)
    for _ in range(8):
        for _ in range(5):
            run.learn(1)
            run.model.tidy(run.now_s, 100)
            run.publish()
        run.settle()
        run.publish()
        found = run.scores(held_out)
        expected = run.packed_scores(held_out)
        assert np.abs(found - expected).max() <= 1e-6
        assert np.abs(found - run.own_scores(held_out)).max() < 0.2

    assert BANDS.bands == run.model.table.bands
    assert run.keeper.searches >= 3
    assert run.model.dimensions is not None
    assert run.model.dimensions.searches >= 2
    assert "dimensions" in {plan.trigger for plan in run.plans}
    assert np.abs(found - run.own_scores(held_out)).max() > 1e-5  # rows are packed indeed
    assert run.server.feed_log.state.refused == {}

    late = run.serve()
    run.learn(1)
    run.settle()
    run.publish()
    np.testing.assert_array_equal(run.scores(held_out), run.scores(held_out, late))
    assert late.subscriber.stop(10)
