"""The budget's arithmetic."""

import numpy as np
import pytest

from feature_admission.errors import PolicySettingError
from feature_admission.memory_budget import MemoryBudget, MemoryUse


def test_nothing_goes_up_to_the_high_mark() -> None:
    budget = MemoryBudget(10_000, high=0.9, low=0.5)
    assert budget.rows_to_free(MemoryUse(rows=80, row_bytes=8_000, fixed_bytes=1_000)) == 0
    assert budget.rows_to_free(MemoryUse(rows=80, row_bytes=8_000, fixed_bytes=1_001)) == 41
    assert budget.rows_to_free(MemoryUse(rows=0, row_bytes=0, fixed_bytes=99_999)) == 0


def test_incoming_rows_count_at_the_mean_size() -> None:
    budget = MemoryBudget(10_000, high=0.9, low=0.5)
    use = MemoryUse(rows=80, row_bytes=8_000)
    assert budget.rows_to_free(use, incoming_rows=10) == 0
    assert budget.rows_to_free(use, incoming_rows=11) == 41


def test_no_more_rows_go_than_there_are() -> None:
    assert MemoryBudget(1_000).rows_to_free(MemoryUse(rows=3, row_bytes=300, fixed_bytes=5_000)) == 3


@pytest.mark.parametrize("seed", range(20))
def test_freeing_that_many_reaches_the_low_mark_and_one_less_does_not(seed: int) -> None:
    rng = np.random.default_rng(seed)
    budget = MemoryBudget(int(rng.integers(10_000, 1_000_000)), high=0.8, low=0.6)
    use = MemoryUse(int(rng.integers(1, 5_000)), int(rng.integers(1, 1_000_000)), int(rng.integers(0, 5_000)))
    freed = budget.rows_to_free(use)
    if use.total_bytes <= 0.8 * budget.budget_bytes:
        assert freed == 0
    else:
        left = use.total_bytes - freed * use.bytes_per_row
        assert left <= 0.6 * budget.budget_bytes + 1e-6
        assert left + use.bytes_per_row > 0.6 * budget.budget_bytes - 1e-6


def test_room_is_what_the_budget_leaves() -> None:
    budget = MemoryBudget(10_000)
    assert budget.room_rows(MemoryUse(80, 8_000, 1_000), 300) == 3
    assert budget.room_rows(MemoryUse(80, 9_000, 2_000), 300) == 0
    assert MemoryUse(0, 0, 7).bytes_per_row == 0


@pytest.mark.parametrize("values", [(0, 0.9, 0.8), (1, 0.8, 0.9), (1, 1.1, 0.9), (1, 0.9, 0.0)])
def test_marks_out_of_order_are_refused(values: tuple[int, float, float]) -> None:
    with pytest.raises(PolicySettingError, match="expected"):
        MemoryBudget(*values)
