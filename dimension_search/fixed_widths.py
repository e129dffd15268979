"""Widths by rule, without a gradient: uniform, power law by table size, fixed steps by importance rank.

Knows rows and traffic only. Invariant: every band of a slot has the slot's width; a smaller budget never widens any.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dimension_search.budget import DimensionBudget
from dimension_search.evidence import BlockEvidence
from dimension_search.ranking import leading_columns

__all__ = ["FixedSteps", "PowerLaw", "UniformWidth"]

_STEPS = (1, 4, 8, 16, 32, 64)


def _worth(evidence: BlockEvidence) -> NDArray[np.float64]:
    """Every column of a block the same: its lookups."""
    return np.where(evidence.active, evidence.lookups[:, :, None] / evidence.dim, 0.0)


def _spread(widths: NDArray[np.int64], evidence: BlockEvidence) -> NDArray[np.bool_]:
    return leading_columns(evidence, np.repeat(widths[:, None], evidence.bands, axis=1))


def _fits(widths: NDArray[np.int64], evidence: BlockEvidence, budget: DimensionBudget) -> bool:
    spread = np.repeat(widths[:, None], evidence.bands, axis=1)
    return int(budget.bytes_of(evidence.rows, spread).sum()) <= budget.max_bytes


@dataclass(frozen=True, slots=True)
class UniformWidth:
    """One width for all, the widest that fits."""

    @property
    def name(self) -> str:
        """Under which plans are filed."""
        return "uniform"

    def worth(self, evidence: BlockEvidence) -> NDArray[np.float64]:
        """See `Planner.worth`."""
        return _worth(evidence)

    def choose(self, evidence: BlockEvidence, budget: DimensionBudget) -> NDArray[np.bool_]:
        """See `Planner.choose`."""
        widths = np.unique(budget.allowed(np.arange(budget.least, budget.dim + 1)))[::-1]
        ways = [np.full(evidence.slots, width, np.int64) for width in widths.tolist()]
        return _spread(next((w for w in ways if _fits(w, evidence, budget)), ways[-1]), evidence)


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """Mixed dimensions (MDE, Ginart et al. 2019, arXiv 1909.11810, section 3): d = l * n^-alpha, a power of two.

    Attributes:
        alpha: temperature; 0 is uniform.
    """

    alpha: float = 0.3

    @property
    def name(self) -> str:
        """Under which plans are filed."""
        return "mde"

    def worth(self, evidence: BlockEvidence) -> NDArray[np.float64]:
        """See `Planner.worth`."""
        return _worth(evidence)

    def choose(self, evidence: BlockEvidence, budget: DimensionBudget) -> NDArray[np.bool_]:
        """See `Planner.choose`."""
        law = np.maximum(evidence.rows.sum(axis=1), 1).astype(np.float64) ** -self.alpha
        best = np.full(evidence.slots, budget.least, np.int64)
        for scale in np.geomspace(1, 2.0**24, 24 * 16 + 1):
            powers = np.exp2(np.round(np.log2(np.maximum(scale * law / law.max(), 1))))
            widths = budget.allowed(np.clip(powers, budget.least, budget.dim).astype(np.int64))
            if not _fits(widths, evidence, budget):
                break
            best = widths
        return _spread(best, evidence)


@dataclass(frozen=True, slots=True)
class FixedSteps:
    """Widths 1, 4, 8, 16, 32, 64 by the rank of a slot's importance per row, as many of the wide ones as fit."""

    @property
    def name(self) -> str:
        """Under which plans are filed."""
        return "steps"

    def worth(self, evidence: BlockEvidence) -> NDArray[np.float64]:
        """See `Planner.worth`: squared saliency."""
        return evidence.squared

    def choose(self, evidence: BlockEvidence, budget: DimensionBudget) -> NDArray[np.bool_]:
        """See `Planner.choose`."""
        steps = np.array([step for step in _STEPS if step < budget.dim] + [budget.dim], np.int64)
        value = evidence.squared.sum(axis=(1, 2)) / np.maximum(evidence.rows.sum(axis=1), 1)
        rank = np.argsort(np.argsort(-value, kind="stable"), kind="stable")
        level = steps.size - 1 - rank * steps.size // evidence.slots
        for wider in range(steps.size - 1, -steps.size, -1):
            widths = budget.allowed(np.maximum(steps[np.clip(level + wider, 0, steps.size - 1)], budget.least))
            if _fits(widths, evidence, budget):
                return _spread(widths, evidence)
        return _spread(np.full(evidence.slots, budget.least, np.int64), evidence)
