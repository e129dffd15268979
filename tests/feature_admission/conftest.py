"""Live rows to evict from, without a table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

NOW_S = 1_700_000_000


@dataclass(frozen=True, slots=True)
class Rows:
    """The shape of `embedding_table.table.LiveRows`."""

    handles: NDArray[np.uint32]
    slots: NDArray[np.int32]
    counts: NDArray[np.float32]
    last_seen_s: NDArray[np.uint32]


@pytest.fixture
def now_s() -> int:
    return NOW_S


@pytest.fixture
def rows_of() -> Callable[[int, int], Rows]:
    """Random rows by (seed, n): many equal counts and times, so that ties matter; some uses lie in the future."""

    def make(seed: int, n: int) -> Rows:
        rng = np.random.default_rng(seed)
        return Rows(
            handles=rng.permutation(max(1, 4 * n))[:n].astype(np.uint32) << np.uint32(3),
            slots=rng.integers(0, 9, n).astype(np.int32),
            counts=np.round(rng.exponential(3, n), 0).astype(np.float32),
            last_seen_s=(NOW_S + 20 - rng.integers(0, 200, n)).astype(np.uint32),
        )

    return make


@pytest.fixture
def rows_with() -> Callable[[Sequence[int], Sequence[float]], Rows]:
    """Rows with handles 100, 101, … by (ages in seconds at `NOW_S`, counts)."""

    def make(ages: Sequence[int], counts: Sequence[float]) -> Rows:
        n = len(ages)
        return Rows(
            np.arange(100, 100 + n, dtype=np.uint32),
            np.zeros(n, np.int32),
            np.array(counts, np.float32),
            np.array([NOW_S - age for age in ages], np.uint32),
        )

    return make
