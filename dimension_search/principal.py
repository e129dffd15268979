"""Widths by principal saliency per byte: the planner of dimflow.

Knows evidence and a budget, not where they come from. The columns of one slot are alike: pruned one by one by their
own saliency, all of them stay or all go. What falls is the saliency of *directions*: the k-th singular value of C^1/2
H^1/2 (see `evidence`) is the first-order effect of the k-th direction of a block's rows on the loss. Rows that fit
chance move the loss as well: what they do counts by the square of the block's `signal`, which is what is left of
value and derivative when both are shrunk to what is not noise. So the k-th column of a block is worth that much,
costs a float in every row of the block, and columns are bought by worth per byte until the budget is spent.

Nested bands: a hotter band has at least the columns of a colder one. Where a colder band's column would be the better
buy, both are bought together at their joint price (pool adjacent violators: Ayer et al. 1955).

A slot that costs next to nothing beside the budget is bought whole, before all others.

Invariant: no band is wider than a hotter one of its slot; a smaller budget never widens anything, as long as the same
slots cost next to nothing.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dimension_search.budget import COLUMN_BYTES, DimensionBudget
from dimension_search.evidence import BlockEvidence
from dimension_search.ranking import leading_columns

__all__ = ["PrincipalPlanner"]

Floats = NDArray[np.float64]
_SLOWEST_FALL = 0.9
_UNKNOWN_FALL = 0.5
_CHEAP_SHARE = 1e-2
_LEAST_WORTH = 1e-12  # where there is room, a column that did nothing yet is not taken away for that


@dataclass(frozen=True, slots=True)
class PrincipalPlanner:
    """Buys columns by principal saliency per byte.

    Attributes:
        hysteresis: factor >= 1 by which a column that is there already counts for more.
        columns_per_lookup: a slot gets no more columns than this times the mean count of its rows: a row that was seen
            ten times cannot learn sixty-four numbers.
        learnable_at_once: columns to which that does not apply: rows of a young table have their lookups before them.
        cold_share: what a row is worth at least, relative to one of the next hotter band: a window is too short to
            see most cold rows come back.
    """

    hysteresis: float = 1.2
    columns_per_lookup: float = 2.0
    learnable_at_once: int = 8
    cold_share: float = 0.1

    @property
    def name(self) -> str:
        """Under which plans are filed."""
        return "principal"

    def worth(self, evidence: BlockEvidence) -> Floats:
        """See `Planner.worth`; column k of a block stands for its k-th direction.

        Columns bought by the search before have hardly begun to learn: they are worth what the proven ones promise.
        """
        worth = evidence.spectrum * evidence.signal[:, :, None] ** 2 + _LEAST_WORTH * evidence.spectrum.max(initial=0)
        proven = evidence.widths if evidence.proven is None else evidence.proven
        for slot, band in np.argwhere(proven < evidence.dim):
            promised = worth[slot, band].copy()
            _continue(promised, int(proven[slot, band]))
            worth[slot, band] = np.maximum(worth[slot, band], promised)
        rows = np.maximum(evidence.rows, 1)
        for band in range(evidence.bands - 2, -1, -1):
            share = self.cold_share * rows[:, band] / rows[:, band + 1]
            worth[:, band] = np.maximum(worth[:, band], share[:, None] * worth[:, band + 1])
        return np.asarray(worth, np.float64)

    def choose(self, evidence: BlockEvidence, budget: DimensionBudget) -> NDArray[np.bool_]:
        """See `Planner.choose`."""
        density = self._density(evidence, budget)
        floors = np.zeros(evidence.rows.shape, np.int64)
        floors[:, -1] = budget.least
        prices = np.unique(np.append(density, 0.0))
        lo, hi = 0, prices.size - 1  # the lowest price at which everything dearer than it fits
        while lo < hi:
            middle = (lo + hi) // 2
            widths = _widths(density, prices[middle], floors, budget)
            if budget.bytes_of(evidence.rows, widths).sum() <= budget.max_bytes:
                hi = middle
            else:
                lo = middle + 1
        return leading_columns(evidence, _widths(density, prices[lo], floors, budget))

    def _density(self, evidence: BlockEvidence, budget: DimensionBudget) -> Floats:
        """Worth per byte f64 (F, K, D): not increasing in the level, nor from a hotter band to a colder one."""
        worth, rows = self.worth(evidence), np.maximum(evidence.rows, 1)
        held = np.arange(evidence.dim) < evidence.widths[:, :, None]
        worth = np.where(held, worth * self.hysteresis, worth)
        cost = rows[:, :, None] * np.full(evidence.dim, COLUMN_BYTES, np.float64)
        cost[:, :, 0] += rows * (budget.row_state_bytes if budget.drop_cold else 0)
        density = np.empty_like(worth)
        for slot in range(evidence.slots):
            for level in range(evidence.dim):
                density[slot, ::-1, level] = _pool(worth[slot, ::-1, level], cost[slot, ::-1, level])
        density = np.minimum.accumulate(density, axis=2)
        learnable = self.columns_per_lookup * evidence.counts.sum(axis=1) / rows.sum(axis=1)
        beyond = np.arange(evidence.dim) >= np.maximum(learnable, self.learnable_at_once)[:, None]
        density = np.where(beyond[:, None, :], 0.0, density)
        cheap = cost.sum(axis=(1, 2)) <= budget.max_bytes * _CHEAP_SHARE
        density[cheap] += 2 * (density.max(initial=0.0) or 1.0)  # dearer than all others, but not beyond price
        return density


def _continue(levels: Floats, width: int) -> None:
    """Goes on beyond the `width` levels (D,) that were seen, falling as fast as their second half does.

    One level says nothing of its fall: a middling one is taken, so that a slot of width 1 can grow again. A block
    without columns keeps what was known of it.
    """
    if width == 0:
        return
    seen = levels[:width]
    seen = seen[seen > seen[:1] * 1e-9]
    levels[seen.size :] = 0
    if seen.size < min(width, 2):
        return
    half = seen.size // 2
    fall = min(_SLOWEST_FALL, (seen[-1] / seen[half - 1]) ** (1 / (seen.size - half))) if half else _UNKNOWN_FALL
    levels[seen.size :] = seen[-1] * fall ** np.arange(1, levels.size - seen.size + 1)


def _widths(density: Floats, price: float, floors: NDArray[np.int64], budget: DimensionBudget) -> NDArray[np.int64]:
    return budget.allowed(np.maximum((density > price).sum(axis=2), floors))


def _pool(worth: Floats, cost: Floats) -> Floats:
    """Densities worth / cost (K,), made not increasing by pooling neighbours that increase."""
    groups: list[tuple[float, float, int]] = []
    for gain, price in zip(worth.tolist(), cost.tolist(), strict=True):
        groups.append((gain, price, 1))
        while len(groups) > 1 and groups[-2][0] * groups[-1][1] < groups[-1][0] * groups[-2][1]:
            gain2, price2, count2 = groups.pop()
            gain1, price1, count1 = groups.pop()
            groups.append((gain1 + gain2, price1 + price2, count1 + count2))
    return np.repeat([gain / price for gain, price, _ in groups], [count for _, _, count in groups])
