"""Live rows to evict from, without a table."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from embedding_table.table_rows import LiveRows

NOW_S = 1_700_000_000


@pytest.fixture
def now_s() -> int:
    return NOW_S


@pytest.fixture
def rows_of() -> Callable[[int, int], LiveRows]:
    """Random rows by (seed, n): many equal counts and times, so that ties matter; some uses lie in the future."""

    def make(seed: int, n: int) -> LiveRows:
        rng = np.random.default_rng(seed)
        return LiveRows(
            handles=rng.permutation(max(1, 4 * n))[:n].astype(np.uint32) << np.uint32(3),
            slots=rng.integers(0, 9, n).astype(np.int32),
            bands=np.zeros(n, np.int32),
            counts=np.round(rng.exponential(3, n), 0).astype(np.float32),
            last_seen_s=(NOW_S + 20 - rng.integers(0, 200, n)).astype(np.uint32),
        )

    return make


@pytest.fixture
def rows_with() -> Callable[[Sequence[int], Sequence[float]], LiveRows]:
    """Rows with handles 100, 101, … by (ages in seconds at `NOW_S`, counts)."""

    def make(ages: Sequence[int], counts: Sequence[float]) -> LiveRows:
        n = len(ages)
        return LiveRows(
            np.arange(100, 100 + n, dtype=np.uint32),
            np.zeros(n, np.int32),
            np.zeros(n, np.int32),
            np.array(counts, np.float32),
            np.array([NOW_S - age for age in ages], np.uint32),
        )

    return make
