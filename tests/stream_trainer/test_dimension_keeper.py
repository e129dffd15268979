"""Widths kept while training goes on: when a search is due, what a plan changes, what holds between, what returns."""

import math
from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from dimension_search.budget import DimensionBudget
from dimension_search.column_pruning import ColumnPruning
from dimension_search.evidence import BlockEvidence
from dimension_search.fixed_widths import UniformWidth
from dimension_search.heat import HeatBands
from dimension_search.plan import DimensionPlan
from embedding_table.table import ABSENT
from model_contract.samples import SampleBatch
from model_contract.schema import ModelSchema
from stream_trainer.dimension_rules import DimensionRules
from stream_trainer.errors import StateError
from stream_trainer.learner import Learner
from stream_trainer.model_state import ModelState, merge_states
from stream_trainer.process import make_learner
from tests.stream_trainer.samples import SCHEMA, samples, settings
from tests.stream_trainer.test_learner import assert_same, complete

MODEL = replace(SCHEMA, dim=8, bottom=(6, 8)[:1])
WITHOUT_DENSE = replace(MODEL, dense=(), bottom=())
SLOTS, DIM = len(MODEL.sparse), MODEL.dim
BANDS = HeatBands((0.03, 0.5))
EVERYTHING = 1 << 30
ROWS = 256


class Chosen:
    """A planner that wants what the test says, search by search; the last one again and again."""

    name = "chosen"

    def __init__(self, *widths: list[list[int]] | int) -> None:
        self.widths = list(widths)
        self.asked = 0

    def worth(self, evidence: BlockEvidence) -> np.ndarray:
        return np.ones(evidence.active.shape)

    def choose(self, evidence: BlockEvidence, budget: DimensionBudget) -> np.ndarray:
        wanted = self.widths[min(self.asked, len(self.widths) - 1)]
        self.asked += 1
        shape = (evidence.slots, evidence.bands)
        return np.arange(evidence.dim) < np.broadcast_to(np.array(wanted), shape)[:, :, None]


def rules_with(planner: object = None, **changes: object) -> DimensionRules:
    values: dict[str, object] = {
        "planner": planner or ColumnPruning("sseds"),
        "first_search_samples": 1024,
        "search_every_samples": 1024,
        "window_samples": 512,
        "judge_samples": 512,
        "tolerance": np.inf,
        **changes,
    }
    return DimensionRules(**values)  # type: ignore[arg-type]


class Run:
    """One learner on a stream of its own, a second for every batch of samples."""

    def __init__(
        self,
        rules: DimensionRules,
        requested: Callable[[], str | None] = lambda: None,
        schema: ModelSchema = MODEL,
        **changes: object,
    ):
        self.plans: list[DimensionPlan] = []
        self.schema = schema
        options = settings(admission="always", **changes)
        self.model: Learner = make_learner(schema, options, None, rules, self.plans.append, requested)
        assert self.model.dimensions is not None
        self.keeper = self.model.dimensions
        self.generator = np.random.default_rng(3)
        self.now_s = 1_000

    def batch(self, ids: int = 200) -> SampleBatch:
        return samples(self.generator, ROWS, self.schema, ids)

    def learn(self, batches: int = 1, ids: int = 200, max_rows: int = EVERYTHING, tidy: bool = True) -> None:
        for _ in range(batches):
            self.now_s += 1
            self.model.learn(self.model.prepare(self.batch(ids), self.now_s), self.now_s)
            if tidy:
                self.model.tidy(self.now_s, max_rows)

    def logits(self, batch: SampleBatch) -> np.ndarray:
        """Predictions by a restored copy, of one micro-batch: nothing is learned in between."""
        twin = make_learner(self.schema, settings(admission="always"), None, replace(self.keeper.rules))
        state = self.model.fresh_state(0)
        twin.restore(state)
        return twin.step.train(twin.table, twin.prepare(batch, self.now_s), self.now_s)[:128]

    def known(self, batch: SampleBatch) -> SampleBatch:
        """The batch without ids that have no row: a new one would be born as wide as rows are by then."""
        bags = np.repeat(np.arange(len(batch.offsets) - 1), np.diff(batch.offsets))
        absent = self.model.table.find(batch.ids) == ABSENT
        batch.ids[absent] = MODEL.missing_ids[bags[absent] % SLOTS]
        return batch

    def widths(self) -> list[int]:
        return [use.width for use in self.model.table.block_uses()]


