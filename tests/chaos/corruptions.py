"""Increments that must never touch a model: damaged, out of order, of strangers, or made to ask for too much.

Knows the format, no server and no Redis. Invariant: whatever a kind makes, a reader that stands at `sequence` has no
right to apply it.
"""

import json
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

from model_contract.increment import FORMAT_VERSION, MAGIC
from tests.chaos.told_story import Story

__all__ = ["KINDS", "corrupt"]

_PREFIX = struct.Struct("<8sIII")
_HUGE = 1 << 62


def corrupt(kind: str, story: Story, sequence: int, rng: random.Random) -> list[bytes]:
    """One or two entries of a kind, for a reader whose version is `sequence`."""
    return KINDS[kind](story, sequence, rng)


def _bit_flips(story: Story, sequence: int, rng: random.Random) -> list[bytes]:
    data = bytearray(story.increments[sequence + 1])
    for place in rng.sample(range(8 * len(data)), rng.choice([1, 1, 1, 2, 3, 8])):  # distinct: no flip undoes another
        data[place // 8] ^= 1 << place % 8
    return [bytes(data)]


def _truncation(story: Story, sequence: int, rng: random.Random) -> list[bytes]:
    data = story.increments[sequence + 1]
    if rng.random() < 0.2:
        return [data + rng.randbytes(rng.randint(1, 64))]
    return [data[: rng.randrange(len(data))]]


def _reorder(story: Story, sequence: int, rng: random.Random) -> list[bytes]:
    first = sequence + rng.randint(2, 10)
    return [story.increments[first + 1], story.increments[first]]


def _replay(story: Story, sequence: int, rng: random.Random) -> list[bytes]:
    return [story.increments[rng.randint(2, sequence)] if sequence > 1 else story.bases[1]]


def _gap(story: Story, sequence: int, rng: random.Random) -> list[bytes]:
    return [story.increments[sequence + rng.randint(2, 40)]]


def _foreign(story: Story, sequence: int, rng: random.Random) -> list[bytes]:
    lineage = rng.choice(["stranger", "told-", "Told", f"{rng.getrandbits(128):032x}"])
    return [_rewritten(story.increments[sequence + 1], {"lineage": lineage})]


def _stale_epoch(story: Story, sequence: int, rng: random.Random) -> list[bytes]:
    return [_rewritten(story.increments[sequence + 1], {"epoch": 0})]


def _hostile(story: Story, sequence: int, rng: random.Random) -> list[bytes]:
    data = story.increments[sequence + 1]
    return [rng.choice(_HOSTILE)(data, rng)]


def _parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and buffer."""
    size = _PREFIX.unpack_from(data)[2]
    start = _PREFIX.size + size
    return json.loads(data[_PREFIX.size : start]), data[start + -start % 64 :]


def _signed(text: bytes, buffer: bytes, version: int = FORMAT_VERSION) -> bytes:
    """A whole increment with a true checksum, however false its content is."""
    rest = text + bytes(-(_PREFIX.size + len(text)) % 64) + buffer
    checksum = zlib.crc32(rest, zlib.crc32(struct.pack("<8sII", MAGIC, version, len(text))))
    return _PREFIX.pack(MAGIC, version, len(text), checksum) + rest


def _rewritten(data: bytes, changes: dict[str, Any]) -> bytes:
    header, buffer = _parts(data)
    return _signed(json.dumps(header | changes).encode(), buffer)


def _with_block(data: bytes, changes: dict[str, Any]) -> bytes:
    header, buffer = _parts(data)
    header["blocks"][0] |= changes
    return _signed(json.dumps(header).encode(), buffer)


def _huge_everything(data: bytes, rng: random.Random) -> bytes:
    """As many rows as 62 bits count, and every range moved along: the header is one with itself, the bytes are not."""
    header, buffer = _parts(data)
    rows = rng.choice([1 << 20, 1 << 27, 1 << 40])
    block = {"slot": 0, "band": 0, "columns": list(range(8)), "precision": "fp32", "rows": rows, "row_bytes": 32}
    ranges = {"ids": [0, 8 * rows], "shared": [8 * rows, 8 * rows], "data": [8 * rows, 40 * rows]}
    header["blocks"] = [block | {"shared_values": 0} | ranges]
    header["tombstones"] = {"rows": 0, "ids": [8 * rows, 8 * rows]}
    header["dense"] = []
    header["buffer_bytes"] = 40 * rows
    return _signed(json.dumps(header).encode(), buffer)


def _long_header(data: bytes, rng: random.Random) -> bytes:
    magic, version, _, checksum = _PREFIX.unpack_from(data)
    return _PREFIX.pack(magic, version, rng.choice([0xFFFFFFFF, 1 << 30, 0]), checksum) + data[_PREFIX.size :]


def _not_finite(data: bytes, rng: random.Random) -> bytes:
    """Every number of the dense tensors is NaN, under a true checksum."""
    header, buffer = _parts(data)
    first, last = header["dense"][0]["values"]
    poisoned = buffer[:first] + struct.pack("<f", float("nan")) * ((last - first) // 4) + buffer[last:]
    return _signed(json.dumps(header).encode(), poisoned)


_HOSTILE: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _huge_everything,
    _long_header,
    _not_finite,
    lambda data, rng: _with_block(data, {"rows": _HUGE}),
    lambda data, rng: _with_block(data, {"rows": -1}),
    lambda data, rng: _with_block(data, {"data": [0, _HUGE]}),
    lambda data, rng: _with_block(data, {"ids": [_HUGE, _HUGE + 8]}),
    lambda data, rng: _with_block(data, {"columns": list(range(65_535))}),
    lambda data, rng: _with_block(data, {"precision": "fp0"}),
    lambda data, rng: _with_block(data, {"row_bytes": 65_535}),
    lambda data, rng: _with_block(data, {"shared_values": 65_535}),
    lambda data, rng: _with_block(data, {"slot": 60_000}),
    lambda data, rng: _rewritten(data, {"buffer_bytes": _HUGE}),
    lambda data, rng: _rewritten(data, {"buffer_bytes": 1 << 70}),
    lambda data, rng: _rewritten(data, {"sequence": _HUGE}),
    lambda data, rng: _rewritten(data, {"tombstones": {"rows": _HUGE, "ids": [0, 8]}}),
    lambda data, rng: _rewritten(
        data, {"dense": [{"name": "top.0.weight", "shape": [1 << 31, 1 << 31], "dtype": "float32", "values": [0, 4]}]}
    ),
    lambda data, rng: _rewritten(data, {"kind": "base"}),
    lambda data, rng: _rewritten(data, {"schema_fingerprint": "0" * 16}),
    lambda data, rng: _rewritten(data, {"surprise": 1}),
    lambda data, rng: _rewritten(data, {"dense": []}),
    lambda data, rng: _signed(b"[" * 100_000, b""),
    lambda data, rng: _signed(b'{"kind":"increment"}', b""),
    lambda data, rng: _signed(data[_PREFIX.size :][:64], data, version=FORMAT_VERSION - 1),
    lambda data, rng: b"",
)

KINDS: dict[str, Callable[[Story, int, random.Random], list[bytes]]] = {
    "bit_flips": _bit_flips,
    "truncation": _truncation,
    "reorder": _reorder,
    "replay": _replay,
    "gap": _gap,
    "foreign_lineage": _foreign,
    "stale_epoch": _stale_epoch,
    "hostile_header": _hostile,
}
