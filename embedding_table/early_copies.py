"""Changes that were copied out in slices while training went on, put together as if they had been copied at the cut.

The pre-copy of live migration (Clark et al., NSDI 2005, section 3.2) for rows: slices of changed rows are copied
between two steps and count as unchanged from then on; a row that changes again is copied again, at the latest at the
cut. So a row's last copy holds the values it has at the cut, and the pause of the cut is as long as the last slice.

Knows no table and no file. Invariant: what `settled` answers equals, up to the order of rows in a block, the changes
that one copy at the cut would have held.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from embedding_table.hash_index import ABSENT, HashIndex
from embedding_table.table_rows import RowsOfBlock, TableChanges

__all__ = ["EarlyCopy", "decay_early", "settled"]

EarlyCopy = tuple[RowsOfBlock, ...]


def decay_early(copies: Sequence[EarlyCopy], factor: float) -> None:
    """Does to copied counts, in place, what `EmbeddingTable.decay_counts` does to those in the table."""
    for blocks in copies:
        for block in blocks:
            block.counts[:] = block.counts * np.float32(factor)


def settled(copies: Sequence[EarlyCopy], last: TableChanges) -> TableChanges:
    """One set of changes: of each id its last copy; none of an id that is erased.

    Args:
        copies: in the order in which they were made.
        last: the changes taken at the cut.
    """
    if not copies:
        return last
    seen = HashIndex(last.rows + sum(block.ids.size for blocks in copies for block in blocks))
    _insert(seen, [last.erased_ids, *(block.ids for block in last.blocks)])
    kept: list[RowsOfBlock] = []
    for blocks in reversed(copies):
        kept += [_rows_of(block, seen.find(block.ids) == ABSENT) for block in blocks]
        _insert(seen, [block.ids for block in blocks])
    return TableChanges(_joined([*reversed(kept), *last.blocks]), last.erased_ids)


def _insert(seen: HashIndex, ids: Sequence[NDArray[np.uint64]]) -> None:
    for part in ids:
        seen.insert(part, np.zeros(part.size, np.uint32))


def _rows_of(block: RowsOfBlock, kept: NDArray[np.bool_]) -> RowsOfBlock:
    if kept.all():
        return block
    return replace(
        block,
        ids=block.ids[kept],
        values=block.values[kept],
        accumulators=block.accumulators[kept],
        counts=block.counts[kept],
        last_seen_s=block.last_seen_s[kept],
    )


def _joined(blocks: Sequence[RowsOfBlock]) -> tuple[RowsOfBlock, ...]:
    """One block for each (slot, band, columns) that has rows, by slot and band."""
    parts: dict[tuple[int, int, bytes], list[RowsOfBlock]] = {}
    for block in blocks:
        if block.ids.size:
            parts.setdefault((block.slot, block.band, block.columns.tobytes()), []).append(block)
    return tuple(_concatenated(parts[key]) for key in sorted(parts, key=lambda key: key[:2]))


def _concatenated(parts: Sequence[RowsOfBlock]) -> RowsOfBlock:
    if len(parts) == 1:
        return parts[0]
    return replace(
        parts[0],
        ids=np.concatenate([part.ids for part in parts]),
        values=np.concatenate([part.values for part in parts]),
        accumulators=np.concatenate([part.accumulators for part in parts]),
        counts=np.concatenate([part.counts for part in parts]),
        last_seen_s=np.concatenate([part.last_seen_s for part in parts]),
    )
