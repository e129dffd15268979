"""What every planner answers, and how its answer becomes a plan with reasons.

Knows no method. Invariant: `make_plan` keeps to the budget that the planner was given wherever its floors allow it.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dimension_search.budget import DimensionBudget
from dimension_search.evidence import BlockEvidence
from dimension_search.plan import BlockPlan, DimensionPlan

__all__ = ["Planner", "make_plan"]


class Planner(Protocol):
    """A way to choose columns. Laws: deterministic; within the budget but for floors; bands nested."""

    @property
    def name(self) -> str:
        """Under which plans are filed."""

    def worth(self, evidence: BlockEvidence) -> NDArray[np.float64]:
        """What columns do, f64 (F, K, D) >= 0, in a unit of the planner's own."""

    def choose(self, evidence: BlockEvidence, budget: DimensionBudget) -> NDArray[np.bool_]:
        """The columns that blocks should have, bool (F, K, D)."""


def make_plan(
    planner: Planner,
    evidence: BlockEvidence,
    budget: DimensionBudget,
    slot_names: Sequence[str],
    *,
    trigger: str,
    created_ms: int,
    samples_trained: int,
) -> DimensionPlan:
    """Asks a planner and writes down what it wants and why.

    Args:
        planner: the method.
        evidence: about all blocks.
        budget: what is allowed.
        slot_names: F names.
        trigger: what asked for the search.
        created_ms: milliseconds since the epoch.
        samples_trained: samples learned so far.
    """
    wanted = planner.choose(evidence, budget)
    widths = wanted.sum(axis=2)
    worth = -np.sort(-planner.worth(evidence), axis=2)
    places = np.arange(evidence.dim)
    held = np.where(places < evidence.widths[:, :, None], worth, 0.0)
    lost = np.where(places >= widths[:, :, None], held, 0.0).sum(axis=2)
    total = held.sum(axis=2)
    before = budget.bytes_of(evidence.rows, evidence.widths)
    after = budget.bytes_of(evidence.rows, widths)
    blocks = [
        BlockPlan(
            slot=slot_names[slot],
            band=band,
            rows=int(evidence.rows[slot, band]),
            columns_before=np.flatnonzero(evidence.active[slot, band]).tolist(),
            columns=np.flatnonzero(wanted[slot, band]).tolist(),
            bytes_before=int(before[slot, band]),
            bytes_after=int(after[slot, band]),
            share_lost=round(float(lost[slot, band] / max(total[slot, band], 1e-300)), 6),
            reason=_reason(evidence, slot, band, int(widths[slot, band]), total, lost),
        )
        for slot in range(evidence.slots)
        for band in range(evidence.bands)
    ]
    return DimensionPlan(
        planner=planner.name,
        trigger=trigger,
        created_ms=created_ms,
        samples_trained=samples_trained,
        budget_bytes=budget.max_bytes,
        bytes_before=int(before.sum()),
        bytes_after=int(after.sum()),
        share_lost=round(float(lost.sum() / max(total.sum(), 1e-300)), 6),
        dropped_slots=[name for name, width in zip(slot_names, widths.sum(axis=1), strict=True) if width == 0],
        blocks=blocks,
    )


def _reason(
    evidence: BlockEvidence,
    slot: int,
    band: int,
    width: int,
    total: NDArray[np.float64],
    lost: NDArray[np.float64],
) -> str:
    """One line for people: what the block is worth, how many read it, what becomes of it."""
    share = total[slot, band] / max(total.sum(), 1e-300)
    read = evidence.lookups[slot, band] / max(evidence.lookups[slot].sum(), 1)
    rows = evidence.rows[slot, band] / max(evidence.rows.sum(), 1)
    about = f"{share:.2%} of the worth in {rows:.2%} of the rows, {read:.1%} of the slot's lookups"
    before = int(evidence.widths[slot, band])
    if width == 0 and before:
        return f"no columns left: {about}"
    if width < before:
        return f"narrowed, losing {lost[slot, band] / max(total[slot, band], 1e-300):.2%} of its worth: {about}"
    return f"widened: {about}" if width > before else f"kept: {about}"
