"""Which rows of a block go through which codec: a plan of precision at work.

Knows a plan and rows of one block as they are copied out; no table, no increment. The answer depends on the rows'
counts alone, so the same cut is always published as the same bytes. Rows that what a tier shares does not cover (they
grew since it was learned) are packed by a wider codec, as `tier_packing` has it.

Invariant: every row of a block is in exactly one part; parts come in the order of the plan's tiers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dimension_search.errors import SearchError
from dimension_search.precision_plan import PrecisionPlan
from embedding_table.row_codecs import CODECS, RowCodec, codec_named
from embedding_table.table_rows import RowsOfBlock
from embedding_table.tier_packing import PackedPart, TierPart, pack_in_tiers, wider_codec

__all__ = ["PlanTiers"]


@dataclass(frozen=True, slots=True, eq=False)
class _Tiers:
    """Tiers of one block: thresholds f32 (t,), codecs and what each shares."""

    thresholds: NDArray[np.float32]
    codecs: tuple[RowCodec, ...]
    shared: tuple[NDArray[np.float32] | None, ...]

    @property
    def key(self) -> bytes:
        """The same for tiers that pack rows alike."""
        shared = [b"" if values is None else values.tobytes() for values in self.shared]
        names = [codec.name.encode() for codec in self.codecs]
        return b"|".join([self.thresholds.tobytes(), *names, *shared])


class PlanTiers:
    """A plan that can be asked about rows.

    Args:
        plan: with what its tiers share.
        slots: names of the F slots, by number.

    Raises:
        SearchError: a block of the plan does not begin at count 0, or its tiers do not ascend.
        BadPacking: a codec that does not exist.
    """

    def __init__(self, plan: PrecisionPlan, slots: Sequence[str]) -> None:
        self._blocks: dict[tuple[int, int], _Tiers] = {}
        for slot, name in enumerate(slots):
            for band in {tier.band for tier in plan.tiers if tier.slot == name}:
                tiers = [tier for tier in plan.tiers if (tier.slot, tier.band) == (name, band)]
                thresholds = np.array([tier.least_count for tier in tiers], np.float32)
                if thresholds[0] != 0 or np.any(np.diff(thresholds) <= 0):
                    message = f"tiers of {name}, band {band}, begin at {thresholds.tolist()}: expected ascending from 0"
                    raise SearchError(message)
                codecs = tuple(codec_named(tier.codec) for tier in tiers)
                self._blocks[slot, band] = _Tiers(thresholds, codecs, tuple(tier.shared_values for tier in tiers))

    def split(self, block: RowsOfBlock) -> Sequence[TierPart]:
        """The parts of a block that are packed alike, none without a row."""
        return self.split_rows(block.slot, block.band, block.counts)

    def split_rows(self, slot: int, band: int, counts: NDArray[np.float32]) -> Sequence[TierPart]:
        """As `split`, of rows with decayed counts f32 (n,); all fp32 in a block that the plan has not seen."""
        tiers = self._blocks.get((slot, band))
        if tiers is None:
            return [(np.arange(counts.size), CODECS["fp32"], None)] if counts.size else []
        numbers = np.searchsorted(tiers.thresholds, counts, side="right") - 1
        parts: list[TierPart] = []
        for number in np.unique(numbers).tolist():
            parts.append((np.flatnonzero(numbers == number), tiers.codecs[number], tiers.shared[number]))
        return parts

    def key(self, slot: int, band: int) -> bytes:
        """Says how the rows of a block are packed: two plans with the same key pack them alike."""
        tiers = self._blocks.get((slot, band))
        return b"" if tiers is None else tiers.key

    def packed(
        self, slot: int, band: int, counts: NDArray[np.float32], values: NDArray[np.float32]
    ) -> list[PackedPart]:
        """Rows with counts f32 (n,) and values f32 (n, d) as they are served."""
        ids = np.arange(counts.size, dtype=np.uint64)
        return pack_in_tiers(values, ids, self.split_rows(slot, band, counts))

    def decoded(
        self, slot: int, band: int, counts: NDArray[np.float32], values: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Rows f32 (n, d) as a server reads them that were trained to `values` f32 (n, d), with counts f32 (n,).

        Few coded rows count as if many came with them, as in a base; what is not finite is left as it is.
        """
        read = values.copy()
        for part in self.split_rows(slot, band, counts):
            rows, shared = part[0], part[2]
            codec: RowCodec | None = part[1]
            while codec is not None and rows.size:
                packed, fits = codec.encode_fitting(np.ascontiguousarray(values[rows]), shared=shared)
                read[rows[fits]] = codec.decode(packed)[fits]
                rows, shared, codec = rows[~fits], None, wider_codec(codec)
        return read

    def same_tier(self, other: "PlanTiers", slot: int, band: int, counts: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Which rows of a block, with counts f32 (n,), are packed alike by both plans, bool (n,)."""
        mine, theirs = self._blocks.get((slot, band)), other._blocks.get((slot, band))
        if mine is None or theirs is None:
            return np.full(counts.size, mine is theirs)
        alike = np.array(
            [[_alike(mine, a, theirs, b) for b in range(len(theirs.codecs))] for a in range(len(mine.codecs))]
        )
        here = np.searchsorted(mine.thresholds, counts, side="right") - 1
        there = np.searchsorted(theirs.thresholds, counts, side="right") - 1
        return np.asarray(alike[here, there])


def _alike(mine: _Tiers, a: int, theirs: _Tiers, b: int) -> bool:
    shared, other = mine.shared[a], theirs.shared[b]
    if mine.codecs[a] != theirs.codecs[b] or (shared is None) != (other is None):
        return False
    return shared is None or other is None or np.array_equal(shared, other)
