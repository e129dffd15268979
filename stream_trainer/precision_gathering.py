"""What one search for precision gathers on its way, batch by batch.

Knows the table and sums; not when to search nor what follows. Invariant: stages come one after the other: what rows
share, the window's sums, plans and their judgement.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dimension_search.learned_scales import LearnedScales
from dimension_search.precision_evidence import PrecisionSums
from dimension_search.precision_plan import PrecisionPlan
from dimension_search.row_importance import LEVELS, levels_of
from dimension_search.row_tiers import PlanTiers
from embedding_table.table import EmbeddingTable
from stream_trainer.precision_pass import JudgedSums, learn_blocks

__all__ = ["PrecisionGathering"]


class PrecisionGathering:
    """What one search has gathered so far.

    Args:
        table: whose rows are served.
        codecs: names of those that may be chosen.
        names: of the slots.
        trigger: what asked for the search.

    Attributes:
        columns: says which columns every block had when plans were made.
        shared: what rows share.
        sums: of the window.
        codec_tiers: for each codec, all rows by it; empty until all shared values are learned.
        plans: to be judged; empty until the window is full.
        plan_tiers: the same, ready to be asked.
        judged: sums of each over held-back samples.
    """

    def __init__(self, table: EmbeddingTable, codecs: Sequence[str], names: tuple[str, ...], trigger: str) -> None:
        self.trigger = trigger
        self.columns = b""
        self.shared = LearnedScales(codecs)
        self.sums = PrecisionSums(table.slots, table.bands, tuple(codecs))
        self.codec_tiers: list[PlanTiers] = []
        self.plans: list[PrecisionPlan] = []
        self.plan_tiers: list[PlanTiers] = []
        self.judged: list[JudgedSums] = []
        self._codecs = codecs
        self._names = names
        self._next_block = 0

    def learn_shared(self, table: EmbeddingTable, most_rows: int) -> bool:
        """Learns what the rows of some blocks share, from about so many rows; whether there were any left to learn."""
        blocks = table.slots * table.bands
        if self._next_block == blocks:
            return False
        self._next_block = learn_blocks(table, self.shared, self._next_block, most_rows)
        if self._next_block == blocks:
            self.codec_tiers = [self.shared.one_codec(codec, self._names, table.bands) for codec in self._codecs]
        return True

    def rows_and_widths(self, table: EmbeddingTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Live rows of each class i64 (C,), and columns of each block."""
        rows = table.live_rows()
        blocks = table.slots * table.bands
        classes = (rows.slots.astype(np.int64) * table.bands + rows.bands) * LEVELS + levels_of(rows.counts)
        numbers = np.bincount(classes, minlength=blocks * LEVELS).astype(np.int64)
        numbers.reshape(table.slots, -1)[:, -1] += 1  # the missing rows
        widths = [table.columns(slot, band).size for slot in range(table.slots) for band in range(table.bands)]
        return numbers, np.array(widths, np.int64)
