"""How rows are stored: codecs by name, each with its bytes a row, its error bound, and both directions.

A name says all that decides the bytes: `fp32`, `fp16`, or `int<bits>_<range>[_<scales>]`, where the range is `minmax`
or `greedy` and the scales are the row's own as binary16 (no suffix), `coded` into two codebooks of the block, or
`block`: one scale and bias for the whole block, which is what makes rows of four and fewer columns pay.

    codec                 bytes a row           shared by a block
    fp32                  4 d                   -
    fp16                  2 d                   -
    int8_minmax, _greedy  d + 4                 -
    int4_minmax, _greedy  (d + 1) // 2 + 4      -
    int2_minmax, _greedy  (d + 3) // 4 + 4      -
    ..._coded             2 less                2048 bytes, so it pays from 1025 rows on
    ..._minmax_block      4 less                8 bytes

An encoded block is one C-contiguous u8 (n, row bytes), little-endian, and f32 (k,) of shared values: both go into an
increment and into a server's memory as they are. A later block may be encoded with the shared values of an earlier one,
so that both can lie in one store; rows that those do not cover are refused, and `fits` tells beforehand.

Knows rows of one width; not slots, bands, importance or tables. Invariants, by codec: no value is off by more than
`error_bound`; encoding what was decoded, with the same shared values, gives the same bytes; the same rows give the same
bytes; NaN and infinity are refused.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embedding_table.errors import BadPacking, UnfitValues
from embedding_table.half_rows import pack_half, unpack_half
from embedding_table.integer_rows import code_bytes, pack, range_bytes, unpack
from embedding_table.kernel_arrays import kernel_array
from embedding_table.packed_words import BLOCK, CODED, CODES, HALF
from embedding_table.range_search import greedy_ranges
from embedding_table.row_ranges import FINEST, Ends, row_ends
from embedding_table.scale_codebook import learn_block_range, learn_codebooks, steps_of
from embedding_table.thread_parts import available_threads

__all__ = ["CODECS", "PackedRows", "RowCodec", "codec_named"]

_NOTHING = np.zeros(0, np.float32)
_ROUNDING = 1 + 2.0**-9  # a scale is rounded to 11 bits, decoding rounds twice
_HALF_ROUNDING = 2.0**-26  # half of what a subnormal binary16 scale may be off by
_THREADED_VALUES = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class PackedRows:
    """Rows of one block as bytes.

    Attributes:
        codec: name of the codec.
        width: d, columns of a row.
        data: u8 (n, row bytes), C order.
        shared: f32 (k,), what the rows share: none, 512 entries of codebooks, or one scale and bias.
    """

    codec: str
    width: int
    data: NDArray[np.uint8]
    shared: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """Bytes of the rows and of what they share."""
        return self.data.nbytes + self.shared.nbytes


@dataclass(frozen=True, slots=True)
class RowCodec:
    """One way to store rows.

    Attributes:
        name: as in an increment.
        bits: of a value: 32, 16, 8 or 4.
        greedy: whether ranges are searched instead of [min, max].
        form: HALF, CODED or BLOCK scales; HALF for the floating ones, which have no scale.
    """

    name: str
    bits: int
    greedy: bool = False
    form: int = HALF

    def bytes_per_row(self, width: int) -> int:
        """Bytes of a row of `width` columns; what a block shares is apart, in `shared_bytes`."""
        if width == 0 or not self._integer:
            return width * self.bits // 8
        return code_bytes(self.bits, width) + range_bytes(self.form)

    @property
    def shared_bytes(self) -> int:
        """Bytes that the rows of one block share."""
        return 4 * self._shared_values

    def error_bound(
        self, values: NDArray[np.float32], shared: NDArray[np.float32] | None = None
    ) -> NDArray[np.float64]:
        """By how much any decoded value of each row may be off.

        fp16: half a spacing of halves at the largest value. Integers with binary16 scales: half a step, where a step
        is the largest of (max - min) / levels, the spacing of halves at min, and 2**(bits - 23); a few per mille are
        added for rounding. Coded scales: a whole step of the codebook, or the distance of min to its entry. Block: one
        step. A greedy range may cut single values off, but never gives a larger Euclidean norm of the row's error than
        min/max would, so its bound is sqrt(d) times as large.

        Args:
            values: f32 (n, d), rows that fit.
            shared: of the block, for coded and block scales.

        Returns:
            f64 (n,).
        """
        if values.shape[1] == 0 or self.bits == 32:
            return np.zeros(values.shape[0])
        low, high = values.min(axis=1), values.max(axis=1)
        largest = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
        if self.bits == 16:
            return np.asarray(largest * 2.0**-11 + 2.0**-25)
        bound = self._largest_error(low, high, self.checked_shared(shared)) * _ROUNDING + largest * 2.0**-22
        return np.asarray(bound * np.sqrt(values.shape[1]) if self.greedy else bound)

    def fits(self, values: NDArray[np.float32], shared: NDArray[np.float32] | None = None) -> NDArray[np.bool_]:
        """Which rows of f32 (n, d) can be encoded, bool (n,), with these shared values if they are given."""
        return self._encoded(values, shared, available_threads())[1]

    def encode(
        self,
        values: NDArray[np.float32],
        *,
        ids: NDArray[np.uint64] | None = None,
        shared: NDArray[np.float32] | None = None,
        threads: int | None = None,
    ) -> PackedRows:
        """Packs rows.

        Args:
            values: f32 (n, d).
            ids: u64 (n,), to name a row that does not fit; without, its number is named.
            shared: what other rows were packed with; learned from these rows if None.
            threads: how many share the work, all cores if None.

        Raises:
            UnfitValues: a row holds NaN or infinity, or values out of the codec's range: for fp16 and binary16 scales
                from 65520 on, for given shared values whatever lies a step or more outside of what they cover.
            BadPacking: shared values of another codec.
        """
        packed, fits = self._encoded(values, shared, threads or available_threads())
        if not fits.all():
            first = int(np.argmin(fits))
            reason = "beyond its range" if np.isfinite(values[first]).all() else "it holds NaN or infinity"
            raise UnfitValues(first if ids is None else int(ids[first]), self.name, reason)
        return packed

    def encode_fitting(
        self, values: NDArray[np.float32], *, shared: NDArray[np.float32] | None = None, threads: int | None = None
    ) -> tuple[PackedRows, NDArray[np.bool_]]:
        """Packs rows f32 (n, d) as `encode` does, and tells which of them fit, bool (n,); bytes of others mean nothing.

        Raises:
            BadPacking: shared values of another codec.
        """
        return self._encoded(values, shared, threads or available_threads())

    def decode(self, packed: PackedRows, *, threads: int | None = None) -> NDArray[np.float32]:
        """Rows f32 (n, d).

        Raises:
            BadPacking: the rows are of another codec, or their bytes do not fit it.
        """
        width, data = packed.width, packed.data
        if packed.codec != self.name or data.ndim != 2 or data.shape[1] != self.bytes_per_row(width):
            message = f"rows of {data.shape[-1]} bytes packed by {packed.codec}: expected {self.name}, width {width}"
            raise BadPacking(message)
        shared = self.checked_shared(packed.shared)
        if width == 0:
            return np.zeros((data.shape[0], 0), np.float32)
        data = kernel_array(data)
        if self.bits == 32:
            return data.view("<f4").astype(np.float32)
        if self.bits == 16:
            return unpack_half(data, width)
        parts = self._parts(data.shape[0] * width, threads or available_threads())
        return unpack(data, width, self.bits, self.form, shared, parts)

    @property
    def _integer(self) -> bool:
        return self.bits < 16

    @property
    def _shared_values(self) -> int:
        return {HALF: 0, CODED: 2 * CODES, BLOCK: 2}[self.form]

    def _parts(self, values: int, threads: int) -> int:
        return threads if values >= _THREADED_VALUES else 1

    def checked_shared(self, shared: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Shared values f32 (k,) as kernels take them, none for None.

        Raises:
            BadPacking: of another codec, not finite, or with scales that are not above 0 and ascending.
        """
        shared = _NOTHING if shared is None else shared
        if shared.shape != (self._shared_values,) or shared.dtype != np.float32:
            message = f"codec {self.name} shares f32 ({self._shared_values},): got {shared.dtype} {shared.shape}"
            raise BadPacking(message)
        scales = shared[: CODES if self.form == CODED else 1]
        if not np.isfinite(shared).all() or np.any(scales <= 0) or np.any(np.diff(scales) < 0):
            message = f"codec {self.name}: expected finite shared values and ascending scales above 0"
            raise BadPacking(message)
        return kernel_array(shared)

    def _encoded(
        self, values: NDArray[np.float32], shared: NDArray[np.float32] | None, threads: int
    ) -> tuple[PackedRows, NDArray[np.bool_]]:
        if values.ndim != 2 or values.dtype != np.float32:
            message = f"rows to pack are {values.dtype} {values.shape}: expected float32 (n, d)"
            raise BadPacking(message)
        values = kernel_array(values)
        rows, width = values.shape
        known = _NOTHING if shared is None and self._shared_values else self.checked_shared(shared)
        if width == 0:
            if self._shared_values and not known.size:
                known = self._learned((_NOTHING, _NOTHING), None)
            return PackedRows(self.name, 0, np.zeros((rows, 0), np.uint8), known), np.ones(rows, np.bool_)
        if self.bits == 32:
            data = values.astype("<f4").view(np.uint8).reshape(rows, 4 * width)
            return PackedRows(self.name, width, data, _NOTHING), np.asarray(np.isfinite(values).all(axis=1))
        if self.bits == 16:
            data, fits = pack_half(values)
            return PackedRows(self.name, width, data, _NOTHING), fits
        return self._packed_integers(values, known, self._parts(values.size, threads))

    def _packed_integers(
        self, values: NDArray[np.float32], shared: NDArray[np.float32], threads: int
    ) -> tuple[PackedRows, NDArray[np.bool_]]:
        ends, finite = row_ends(values, threads)
        ranges = greedy_ranges(values, self.bits, threads) if self.greedy else None
        if self._shared_values and not shared.size:
            shared = self._learned(ends, ranges, finite)
        data, fits = pack(values, ends, ranges, self.bits, self.form, shared, threads)
        return PackedRows(self.name, values.shape[1], data, shared), fits & finite

    def _learned(self, ends: Ends, ranges: Ends | None, finite: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        ranges = ranges or ends
        if finite is not None and not finite.all():
            ends, ranges = (ends[0][finite], ends[1][finite]), (ranges[0][finite], ranges[1][finite])
        return learn_block_range(ends, self.bits) if self.form == BLOCK else learn_codebooks(ranges, ends, self.bits)

    def _largest_error(
        self, low: NDArray[np.float32], high: NDArray[np.float32], shared: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        if self.form == BLOCK:
            return np.full(low.size, shared[0], np.float64)
        if self.form == CODED:
            scales, biases = shared[:CODES], shared[CODES:]
            above = np.minimum(np.searchsorted(biases, low), CODES - 1)
            below = np.maximum(above - 1, 0)
            with np.errstate(over="ignore"):
                bias = biases[np.where(low - biases[below] <= biases[above] - low, below, above)]
            scale = scales[np.minimum(np.searchsorted(scales, steps_of(low, high, bias, self.bits)), CODES - 1)]
            step = scale.astype(np.float64) * (1 + 2.0 ** (self.bits - 13))  # a greatest code is lifted by no more
            return np.maximum(step, np.abs(low.astype(np.float64) - bias))
        bias = low.astype(np.float16).astype(np.float32)
        step = np.maximum(steps_of(low, high, bias, self.bits), FINEST[self.bits]).astype(np.float64)
        return np.asarray(step / 2 + _HALF_ROUNDING)


def _all_codecs() -> dict[str, RowCodec]:
    codecs = [RowCodec("fp32", 32), RowCodec("fp16", 16)]
    for bits in (8, 4, 2):
        for greedy, search in ((False, "minmax"), (True, "greedy")):
            codecs.append(RowCodec(f"int{bits}_{search}", bits, greedy))
            codecs.append(RowCodec(f"int{bits}_{search}_coded", bits, greedy, CODED))
        codecs.append(RowCodec(f"int{bits}_minmax_block", bits, False, BLOCK))
    return {codec.name: codec for codec in codecs}


CODECS = _all_codecs()


def codec_named(name: str) -> RowCodec:
    """The codec of that name.

    Raises:
        BadPacking: there is none.
    """
    codec = CODECS.get(name)
    if codec is None:
        message = f"no codec is called {name!r}: expected one of {', '.join(CODECS)}"
        raise BadPacking(message)
    return codec
