"""Published pruning of single columns: the planners that dimflow is measured against, and can be told to use.

Knows scores of columns, no directions. SSEDS (Qu et al. 2022, arXiv 2204.03281, section 3.3): keep the columns with the
largest normalised saliency while the parameters kept stay under a share of all. Magnitude pruning: the same with the
mean square of a column's values.

Invariant: a slot keeps `budget.least` columns in its hottest band whatever they score; columns stay nested over bands;
a smaller budget never widens anything.
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
            widths = _widths(score.shape, order[:middle], budget)
            if budget.bytes_of(evidence.rows, widths).sum() <= budget.max_bytes:
                lo = middle
            else:
                hi = middle - 1
        return _best(score, _widths(score.shape, order[:lo], budget))


def _widths(shape: tuple[int, ...], head: NDArray[np.int64], budget: DimensionBudget) -> NDArray[np.int64]:
    """Widths (F, K) that the columns named by `head`, flat places in `shape` (F, K, D), come to."""
    wanted = np.zeros(shape, np.bool_)
    wanted.ravel()[head] = True
    widths = np.logical_or.accumulate(wanted, axis=1).sum(axis=2)
    widths[:, -1] = np.maximum(widths[:, -1], budget.least)
    return budget.allowed(widths)


def _best(score: NDArray[np.float64], widths: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The columns (F, K, D) with the best scores, those of the colder band first."""
    kept = np.zeros(score.shape, np.bool_)
    colder = kept[:, 0]
    for band in range(score.shape[1]):
        order = np.argsort(-np.where(colder, np.inf, score[:, band]), axis=1, kind="stable")
        colder = kept[:, band] = np.argsort(order, axis=1) < widths[:, band, None]
    return kept
