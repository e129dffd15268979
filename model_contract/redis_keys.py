"""The names of the keys that hold one model in Redis.

Knows no client: publisher and subscriber issue the commands. Invariant: all keys of a model share one hash tag, so a
script may touch several of them in a cluster, and no two models share a key.

    dimflow:{model}:head                                  hash, fields HEAD_FIELDS
    dimflow:{model}:increments:<lineage>                  stream, entry id "<sequence>-0", field "data"
    dimflow:{model}:base:<lineage>:<base_sequence>:<i>    string, the i-th chunk of the base's bytes
    dimflow:{model}:leader                                string with a time to live, the trainer that leads; see there
"""

import re
from dataclasses import dataclass

from model_contract.errors import SchemaError

__all__ = ["BASE_CHUNK_BYTES", "HEAD_FIELDS", "INCREMENT_FIELD", "RedisKeys", "entry_id", "sequence_of"]

BASE_CHUNK_BYTES = 8 * 1024 * 1024
"""Bytes of one base chunk: small enough that one command never holds up the server for long."""

INCREMENT_FIELD = "data"
"""Name of the stream entry's field that holds the increment's bytes."""

HEAD_FIELDS = ("lineage", "epoch", "sequence", "base_sequence", "base_chunks", "base_bytes", "fingerprint")
"""Fields of the head hash; numbers as decimal text."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def _checked(kind: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        message = f"{kind} {name!r}: expected 1 to 64 of A-Z a-z 0-9 _ . - and not . or - first"
        raise SchemaError(message)
    return name


def entry_id(sequence: int) -> str:
    """The stream entry id of the increment with this sequence (1 or more: Redis refuses 0-0)."""
    return f"{sequence}-0"


def sequence_of(entry: str | bytes) -> int:
    """The sequence that `entry_id` made this stream entry id from."""
    text = entry.decode("ascii") if isinstance(entry, bytes) else entry
    return int(text.partition("-")[0])


@dataclass(frozen=True, slots=True)
class RedisKeys:
    """Key names of one model.

    Attributes:
        model: the schema's name.

    Raises:
        SchemaError: a model name or lineage with characters that could leave its key.
    """

    model: str

    def __post_init__(self) -> None:
        _checked("model", self.model)

    @property
    def prefix(self) -> str:
        """What every key of the model starts with; the braces are the cluster's hash tag."""
        return f"dimflow:{{{self.model}}}:"

    @property
    def head(self) -> str:
        """Hash that says which lineage, sequence and base are current."""
        return f"{self.prefix}head"

    @property
    def leader(self) -> str:
        """String `<home>:<process>` of the trainer that trains and publishes now; gone when it is not renewed."""
        return f"{self.prefix}leader"

    def increments(self, lineage: str) -> str:
        """Capped stream of the lineage's increments."""
        return f"{self.prefix}increments:{_checked('lineage', lineage)}"

    def base_chunk(self, lineage: str, base_sequence: int, index: int) -> str:
        """String that holds chunk `index` of the base made at `base_sequence`."""
        return f"{self.prefix}base:{_checked('lineage', lineage)}:{base_sequence}:{index}"
