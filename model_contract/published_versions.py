"""What stands beside the head in Redis: the bases that can be served, the pin, and why the trainer holds back.

Knows no client. Invariant: a version name, `<lineage>-<sequence>`, means one state of the model for good; a pin names a
base that is stored whole, with all that a server needs to load it, so that reading the head is enough to follow it.

In the head hash, beside `redis_keys.HEAD_FIELDS`, each written by a script in one step with what it depends on:

    pin            version that all servers must serve; "" after an unpin; absent where nobody ever pinned
    pin_details    JSON of a `Pin`, "" after an unpin
    hold           JSON of a `Hold` while the trainer publishes nothing, "" or absent otherwise

In a hash of its own, field = version name, value = JSON of a `StoredBase`: the bases that are stored whole.
"""

from typing import TypeVar

import msgspec

from model_contract.errors import BadHeader

__all__ = ["HOLD_FIELD", "PIN_DETAILS_FIELD", "PIN_FIELD", "Hold", "Pin", "StoredBase", "parse_note", "version_name"]

PIN_FIELD = "pin"
PIN_DETAILS_FIELD = "pin_details"
HOLD_FIELD = "hold"

T = TypeVar("T", bound=msgspec.Struct)


def version_name(lineage: str, sequence: int) -> str:
    """What a state is called wherever people or machines name it."""
    return f"{lineage}-{sequence}"


class StoredBase(msgspec.Struct, frozen=True, kw_only=True):
    """A base that is whole in Redis.

    Attributes:
        lineage, sequence: which state it is.
        epoch: of the trainer that stored it.
        chunks: number of its chunks.
        size_bytes: of all chunks together.
        fingerprint: of the model schema.
        created_ms: when the cut was taken; 0 where the writer did not say.
        samples_trained: samples that it has learned from.
        metrics: progressive metrics at the cut.
    """

    lineage: str
    sequence: int
    epoch: int
    chunks: int
    size_bytes: int
    fingerprint: str
    created_ms: int = 0
    samples_trained: int = 0
    metrics: dict[str, float] = {}

    @property
    def version(self) -> str:
        """Its name."""
        return version_name(self.lineage, self.sequence)


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """The version that all servers must serve.

    Attributes:
        base: where it is stored.
        by: who pinned it, as they called themselves.
        since_ms: when.
    """

    base: StoredBase
    by: str
    since_ms: int


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Why the trainer publishes nothing for now.

    Attributes:
        reason: short code, `not_finite` or `log_loss`.
        detail: one line for a person.
        since_ms: when the first cut was held back.
        sequence: of that cut.
    """

    reason: str
    detail: str
    since_ms: int
    sequence: int


def parse_note(kind: type[T], data: bytes | str | None) -> T | None:
    """Reads a `Pin`, `Hold` or `StoredBase`; None for an absent or empty field.

    Raises:
        BadHeader: it is not the JSON of one.
    """
    if not data:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"{kind.__name__.lower()} {data[:80]!r}: {error}"
        raise BadHeader(message) from error
