"""What the rows of a tier share, learned from rows there are: codebooks of a block, one scale for a level of it.

Knows samples of rows; no table. A codebook serves small rows beside large ones, so all rows of a block share two; one
scale does not, so each level of importance gets its own, which the few largest rows of the level need not fit.

Invariant: the same rows give the same values.
"""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from dimension_search.precision_evidence import UNCOVERED_SHARE
from dimension_search.precision_plan import TierPlan, same_codec_plan
from dimension_search.row_importance import LEVELS, least_count, levels_of
from dimension_search.row_tiers import PlanTiers
from embedding_table.packed_words import BLOCK, HALF
from embedding_table.row_codecs import codec_named

__all__ = ["LearnedScales"]

_SCALE_SAMPLE = 4096
_BOOK_SAMPLE = 1 << 14


class LearnedScales:
    """Shared values by block, codec and level.

    Args:
        codecs: names of those that may be chosen.
    """

    def __init__(self, codecs: Sequence[str]) -> None:
        named = [codec_named(name) for name in codecs]
        self._codecs = [codec for codec in named if codec.bits < 16 and codec.form != HALF]
        self._known: dict[tuple[int, str, int], NDArray[np.float32]] = {}

    def learn(self, block: int, counts: NDArray[np.float32], values: NDArray[np.float32]) -> None:
        """Learns from rows of a block: their counts f32 (n,) and values f32 (n, d)."""
        sound = np.isfinite(values).all(axis=1)
        levels, values = levels_of(counts)[sound], values[sound]
        one_scale = [codec for codec in self._codecs if codec.form == BLOCK]
        for codec in self._codecs:
            if codec.form != BLOCK:
                book = codec.encode(_some(values, _BOOK_SAMPLE)).shared
                self._known |= {(block, codec.name, level): book for level in range(LEVELS)}
        whole = _without_largest(values)
        for level in range(LEVELS) if one_scale else ():
            here = values[levels == level]
            small = _without_largest(here) if len(here) else whole
            for codec in one_scale:
                self._known[block, codec.name, level] = codec.encode(small).shared

    def of(self, block: int, codec: str, level: int) -> NDArray[np.float32] | None:
        """What rows of this level share under a codec, f32 (k,); None where nothing is or was learned."""
        return self._known.get((block, codec, level))

    def one_codec(self, codec: str, slots: Sequence[str], bands: int) -> PlanTiers:
        """Tiers that give all rows one codec, each level of importance with what its rows share."""
        plan = same_codec_plan(codec, slots, bands, created_ms=0)
        tiers: list[TierPlan] = []
        for block, tier in enumerate(plan.tiers):
            for level in range(LEVELS):
                shared = self.of(block, codec, level)
                if level and shared is None:
                    break
                text = b"" if shared is None else shared.astype("<f4").tobytes()
                tiers.append(msgspec.structs.replace(tier, least_count=least_count(level), shared=text))
        return PlanTiers(msgspec.structs.replace(plan, tiers=tiers), slots)


def _without_largest(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """A sample of rows, those with the largest values left out."""
    values = _some(values, _SCALE_SAMPLE)
    if not values.size:
        return values
    largest = np.abs(values).max(axis=1)
    kept = np.sort(largest)[int((1 - UNCOVERED_SHARE) * (largest.size - 1))]
    return np.ascontiguousarray(values[largest <= kept])


def _some(values: NDArray[np.float32], most: int) -> NDArray[np.float32]:
    every = np.linspace(0, len(values) - 1, min(most, len(values))).astype(np.int64)
    return np.ascontiguousarray(values[every])
