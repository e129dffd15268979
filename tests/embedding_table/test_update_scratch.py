"""Sizes: enough for the lookups, bounded for the gradients."""

import numpy as np
import pytest

from embedding_table.row_layout import ROW_BITS, SLAB_WORDS, TRAINED_STATE_WORDS
from embedding_table.update_scratch import ROWS_AT_ONCE, new_scratch


@pytest.mark.parametrize(("lookups", "dim", "floats"), [(0, 0, 0), (0, 16, 16), (10, 16, 160), (1 << 20, 64, 1 << 21)])
def test_sizes(lookups: int, dim: int, floats: int) -> None:
    scratch = new_scratch(lookups, dim)
    assert scratch.gradient.size == floats
    summed = ("products", "squares", "block_rows", "signed")
    fixed = {"gradient", "share", *summed}
    assert {array.size for name, array in scratch._asdict().items() if name not in fixed} == {lookups}
    assert all(getattr(scratch, name).size == 0 for name in summed)
    assert scratch.gradient.dtype == np.float32


@pytest.mark.parametrize("lookups", [1, 10, 1 << 16])
def test_room_for_a_slot_and_for_the_rows_of_a_slab_beyond_those_at_once(lookups: int) -> None:
    most = ROWS_AT_ONCE + SLAB_WORDS // TRAINED_STATE_WORDS
    share = new_scratch(lookups, 16, slot_bags=500).share
    assert share.key.size == share.other_key.size == lookups + 1
    assert share.bag_square.size == min(500, lookups)
    assert share.row_key.size == share.lookups.size == min(lookups, most)
    assert share.gradient.size == (share.bag_square.size + share.row_key.size) * 16
    assert share.place_row.size == 1 << ROW_BITS
    assert share.gradient.ctypes.data % 64 == 0


def test_room_for_saliency_is_empty() -> None:
    scratch = new_scratch(5, 8, blocks=3)
    assert scratch.block_rows.tolist() == [0, 0, 0]
    for sums in (scratch.products, scratch.squares, scratch.signed):
        assert sums.tolist() == [0.0] * 24
