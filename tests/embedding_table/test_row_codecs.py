"""Laws over all codecs: within the bound, the same bytes again, and a refusal that names the id."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from embedding_table.errors import BadPacking, UnfitValues
from embedding_table.row_codecs import CODECS, PackedRows, RowCodec, codec_named

LARGEST = float(np.finfo(np.float32).max)
TINY = float(np.finfo(np.float32).smallest_subnormal)
every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)

values_anywhere = st.one_of(
    st.floats(-1, 1, width=32),
    st.floats(-LARGEST, LARGEST, width=32),
    st.sampled_from([0.0, -0.0, TINY, -TINY, 1e-40, LARGEST, -LARGEST, 65504, 65519, 65520, 1000, 1000.001]),
)


@st.composite
def blocks(draw: st.DrawFn) -> np.ndarray:
    """Rows of one width, some constant, some far off zero, some of any size at all."""
    rows, width = draw(st.integers(1, 12)), draw(st.integers(1, 40))
    values = draw(arrays.arrays(np.float32, (rows, width), elements=values_anywhere))
    kind = draw(st.integers(0, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind:
        values = rng.standard_normal((rows, width)) * np.exp(rng.uniform(-12, 8, (rows, 1)))
        values += rng.standard_normal((rows, 1)) * 10.0 ** rng.uniform(-6, 4, (rows, 1)) * (kind == 2)
        values[:: 2 + kind] = values[:: 2 + kind, :1]
    return values.astype(np.float32)


def _check_laws(codec: RowCodec, rows: np.ndarray, packed: PackedRows) -> None:
    shared = packed.shared if packed.shared.size else None
    assert packed.data.shape == (rows.shape[0], codec.bytes_per_row(rows.shape[1]))
    assert packed.data.flags.c_contiguous
    assert packed.data.dtype == np.uint8
    assert packed.shared.nbytes == codec.shared_bytes

    decoded = codec.decode(packed)
    assert decoded.dtype == np.float32
    assert np.isfinite(decoded).all()
    off = np.abs(decoded.astype(np.float64) - rows)
    assert (off <= codec.error_bound(rows, shared)[:, None]).all()

    again = codec.encode(decoded, shared=shared)
    np.testing.assert_array_equal(again.data, packed.data)


@every_codec
@settings(max_examples=60, deadline=None)
@given(rows=blocks())
@example(rows=np.zeros((3, 5), np.float32))
@example(rows=np.full((2, 1), -0.0, np.float32))
@example(rows=np.array([[LARGEST, -LARGEST]], np.float32))
@example(rows=np.array([[LARGEST, 0], [LARGEST, LARGEST]], np.float32))
@example(rows=np.array([[TINY, 0, -TINY]], np.float32))
def test_laws(codec: RowCodec, rows: np.ndarray) -> None:
    fits = codec.fits(rows)
    if not fits.all():
        ids = np.arange(100, 100 + rows.shape[0], dtype=np.uint64)
        with pytest.raises(UnfitValues) as refused:
            codec.encode(rows, ids=ids)
        assert refused.value.row_id == 100 + int(np.argmin(fits))
        rows = rows[fits]
        if not codec.fits(rows).all():  # what is left may share other scales
            return
    packed = codec.encode(rows)
    _check_laws(codec, rows, packed)
    np.testing.assert_array_equal(codec.encode(rows.copy(), threads=1).data, packed.data)


@every_codec
@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 8, 16, 32])
def test_laws_on_tables_of_many_rows(codec: RowCodec, width: int) -> None:
    """Enough rows for codebooks that hold not every scale, and for all threads."""
    rng = np.random.default_rng(width)
    rows = rng.standard_normal((9000, width)) * np.exp(rng.uniform(-4, 1, (9000, 1))) + rng.standard_normal((9000, 1))
    rows = rows.astype(np.float32)
    rows[:30], rows[30:60] = 0, rows[30:60, :1]
    packed = codec.encode(rows)
    _check_laws(codec, rows, packed)
    np.testing.assert_array_equal(codec.encode(rows, threads=1).data, packed.data)
    np.testing.assert_array_equal(codec.decode(packed, threads=1), codec.decode(packed))


@every_codec
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_id(codec: RowCodec, bad: float) -> None:
    for width in (1, 5, 17):
        rows = np.ones((4, width), np.float32)
        rows[2, width // 2] = bad
        with pytest.raises(UnfitValues, match="id 12 .*NaN or infinity") as refused:
            codec.encode(rows, ids=np.array([10, 11, 12, 13], np.uint64))
        assert refused.value.row_id == 12
        assert codec.fits(rows).tolist() == [True, True, False, True]


@every_codec
def test_a_later_block_is_packed_with_the_same_shared_values(codec: RowCodec) -> None:
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((2000, 6)).astype(np.float32)
    packed = codec.encode(rows)
    later = codec.encode(rows[500:600], shared=packed.shared)
    np.testing.assert_array_equal(later.data, packed.data[500:600])
    if codec.shared_bytes:
        far = rows[:3] * np.float32([[1], [50], [1]])
        assert codec.fits(far, packed.shared).tolist() == [True, False, True]
        with pytest.raises(UnfitValues, match="row of id 1 .*beyond"):
            codec.encode(far, shared=packed.shared)


def test_greedy_never_loses_more_than_minmax() -> None:
    rows = np.random.default_rng(4).standard_normal((500, 16)).astype(np.float32)
    for bits in (8, 4, 2):
        for suffix in ("", "_coded"):
            losses = []
            minmax = CODECS[f"int{bits}_minmax{suffix}"].encode(rows)
            for search in ("minmax", "greedy"):
                codec = CODECS[f"int{bits}_{search}{suffix}"]
                packed = codec.encode(rows, shared=minmax.shared)
                losses.append(((codec.decode(packed).astype(np.float64) - rows) ** 2).sum(axis=1))
            assert (losses[1] <= losses[0] * (1 + 1e-6)).all()
            assert bits == 8 or losses[1].sum() < 0.9 * losses[0].sum()  # eight bits leave nothing to gain


def test_bytes_a_row() -> None:
    sizes = {name: [codec.bytes_per_row(width) for width in (0, 1, 4, 7, 16)] for name, codec in CODECS.items()}
    assert sizes["fp32"] == [0, 4, 16, 28, 64]
    assert sizes["fp16"] == [0, 2, 8, 14, 32]
    assert sizes["int8_minmax"] == sizes["int8_greedy"] == [0, 5, 8, 11, 20]
    assert sizes["int4_minmax"] == sizes["int4_greedy"] == [0, 5, 6, 8, 12]
    assert sizes["int4_greedy_coded"] == [0, 3, 4, 6, 10]
    assert sizes["int8_minmax_block"] == [0, 1, 4, 7, 16]
    assert sizes["int4_minmax_block"] == [0, 1, 2, 4, 8]
    assert sizes["int2_greedy"] == [0, 5, 5, 6, 8]
    assert sizes["int2_minmax_block"] == [0, 1, 1, 2, 4]


@every_codec
def test_no_rows_and_no_columns(codec: RowCodec) -> None:
    for shape in ((0, 5), (3, 0), (0, 0)):
        rows = np.zeros(shape, np.float32)
        packed = codec.encode(rows)
        _check_laws(codec, rows, packed)
        assert codec.decode(packed).shape == shape


@every_codec
def test_rows_in_foreign_memory(codec: RowCodec) -> None:
    rows = np.random.default_rng(1).standard_normal((6, 20)).astype(np.float32)[:, ::2]
    view = rows[::2]
    view.flags.writeable = False
    packed = codec.encode(view)
    np.testing.assert_array_equal(packed.data, codec.encode(view.copy()).data)
    frozen = PackedRows(packed.codec, 10, np.frombuffer(packed.data.tobytes(), np.uint8).reshape(3, -1), packed.shared)
    np.testing.assert_array_equal(codec.decode(frozen), codec.decode(packed))


def test_what_no_codec_made_is_refused() -> None:
    codec = CODECS["int4_minmax_coded"]
    packed = codec.encode(np.ones((3, 4), np.float32))
    bad_scale, bad_order = packed.shared.copy(), packed.shared.copy()
    bad_scale[0], bad_order[0] = 0, 99
    refused = [
        PackedRows("int4_minmax", 4, packed.data, packed.shared),
        PackedRows(codec.name, 5, packed.data, packed.shared),
        PackedRows(codec.name, 4, packed.data, packed.shared[:2]),
        PackedRows(codec.name, 4, packed.data, bad_scale),
        PackedRows(codec.name, 4, packed.data, bad_order),
        PackedRows(codec.name, 4, packed.data, packed.shared * np.float32(np.nan)),
    ]
    for rows in refused:
        with pytest.raises(BadPacking):
            codec.decode(rows)
    with pytest.raises(BadPacking):
        codec.encode(np.ones((3, 4)))  # type: ignore[arg-type]
    with pytest.raises(BadPacking, match="int3"):
        codec_named("int3")
    assert codec_named("fp16").bits == 16
    assert packed.nbytes == 3 * 4 + 2048


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_fitting_rows_are_packed_beside_those_that_do_not_fit(codec: RowCodec) -> None:
    rows = np.random.default_rng(0).standard_normal((60, 5)).astype(np.float32)
    shared = codec.encode(rows).shared
    mixed = rows.copy()
    mixed[::7] = np.nan
    mixed[3] = [0, 0, 0, 0, 1e30]

    packed, fits = codec.encode_fitting(mixed, shared=shared if codec.form else None)

    np.testing.assert_array_equal(fits, codec.fits(mixed, shared if codec.form else None))
    assert not fits[::7].any()
    assert fits[3] == (codec.bits == 32)
    np.testing.assert_array_equal(packed.data[fits], codec.encode(mixed[fits], shared=packed.shared).data)
