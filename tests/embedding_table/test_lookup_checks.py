"""What passes, and what is said about what does not."""

import numpy as np
import pytest

from embedding_table.errors import BadLookups
from embedding_table.lookup_checks import check_bags, check_bands, check_ids


def test_ids_and_slots() -> None:
    one = np.array([5], np.uint64)
    check_ids(one, np.zeros(1, np.int32), 1)
    check_ids(one[:0], np.zeros(0, np.int32), 1)
    with pytest.raises(BadLookups, match=r"ids have shape \(1,\)"):
        check_ids(one, np.zeros(2, np.int32), 1)
    for ids, slots in ((one * np.uint64(0), [0]), (one, [1]), (one, [-1])):
        with pytest.raises(BadLookups, match="slots below 1"):
            check_ids(ids, np.array(slots, np.int32), 1)


def test_bands() -> None:
    check_bands(np.array([0, 1], np.int32), (2,), 2)
    for bands in ([0], [0, 2], [-1, 0]):
        with pytest.raises(BadLookups, match=r"expected \(2,\), all below 2"):
            check_bands(np.array(bands, np.int32), (2,), 2)


@pytest.mark.parametrize(
    ("handles", "offsets", "pooling", "shape"), [(2, 3, 1, (1, 2, 4)), (2, 2, 2, (1, 2, 4)), (1, 3, 2, (1, 2, 4))]
)
def test_bags(handles: int, offsets: int, pooling: int, shape: tuple[int, ...]) -> None:
    good = np.zeros(2, np.uint32), np.arange(3), np.zeros(2, np.int8), np.empty((1, 2, 4), np.float32)
    assert check_bags(*good, 2, 4) == 2
    with pytest.raises(BadLookups, match="bags of B samples"):
        check_bags(
            np.zeros(handles, np.uint32),
            np.arange(offsets),
            np.zeros(pooling, np.int8),
            np.empty(shape, np.float32),
            2,
            4,
        )
    with pytest.raises(BadLookups, match="C order"):
        check_bags(*good[:3], np.empty((1, 2, 8), np.float32)[:, :, ::2], 2, 4)
