"""Published pruning of single columns: the planners that dimflow is measured against, and can be told to use.

Knows scores of columns, no directions. SSEDS (Qu et al. 2022, arXiv 2204.03281, section 3.3): keep the columns with the
largest normalised saliency while the parameters kept stay under a share of all. Magnitude pruning: the same with the
mean square of a column's values.

Invariant: a slot keeps `budget.floor` columns in its hottest band whatever they score; columns stay nested over bands.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dimension_search.budget import DimensionBudget
from dimension_search.evidence import BlockEvidence

__all__ = ["ColumnPruning"]


@dataclass(frozen=True, slots=True)
class ColumnPruning:
    """Keeps the columns with the best scores.

    Attributes:
        measure: "sseds" (|sum e g|), "squared" (sum (e g)^2) or "magnitude" (mean e^2).
    """

    measure: Literal["sseds", "squared", "magnitude"] = "sseds"

    @property
    def name(self) -> str:
        """Under which plans are filed."""
        return self.measure

    def worth(self, evidence: BlockEvidence) -> NDArray[np.float64]:
        """See `Planner.worth`."""
        if self.measure == "sseds":
            return evidence.first
        if self.measure == "squared":
            return evidence.squared
        return np.asarray(evidence.magnitude / np.maximum(evidence.lookups, 1)[:, :, None], np.float64)

    def choose(self, evidence: BlockEvidence, budget: DimensionBudget) -> NDArray[np.bool_]:
        """See `Planner.choose`."""
        score = np.where(evidence.active, self.worth(evidence), -1.0)
        score = np.maximum.accumulate(score, axis=1)  # a hotter band has what a colder one keeps
        order = np.argsort(-score, axis=None, kind="stable")
        order = order[score.ravel()[order] >= 0]
        lo, hi = 0, order.size
        while lo < hi:  # the longest head of the order that fits
            middle = (lo + hi + 1) // 2
            wanted = self._head(evidence, order[:middle], budget)
            if budget.bytes_of(evidence.rows, wanted.sum(axis=2)).sum() <= budget.max_bytes:
                lo = middle
            else:
                hi = middle - 1
        return self._head(evidence, order[:lo], budget)

    def _head(self, evidence: BlockEvidence, order: NDArray[np.int64], budget: DimensionBudget) -> NDArray[np.bool_]:
        wanted = np.zeros(evidence.active.shape, np.bool_)
        wanted.ravel()[order] = True
        wanted = np.logical_or.accumulate(wanted, axis=1)
        hottest = np.where(evidence.active[:, -1], self.worth(evidence)[:, -1], -1.0)
        best = np.argsort(-hottest, axis=1, kind="stable")[:, : budget.floor]
        lacking = wanted[:, -1].sum(axis=1) < budget.floor
        np.put_along_axis(floor := np.zeros_like(wanted[:, -1]), best, True, axis=1)
        wanted[lacking, -1] |= floor[lacking]
        return wanted
