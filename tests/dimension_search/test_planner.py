"""The laws of every planner, and how a choice becomes a plan with reasons."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dimension_search.budget import DimensionBudget
from dimension_search.evidence import BlockEvidence
from dimension_search.plan import read_plan, write_plan
from dimension_search.planner import Planner, make_plan
from dimension_search.principal import PrincipalPlanner
from tests.dimension_search.evidences import (
    BY_RULE,
    PLANNERS,
    falling,
    planned,
    random_evidence,
    searches,
    shaped_evidence,
    widths_of,
)

every_planner = pytest.mark.parametrize("planner", PLANNERS, ids=lambda planner: planner.name)


def least_bytes(planner: Planner, evidence: BlockEvidence, budget: DimensionBudget) -> int:
    """The cheapest that the floors allow: planners by rule give all bands of a slot one width."""
    widths = np.zeros(evidence.rows.shape, np.int64)
    widths[:, 0 if planner in BY_RULE else -1 :] = budget.least
    return int(budget.bytes_of(evidence.rows, widths).sum())


@every_planner
@given(searches())
@settings(max_examples=60, deadline=None)
def test_a_plan_keeps_to_budget_floor_steps_and_nesting(planner: Planner, search) -> None:
    evidence, budget = search
    plan = planned(planner, evidence, budget)
    widths = widths_of(plan, evidence)

    assert plan.bytes_after <= max(budget.max_bytes, least_bytes(planner, evidence, budget))
    assert plan.bytes_after == budget.bytes_of(evidence.rows, widths).sum() == sum(b.bytes_after for b in plan.blocks)
    assert (widths[:, -1] >= budget.floor).all()
    assert not budget.steps or np.isin(widths, (0, *budget.steps)).all()
    for colder, hotter in zip(plan.blocks, plan.blocks[1:], strict=False):
        assert colder.slot != hotter.slot or set(colder.columns) <= set(hotter.columns)
    assert all(block.columns == sorted(set(block.columns)) for block in plan.blocks)


@every_planner
@given(searches())
@settings(max_examples=25, deadline=None)
def test_the_same_evidence_gives_the_same_plan_and_json_keeps_it(planner: Planner, search) -> None:
    plan = planned(planner, *search)

    assert planned(planner, *search) == plan
    assert read_plan(write_plan(plan)) == plan


def almost_free(evidence: BlockEvidence, budget: DimensionBudget) -> NDArray[np.bool_]:
    whole = np.maximum(evidence.rows, 1).sum(axis=1) * (budget.dim * 4 + budget.row_state_bytes * budget.drop_cold)
    return whole <= budget.max_bytes / 100


@every_planner
@given(searches(), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_a_smaller_budget_never_widens(planner: Planner, search, share: float) -> None:
    evidence, budget = search
    smaller = DimensionBudget(
        int(budget.max_bytes * share), budget.dim, floor=budget.floor, steps=budget.steps, drop_cold=budget.drop_cold
    )
    if isinstance(planner, PrincipalPlanner):
        assume((almost_free(evidence, budget) == almost_free(evidence, smaller)).all())

    widths = widths_of(planned(planner, evidence, budget), evidence)
    assert (widths_of(planned(planner, evidence, smaller), evidence) <= widths).all()


@pytest.mark.parametrize(
    "planner",
    [planner for planner in PLANNERS if planner != PrincipalPlanner()],  # which narrows what was seen too seldom
    ids=lambda planner: planner.name,
)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 3), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_a_budget_for_everything_keeps_all_that_is_worth_something(
    planner: Planner, seed: int, slots: int, bands: int, dim: int
) -> None:
    evidence = random_evidence(seed, slots, bands, dim, whole=True)
    plan = planned(planner, evidence, DimensionBudget(10**12, dim))

    worth = planner.worth(evidence)
    assert (widths_of(plan, evidence) >= (worth > 0).sum(axis=2)).all()
    assert plan.share_lost == 0


@every_planner
@given(searches())
@settings(max_examples=40, deadline=None)
def test_a_slot_is_dropped_only_where_the_floor_is_nothing(planner: Planner, search) -> None:
    evidence, budget = search
    plan = planned(planner, evidence, budget)
    without = widths_of(plan, evidence).sum(axis=1) == 0

    assert plan.dropped_slots == [f"slot{slot}" for slot in np.flatnonzero(without)]
    assert not plan.dropped_slots or budget.floor == 0


@every_planner
def test_no_bytes_at_all_drop_every_slot_where_the_floor_allows_it(planner: Planner) -> None:
    evidence = random_evidence(3, slots=3, bands=2, dim=4, whole=True)
    live = [f"slot{slot}" for slot in np.flatnonzero(evidence.rows.sum(axis=1))]

    assert set(planned(planner, evidence, DimensionBudget(0, 4, floor=0)).dropped_slots) >= set(live)
    assert planned(planner, evidence, DimensionBudget(0, 4, floor=1)).dropped_slots == []


class Halves:
    """A planner whose answer is known: the first two columns of everything."""

    name = "halves"

    def worth(self, evidence: BlockEvidence) -> NDArray[np.float64]:
        return evidence.squared

    def choose(self, evidence: BlockEvidence, budget: DimensionBudget) -> NDArray[np.bool_]:
        return np.broadcast_to(np.arange(evidence.dim) < 2, evidence.active.shape)


def test_a_plan_says_what_each_block_was_is_and_loses() -> None:
    spectra = np.stack([np.stack([falling(4, 0.5, 0.1), falling(4, 0.5)]), np.stack([falling(4, 0.5)] * 2)])
    evidence = shaped_evidence(spectra, [[30, 10], [5, 5]], widths=np.array([[2, 4], [1, 0]]))
    plan = make_plan(
        Halves(), evidence, DimensionBudget(640, 4), ["user", "hour"], trigger="budget", created_ms=5, samples_trained=6
    )

    assert (plan.planner, plan.trigger, plan.created_ms, plan.samples_trained) == ("halves", "budget", 5, 6)
    assert [(block.slot, block.band, block.rows) for block in plan.blocks] == [
        ("user", 0, 30),
        ("user", 1, 10),
        ("hour", 0, 5),
        ("hour", 1, 5),
    ]
    assert [block.bytes_before for block in plan.blocks] == [30 * 12, 10 * 20, 5 * 8, 0]
    assert [block.bytes_after for block in plan.blocks] == [30 * 12, 10 * 12, 5 * 12, 5 * 12]
    assert (plan.budget_bytes, plan.bytes_before, plan.bytes_after) == (640, 600, 600)
    assert [block.columns_before for block in plan.blocks] == [[0, 1], [0, 1, 2, 3], [0], []]
    assert [block.columns for block in plan.blocks] == [[0, 1]] * 4
    assert [block.share_lost for block in plan.blocks] == [0, 0.2, 0, 0]  # (0.25 + 0.125) / 1.875
    assert plan.share_lost == pytest.approx(0.375 / (0.15 + 1.875 + 1), abs=1e-6)
    assert [block.reason.split(":")[0] for block in plan.blocks] == [
        "kept",
        "narrowed, losing 20.00% of its worth",
        "widened",
        "widened",
    ]
    assert "61.98% of the worth in 20.00% of the rows" in plan.blocks[1].reason


def test_a_block_that_loses_everything_says_so() -> None:
    evidence = shaped_evidence(falling(2, 0.5)[None, None], [[100]])
    plan = planned(PrincipalPlanner(), evidence, DimensionBudget(0, 2, floor=0))

    assert plan.blocks[0].reason.startswith("no columns left: 100.00% of the worth")
    assert (plan.share_lost, plan.dropped_slots) == (1, ["slot0"])
