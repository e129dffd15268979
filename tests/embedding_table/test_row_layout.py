"""Rows of one slab lie apart from each other and inside the slab."""

import numpy as np
import pytest

from embedding_table.row_layout import ROW_BITS, SLAB_WORDS, state_offset, value_offset


@pytest.mark.parametrize("width", [0, 1, 5, 16, 64, 100])
@pytest.mark.parametrize("state_words", [2, 5])
def test_no_word_belongs_to_two_rows(width: int, state_words: int) -> None:
    capacity = min(1 << ROW_BITS, SLAB_WORDS // (width + state_words))
    owners = np.zeros(3 * SLAB_WORDS, np.int32)
    for row in range(capacity):
        handle = np.uint32((1 << ROW_BITS) | row)
        start, state = int(value_offset(handle, width)), int(state_offset(handle, state_words))
        owners[start : start + width] += 1
        owners[state : state + state_words] += 1
    assert owners[:SLAB_WORDS].max() == owners[2 * SLAB_WORDS :].max() == 0
    assert owners.max() == 1
    assert owners.sum() == capacity * (width + state_words)


def test_state_lies_where_it_lies_whatever_the_width() -> None:
    assert state_offset(np.uint32(5), 5) == SLAB_WORDS - 6 * 5
