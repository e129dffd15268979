"""Pages of bytes: copies, order, borders."""

import numpy as np
import pytest

from feature_admission.errors import StateMismatchError
from feature_admission.state_pages import PAGE_BYTES, StatePages, take_pages, whole_array, write_pages


@pytest.mark.parametrize("seed", range(5))
def test_pages_of_a_random_walk_rebuild_the_array(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.random(64 * 40).astype(np.float32)
    replica = values.copy()
    dirty = np.zeros(40, np.uint8)
    for _ in range(10):
        places = rng.integers(0, len(values), rng.integers(0, 30))
        values[places] = rng.random(len(places))
        dirty[places // 64] = 1
        pages = take_pages("cells", values, dirty)
        assert np.array_equal(pages.indices, np.unique(places // 64))
        assert not dirty.any()
        write_pages(pages, replica)
        assert replica.tobytes() == values.tobytes()


def test_taken_pages_are_copies() -> None:
    values = np.zeros(64, np.float32)
    pages = take_pages("cells", values, np.ones(1, np.uint8))
    small = whole_array("clock", values[:2])
    values[:] = 7
    assert not pages.pages.any()
    assert not small.pages.any()


def test_whole_array_of_any_dtype() -> None:
    clock = np.array([5, -1, 3], np.int64)
    other = np.zeros(3, np.int64)
    write_pages(whole_array("clock", clock), other)
    assert np.array_equal(clock, other)


@pytest.mark.parametrize(("index", "width"), [(2, PAGE_BYTES), (0, 100), (0, 0)])
def test_pages_that_do_not_fit_are_refused(index: int, width: int) -> None:
    pages = StatePages("cells", np.array([index], np.uint32), np.zeros((1, width), np.uint8))
    values = np.ones(128, np.float32)
    with pytest.raises(StateMismatchError, match="'cells'"):
        write_pages(pages, values)
    assert values.all()


def test_no_pages_are_no_work() -> None:
    write_pages(StatePages("cells", np.empty(0, np.uint32), np.empty((0, PAGE_BYTES), np.uint8)), np.ones(3))
