"""Machine code of AMX for kernels: tiles of bfloat16 are packed, multiplied and summed in float32.

Knows no matrix beyond one block and no network. A tile is 16 rows of 64 bytes: 1 KiB, 512 bfloat16. As the left factor
it is 16 rows by 32 columns; as the right factor it is 32 rows by 16 columns, every two rows interleaved into one, as
`tdpbf16ps` reads it.

In one term a value is rounded to the nearest bfloat16, ties to even. In three it is their sum without a rest, each 8
bits of the 24, in three tiles one behind the other; a product then is the sum of six, as exact as one in float32. What
is subnormal, a value or a term of one, becomes zero; in three terms what is infinite becomes NaN.

Invariant: kernels compiled from these run where `amx_support` says so and nowhere else; between `configure_tiles` and
`release_tiles` nothing else in the thread uses tiles; positions are checked by nobody.
Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18; three terms: Henry, Tang,
Heinecke 2019, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations".
"""

from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from numba.core import types

from embedding_table.machine_words import machine_code

__all__ = [
    "BLOCK",
    "TILE",
    "configure_tiles",
    "multiply_block",
    "pack_pairs",
    "pack_pairs_turned",
    "pack_rows",
    "pack_rows_turned",
    "release_tiles",
]

binding.initialize_native_asmparser()  # numba starts LLVM without; a kernel that calls a cached one needs it as well

TILE = 512  # bfloat16 in a tile
_TILE_BYTES, _LINE_BYTES = 1024, 64
BLOCK = 32  # rows and columns of a block of sums: two tiles by two

_LANES = 16
_I16, _I32, _I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()
_FLOATS, _WORDS, _HALVES = (ir.VectorType(kind, n) for kind, n in ((ir.FloatType(), 16), (_I32, 16), (_I16, 32)))
_MASK = ir.VectorType(ir.IntType(1), _LANES)
_MASKED_LOAD = "llvm.masked.load.v16f32.p0"

_CONFIGURATION = bytes([1, *[0] * 15, *[64, 0] * 8, *[0] * 16, *[16] * 8, *[0] * 8])
"""Palette 1; each of the eight tiles has 64 bytes a row (in 16 bits) and 16 rows."""

_ORDERS = {1: ((0, 0),), 3: ((2, 0), (1, 0), (1, 1), (0, 1), (0, 2), (0, 0))}
"""For each number of terms: of which two (left, right) products are summed, one factor changing at a time.

Of three terms' nine products the three left out are at most 2^-24 of the first, which is added last.
"""
_LEFT, _RIGHT = ("$0", 4), ("$1", 6)  # where a factor is read from, and the first of the two tiles it gets


