"""Rows by the codecs they were given, and what becomes of those that do not fit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding_table.errors import BadPacking, UnfitValues
from embedding_table.row_codecs import CODECS
from embedding_table.tier_packing import pack_in_tiers, wider_codec

IDS = np.arange(100, 200, dtype=np.uint64)


def all_rows(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64)


def test_what_takes_rows_that_do_not_fit() -> None:
    chain = {name: getattr(wider_codec(codec), "name", None) for name, codec in CODECS.items()}
    assert chain["int4_greedy_coded"] == "int4_greedy"
    assert chain["int8_minmax_block"] == "int8_minmax"
    assert chain["int4_greedy"] == chain["int8_minmax"] == "fp16"
    assert chain["fp16"] == "fp32"
    assert chain["fp32"] is None


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_every_row_is_packed_once_and_within_its_codecs_bound(data: st.DataObject) -> None:
    count, width = data.draw(st.integers(0, 30)), data.draw(st.integers(0, 9))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    values = rng.standard_normal((count, width)).astype(np.float32)
    values *= rng.choice(np.array([1, 1, 1, 1e3, 1e6, 1e20], np.float32), (count, 1))
    codecs = data.draw(st.lists(st.sampled_from(list(CODECS.values())), min_size=1, max_size=4))
    owner = rng.integers(0, len(codecs), count)
    learned_from = rng.standard_normal((50, width)).astype(np.float32)
    parts = []
    for number, codec in enumerate(codecs):
        shared = codec.encode(learned_from).shared if codec.form and rng.random() < 0.7 else None
        parts.append((np.flatnonzero(owner == number), codec, shared))

    found = pack_in_tiers(values, IDS[:count], parts)

    again = pack_in_tiers(values, IDS[:count], parts)
    seen = np.concatenate([np.zeros(0, np.int64), *(part.rows for part in found)])
    np.testing.assert_array_equal(np.sort(seen), all_rows(count))
    assert len({(part.packed.codec, part.packed.shared.tobytes()) for part in found}) == len(found)
    for part, same in zip(found, again, strict=True):
        assert part.packed.data.tobytes() == same.packed.data.tobytes()
        codec = CODECS[part.packed.codec]
        rows = values[part.rows]
        lost = np.abs(codec.decode(part.packed).astype(np.float64) - rows).max(axis=1, initial=0)
        assert (lost <= codec.error_bound(rows, part.packed.shared)).all()
        assert part.rows.size > 0


def test_rows_that_do_not_fit_take_the_next_wider_codec_and_no_other() -> None:
    values = np.tile(np.array([0, 1], np.float32), (5, 1))
    values[1] = [0, 1000]  # beyond the block's scale
    values[2] = [0, 65_520]  # its own scale is beyond nothing, its end beyond a binary16
    values[3] = [0, 1e30]
    values[4] = [66_000, 66_001]
    codec = CODECS["int4_minmax_block"]
    shared = codec.encode(np.array([[0, 1], [0, 2]], np.float32)).shared

    parts = pack_in_tiers(values, IDS[:5], [(all_rows(5), codec, shared)])

    found = {part.packed.codec: part.rows.tolist() for part in parts}
    assert found == {"int4_minmax_block": [0], "int4_minmax": [1, 2], "fp32": [3, 4]}


@pytest.mark.parametrize(("rows", "expected"), [(1024, "int4_greedy"), (1025, "int4_greedy_coded")])
def test_coded_scales_are_used_where_they_pay_for_their_codebooks(rows: int, expected: str) -> None:
    values = np.random.default_rng(0).standard_normal((rows, 4)).astype(np.float32)
    ids = np.arange(1, rows + 1, dtype=np.uint64)

    parts = [
        (all_rows(rows)[::2], CODECS["int4_greedy_coded"], None),
        (all_rows(rows)[1::2], CODECS["int4_greedy_coded"], None),
    ]
    (found,) = pack_in_tiers(values, ids, parts)

    assert found.packed.codec == expected
    narrow, wide = (CODECS[name].encode(values).nbytes for name in ("int4_greedy_coded", "int4_greedy"))
    assert found.packed.nbytes == min(narrow, wide)


def test_what_was_learned_and_what_was_given_may_be_the_same() -> None:
    values = np.repeat(np.arange(6, dtype=np.float32).reshape(3, 2), 2, axis=0)
    codec = CODECS["int8_minmax_block"]
    shared = codec.encode(values[::2]).shared

    parts = [(np.array([0, 2, 4]), codec, None), (np.array([1, 3, 5]), codec, shared)]
    (found,) = pack_in_tiers(values, IDS[:6], parts)

    np.testing.assert_array_equal(found.rows, all_rows(6))
    np.testing.assert_array_equal(found.packed.data, codec.encode(values, shared=shared).data)


@pytest.mark.parametrize("name", ["fp32", "fp16", "int4_greedy_coded"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_refused_with_its_id(name: str, bad: float) -> None:
    values = np.ones((9, 3), np.float32)
    values[7, 1] = bad
    with pytest.raises(UnfitValues, match="id 107 ") as caught:
        pack_in_tiers(values, IDS[:9], [(all_rows(9), CODECS[name], None)])
    assert caught.value.row_id == 107


@pytest.mark.parametrize("rows", [[0, 1], [0, 1, 1], [0, 1, 2, 2], [0, 1, 3], [-1, 0, 1]])
def test_a_row_in_no_part_or_in_two_is_refused(rows: list[int]) -> None:
    parts = [(np.array(rows[:1], np.int64), CODECS["fp16"], None), (np.array(rows[1:], np.int64), CODECS["fp32"], None)]
    with pytest.raises(BadPacking, match="expected each row in one part"):
        pack_in_tiers(np.ones((3, 2), np.float32), IDS[:3], parts)
