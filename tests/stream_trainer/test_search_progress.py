"""A search under way as arrays: what comes back is what was given."""

import numpy as np

from dimension_search.evidence import BlockEvidence, WindowSums
from dimension_search.plan import Verdict
from stream_trainer.search_progress import (
    Judged,
    SearchProgress,
    evidence_arrays,
    evidence_of,
    progress_arrays,
    progress_of,
)
from tests.dimension_search.plans import made_plan
from tests.stream_trainer.states import assert_equal_arrays


def test_no_search_leaves_no_trace() -> None:
    assert progress_arrays(SearchProgress()) == {}
    assert progress_of({}) is None
    assert evidence_arrays(None, "x_") == {}
    assert evidence_of({}, "x_") is None


def test_progress_comes_back_bit_by_bit() -> None:
    progress = SearchProgress(
        mode="plan-only",
        asked="apply",
        trigger="command",
        window=777,
        plan=made_plan(1),
        judged=Judged(3, 0.1 + 0.2, 1 / 3, 1e-300),
        accepted=made_plan(2, verdict=Verdict(decision="applied", reason="x")),
    )
    assert progress_of(progress_arrays(progress)) == progress


def test_evidence_and_sums_come_back_bit_by_bit() -> None:
    generator = np.random.default_rng(0)
    sums = WindowSums(2, 2, 3)
    values, slopes = generator.standard_normal((2, 20, 3)).astype(np.float32)
    sums.add(10, generator.integers(0, 4, 20).astype(np.int32), values, slopes)
    again = WindowSums(2, 2, 3)
    again.restore(sums.state())
    for one in (sums, again):
        one.add(5, np.zeros(20, np.int32), slopes, values)
    active, rows, counts = np.ones((2, 2, 3), bool), np.ones((2, 2), np.int64), np.ones((2, 2))
    left, right = (one.evidence(active, rows, counts) for one in (sums, again))
    back = evidence_of(evidence_arrays(left, "e_"), "e_")
    assert sums.samples == again.samples == 15
    assert isinstance(back, BlockEvidence)
    for name in ("active", "rows", "counts", "lookups", "first", "squared", "magnitude", "spectrum"):
        assert_equal_arrays(getattr(left, name), getattr(right, name))
        assert_equal_arrays(getattr(left, name), getattr(back, name))
