"""Births in the band that a slot names, and none at all where an id comes twice."""

from collections.abc import Callable

import numpy as np
import pytest

from embedding_table.errors import BadLookups
from embedding_table.table import ABSENT, EmbeddingTable

_IDS = np.array([5, 6, 7], np.uint64)
_SLOTS = np.array([0, 1, 1], np.int32)


def _bands_of(table: EmbeddingTable) -> dict[int, tuple[int, int]]:
    return {i: (block.slot, block.band) for block in table.all_rows().blocks for i in block.ids.tolist()}


def test_rows_are_born_in_their_slots_band(twins: Callable) -> None:
    columns = [np.arange(width, dtype=np.uint16) for width in (1, 2, 3, 4, 5, 6)]
    table, plain = twins(2, 8, bands=3, columns=columns, birth_bands=[0, 2])
    table.insert(_IDS, _SLOTS, 3)
    assert _bands_of(table) == {5: (0, 0), 6: (1, 2), 7: (1, 2), 1 << 40: (0, 0), 2 << 40: (1, 2)}
    for feature_id, slot in zip(_IDS.tolist(), _SLOTS.tolist(), strict=True):
        plain.insert(feature_id, slot, 3)
    plain.assert_same(table.all_rows(), set(plain.rows))
    table.set_birth_bands(np.array([1, 0], np.int32))
    table.insert(_IDS + np.uint64(10), _SLOTS, 3)
    assert {i: band for i, (_, band) in _bands_of(table).items() if 10 < i < 100} == {15: 1, 16: 0, 17: 0}
    with pytest.raises(BadLookups, match="all below 3"):
        table.set_birth_bands(np.array([1, 3], np.int32))


def test_an_id_named_twice_is_not_born(twins: Callable) -> None:
    table, _ = twins(2, 8)
    with pytest.raises(BadLookups, match="expected each id once"):
        table.insert(np.repeat(_IDS, 2), np.repeat(_SLOTS, 2), 0)
    assert (table.find(_IDS) == ABSENT).all()
    assert table.rows == 2
