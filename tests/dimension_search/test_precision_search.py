"""From evidence to judged plans."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dimension_search.learned_scales import LearnedScales
from dimension_search.precision_evidence import PrecisionEvidence
from dimension_search.precision_plan import PrecisionPlan, read_precision_plan, write_precision_plan
from dimension_search.precision_policy import ByImportance, Uniform, bytes_of, rise_of
from dimension_search.precision_search import (
    Judged,
    PricedChoice,
    choices_along_price,
    make_precision_plan,
    verdict_of,
)
from dimension_search.row_importance import LEVELS, least_count
from dimension_search.row_tiers import PlanTiers
from embedding_table.packed_words import BLOCK
from embedding_table.row_codecs import codec_named
from tests.dimension_search.precision_evidences import CODECS, made_evidence

SLOTS = ("user", "article")


def plan_of(evidence: PrecisionEvidence, priced: PricedChoice, tolerance: float = 1e-3) -> PrecisionPlan:
    shared = LearnedScales(CODECS)
    generator = np.random.default_rng(0)
    counts = np.array([least_count(level) for level in range(LEVELS)], np.float32)
    for block, width in enumerate(evidence.widths.tolist()):
        shared.learn(block, counts, generator.standard_normal((LEVELS, width), np.float32))
    return make_precision_plan(
        priced,
        evidence,
        shared,
        SLOTS,
        policy="importance",
        trigger="samples",
        created_ms=1000,
        samples_trained=5,
        tolerance=tolerance,
    )


def judged(expected: float, measured: float = 0.0, noise: float = 1e-6) -> Judged:
    return Judged(samples=100, log_loss=0.5, expected=expected, measured=measured, noise=noise)


@settings(deadline=None, max_examples=30)  # codecs compile, codebooks are learned
@given(st.integers(0, 500), st.floats(1e-9, 1e-2))
def test_candidates_ascend_in_bytes_and_keep_near_the_tolerance(seed: int, tolerance: float) -> None:
    evidence = made_evidence(seed)
    found = choices_along_price(ByImportance(), evidence, tolerance)
    sizes = [bytes_of(evidence, one.choice) for one in found]

    assert found
    assert all(a < b for a, b in zip(sizes, sizes[1:], strict=False))
    assert rise_of(evidence, found[0].choice) <= 1.25 * tolerance * evidence.log_loss
    assert rise_of(evidence, found[-1].choice) <= tolerance / 16 * evidence.log_loss


def test_a_budget_gives_one_candidate_or_none() -> None:
    evidence = made_evidence(2)
    least = int(evidence.bytes.min(axis=1).sum())
    found = choices_along_price(ByImportance(), evidence, 1e-4, max_bytes=2 * least)

    assert [bytes_of(evidence, one.choice) <= 2 * least for one in found] == [True]
    assert choices_along_price(ByImportance(), evidence, 1e-4, max_bytes=1) == []


@settings(deadline=None, max_examples=30)  # codecs compile, codebooks are learned
@given(st.integers(0, 200), st.floats(-50, -10))
def test_a_plan_holds_every_class_by_its_codec(seed: int, power: float) -> None:
    evidence = made_evidence(seed)
    choice = ByImportance().choose(evidence, 2.0**power)
    plan = plan_of(evidence, PricedChoice(2.0**power, choice))
    tiers = PlanTiers(plan, SLOTS)
    counts = np.array([least_count(level) for level in range(LEVELS)], np.float32)
    for block in range(evidence.blocks):
        names = [""] * LEVELS
        for rows, codec, shared in tiers.split_rows(*divmod(block, evidence.bands), counts):
            assert (shared is None) == (codec.shared_bytes == 0)
            for row in rows.tolist():
                names[row] = codec.name
        assert names == [CODECS[number] for number in choice[block * LEVELS : (block + 1) * LEVELS]]

    assert plan.bytes_after <= bytes_of(evidence, choice)
    assert plan.bytes_after == sum(tier.bytes_after for tier in plan.tiers)
    assert plan.bytes_before == sum(tier.bytes_before for tier in plan.tiers) == evidence.fp32_bytes
    assert sum(tier.rows for tier in plan.tiers) == evidence.rows.sum()
    assert plan.candidates[0].estimated == pytest.approx(rise_of(evidence, choice) / 0.5)
    assert read_precision_plan(write_precision_plan(plan)) == plan


def test_levels_of_one_codec_are_one_tier_unless_each_has_its_scale() -> None:
    evidence = made_evidence(1)
    for number, name in enumerate(CODECS):
        plan = plan_of(evidence, PricedChoice(1.0, np.full(evidence.rows.size, number)))
        apart = codec_named(name).form == BLOCK
        assert len(plan.tiers) == evidence.blocks if not apart else len(plan.tiers) > evidence.blocks


def test_the_smallest_plan_within_the_tolerance_is_taken() -> None:
    evidence = made_evidence(4)
    plans = [plan_of(evidence, one) for one in choices_along_price(ByImportance(), evidence, 1e-3)]
    assert len(plans) >= 3
    found = [judged(2e-3), judged(9e-4), judged(1e-5)] + [judged(0.0)] * (len(plans) - 3)
    chosen = verdict_of(plans, found)

    assert chosen.verdict is not None
    assert chosen.verdict.decision == "applied"
    assert chosen.chosen == 1
    assert chosen.tiers == plans[1].tiers
    assert [one.expected for one in chosen.candidates][:3] == [2e-3, 9e-4, 1e-5]


def test_labels_may_speak_against_a_plan_beyond_their_noise() -> None:
    evidence = made_evidence(4)
    plan = plan_of(evidence, choices_along_price(Uniform(), evidence, 1e-3)[0])

    for measured, decision in ((4.9e-3, "applied"), (5.1e-3, "refused"), (-1.0, "applied")):
        found = verdict_of([plan], [judged(1e-3, measured, noise=1e-3)])
        assert found.verdict is not None
        assert found.verdict.decision == decision


def test_nothing_fits() -> None:
    evidence = made_evidence(4)
    plans = [plan_of(evidence, one) for one in choices_along_price(ByImportance(), evidence, 1e-3)]
    refused = verdict_of(plans, [judged(1e-2)] * len(plans))

    assert refused.verdict is not None
    assert refused.verdict.decision == "refused"
    assert f"none of {len(plans)} plans keeps to the tolerance" in refused.verdict.reason
