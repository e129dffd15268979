"""A line's entries against a loop over them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding_table.entry_search import ENTRIES_A_LINE, LINE_WORDS, entry_of
from model_contract.compiled import kernel


@kernel
def _entry_of(entries: np.ndarray, line: np.uint64, low: np.uint32, high: np.uint32) -> int:
    return int(entry_of(entries, line, low, high))


def by_loop(line: list[int], low: int, high: int) -> int:
    for entry in range(ENTRIES_A_LINE):
        held_low, held_high, word = line[entry : 3 * ENTRIES_A_LINE : ENTRIES_A_LINE]
        if (held_low, held_high) == (low, high) or word == 0:
            return entry
    return LINE_WORDS


_WORD = st.integers(0, 3) | st.just(2**32 - 1)


@settings(deadline=None, max_examples=300)
@given(st.lists(_WORD, min_size=3 * LINE_WORDS, max_size=3 * LINE_WORDS), st.integers(0, 2), _WORD, _WORD)
def test_finds_the_first_that_holds_the_id_or_is_empty(words: list[int], number: int, low: int, high: int) -> None:
    start = number * LINE_WORDS
    found = _entry_of(np.array(words, np.uint32), np.uint64(start), np.uint32(low), np.uint32(high))
    assert found == by_loop(words[start : start + LINE_WORDS], low, high)


@pytest.mark.parametrize("entry", range(ENTRIES_A_LINE))
def test_halves_of_two_entries_are_no_id(entry: int) -> None:
    line = np.full(LINE_WORDS, 9, np.uint32)
    line[entry], line[ENTRIES_A_LINE + (entry + 1) % ENTRIES_A_LINE] = 5, 6
    assert _entry_of(line, np.uint64(0), np.uint32(5), np.uint32(6)) == LINE_WORDS
    line[ENTRIES_A_LINE + entry] = 6
    assert _entry_of(line, np.uint64(0), np.uint32(5), np.uint32(6)) == entry
