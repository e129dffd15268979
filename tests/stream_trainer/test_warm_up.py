"""Compiling ahead: what a chunk needs has been compiled when it returns."""

import sys

import numpy as np
import pytest
from numba.core.registry import CPUDispatcher

from dimension_search.heat import HeatBands
from embedding_table import row_moves
from model_contract.sample_decoding import SampleDecoder
from stream_trainer.dimension_rules import DimensionRules
from stream_trainer.learner import Learner
from stream_trainer.process import _hurried, make_learner
from stream_trainer.warm_up import warm_up
from tests.stream_trainer.samples import SCHEMA, learner, samples, settings

PACKAGES = ("model_contract", "embedding_table", "feature_admission", "stream_trainer")


def compiled() -> int:
    """Compiled signatures of all kernels of the trainer."""
    modules = [module for name, module in sys.modules.items() if name.split(".")[0] in PACKAGES]
    kernels = {k for module in modules for k in vars(module).values() if isinstance(k, CPUDispatcher)}
    return sum(len(kernel.signatures) for kernel in kernels)


def test_it_runs_both_wire_forms_through_scratch_learners_and_leaves_no_compiling_behind() -> None:
    made: list[Learner] = []

    def new_learner() -> Learner:
        made.append(learner())
        return made[-1]

    warm_up(SCHEMA, SampleDecoder(SCHEMA), new_learner)

    assert len(made) == 2
    assert made[0].counts.samples > 1000
    assert made[0].table.rows > 3
    before = compiled()
    assert before > 10
    fresh = learner()
    base = fresh.fresh_state(0)
    fresh.learn(fresh.prepare(samples(np.random.default_rng(0), 64), 1), 1)
    fresh.take_cut(base.manifest)
    assert compiled() == before


def test_it_goes_through_a_search_and_a_resize_where_the_trainer_will(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Learner] = []
    seeded: list[int] = []
    start = row_moves.start_columns
    monkeypatch.setattr(row_moves, "start_columns", lambda *given: (seeded.append(given[1].size), start(*given)))
    rules = DimensionRules(heat=HeatBands((0.5,)), half_life_samples=1000, max_share=0.3)

    def new_learner() -> Learner:
        made.append(make_learner(SCHEMA, settings(admission="always"), None, _hurried(rules)))
        return made[-1]

    warm_up(SCHEMA, SampleDecoder(SCHEMA), new_learner)

    keeper = made[0].dimensions
    assert keeper is not None
    assert keeper.last_plan is not None
    assert keeper.last_plan.changed
    assert seeded  # rows grew, and one slot's with random values
    assert {use.width for use in made[0].table.block_uses()} == {SCHEMA.dim}
    assert _hurried(None) is None
