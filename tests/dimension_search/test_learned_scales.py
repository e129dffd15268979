"""What rows of a tier share, learned from rows there are."""

import numpy as np

from dimension_search.learned_scales import LearnedScales
from dimension_search.row_importance import LEVELS, least_count

CODECS = ("fp16", "int8_minmax", "int4_greedy_coded", "int4_minmax_block")


def learned(rows: int = 2000, width: int = 4) -> tuple[LearnedScales, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(1)
    counts = generator.choice([1.0, 100.0], rows).astype(np.float32)
    values = generator.uniform(-1, 1, (rows, width)).astype(np.float32) * counts[:, None] / 100
    shared = LearnedScales(CODECS)
    shared.learn(1, counts, values)
    return shared, counts, values


def test_codecs_with_scales_in_the_row_share_nothing() -> None:
    shared, _, _ = learned()

    assert shared.of(1, "fp16", 0) is None
    assert shared.of(1, "int8_minmax", 0) is None
    assert shared.of(0, "int4_minmax_block", 0) is None  # not learned


def test_each_level_has_a_scale_of_its_own_and_all_have_one_codebook() -> None:
    shared, _, _ = learned()
    low, high = shared.of(1, "int4_minmax_block", 0), shared.of(1, "int4_minmax_block", 7)

    assert low is not None
    assert high is not None
    assert high[0] > 50 * low[0]
    np.testing.assert_array_equal(shared.of(1, "int4_greedy_coded", 0), shared.of(1, "int4_greedy_coded", 11))


def test_a_few_large_rows_do_not_spoil_the_scale() -> None:
    shared, counts, values = learned()
    values[np.flatnonzero(counts == 1)[:3]] *= 1000
    spoiled = LearnedScales(CODECS)
    spoiled.learn(1, counts, values)
    before, after = shared.of(1, "int4_minmax_block", 0), spoiled.of(1, "int4_minmax_block", 0)

    assert before is not None
    assert after is not None
    assert after[0] < 1.2 * before[0]


def test_one_codec_for_all_rows() -> None:
    shared, counts, values = learned()
    shared.learn(0, counts[:0], values[:0])
    tiers = shared.one_codec("int4_minmax_block", ("slot",), 2)
    parts = tiers.split_rows(0, 1, counts)

    assert {codec.name for _, codec, _ in parts} == {"int4_minmax_block"}
    assert len(parts) == 2
    assert np.abs(tiers.decoded(0, 1, counts, values) - values).max() < 0.08
    assert len(shared.one_codec("fp16", ("slot",), 2).split_rows(0, 1, counts)) == 1


def test_levels_without_a_row_go_by_the_whole_block_and_empty_blocks_by_nothing() -> None:
    shared, _, _ = learned()
    empty = LearnedScales(CODECS)
    empty.learn(0, np.empty(0, np.float32), np.empty((0, 4), np.float32))
    whole = shared.of(1, "int4_minmax_block", 3)

    assert whole is not None
    assert whole[0] > 0.1
    assert all(empty.of(0, "int4_minmax_block", level) is not None for level in range(LEVELS))
    assert least_count(0) == 0


def test_rows_that_are_not_finite_teach_nothing() -> None:
    shared, counts, values = learned()
    values = np.concatenate([values, np.full((1, 4), np.nan, np.float32)])
    again = LearnedScales(CODECS)
    again.learn(1, np.append(counts, np.float32(1)), values)

    np.testing.assert_array_equal(again.of(1, "int4_minmax_block", 0), shared.of(1, "int4_minmax_block", 0))