def _products(terms: int) -> str:
    """Assembly of one step: all products of two tiles by two, their terms read in turn.

    Between two products lines of the next step are fetched, of the right factor only where several terms leave the
    time: from a shared cache a tile load alone would take as long as the product.
    """

    def load(factor: tuple[str, int], half: int, term: int) -> str:
        (pointer, tile), place = factor, (half * terms + term) * _TILE_BYTES
        return f"tileloadd {place}({pointer},$7,1), %tmm{tile + half}"

    def multiply(row: int, column: int) -> str:
        return f"tdpbf16ps %tmm{_RIGHT[1] + column}, %tmm{_LEFT[1] + row}, %tmm{2 * row + column}"

    order = _ORDERS[terms]
    code = [load(factor, half, term) for factor, term in zip((_LEFT, _RIGHT), order[0], strict=True) for half in (0, 1)]
    for now, then in zip(order, [*order[1:], None], strict=True):
        by_row = then is None or then[1] == now[1]
        for half in (0, 1):
            code += [multiply(half, other) if by_row else multiply(other, half) for other in (0, 1)]
            if then is not None:
                code.append(load(_LEFT, half, then[0]) if by_row else load(_RIGHT, half, then[1]))
    size = 2 * terms * _TILE_BYTES
    ahead = range(size, 2 * size, _LINE_BYTES)
    lines = [f"prefetcht0 {place}({factor})" for place in ahead for factor in (("$0",) if terms == 1 else ("$0", "$1"))]
    share = -(-len(lines) // (4 * len(order)))
    text = []
    for instruction in code:
        text.append(instruction)
        if instruction.startswith("tdp"):
            text += lines[:share]
            del lines[:share]
    return "\n".join([*text, f"addq $${size}, $0", f"addq $${size}, $1"])


def _block(terms: int) -> str:
    clear = [f"tilezero %tmm{tile}" for tile in range(4)]
    row_bytes, half = BLOCK * 4, BLOCK // 2
    store = [
        f"tilestored %tmm{tile}, {tile // 2 * half * row_bytes + tile % 2 * half * 4}($6,$8,1)" for tile in range(4)
    ]
    return "\n".join([*clear, "1:", _products(terms), "decq $2", "jnz 1b", *store])


def _assembly(builder: Any, kind: Any, text: str, constraint: str, *arguments: Any) -> Any:
    function = ir.FunctionType(kind, [argument.type for argument in arguments])
    return builder.asm(function, text, constraint, arguments, side_effect=True)


def _element(context: Any, builder: Any, array_type: Any, array: Any, position: Any) -> Any:
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [position])


def _bytes(builder: Any, pointer: Any) -> Any:
    return builder.bitcast(pointer, _BYTES)


@machine_code
def configure_tiles(typing_context: Any) -> Any:
    """Makes the eight tiles of this thread usable."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        size = ir.ArrayType(ir.IntType(8), len(_CONFIGURATION))
        with builder.goto_entry_block():
            place = builder.alloca(size)
        builder.store(ir.Constant(size, bytearray(_CONFIGURATION)), place)
        _assembly(builder, ir.VoidType(), "ldtilecfg ($0)", "r,~{memory}", _bytes(builder, place))
        return context.get_dummy_value()

    return types.void(), generate


@machine_code
def release_tiles(typing_context: Any) -> Any:
    """Empties the tiles, so that they need not be saved when another thread gets the core."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _assembly(builder, ir.VoidType(), "tilerelease", "~{memory}")
        return context.get_dummy_value()

    return types.void(), generate


