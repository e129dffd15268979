"""Values that cross the border count their rows and cannot be changed by name."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from embedding_table.table import EmbeddingTable


def test_changes_count_their_rows_and_are_copies(twins: Callable) -> None:
    table: EmbeddingTable
    table, _ = twins(2, 4)
    table.insert(np.array([5, 6, 7], np.uint64), np.array([0, 1, 1], np.int32), 0)
    changes = table.all_rows()
    assert changes.rows == 5
    before = changes.blocks[0].values.copy()
    handles = table.missing_handles
    table.update(handles, np.arange(3), np.zeros(2, np.int8), np.ones((1, 2, 4), np.float32), 0.1, 1e-6, 1)
    np.testing.assert_array_equal(changes.blocks[0].values, before)
    with pytest.raises(FrozenInstanceError):
        changes.erased_ids = np.empty(0, np.uint64)  # type: ignore[misc]
