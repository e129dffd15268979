"""Copied out and in again, rows are the same bit by bit; marks stay out of it."""

import numpy as np

from embedding_table.row_arena import RowArena
from embedding_table.row_layout import TRAINED_STATE_WORDS
from embedding_table.row_transfer import copy_block_in, copy_blocks_out
from embedding_table.table_rows import RowsOfBlock


def test_round_trip_by_block() -> None:
    rng = np.random.default_rng(4)
    arena = RowArena(16, 1 << 21, state_words=TRAINED_STATE_WORDS, max_blocks=4, track_changes=True)
    given = {}
    all_handles = []
    for block, width in enumerate((3, 0, 16, 8)):
        columns = np.sort(rng.permutation(16)[:width]).astype(np.uint16)
        assert arena.define_block(columns, home=block) == block
        n = 50 * (block + 1)
        rows = RowsOfBlock(
            slot=block // 2,
            band=block % 2,
            columns=columns,
            ids=rng.integers(1, 2**64, n, dtype=np.uint64),
            values=rng.standard_normal((n, width)).astype(np.float32),
            accumulators=rng.random(n, np.float32),
            counts=rng.random(n, np.float32),
            last_seen_s=rng.integers(0, 2**32, n, dtype=np.uint32),
        )
        handles = arena.allocate(block, n)
        copy_block_in(arena, handles, rows, np.arange(n))
        all_handles.append(handles[: n - 7])
        given[rows.slot, rows.band] = rows
    copied = copy_blocks_out(arena, rng.permutation(np.concatenate(all_handles)), bands=2, blocks=range(4))
    assert [(rows.slot, rows.band) for rows in copied] == list(given)
    for rows in copied:
        source = given[rows.slot, rows.band]
        places = {feature_id: k for k, feature_id in enumerate(source.ids.tolist())}
        order = [places[feature_id] for feature_id in rows.ids.tolist()]
        assert len(order) == source.ids.size - 7
        for name in ("values", "accumulators", "counts", "last_seen_s"):
            np.testing.assert_array_equal(getattr(rows, name), getattr(source, name)[order])
        np.testing.assert_array_equal(rows.columns, source.columns)


def test_nothing_to_copy_is_no_block() -> None:
    arena = RowArena(16, 1 << 20, max_blocks=1)
    arena.define_block(np.arange(16, dtype=np.uint16))
    assert copy_blocks_out(arena, np.empty(0, np.uint32), bands=1, blocks=[0]) == ()