@machine_code
def multiply_block(
    typing_context: Any,
    left: Any,
    at: Any,
    right: Any,
    start: Any,
    steps: Any,
    block: Any,
    terms: Any,
) -> Any:
    """One block of a product, f32 (32 * 32,); steps at least 1.

    Reads 2 * steps * terms tiles of `left` from `at` on and of `right` from `start` on: for every 32 of the summed
    dimension the tiles of the block's first 16 rows (or columns), then those of the other 16.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a = _bytes(builder, _element(context, builder, signature.args[0], *arguments[:2]))
        b = _bytes(builder, _element(context, builder, signature.args[2], *arguments[2:4]))
        c = _bytes(builder, _element(context, builder, signature.args[5], arguments[5], _I64(0)))

        def emit(terms: int) -> None:
            _assembly(
                builder,
                ir.LiteralStructType([_BYTES, _BYTES, _I64]),
                _block(terms),
                "=&r,=&r,=&r,0,1,2,r,r,r,~{memory},~{cc}",
                *(a, b, arguments[4], c, _I64(_LINE_BYTES), _I64(BLOCK * 4)),
            )

        with builder.if_else(builder.icmp_unsigned("==", arguments[6], _I64(1))) as (one, three):
            with one:
                emit(1)
            with three:
                emit(3)
        return context.get_dummy_value()

    u64 = types.uint64
    return types.void(left, u64, right, u64, u64, block, u64), generate


class _Source:
    """Reads 16 floats of a row at a time, while code is generated; what lies outside the matrix reads as zero."""

    def __init__(self, builder: Any, start: Any, stride: Any, rows: Any, columns: Any, whole: bool) -> None:
        self._builder, self._start, self._stride = builder, start, stride
        self._rows, self._columns, self._whole = rows, columns, whole

    def read(self, row: int, column: int) -> Any:
        builder = self._builder
        offset = builder.add(builder.mul(self._stride, _I64(row)), _I64(column))
        pointer = builder.gep(self._start, [offset])
        if self._whole:
            return builder.load(builder.bitcast(pointer, _FLOATS.as_pointer()), align=4)
        present = builder.select(builder.icmp_unsigned("<", _I64(row), self._rows), self._columns, _I64(0))
        lanes = ir.Constant(_WORDS, [column + lane for lane in range(_LANES)])
        limit = _all_lanes(builder, builder.trunc(present, _I32))
        mask = builder.icmp_unsigned("<", lanes, limit)
        kind = ir.FunctionType(_FLOATS, [_BYTES, _I32, _MASK, _FLOATS])
        load = builder.module.globals.get(_MASKED_LOAD) or ir.Function(builder.module, kind, _MASKED_LOAD)
        return builder.call(load, [_bytes(builder, pointer), _I32(4), mask, ir.Constant(_FLOATS, [0.0] * _LANES)])


def _all_lanes(builder: Any, scalar: Any) -> Any:
    vector = builder.insert_element(ir.Constant(_WORDS, ir.Undefined), scalar, _I32(0))
    return builder.shuffle_vector(vector, vector, ir.Constant(_WORDS, [0] * _LANES))


def _rounded(builder: Any, lower: Any, upper: Any) -> Any:
    return _assembly(builder, _HALVES, "vcvtne2ps2bf16 $2, $1, $0", "=v,v,v", upper, lower)


def _terms(builder: Any, lower: Any, upper: Any, terms: int) -> list[Any]:
    """Two vectors as sums of so many in bfloat16, each as one of 32 halves; three leave nothing out."""
    halves = []
    for number in range(terms):
        last = number == terms - 1
        if last:
            halves.append(_rounded(builder, lower, upper))
        else:
            cut_lower, cut_upper = (_cut(builder, part) for part in (lower, upper))
            halves.append(_rounded(builder, cut_lower, cut_upper))
            lower, upper = builder.fsub(lower, cut_lower), builder.fsub(upper, cut_upper)
    return halves


def _cut(builder: Any, values: Any) -> Any:
    """Floats to the nearest that bfloat16 has, ties away from zero."""
    words = builder.bitcast(values, _WORDS)
    words = builder.add(words, ir.Constant(_WORDS, [0x8000] * _LANES))
    words = builder.and_(words, ir.Constant(_WORDS, [0xFFFF0000] * _LANES))
    return builder.bitcast(words, _FLOATS)


def _tile_of_rows(builder: Any, source: _Source, terms: int) -> list[list[Any]]:
    """16 rows of 32, as words of two."""
    tiles: list[list[Any]] = [[] for _ in range(terms)]
    for row in range(_LANES):
        parts = _terms(builder, source.read(row, 0), source.read(row, _LANES), terms)
        for tile, part in zip(tiles, parts, strict=True):
            tile.append(builder.bitcast(part, _WORDS))
    return tiles


def _tile_of_pairs(builder: Any, source: _Source, terms: int) -> list[list[Any]]:
    """32 rows of 16, as words of two elements of one column."""
    order = ir.Constant(_WORDS.__class__(_I32, 32), [lane // 2 + (lane % 2) * _LANES for lane in range(32)])
    tiles: list[list[Any]] = [[] for _ in range(terms)]
    for row in range(0, 2 * _LANES, 2):
        parts = _terms(builder, source.read(row, 0), source.read(row + 1, 0), terms)
        for tile, part in zip(tiles, parts, strict=True):
            tile.append(builder.bitcast(builder.shuffle_vector(part, part, order), _WORDS))
    return tiles


def _turned(builder: Any, rows: list[Any]) -> list[Any]:
    """The 16 by 16 words transposed: blocks off the diagonal change places, at half the size each time."""
    distance = _LANES // 2
    while distance:
        upper = [lane if lane & distance == 0 else _LANES + lane - distance for lane in range(_LANES)]
        lower = [lane + distance if lane & distance == 0 else _LANES + lane for lane in range(_LANES)]
        for row in range(_LANES):
            if row & distance == 0:
                pair = rows[row], rows[row + distance]
                rows[row] = builder.shuffle_vector(*pair, ir.Constant(_WORDS, upper))
                rows[row + distance] = builder.shuffle_vector(*pair, ir.Constant(_WORDS, lower))
        distance //= 2
    return rows


def _packing(
    read: Callable[[Any, _Source, int], list[list[Any]]], height: int, width: int, turned: bool
) -> Callable[..., Any]:
    """Code generator of the four kinds of packing, from a matrix of at least height by width or what there is of it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start = _element(context, builder, signature.args[0], *arguments[:2])
        stride, rows, columns = arguments[2:5]
        target = _element(context, builder, signature.args[5], *arguments[5:7])

        def emit(terms: int, whole: bool) -> None:
            tiles = read(builder, _Source(builder, start, stride, rows, columns, whole), terms)
            for tile, words in enumerate(tiles):
                for number, row in enumerate(_turned(builder, words) if turned else words):
                    place = builder.gep(target, [_I64(tile * TILE + number * 32)])
                    builder.store(row, builder.bitcast(place, _WORDS.as_pointer()), align=2)

        enough = builder.icmp_unsigned(">=", rows, _I64(height))
        whole = builder.and_(enough, builder.icmp_unsigned(">=", columns, _I64(width)))
        single = builder.icmp_unsigned("==", arguments[7], _I64(1))
        for terms, wanted in ((1, single), (3, builder.not_(single))):
            with builder.if_then(wanted), builder.if_else(whole, likely=True) as (then, otherwise):
                with then:
                    emit(terms, True)
                with otherwise:
                    emit(terms, False)
        return context.get_dummy_value()

    return generate


