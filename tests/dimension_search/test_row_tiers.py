"""A plan at work: which row goes through which codec."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dimension_search.errors import SearchError
from dimension_search.precision_plan import TierPlan, same_codec_plan
from dimension_search.row_tiers import PlanTiers
from embedding_table.row_codecs import codec_named
from embedding_table.table_rows import RowsOfBlock
from tests.dimension_search.test_precision_plan import made_precision_plan

SLOTS = ("user", "article")


def rows_of(counts: list[float], width: int = 8, seed: int = 0, scale: float = 1.0) -> RowsOfBlock:
    size = len(counts)
    values = np.random.default_rng(seed).uniform(-scale, scale, (size, width)).astype(np.float32)
    return RowsOfBlock(
        slot=0,
        band=0,
        columns=np.arange(width, dtype=np.uint16),
        ids=np.arange(1, size + 1, dtype=np.uint64),
        values=values,
        accumulators=np.ones(size, np.float32),
        counts=np.array(counts, np.float32),
        last_seen_s=np.zeros(size, np.uint32),
    )


def test_rows_go_to_the_tier_of_their_count() -> None:
    parts = PlanTiers(made_precision_plan(), SLOTS).split(rows_of([0, 3, 2.999, 1e9]))

    assert [(rows.tolist(), codec.name) for rows, codec, _ in parts] == [
        ([0, 2], "int4_minmax_block"),
        ([1, 3], "int8_minmax"),
    ]
    np.testing.assert_array_equal(parts[0][2], np.array([0.25, -1], np.float32))
    assert parts[1][2] is None


def test_blocks_that_the_plan_does_not_know_stay_exact() -> None:
    tiers = PlanTiers(made_precision_plan(), SLOTS)

    assert [(rows.tolist(), codec.name) for rows, codec, _ in tiers.split_rows(0, 1, np.ones(2, np.float32))] == [
        ([0, 1], "fp32")
    ]
    assert list(tiers.split_rows(0, 1, np.empty(0, np.float32))) == []


@settings(deadline=None)
@given(st.lists(st.floats(0, 100, width=32), max_size=50))
def test_every_row_is_in_one_part(counts: list[float]) -> None:
    parts = PlanTiers(made_precision_plan(), SLOTS).split(rows_of(counts))
    rows = np.concatenate([np.empty(0, np.int64), *(rows for rows, _, _ in parts)])

    assert sorted(rows.tolist()) == list(range(len(counts)))


def test_decoded_rows_are_those_a_server_reads() -> None:
    block = rows_of([0, 1, 5, 6], scale=0.9)
    tiers = PlanTiers(made_precision_plan(), SLOTS)
    read = tiers.decoded(0, 0, block.counts, block.values)
    shared, fine = codec_named("int4_minmax_block"), codec_named("int8_minmax")
    low = shared.decode(shared.encode(block.values[:2], shared=np.array([0.25, -1], np.float32)))

    np.testing.assert_array_equal(read[:2], low)
    np.testing.assert_array_equal(read[2:], fine.decode(fine.encode(block.values[2:])))


def test_rows_that_have_outgrown_their_tier_are_not_cut_off() -> None:
    block = rows_of([0, 1, 2], scale=50.0)
    tiers = PlanTiers(made_precision_plan(), SLOTS)

    assert {part.packed.codec for part in tiers.packed(0, 0, block.counts, block.values)} == {"int4_minmax"}
    assert np.abs(tiers.decoded(0, 0, block.counts, block.values) - block.values).max() < 100 / 15


def test_few_coded_rows_lose_what_many_would() -> None:
    block = rows_of([1.0] * 6)
    codec = codec_named("int4_greedy_coded")
    shared = codec.encode(rows_of([1.0] * 3000, seed=1).values).shared
    tier = TierPlan(slot="user", band=0, codec=codec.name, least_count=0.0, shared=shared.astype("<f4").tobytes())
    tiers = PlanTiers(made_precision_plan(tiers=[tier]), SLOTS)
    expected = codec.decode(codec.encode(block.values, shared=shared))

    np.testing.assert_array_equal(tiers.decoded(0, 0, block.counts, block.values), expected)
    assert [part.packed.codec for part in tiers.packed(0, 0, block.counts, block.values)] == ["int4_greedy"]


def test_what_is_not_finite_stays_for_others_to_refuse() -> None:
    block = rows_of([0, 5])
    block.values[1, 3] = np.nan
    read = PlanTiers(made_precision_plan(), SLOTS).decoded(0, 0, block.counts, block.values)

    np.testing.assert_array_equal(read[1], block.values[1])
    assert np.isfinite(read[0]).all()


def test_which_rows_two_plans_pack_alike() -> None:
    plan = made_precision_plan()
    other = msgspec.structs.replace(plan.tiers[0], shared=np.array([0.5, -1], "<f4").tobytes())
    later = msgspec.structs.replace(plan.tiers[1], least_count=6.0)
    mine, theirs = PlanTiers(plan, SLOTS), PlanTiers(made_precision_plan(tiers=[plan.tiers[0], later]), SLOTS)
    counts = np.array([0, 3, 5, 6], np.float32)

    assert mine.same_tier(mine, 0, 0, counts).tolist() == [True] * 4
    assert mine.same_tier(theirs, 0, 0, counts).tolist() == [True, False, False, True]
    changed = PlanTiers(made_precision_plan(tiers=[other, plan.tiers[1]]), SLOTS)
    assert mine.same_tier(changed, 0, 0, counts).tolist() == [False, True, True, True]
    assert mine.key(0, 0) == PlanTiers(plan, SLOTS).key(0, 0)
    assert len({one.key(0, 0) for one in (mine, theirs, changed)}) == 3
    assert mine.key(0, 1) == b""
    exact = PlanTiers(same_codec_plan("fp32", SLOTS, 1, created_ms=0), SLOTS)
    assert mine.same_tier(exact, 0, 0, counts).tolist() == [False] * 4
    assert mine.same_tier(exact, 1, 0, counts).tolist() == [True] * 4


@pytest.mark.parametrize("thresholds", [[1.0], [0.0, 0.0], [0.0, 3.0, 2.0]])
def test_tiers_that_leave_rows_out_are_refused(thresholds: list[float]) -> None:
    tiers = [TierPlan(slot="user", band=0, codec="fp16", least_count=least) for least in thresholds]
    with pytest.raises(SearchError, match="tiers of user, band 0"):
        PlanTiers(made_precision_plan(tiers=tiers), SLOTS)
