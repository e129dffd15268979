"""Bytes and ids of rows by handle, against plain slices."""

import numpy as np
import pytest

from embedding_table.packed_slab_kernels import move_packed, read_ids, read_packed, write_packed

SLAB = 4096


@pytest.mark.parametrize("row_bytes", [0, 1, 3, 10, 16, 64, 129])
def test_rows_and_ids_lie_where_they_should_and_nowhere_else(row_bytes: int) -> None:
    rng = np.random.default_rng(row_bytes)
    memory = rng.integers(0, 256, 4 * SLAB).astype(np.uint8)
    before = memory.copy()
    words = memory.view(np.uint64)
    start = np.array([0, SLAB, 2 * SLAB], np.uint64)
    end = np.array([SLAB, 2 * SLAB, 4 * SLAB], np.uint64) // np.uint64(8)
    rows = rng.permutation(SLAB // (row_bytes + 8))[:20]
    handles = ((1 << 12) | rows).astype(np.uint32)
    ids = rng.integers(1, 2**63, rows.size).astype(np.uint64)
    data = rng.integers(0, 256, (rows.size, row_bytes)).astype(np.uint8)

    write_packed(memory, words, start, end, handles, ids, data.reshape(-1), row_bytes)

    for row, row_id, line in zip(rows.tolist(), ids.tolist(), data, strict=True):
        at, last = SLAB + row * row_bytes, 2 * SLAB - 8 * row
        np.testing.assert_array_equal(memory[at : at + row_bytes], line)
        assert int.from_bytes(memory[last - 8 : last].tobytes(), "little") == row_id
        before[at : at + row_bytes] = line
        before[last - 8 : last] = memory[last - 8 : last]
    np.testing.assert_array_equal(memory, before)

    target = ((2 << 12) | rng.permutation(2 * SLAB // (row_bytes + 8))[: rows.size]).astype(np.uint32)
    move_packed(memory, words, start, end, handles, target, row_bytes)
    for places in (handles, target):
        found, found_ids = np.zeros(data.size, np.uint8), np.zeros(rows.size, np.uint64)
        read_packed(memory, start, places, found, row_bytes)
        read_ids(words, end, places, found_ids)
        np.testing.assert_array_equal(found, data.reshape(-1))
        np.testing.assert_array_equal(found_ids, ids)
