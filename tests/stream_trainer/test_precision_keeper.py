"""Precision found while training goes on: when a search is due, what a plan changes, what returns after a restart."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from dimension_search.precision_plan import PrecisionPlan
from embedding_table.row_codecs import PackedRows, codec_named
from model_contract.increment import RowBlock, decode
from stream_trainer.learner import Learner
from stream_trainer.model_state import ModelState
from stream_trainer.outgoing import encode_state
from stream_trainer.precision_keeper import PrecisionRules
from stream_trainer.process import make_learner
from stream_trainer.tiers_of_cut import TiersOfCut
from tests.stream_trainer.samples import SCHEMA, samples, settings

MODEL = replace(SCHEMA, dim=8, bottom=(6, 8)[:1])
ROWS = 256
LOOSE = {"tolerance": 0.05}


def rules_with(**changes: object) -> PrecisionRules:
    values: dict[str, object] = {
        "first_search_samples": 1024,
        "search_every_samples": 4096,
        "settle_samples": 1024,
        "window_samples": 512,
        "judge_samples": 512,
        **LOOSE,
        **changes,
    }
    return PrecisionRules(**values)  # type: ignore[arg-type]


class Run:
    """One learner on a stream of its own."""

    def __init__(self, rules: PrecisionRules | None) -> None:
        self.plans: list[PrecisionPlan] = []
        self.model = make_model(rules, self.plans.append)
        self.generator = np.random.default_rng(3)
        self.state = self.model.fresh_state(0)

    def learn(self, batches: int = 1, tidy: bool = True) -> None:
        for _ in range(batches):
            self.model.learn(self.model.prepare(samples(self.generator, ROWS, MODEL), 1), 1)
            if tidy:
                self.model.tidy(1)

    def cut(self) -> ModelState:
        manifest = self.state.manifest
        return self.model.take_cut(manifest)


def make_model(rules: PrecisionRules | None, on_plan: Callable[[PrecisionPlan], None] = lambda _: None) -> Learner:
    return make_learner(MODEL, settings(admission="always"), precision=rules, on_precision=on_plan)


def decoded(block: RowBlock) -> np.ndarray:
    return codec_named(block.precision).decode(
        PackedRows(block.precision, block.columns.size, block.data, block.shared)
    )


def sent(model: Learner, cut: ModelState) -> dict[int, tuple[str, np.ndarray]]:
    """Of every id in the cut's increment its precision and its row as a server reads it."""
    tiers = TiersOfCut(MODEL.slot_names)(cut)
    increment = decode(encode_state(cut, "base", model.step.layout, tiers))
    return {
        id_: (block.precision, row)
        for block in increment.blocks
        for id_, row in zip(block.ids.tolist(), decoded(block), strict=True)
    }


def values_of(model: Learner) -> dict[int, np.ndarray]:
    return {
        id_: row
        for block in model.table.all_rows().blocks
        for id_, row in zip(block.ids.tolist(), block.values, strict=True)
    }


def assert_served_is(model: Learner, served: dict[int, tuple[str, np.ndarray]]) -> None:
    """What was sent, the last word for each id, is what the plan in force makes of the rows there are."""
    assert model.precision is not None
    complete = replace(model.fresh_state(0), arrays=model._arrays())
    expected = sent(model, complete)
    assert served.keys() == expected.keys()
    for id_, (precision, row) in expected.items():
        assert served[id_][0] == precision, id_
        np.testing.assert_array_equal(served[id_][1], row)


def test_a_search_goes_through_its_stages_on_samples_before_they_are_learned() -> None:
    run = Run(rules_with())
    keeper = run.model.precision
    assert keeper is not None
    run.learn(4)
    assert keeper.plan is None
    run.learn(1)  # what rows share
    run.learn(2)  # the window: samples 1280 to 1791
    assert run.plans == []
    run.learn(2)  # the judgement

    plan = run.plans[0]
    assert plan.verdict is not None
    assert (plan.verdict.decision, plan.verdict.samples, plan.trigger) == ("applied", 512, "samples")
    assert plan.bytes_after < plan.bytes_before / 2
    assert keeper.plan == plan
    assert plan.candidates[plan.chosen].expected <= 0.05
    assert sum(tier.rows for tier in plan.tiers) <= run.model.table.rows
    run.learn(24)
    assert keeper.searches == 2


def test_what_servers_hold_is_what_the_plan_says_also_of_rows_that_nobody_touched() -> None:
    run = Run(rules_with(search_every_samples=1024))
    served = sent(run.model, run.state)
    for _ in range(30):
        run.learn(tidy=False)
        run.model.tidy(1, max_rows=50)
        served |= sent(run.model, run.cut())
    keeper = run.model.precision
    assert keeper is not None
    while keeper.needs_quiet:
        run.model.tidy(1, max_rows=50)
    served |= sent(run.model, run.cut())

    assert keeper.searches >= 3
    assert len({precision for precision, _ in served.values()}) >= 2
    assert_served_is(run.model, served)