def rows_by_id(run: Run) -> dict[int, tuple[int, np.ndarray, float]]:
    """Of every id its (block, values in all D columns, accumulator)."""
    found = {}
    for block in run.model.table.all_rows().blocks:
        values = np.zeros((len(block.ids), DIM), np.float32)
        values[:, block.columns] = block.values
        for id_, row, accumulator in zip(block.ids.tolist(), values, block.accumulators.tolist(), strict=True):
            found[id_] = (block.slot * run.model.table.bands + block.band, row, accumulator)
    return found


def test_a_search_is_due_by_samples_and_its_window_and_judgement_come_before_learning() -> None:
    run = Run(rules_with(Chosen(6)))
    run.learn(4)
    assert run.keeper.searches == 0
    run.learn(2)  # the window: samples 1024 to 1535
    assert run.plans == []
    run.learn(2)  # the judgement: until 2047

    plan = run.plans[0]
    assert (plan.trigger, plan.planner) == ("samples", "chosen")
    assert plan.samples_trained == 1280  # known when the last batch of the window came, before it was learned
    assert plan.verdict is not None
    assert (plan.verdict.decision, plan.verdict.samples) == ("applied", 512)
    assert run.widths() == [6] * SLOTS
    run.learn(40)
    assert run.keeper.searches > 2
    begun = [plan.samples_trained for plan in run.plans]
    assert min(np.diff(begun)) >= 1024


