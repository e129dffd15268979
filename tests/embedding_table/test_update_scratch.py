"""Sizes: enough for the lookups, bounded for the gradients."""

import numpy as np
import pytest

from embedding_table.update_scratch import new_scratch


@pytest.mark.parametrize(("lookups", "dim", "floats"), [(0, 0, 0), (0, 16, 16), (10, 16, 160), (1 << 20, 64, 1 << 21)])
def test_sizes(lookups: int, dim: int, floats: int) -> None:
    scratch = new_scratch(lookups, dim)
    assert scratch.gradient.size == floats
    summed = ("products", "squares", "block_rows", "signed")
    fixed = {"gradient", "digit_count", *summed}
    assert {array.size for name, array in scratch._asdict().items() if name not in fixed} == {lookups}
    assert all(getattr(scratch, name).size == 0 for name in summed)
    assert scratch.gradient.dtype == np.float32


def test_room_for_saliency_is_empty() -> None:
    scratch = new_scratch(5, 8, blocks=3)
    assert scratch.block_rows.tolist() == [0, 0, 0]
    for sums in (scratch.products, scratch.squares, scratch.signed):
        assert sums.tolist() == [0.0] * 24
