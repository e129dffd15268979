"""Rows told to be finite by their bytes, against rows that were decoded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding_table.errors import BadPacking
from embedding_table.packed_checks import finite_rows
from embedding_table.packed_words import CODED, CODES
from embedding_table.row_codecs import CODECS, PackedRows

NAMES = list(CODECS)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(NAMES), st.integers(0, 9), st.integers(0, 2**32 - 1))
def test_any_bytes_pass_only_where_they_decode_to_finite_values(name: str, width: int, seed: int) -> None:
    codec, rng = CODECS[name], np.random.default_rng(seed)
    row_bytes = codec.bytes_per_row(width)
    data = rng.integers(0, 256, (50, row_bytes)).astype(np.uint8)
    if width:
        data[::3, -1] = rng.choice(np.array([0x7C, 0xFC, 0x7F, 0xFF], np.uint8))
    if row_bytes > 1:
        data[::5, -2:] = [0, 0x7C]
    entries = codec.shared_bytes // 4
    shared = np.sort(rng.choice(np.array([1e-3, 1, 1e36, 3e38]), entries)).astype(np.float32)

    passed = finite_rows(codec, width, data, shared)

    with np.errstate(all="ignore"):
        decoded = codec.decode(PackedRows(name, width, data, shared))
    assert passed.shape == (50,)
    assert np.isfinite(decoded[passed]).all()
    if codec.bits > 8 and width:
        np.testing.assert_array_equal(passed, np.isfinite(decoded).all(axis=1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [0, 1, 7, 16])
def test_what_a_codec_wrote_passes(name: str, width: int) -> None:
    values = np.random.default_rng(width).standard_normal((100, width)).astype(np.float32)
    values[0] = 60_000
    packed = CODECS[name].encode(values)
    packed.data.flags.writeable = False
    assert finite_rows(CODECS[name], width, packed.data, packed.shared).all()
    assert finite_rows(CODECS[name], width, packed.data[:0], packed.shared).size == 0


def test_a_pair_of_codes_that_overflows_is_found_by_the_entries_that_rows_name() -> None:
    codec = CODECS["int4_greedy_coded"]
    assert codec.form == CODED
    shared = np.concatenate([np.linspace(1, 3e38, CODES), np.zeros(CODES)]).astype(np.float32)
    data = np.zeros((2, codec.bytes_per_row(4)), np.uint8)
    data[1, 2] = 255  # number of the scale
    assert finite_rows(codec, 4, data, shared).tolist() == [True, False]


def test_bytes_and_shared_values_of_another_codec_are_refused() -> None:
    nothing = np.zeros(0, np.float32)
    for codec, data, shared in (
        (CODECS["fp16"], np.zeros((2, 5), np.uint8), nothing),
        (CODECS["fp16"], np.zeros((2, 6), np.int8), nothing),
        (CODECS["fp16"], np.zeros(6, np.uint8), nothing),
        (CODECS["fp16"], np.zeros((2, 6), np.uint8), np.ones(2, np.float32)),
        (CODECS["int8_minmax_block"], np.zeros((2, 3), np.uint8), nothing),
        (CODECS["int8_minmax_block"], np.zeros((2, 3), np.uint8), np.array([0, 1], np.float32)),
    ):
        with pytest.raises(BadPacking):
            finite_rows(codec, 3, data, shared)
