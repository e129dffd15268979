"""Sizes: enough for the lookups, bounded for the gradients."""

import numpy as np
import pytest

from embedding_table.update_scratch import new_scratch


@pytest.mark.parametrize(("lookups", "dim", "floats"), [(0, 0, 0), (0, 16, 16), (10, 16, 160), (1 << 20, 64, 1 << 21)])
def test_sizes(lookups: int, dim: int, floats: int) -> None:
    scratch = new_scratch(lookups, dim)
    fixed = {"gradient", "digit_count"}
    assert scratch.gradient.size == floats
    assert {array.size for name, array in scratch._asdict().items() if name not in fixed} == {lookups}
    assert scratch.gradient.dtype == np.float32
