"""The budget's arithmetic, and a table that stays within its budget while ids keep coming."""

import numpy as np
import pytest
from numpy.typing import NDArray

from embedding_table.table import ABSENT, EmbeddingTable
from feature_admission.admission import AdmissionPolicy
from feature_admission.age import AgeEviction
from feature_admission.always_admit import AlwaysAdmit
from feature_admission.count_min import CountMinAdmission
from feature_admission.errors import PolicySettingError
from feature_admission.eviction import EvictionPolicy
from feature_admission.least_frequent import LeastFrequentEviction
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


ADMISSIONS = {
    "always": AlwaysAdmit,
    "sketch": lambda: CountMinAdmission(2, 100_000, half_life_observations=5_000),
}
EVICTIONS = {
    "age": lambda: AgeEviction(5),
    "least_frequent": LeastFrequentEviction,
    "least_frequent_with_age": lambda: LeastFrequentEviction(max_age_s=20),
}


def see(
    table: EmbeddingTable, policy: AdmissionPolicy, ids: NDArray[np.uint64], slots: NDArray[np.int32], now_s: int
) -> int:
    """One batch of single ids on its way through lookup, admission and update; returns how many were refused."""
    handles = table.find(ids)
    absent = np.flatnonzero(handles == ABSENT)
    policy.observe(ids[absent], now_s=now_s)
    distinct, first = np.unique(ids[absent], return_index=True)
    admitted = policy.admitted(distinct)
    table.insert(distinct[admitted], slots[absent][first][admitted], now_s)
    handles = table.find(ids)
    refused = handles == ABSENT
    handles[refused] = table.missing_handles[slots[refused]]
    bags = len(ids) // table.slots
    gradient = np.full((bags, table.slots, table.dim), 0.01, np.float32)
    pooling = np.zeros(table.slots, np.int8)
    table.update(handles, np.arange(len(ids) + 1), pooling, gradient, 0.1, 1e-8, now_s)
    return int(refused.sum())


@pytest.mark.parametrize("admission", sorted(ADMISSIONS))
@pytest.mark.parametrize("eviction", sorted(EVICTIONS))
@pytest.mark.parametrize("seed", [1, 2])
def test_budget_holds_while_ids_keep_coming(admission: str, eviction: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    slots, budget_bytes = 2, 1_500_000
    missing = np.array([11, 12], np.uint64)
    table = EmbeddingTable(slots, 16, budget_bytes, seed, 0.1, 0.1, missing)
    policy: AdmissionPolicy = ADMISSIONS[admission]()
    evicting: EvictionPolicy = EVICTIONS[eviction]()
    budget = MemoryBudget(budget_bytes, high=0.9, low=0.7)
    hot = np.arange(100, 140, dtype=np.uint64)
    evicted = new_ids = 0
    for now_s in range(60):
        fresh = np.arange(1_000_000 * (now_s + 1), 1_000_000 * (now_s + 1) + 900, dtype=np.uint64)
        ids = rng.permutation(np.concatenate((hot, np.repeat(fresh, 1 + (fresh % 3 == 0)))))
        ids = ids[: len(ids) // slots * slots]
        see(table, policy, ids, np.arange(len(ids), dtype=np.int32) % np.int32(slots), 1_700_000_000 + now_s)
        new_ids += len(fresh)
        use = table.memory_use()
        needed = budget.rows_to_free(MemoryUse(use.rows, use.row_bytes, use.fixed_bytes))
        if needed:
            chosen = evicting.select(table.live_rows(), needed, 1_700_000_000 + now_s)
            assert len(chosen) >= min(needed, table.rows - slots)
            evicted += len(table.erase(chosen))
            table.compact()
            use = table.memory_use()
            assert budget.rows_to_free(MemoryUse(use.rows, use.row_bytes, use.fixed_bytes)) == 0
        assert table.bytes_used <= budget_bytes
        assert not np.isin(table.missing_handles, table.live_rows().handles).any()
        table.take_changes()
    assert new_ids > 3 * table.rows, seed
    if admission == "always":
        assert evicted > 1_000
    assert (table.find(missing) == table.missing_handles).all()
    assert (table.find(hot) != ABSENT).all(), "what is used all the time keeps its row"
