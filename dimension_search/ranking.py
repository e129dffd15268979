"""Which columns a block keeps when its width is known, so that bands stay nested and nothing moves without need.

Knows evidence, not why a width was chosen. Invariant: the columns of a band contain those of every colder band.
"""

import numpy as np
from numpy.typing import NDArray

from dimension_search.evidence import BlockEvidence

__all__ = ["leading_columns", "rank_columns"]


def rank_columns(evidence: BlockEvidence) -> NDArray[np.int64]:
    """The order in which each slot takes columns, i64 (F, D).

    First those that most of its bands have, so that what cold rows hold stays; then by squared saliency; columns the
    slot does not have yet by what the other slots do with them, since an inner product needs both sides.
    """
    held = evidence.active.sum(axis=1)
    own = evidence.squared.sum(axis=1)
    others = own.sum(axis=0) - own
    keys = np.stack([others, own, held.astype(np.float64)])
    return np.array([np.lexsort(-keys[:, slot]) for slot in range(evidence.slots)], np.int64)


def leading_columns(evidence: BlockEvidence, widths: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The first `widths` i64 (F, K) of each slot's ranking, bool (F, K, D)."""
    places = np.argsort(rank_columns(evidence), axis=1)
    return np.asarray(places[:, None, :] < widths[:, :, None])