def _packing_signature(source: Any, target: Any) -> Any:
    u64 = types.uint64
    return types.void(source, u64, u64, u64, u64, target, u64, u64)


@machine_code
def pack_rows(
    typing_context: Any, source: Any, start: Any, stride: Any, rows: Any, columns: Any, target: Any, at: Any, terms: Any
) -> Any:
    """A left factor's tile from 16 rows by 32 columns of a matrix: f32 source[start + row * stride + column].

    Only `rows` and `columns` of it are there (more count as all); the rest of the tile is zero. `terms` is 1 or 3, and
    so many tiles are written.
    """
    return _packing_signature(source, target), _packing(_tile_of_rows, 16, 32, False)


@machine_code
def pack_rows_turned(
    typing_context: Any, source: Any, start: Any, stride: Any, rows: Any, columns: Any, target: Any, at: Any, terms: Any
) -> Any:
    """A right factor's tile from the transpose of 16 rows by 32 columns, as `pack_rows` reads them."""
    return _packing_signature(source, target), _packing(_tile_of_rows, 16, 32, True)


@machine_code
def pack_pairs(
    typing_context: Any, source: Any, start: Any, stride: Any, rows: Any, columns: Any, target: Any, at: Any, terms: Any
) -> Any:
    """A right factor's tile from 32 rows by 16 columns, otherwise as `pack_rows`."""
    return _packing_signature(source, target), _packing(_tile_of_pairs, 32, 16, False)


@machine_code
def pack_pairs_turned(
    typing_context: Any, source: Any, start: Any, stride: Any, rows: Any, columns: Any, target: Any, at: Any, terms: Any
) -> Any:
    """A left factor's tile from the transpose of 32 rows by 16 columns, as `pack_pairs` reads them."""
    return _packing_signature(source, target), _packing(_tile_of_pairs, 32, 16, True)
