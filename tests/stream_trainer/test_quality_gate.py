"""What the gate closes on, what opens it again, and that a restart at any moment changes neither."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_contract.published_versions import Hold
from stream_trainer.model_state import ModelState, merge_states
from stream_trainer.progressive_metrics import ProgressiveMetrics
from stream_trainer.quality_gate import GateRules, QualityGate, is_held
from tests.stream_trainer.states import LAYOUT, SCHEMA, block, state

RULES = GateRules(loss_rise=0.25, recent_samples=1000, level_samples=20_000, least_samples=3000)
SURE = 2.0  # a logit whose log-loss is 0.127 on the right label and 2.127 on the wrong one


def new_gate(rules: GateRules = RULES) -> QualityGate:
    return QualityGate(rules, LAYOUT, SCHEMA.slot_names)


class Stream:
    """Cuts of a trainer whose predictions are right for all but some share of the samples."""

    def __init__(self) -> None:
        self.metrics = ProgressiveMetrics()
        self.sequence = 0
        self.rng = np.random.default_rng(1)

    def cut(self, wrong: float, samples: int = 500, logit: float = SURE, **arrays: np.ndarray) -> ModelState:
        labels = (self.rng.random(samples) >= wrong).astype(np.float32)
        self.metrics.update(np.full(samples, logit, np.float32), labels, np.ones(samples, np.float32))
        self.sequence += 1
        return self.state(**arrays)

    def state(self, **arrays: np.ndarray) -> ModelState:
        found = state(self.sequence, [block(0, [self.sequence + 1], 1.0)])
        metrics = {f"metrics/{name}": values for name, values in self.metrics.state().items()}
        return ModelState(found.manifest, found.rows, {**found.arrays, **metrics, **arrays})


def opened(stream: Stream, gate: QualityGate, cuts: int = 20) -> None:
    gate.resume(stream.state())
    for _ in range(cuts):
        assert not is_held(gate.judge(stream.cut(wrong=0.1)))


def test_a_loss_that_falls_or_wavers_passes_and_flipped_labels_do_not() -> None:
    stream, gate = Stream(), new_gate()
    gate.resume(stream.state())
    for wrong in np.linspace(0.5, 0.1, 40):
        assert not is_held(gate.judge(stream.cut(wrong)))
    for wrong in (0.1, 0.12, 0.08, 0.13, 0.1):
        assert not is_held(gate.judge(stream.cut(wrong)))
    cut = gate.judge(stream.cut(wrong=0.9))

    assert is_held(cut)
    assert gate.hold is not None
    assert (gate.hold.reason, gate.hold.sequence, gate.hold.since_ms) == ("log_loss", 46, 1046)
    assert "over its level" in gate.hold.detail
    assert (gate.closings, gate.held_cuts) == (1, 1)


def test_no_number_of_bad_samples_becomes_the_new_normal_and_good_ones_open_it() -> None:
    stream, gate = Stream(), new_gate()
    opened(stream, gate)
    level = gate.level_loss
    for _ in range(150):
        assert is_held(gate.judge(stream.cut(wrong=0.9)))
    assert gate.level_loss == level
    assert gate.hold is not None
    assert gate.hold.sequence == 21
    verdicts = [is_held(gate.judge(stream.cut(wrong=0.1))) for _ in range(40)]

    assert verdicts[0], "one good cut does not open it"
    assert not verdicts[-1]
    assert gate.hold is None
    assert (gate.closings, gate.held_cuts) == (1, 150 + sum(verdicts))
    assert verdicts == sorted(verdicts, reverse=True), "it opens once"


def test_it_opens_at_half_the_rise_that_closes_it() -> None:
    stream, gate = Stream(), new_gate(GateRules(loss_rise=0.5, recent_samples=500, level_samples=1e9, least_samples=10))
    gate.resume(stream.state())
    gate.judge(stream.cut(wrong=0.1, samples=1_000_000))
    level = gate.level_loss
    wrong_at = {rise: ((1 + rise) * level - 0.12693) / 2.0 for rise in (0.15, 0.4, 0.7)}

    assert not is_held(gate.judge(stream.cut(wrong_at[0.4], samples=20_000)))
    assert is_held(gate.judge(stream.cut(wrong_at[0.7], samples=20_000)))
    assert is_held(gate.judge(stream.cut(wrong_at[0.4], samples=20_000)))
    assert not is_held(gate.judge(stream.cut(wrong_at[0.15], samples=20_000)))


def test_losses_are_not_judged_before_enough_samples_nor_where_the_rule_is_off() -> None:
    for rules in (GateRules(loss_rise=0.25, recent_samples=1000, least_samples=3000), GateRules()):
        stream, gate = Stream(), new_gate(rules)
        gate.resume(stream.state())
        gate.judge(stream.cut(wrong=0.1, samples=2000))
        assert not is_held(gate.judge(stream.cut(wrong=0.9, samples=2000)))


def test_a_large_cut_of_bad_samples_is_judged_by_the_level_before_it() -> None:
    stream, gate = Stream(), new_gate()
    opened(stream, gate)
    assert is_held(gate.judge(stream.cut(wrong=0.9, samples=300_000)))


def test_a_bad_row_is_named_and_holds_until_it_is_mended_or_gone() -> None:
    gate = new_gate(GateRules())
    gate.resume(state(0, [block(0, [1], 0.0)]))
    held = gate.judge(state(1, [block(1, [7, 8], np.nan), block(0, [9], 1.0)]))
    assert is_held(held)
    assert gate.hold is not None
    assert gate.hold.detail == "the row of id 7 in slot item holds NaN or infinity, and 1 rows more"
    assert is_held(gate.judge(state(2, [block(0, [9], 2.0)]))), "the rows are as they were"
    assert is_held(gate.judge(state(3, [block(1, [7], 1.0)])))
    assert gate.hold.detail == "the row of id 8 in slot item holds NaN or infinity"
    assert not is_held(gate.judge(state(4, [], erased=[8])))
    assert gate.hold is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_bad_dense_parameter_is_named_and_a_finite_one_opens_it(value: float) -> None:
    gate = new_gate(GateRules())
    gate.resume(state(0, []))
    bad = state(1, [])
    bad.arrays["step/parameters"][LAYOUT.entries[2].offset] = value
    assert is_held(gate.judge(bad))
    assert gate.hold is not None
    assert gate.hold.detail == f"dense parameter {LAYOUT.entries[2].name} holds NaN or infinity"
    assert not is_held(gate.judge(state(2, [])))


def test_moments_beyond_the_range_they_are_served_in_are_held() -> None:
    gate = new_gate(GateRules())
    gate.resume(state(0, []))
    bad = state(1, [])
    bad.arrays["serving/dense_mean"] = np.array([1e300])
    assert is_held(gate.judge(bad))
    assert gate.hold is not None
    assert gate.hold.detail == "dense parameter dense_mean holds NaN or infinity"


def test_predictions_that_are_not_finite_are_held_also_over_a_restart() -> None:
    stream, gate = Stream(), new_gate(GateRules())
    gate.resume(stream.state())
    held = gate.judge(stream.cut(wrong=0.1, logit=np.inf))
    assert is_held(held)
    assert gate.hold is not None
    assert gate.hold.detail == "500 predictions since the cut before were not finite"
    again = new_gate(GateRules())
    assert is_held(again.resume(held))
    assert not is_held(again.judge(stream.cut(wrong=0.1)))


def test_a_state_that_knows_no_gate_is_judged_by_its_window() -> None:
    stream = Stream()
    stream.cut(wrong=0.1, samples=30_000)
    found = stream.state()
    assert not is_held(found)
    gate = new_gate()
    assert not is_held(gate.resume(found))
    assert gate.level_loss == pytest.approx(gate.recent_loss)
    assert is_held(gate.judge(stream.cut(wrong=0.9, samples=2000)))


def test_a_bad_row_of_a_restored_state_is_found_without_any_word_of_an_earlier_gate() -> None:
    gate = new_gate(GateRules())
    assert is_held(gate.resume(state(0, [block(0, [4], np.inf)])))
    assert not is_held(gate.judge(state(1, [block(0, [4], 1.0)])))


@given(st.lists(st.sampled_from([0.1, 0.15, 0.9]), min_size=1, max_size=30), st.integers(0, 29))
@settings(max_examples=30, deadline=None)
def test_a_restart_at_any_cut_changes_no_verdict(shares: list[float], at: int) -> None:
    stream, gate = Stream(), new_gate()
    opened(stream, gate)
    other: QualityGate | None = None
    for number, wrong in enumerate(shares):
        cut = stream.cut(wrong, samples=300)
        judged = gate.judge(cut)
        if other is not None:
            assert is_held(other.judge(cut)) == is_held(judged)
            assert other.hold == gate.hold
        if number == at:
            other = new_gate()
            assert is_held(other.resume(judged)) == is_held(judged)
            assert _facts(other.hold) == _facts(gate.hold)


def _facts(hold: Hold | None) -> tuple[str, int, int] | None:
    return None if hold is None else (hold.reason, hold.since_ms, hold.sequence)


VALUES = st.sampled_from([0.0, 1.0, np.nan, np.inf])
CHANGES = st.lists(
    st.tuples(st.dictionaries(st.integers(1, 6), VALUES, max_size=4), st.sets(st.integers(1, 6), max_size=2)),
    min_size=1,
    max_size=12,
)


@given(CHANGES)
@settings(deadline=None)
def test_it_is_open_exactly_while_the_merged_state_is_finite(changes: list[tuple[dict[int, float], set[int]]]) -> None:
    base = state(0, [block(0, [1, 2, 3], 0.0)])
    gate = new_gate(GateRules())
    base = gate.resume(base)
    deltas = []
    for sequence, (values, erased) in enumerate(changes, start=1):
        blocks = [block(0, [row_id], value) for row_id, value in values.items()]
        cut = state(sequence, blocks, sorted(erased))
        judged = gate.judge(cut)
        deltas.append(cut)
        merged = merge_states(base, deltas, base.admission)
        finite = all(np.isfinite(found.values).all() for found in merged.rows.blocks)
        assert is_held(judged) != finite
        assert is_held(new_gate(GateRules()).resume(merged)) != finite


def test_the_verdict_survives_being_written_down() -> None:
    stream, gate = Stream(), new_gate()
    opened(stream, gate)
    held = gate.judge(stream.cut(wrong=0.9))
    assert gate.hold is not None
    assert msgspec.json.decode(msgspec.json.encode(gate.hold), type=Hold) == gate.hold
    assert {name for name in held.arrays if name.startswith("gate/")} == {
        "gate/numbers",
        "gate/bad_ids",
        "gate/bad_slots",
    }