def test_rows_are_marked_in_slices_and_only_those_whose_tier_changes() -> None:
    run = Run(rules_with(codec="fp16"))
    run.learn(8)
    keeper = run.model.precision
    assert keeper is not None
    assert not keeper.needs_quiet
    run.cut()
    run.model.tidy(1)
    assert run.cut().rows.rows == 0


def test_a_plan_survives_a_restart_and_a_sweep_goes_on() -> None:
    run = Run(rules_with())
    served = sent(run.model, run.state)
    while not run.plans:
        run.learn(tidy=False)
        served |= sent(run.model, run.cut())
    state = run.model.fresh_state(0)
    twin = Run(rules_with())
    twin.model.restore(state)
    keeper, old = twin.model.precision, run.model.precision
    assert keeper is not None
    assert old is not None

    assert keeper.plan == old.plan
    assert (keeper.searches, keeper.needs_quiet) == (1, True)
    twin.model.tidy(1)
    served |= sent(twin.model, twin.cut())
    assert_served_is(twin.model, served)
    twin.learn(4)
    assert keeper.searches == 1


@pytest.mark.parametrize(("setting", "precision"), [("fp16", "fp16"), ("int8_minmax", "int8_minmax"), (None, "fp32")])
def test_other_settings_after_a_restart_reach_every_row(setting: str | None, precision: str) -> None:
    run = Run(rules_with(codec="int4_greedy"))
    run.learn(4)
    assert {found for found, _ in sent(run.model, run.cut()).values()} == {"int4_greedy"}
    twin = Run(rules_with(codec=setting) if setting else None)
    twin.model.restore(run.model.fresh_state(0))
    twin.model.tidy(1)
    found = sent(twin.model, twin.cut())

    assert found.keys() == values_of(twin.model).keys()
    assert {found for found, _ in found.values()} == {precision}


def test_no_tolerance_takes_no_error() -> None:
    run = Run(rules_with(tolerance=0.0))
    run.learn(9)
    plan = run.plans[0]

    assert plan.verdict is not None
    assert {tier.codec for tier in plan.tiers if tier.rows} == {"fp32"}
    assert plan.verdict.decision == "applied"


def test_a_budget_is_kept_or_the_reason_is_given() -> None:
    run = Run(rules_with(max_bytes=1))
    run.learn(12)
    refused = run.plans[0]
    assert refused.verdict is not None
    assert refused.verdict.decision == "refused"
    assert "the budget is 1" in refused.verdict.reason
    assert run.model.precision is not None
    assert run.model.precision.plan is None
    assert run.model.precision.refused == 1

    roomy = Run(rules_with(max_bytes=refused.bytes_after * 2))
    roomy.learn(12)
    plan = roomy.plans[0]
    assert plan.verdict is not None
    assert plan.verdict.decision == "applied"
    assert plan.bytes_after <= 2 * refused.bytes_after


def test_a_model_that_is_not_finite_gets_no_plan_and_no_crash() -> None:
    run = Run(rules_with())
    run.learn(5)
    run.model.step.parameters[:] = np.nan
    run.learn(5)
    verdict = run.plans[0].verdict

    assert verdict is not None
    assert (verdict.decision, verdict.reason) == ("refused", "the log-loss of the window is not finite")


def test_a_change_of_columns_is_followed_by_a_search() -> None:
    run = Run(rules_with(search_every_samples=1 << 30))
    run.learn(12)
    assert [plan.trigger for plan in run.plans] == ["samples"]
    narrow: list[np.ndarray] = [np.arange(4, dtype=np.uint16)] * len(MODEL.sparse)
    run.model.table.begin_resize(narrow)
    run.model.table.resize_some(1 << 20)
    run.learn(8)

    assert [plan.trigger for plan in run.plans] == ["samples", "dimensions"]
    assert {tier.width for tier in run.plans[1].tiers} == {4}


def test_a_search_goes_on_when_columns_change_in_the_middle_of_it() -> None:
    run = Run(rules_with())
    run.learn(6)
    run.model.table.begin_resize([np.arange(4, dtype=np.uint16)] * len(MODEL.sparse))
    run.learn(1, tidy=False)
    assert run.plans == []
    run.model.table.resize_some(1 << 20)
    run.learn(4)

    assert [{tier.width for tier in plan.tiers} for plan in run.plans] == [{4}]
    assert run.plans[0].verdict is not None
    assert run.plans[0].verdict.decision == "applied"


def test_training_is_the_same_with_and_without() -> None:
    with_search, without = Run(rules_with()), Run(None)
    with_search.learn(12)
    without.learn(12)
    left, right = values_of(with_search.model), values_of(without.model)

    assert left.keys() == right.keys()
    for id_, row in left.items():
        np.testing.assert_array_equal(row, right[id_])


def test_of_a_large_batch_only_some_samples_are_looked_at() -> None:
    run = Run(rules_with(samples_at_once=100))
    run.learn(4 + 1 + 5)  # what rows share takes one batch, the window six
    assert run.plans == []
    run.learn(1 + 6)
    verdict = run.plans[0].verdict

    assert verdict is not None
    assert verdict.samples == 600