def test_a_search_is_due_by_seconds_where_samples_are_few() -> None:
    run = Run(rules_with(Chosen(6), search_every_samples=1 << 40, search_every_s=20.0))
    run.learn(60)  # a second each; the first searches double their distance in samples

    late = [plan for plan in run.plans if plan.trigger == "time"]
    assert len(late) >= 1
    begun_s = [plan.created_ms // 1000 for plan in run.plans]
    assert max(np.diff(begun_s)) <= 20 + 4  # the window and the judgement before come to four seconds


def test_running_saliency_is_what_training_gathered() -> None:
    seen: list[BlockEvidence] = []

    class Watching(Chosen):
        def choose(self, evidence: BlockEvidence, budget: DimensionBudget) -> np.ndarray:
            seen.append(evidence)
            return super().choose(evidence, budget)

    for saliency in ("single_shot", "running"):
        run = Run(rules_with(Watching(DIM), saliency=saliency, memory=0.0))
        while not run.plans:
            gathered = run.model.table.saliency()
            run.learn()
    single_shot, running = seen
    np.testing.assert_allclose(running.first, gathered.first / gathered.updates)
    np.testing.assert_allclose(running.squared, gathered.squared / gathered.updates)
    assert not np.allclose(single_shot.first, running.first)
    np.testing.assert_array_equal(single_shot.spectrum, running.spectrum)


def test_a_search_is_due_when_the_budget_is_touched() -> None:
    run = Run(rules_with(Chosen(4), budget_search_samples=512, max_share=0.3))
    run.learn(9)
    assert [plan.trigger for plan in run.plans] == ["samples"]
    assert run.keeper.bytes_planned > run.keeper.budget_bytes  # the planner does not care, so it is asked again
    run.learn(4)

    assert [plan.trigger for plan in run.plans][:2] == ["samples", "budget"]
    assert run.plans[1].samples_trained - run.plans[0].samples_trained >= 512


def test_no_search_by_itself_where_none_is_wanted() -> None:
    asked = [None] * 20 + ["apply"]
    run = Run(rules_with(Chosen(4), search_every_samples=0), lambda: asked.pop(0) if asked else None)
    run.learn(20)
    assert run.keeper.searches == 0
    run.learn(6)

    assert [plan.trigger for plan in run.plans] == ["command"]
    assert run.widths() == [4] * SLOTS


def test_one_shot_searches_once() -> None:
    run = Run(rules_with(Chosen(6, 4), one_shot=True))
    run.learn(40)

    assert len(run.plans) == 1
    assert run.widths() == [6] * SLOTS


def test_a_plan_only_request_changes_nothing_and_is_filed_as_planned() -> None:
    asked = ["plan-only"]
    run = Run(rules_with(Chosen(3), search_every_samples=0), lambda: asked.pop() if asked else None)
    twin = Run(rules_with(Chosen(3), search_every_samples=0))
    run.learn(8)
    twin.learn(8)

    plan = run.plans[0]
    assert plan.trigger == "command"
    assert plan.verdict is not None
    assert plan.verdict.decision == "planned"
    assert plan.widths == [3] * SLOTS
    assert run.keeper.needs_quiet is False
    assert_same(complete(run.model, run.model.fresh_state(0)), complete(twin.model, twin.model.fresh_state(0)))


def test_a_plan_only_request_for_what_there_is_already_is_planned_and_ends_no_search() -> None:
    asked = ["plan-only"]
    run = Run(rules_with(Chosen(DIM, 5), one_shot=True), lambda: asked.pop() if asked else None)
    run.learn(20)

    assert [plan.verdict.decision for plan in run.plans if plan.verdict] == ["planned", "applied"]
    assert run.widths() == [5] * SLOTS


def test_a_request_during_a_search_is_answered_by_a_search_of_its_own() -> None:
    asked: list[str] = []
    run = Run(rules_with(Chosen(6, 5), one_shot=True), lambda: asked.pop() if asked else None)
    run.learn(5)  # the search by samples has begun
    asked.append("plan-only")
    run.learn(12)

    assert [(plan.trigger, plan.verdict.decision) for plan in run.plans if plan.verdict] == [
        ("samples", "applied"),
        ("command", "planned"),
    ]
    assert run.widths() == [6] * SLOTS


def test_a_refused_plan_changes_nothing_and_says_why() -> None:
    run = Run(rules_with(Chosen(1), tolerance=-1.0))
    before = run.widths()
    run.learn(8)

    verdict = run.plans[0].verdict
    assert verdict is not None
    assert verdict.decision == "refused"
    assert verdict.reason.startswith("log-loss ")
    assert "tolerance -100.00%" in verdict.reason
    assert run.keeper.refused == 1
    assert not run.keeper.fitted
    assert run.widths() == before == [DIM] * SLOTS


def test_a_budget_that_costs_too_much_at_once_is_reached_in_steps() -> None:
    rules = rules_with(UniformWidth(), max_share=0.3, headroom=0.0, drop_cold=False, tolerance=-1.0)
    run = Run(rules)
    while len(run.plans) < 3:
        run.learn(1)
    too_far, nearer, nearest = run.plans
    assert run.widths() == [DIM] * SLOTS
    assert nearer.budget_bytes == math.isqrt(too_far.bytes_before * too_far.bytes_after)
    assert too_far.bytes_after < nearer.bytes_after < nearest.bytes_after < nearest.bytes_before

    run.keeper.rules = replace(rules, tolerance=np.inf)
    while len(run.plans) < 5:
        run.learn(1)
    step, whole = (plan.verdict for plan in run.plans[3:])
    assert step is not None and whole is not None
    assert (step.decision, whole.decision) == ("applied", "applied")
    assert "a step towards the budget" in step.reason
    assert "step" not in whole.reason
    assert run.plans[4].bytes_after <= run.keeper.budget_bytes < run.plans[3].bytes_after


def test_samples_without_weight_judge_nothing() -> None:
    run = Run(rules_with(Chosen(4)))
    run.learn(6)
    for _ in range(5):
        batch = run.batch()
        batch.weights[:] = 0
        run.model.learn(run.model.prepare(batch, run.now_s), run.now_s)
    assert run.plans == []
    run.learn(1)
    assert len(run.plans) == 1


@pytest.mark.parametrize("seed", range(4))
def test_shrinking_is_the_mask_and_growth_changes_no_logit(seed: int) -> None:
    """Nothing is learned between: in slices, then all the other way, to the bit."""
    generator = np.random.default_rng(seed)
    run = Run(rules_with(Chosen(0), heat=BANDS, drop_cold=False, search_every_samples=0))
    run.learn(6)
    held_out = run.known(run.batch())
    full = rows_by_id(run)
    before = run.logits(held_out)
    hot = generator.random((SLOTS, DIM)) < 0.6
    hot[:, 0] = True
    wanted = np.stack([hot & (generator.random((SLOTS, DIM)) < 0.5), hot, hot], axis=1).reshape(-1, DIM)

    table = run.model.table
    table.begin_resize([np.flatnonzero(columns).astype(np.uint16) for columns in wanted])
    slices = 0
    while table.resizing:
        table.resize_some(50)
        slices += 1
    assert slices > 3
    narrow = rows_by_id(run)
    assert narrow.keys() == full.keys()
    for id_, (block, values, accumulator) in full.items():
        assert narrow[id_][0] == block
        np.testing.assert_array_equal(narrow[id_][1], np.where(wanted[block], values, 0))
        assert narrow[id_][2] == accumulator
    masked = run.logits(held_out)
    assert not np.array_equal(masked, before)

    table.begin_resize([np.arange(DIM, dtype=np.uint16)] * len(wanted))
    while table.resizing:
        table.resize_some(50)
        assert run.logits(held_out).tobytes() == masked.tobytes()


@pytest.mark.parametrize("schema", [WITHOUT_DENSE, MODEL], ids=["without dense", "with dense"])
def test_columns_new_to_all_slots_change_no_logit_and_learn_in_all(schema: ModelSchema) -> None:
    run = Run(rules_with(Chosen(DIM), heat=BANDS, drop_cold=False, start_width=3), schema=schema)
    assert run.widths() == [3] * (SLOTS * 3)
    while not run.plans:
        run.learn(1, tidy=False)
    held_out = run.known(run.batch())
    old = rows_by_id(run)
    run.keeper.keep(run.now_s, 40)
    newborn = run.known(run.batch())
    newborn.ids[::2] += np.uint64(100_000)
    run.model.prepare(newborn, run.now_s)  # rows that are born while others grow
    before, of_newborn = run.logits(held_out), run.logits(newborn)
    slices = 0
    while run.keeper.needs_quiet:
        run.keeper.keep(run.now_s, 40)
        assert run.logits(held_out).tobytes() == before.tobytes()
        assert run.logits(newborn).tobytes() == of_newborn.tobytes()
        slices += 1
    assert slices > 5
    assert run.widths() == [DIM] * (SLOTS * 3)

    grown = rows_by_id(run)
    seeded = {id_ for id_, (_, values, _) in grown.items() if values[3:].any()} & old.keys()
    slots = {grown[id_][0] // 3 for id_ in seeded}
    assert len(slots) == (schema is WITHOUT_DENSE)  # the dense vector is random in all columns: nobody needs seeds
    assert seeded == {id_ for id_ in old if old[id_][0] // 3 in slots}
    run.learn(1)
    for slot in range(SLOTS):
        learned = [values[3:].all() for block, values, _ in rows_by_id(run).values() if block // 3 == slot]
        assert sum(learned) > 20


def test_restored_between_the_stages_of_growth_it_ends_them() -> None:
    rules = searching(Chosen(3, DIM), drop_cold=False, search_every_samples=3072)
    run = Run(rules, schema=WITHOUT_DENSE)
    cuts = Cuts(run)
    while len(run.plans) < 2:
        run.model.tidy(run.now_s, EVERYTHING)
        run.learn(1, ids=400, tidy=False)
    run.keeper.keep(run.now_s, 1)
    assert run.model.table.resizing
    assert len(set(run.widths())) == 2  # one slot first
    cuts.take()

    other = cuts.restored(searching(Chosen(DIM), drop_cold=False, search_every_samples=3072))
    held_out = run.known(run.batch())
    before = run.logits(held_out)
    assert other.logits(held_out).tobytes() == before.tobytes()
    while other.keeper.needs_quiet:
        other.keeper.keep(other.now_s, 60)
    assert other.logits(held_out).tobytes() == before.tobytes()
    assert other.widths() == [DIM] * (SLOTS * 3)


def test_an_accepted_plan_is_applied_in_slices_and_new_columns_learn() -> None:
    run = Run(rules_with(Chosen(3, DIM), search_every_samples=4096))
    run.learn(7, ids=2000)
    run.learn(1, ids=2000, tidy=False)
    assert run.keeper.needs_quiet
    assert run.widths() == [DIM] * SLOTS  # nothing changes outside of `keep`
    calls = 0
    while run.keeper.needs_quiet:
        moved = run.keeper.keep(run.now_s, 40)
        assert moved <= 40
        calls += 1
    assert calls > 5
    assert run.widths() == [3] * SLOTS
    assert all(not values[3:].any() for _, values, _ in rows_by_id(run).values())

    run.learn(30, ids=2000)
    assert run.widths() == [DIM] * SLOTS
    grown = [values[3:] for _, values, _ in rows_by_id(run).values()]
    assert sum(bool(values.any()) for values in grown) > 20


@pytest.mark.parametrize("after", ["keep", "cold_first_layer"])
def test_the_first_layer_starts_anew_with_a_plan_that_changes_columns(after: str) -> None:
    run = Run(rules_with(Chosen(3), after_resize=after, search_every_samples=4096))
    layout = run.model.step.layout
    fresh = {tensor.name: tensor.values.copy() for tensor in layout.split(run.model.step.parameters)}
    run.learn(7)
    run.learn(1, tidy=False)
    before = {name: array.copy() for name, array in run.model.step.state().items()}
    assert run.keeper.needs_quiet
    run.keeper.keep(run.now_s, 1)  # all at once in the first quiet moment, however many slices follow
    assert run.model.table.resizing
    found = {tensor.name: tensor.values for tensor in layout.split(run.model.step.parameters)}
    for tensor in layout.split(np.asarray(before["parameters"], np.float32)):
        cold = after == "cold_first_layer" and tensor.name.startswith("top.0.")
        assert np.array_equal(found[tensor.name], (fresh if cold else {tensor.name: tensor.values})[tensor.name])
        assert not np.array_equal(fresh[tensor.name], tensor.values)
    accumulators = np.asarray(run.model.step.state()["accumulators"])
    first = layout.top[0]
    weights = slice(first.weight_offset, first.weight_offset + first.inputs * first.outputs)
    assert (accumulators[weights] == 0).all() == (after == "cold_first_layer")
    moved = run.model.step.parameters.copy()
    run.model.tidy(run.now_s, EVERYTHING)
    run.learn(0)
    assert np.array_equal(run.model.step.parameters, moved)  # once a plan


def test_rows_of_a_band_that_is_given_up_are_erased_and_come_out_as_tombstones() -> None:
    widths = [[0, 4, 6]] * SLOTS
    run = Run(rules_with(Chosen(widths), heat=BANDS, half_life_samples=2 * ROWS, one_shot=True))
    run.learn(3)
    early = set(rows_by_id(run))
    run.model.table.take_changes()
    run.learn(20, ids=20)
    assert run.keeper.searches == 1

    left = rows_by_id(run)
    changes = run.model.table.take_changes()
    gone = early - set(left)
    assert gone
    assert gone <= set(changes.erased_ids.tolist())
    bands = run.model.table.bands
    assert all(block % bands > 0 for block, _, _ in left.values())
    published = {id_ for block in changes.blocks for id_ in block.ids.tolist()}
    assert not published & gone
    assert {int(id_) for id_ in MODEL.missing_ids} <= set(left)


def test_a_slot_that_is_dropped_whole_keeps_its_rows_without_columns() -> None:
    widths = [[0, 0, 0]] + [[2, 4, 6]] * (SLOTS - 1)
    run = Run(rules_with(Chosen(widths), heat=BANDS, floor=0, search_every_samples=1 << 40))
    run.learn(12)

    assert run.plans[0].dropped_slots == ["user"]
    assert run.widths()[:3] == [0, 0, 0]
    assert len([block for block, _, _ in rows_by_id(run).values() if block < 3]) > 20


def test_rows_given_up_leave_their_share_of_the_budget_to_others_also_after_a_restart() -> None:
    widths = [[0, 4, 6]] * SLOTS
    rules = rules_with(Chosen(widths), heat=BANDS, half_life_samples=2 * ROWS, max_share=0.5, one_shot=True)
    run = Run(rules)
    run.learn(5)
    most = run.model.table.rows
    run.learn(20, ids=20)
    assert run.model.table.rows < most // 2

    assert run.keeper.budget_bytes >= int(0.5 * most * (4 * DIM + 4))
    other = Run(rules)
    other.model.restore(run.model.fresh_state(run.now_s * 1000))
    assert other.keeper.budget_bytes == run.keeper.budget_bytes


class Cuts:
    """A base and the deltas that follow it, as the training loop takes them."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.base = run.model.fresh_state(run.now_s * 1000)
        self.deltas: list[ModelState] = []

    def take(self) -> None:
        manifest = msgspec.structs.replace(self.base.manifest, sequence=len(self.deltas) + 1, created_ms=1)
        self.deltas.append(self.run.model.take_cut(manifest))

    def merged(self) -> ModelState:
        pages = [delta.admission_pages for delta in self.deltas]
        return merge_states(self.base, self.deltas, self.run.model.merge_admission(self.base.admission, pages))

    def restored(self, rules: DimensionRules) -> Run:
        other = Run(rules, schema=self.run.schema)
        other.model.restore(self.merged())
        other.generator = np.random.default_rng(77)
        self.run.generator = np.random.default_rng(77)
        other.now_s = self.run.now_s
        return other


def together(left: Run, right: Run, batches: int) -> None:
    """Both learn the same; every logit is the same to the bit."""
    for _ in range(batches):
        left.now_s += 1
        logits = []
        for run in (left, right):
            batch = run.batch(400)
            prepared = run.model.prepare(batch, left.now_s)
            if run.keeper is not None:
                run.keeper.before_learning(prepared, left.now_s, run.model.counts.samples)
            logits.append(run.model.step.train(run.model.table, prepared, left.now_s))
            run.model.counts.samples += prepared.rows
            run.model.tidy(left.now_s, EVERYTHING)
        assert logits[0].tobytes() == logits[1].tobytes()


def searching(planner: object = None, **changes: object) -> DimensionRules:
    return rules_with(
        planner, heat=BANDS, half_life_samples=8 * ROWS, window_samples=ROWS, judge_samples=ROWS, **changes
    )


@pytest.mark.parametrize("seed", range(6))
def test_restored_from_base_and_deltas_it_goes_on_bit_equal(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rules = searching(max_share=0.4, drop_cold=bool(seed % 2))
    run = Run(rules)
    cuts = Cuts(run)
    for _ in range(generator.integers(1, 25)):
        run.learn(1, ids=400)
        if generator.random() < 0.4:
            cuts.take()
    while run.model.table.resizing:
        run.learn(1, ids=400)
    cuts.take()

    other = cuts.restored(rules)
    kept, restored = run.keeper.state(), other.keeper.state()
    assert kept.keys() == restored.keys()
    assert run.keeper.searches == 0 or "remembered_spectrum" in kept
    for name, array in kept.items():
        np.testing.assert_array_equal(restored[name], array, err_msg=name)
    assert other.keeper.searches == run.keeper.searches
    assert other.keeper.fitted == run.keeper.fitted
    assert other.widths() == run.widths()
    assert other.model.table.missing_handles.size == SLOTS
    together(run, other, 25)
    assert run.keeper.searches > 1
    assert other.plans == run.plans[len(run.plans) - len(other.plans) :]


@pytest.mark.parametrize("widths", [(3, 8), (8, 3)], ids=["growing", "shrinking"])
def test_restored_in_the_midst_of_a_resize_it_predicts_the_same_and_goes_on(widths: tuple[int, int]) -> None:
    rules = searching(Chosen(*widths), drop_cold=False, search_every_samples=3072)
    run = Run(rules)
    cuts = Cuts(run)
    while len(run.plans) < 2:
        run.model.tidy(run.now_s, EVERYTHING)
        run.learn(1, ids=400, tidy=False)
    assert run.keeper.needs_quiet
    cuts.take()
    run.keeper.keep(run.now_s, 60)
    assert run.model.table.resizing
    cuts.take()

    other = cuts.restored(searching(Chosen(widths[1]), drop_cold=False, search_every_samples=3072))
    assert other.model.table.resizing == (widths[1] == 3)  # as wide as they are, rows have what they will grow to
    mine, theirs = rows_by_id(run), rows_by_id(other)
    assert mine.keys() == theirs.keys()
    for id_, (_, values, accumulator) in mine.items():
        assert theirs[id_][1].tobytes() == values.tobytes()  # what was published is what goes on
        assert theirs[id_][2] == accumulator
    other.model.table.take_changes()
    for one in (run, other):
        while one.model.table.resizing:
            one.keeper.keep(one.now_s, 60)
    changes = other.model.table.take_changes()
    if widths[1] == 3:
        assert changes.rows >= len(mine) // 4  # so replicas hear of it
    together(run, other, 10)
    assert run.widths() == other.widths() == [widths[1]] * (SLOTS * 3)


@pytest.mark.parametrize("stage", ["evidence", "judgement", "accepted"])
@pytest.mark.parametrize("planner", ["chosen", "pruning by sums"])
def test_a_search_under_way_is_ended_by_the_restored_as_by_the_one_that_never_stopped(stage: str, planner: str) -> None:
    method = Chosen(5) if planner == "chosen" else ColumnPruning("first")
    rules = searching(method, max_share=0.5, search_every_samples=1 << 40)
    run = Run(rules)
    cuts = Cuts(run)
    reached = {
        "evidence": lambda: run.keeper._trigger is not None,
        "judgement": lambda: run.keeper._plan is not None,
        "accepted": lambda: run.keeper._accepted is not None,
    }
    while not reached[stage]():
        run.learn(1, tidy=False)
    cuts.take()

    other = cuts.restored(rules)
    assert reached[stage]()
    assert (other.keeper._trigger, other.keeper._window) == (run.keeper._trigger, run.keeper._window)
    together(run, other, 6)
    assert run.keeper.searches == other.keeper.searches >= 1
    assert run.widths() == other.widths()
    assert run.keeper.last_plan == other.keeper.last_plan or stage == "accepted"


@pytest.mark.parametrize("start_width", [0, 2])
def test_a_state_without_searches_goes_on_with_them_and_missing_rows_are_hot(start_width: int) -> None:
    plain = make_learner(MODEL, settings(admission="always"))
    generator = np.random.default_rng(0)
    for now_s in range(3):
        plain.learn(plain.prepare(samples(generator, ROWS, MODEL), now_s), now_s)
    run = Run(searching(Chosen([[0, 3, 5]] * SLOTS), start_width=start_width))
    run.model.restore(plain.fresh_state(0))

    assert run.widths() == [DIM] * (SLOTS * 3)
    for id_, (_, values, _) in rows_by_id(run).items():
        np.testing.assert_array_equal(values, plain.table.read_rows(plain.table.find(np.array([id_], np.uint64)))[0])
    bands = run.model.table.bands
    found = rows_by_id(run)
    assert {found[int(id_)][0] % bands for id_ in MODEL.missing_ids} == {bands - 1}
    run.learn(12)
    assert len(run.plans) > 0
    found = rows_by_id(run)
    assert all(found[int(id_)][1][:5].any() for id_ in MODEL.missing_ids)


def test_a_state_with_other_bands_is_refused_with_both_shapes() -> None:
    state = Run(searching()).model.fresh_state(0)
    other = Run(rules_with(heat=HeatBands((0.5,))))

    with pytest.raises(StateError, match=r"\(3, 3, 8\).*\(3, 2, 8\)"):
        other.model.restore(state)


def test_after_a_stop_of_a_day_no_row_has_cooled() -> None:
    rules = searching(Chosen([[0, 4, 6]] * SLOTS), search_every_samples=1 << 40)
    run = Run(rules)
    cuts = Cuts(run)
    run.learn(12)
    cuts.take()
    other = cuts.restored(rules)
    before = set(rows_by_id(other))

    other.now_s += 86_400
    other.learn(1)

    lost = before - set(rows_by_id(other))
    assert len(lost) < 0.1 * len(before)
