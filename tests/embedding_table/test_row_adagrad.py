"""One step on listed rows, number by number as it is defined."""

import numpy as np
import pytest

from embedding_table.row_adagrad import train_rows
from embedding_table.row_arena import RowArena
from embedding_table.row_layout import (
    ACCUMULATOR,
    COUNT,
    DIRTY_BIT,
    LAST_SEEN,
    TRAINED_STATE_WORDS,
    state_offset,
    value_offset,
)
from embedding_table.update_scratch import new_scratch


@pytest.mark.parametrize("reference_width", [0.0, 2.0, 3.0, 1e9])
@pytest.mark.parametrize("columns", [[], [3], [0, 2, 5], list(range(8))])
def test_a_step_by_its_definition(columns: list[int], reference_width: float) -> None:
    rng = np.random.default_rng(len(columns))
    arena = RowArena(8, 1 << 18, state_words=TRAINED_STATE_WORDS, track_changes=True)
    arena.define_block(np.array(columns, np.uint16))
    handles = arena.allocate(0, 30)
    values = rng.standard_normal((30, len(columns))).astype(np.float32)
    arena.write(handles, np.arange(1, 31, dtype=np.uint64), values)
    views = arena.views()
    states = np.array([state_offset(handle, TRAINED_STATE_WORDS) for handle in handles], np.int64)
    views.words[states[:10] + int(COUNT)] = DIRTY_BIT  # marked, and so in a list already
    gradient = rng.standard_normal((20, 8)).astype(np.float32)
    scratch = new_scratch(30, 8)
    scratch.row[:] = handles
    scratch.lookups[:] = 3
    scratch.accumulator[:] = 0.5
    scratch.gradient[: 20 * 8] = gradient.reshape(-1)
    dirty = np.zeros(30, np.uint32)
    rate, tiny, left = np.float32(0.1), np.float32(1e-3), np.float32(0.75)
    rates = rate, tiny, left, np.float32(reference_width)
    length = train_rows(views, np.uint64(8), *rates, 77, np.uint64(5), np.uint64(25), scratch, dirty, 2)
    assert length == 2 + 15
    np.testing.assert_array_equal(dirty[2:length], handles[10:25])
    for k in range(5, 25):
        g = gradient[k - 5][columns].astype(np.float64)
        m = 0.75 * 0.5 + (float((g * g).mean()) if columns else 0.0)
        start = int(value_offset(handles[k], len(columns)))
        slowed = min(1.0, np.sqrt(reference_width / len(columns))) if reference_width and columns else 1.0
        expected = values[k] - 0.1 * slowed * g / (np.sqrt(m) + 1e-3)
        np.testing.assert_allclose(views.values[start : start + len(columns)], expected, rtol=1e-5, atol=1e-6)
        assert views.values[states[k] + int(ACCUMULATOR)] == pytest.approx(m, rel=1e-6)
        assert views.words[states[k] + int(LAST_SEEN)] == 77
        assert views.values[states[k] + int(COUNT)] == -3
    untouched = np.concatenate([handles[:5], handles[25:]])
    np.testing.assert_array_equal(arena.read(untouched, len(columns))[1], np.delete(values, np.s_[5:25], axis=0))
