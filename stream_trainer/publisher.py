"""The trainer's side of Redis: claim a model, append increments, replace its base. The only module here with a client.

Knows no table and no file: it is handed bytes. Invariant: the head moves only from (lineage, epoch, sequence) to the
next sequence of the same lineage and epoch, or to a base, and only by a script that checks it on the server; publishing
the same sequence twice equals publishing it once. Redis may be emptied at any time: the caller fills it again.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import msgspec
import redis

from model_contract.published_versions import Hold, StoredBase, version_name
from model_contract.redis_keys import BASE_CHUNK_BYTES, INCREMENT_FIELD, RedisKeys
from stream_trainer.errors import Fenced, RedisUnavailable

__all__ = ["Claim", "Head", "Publisher"]

Claim: TypeAlias = Literal["ok", "empty", "foreign", "ahead"]

# Before every write: KEYS 1 leader; ARGV 1 this trainer. While another one leads, this one may not touch the model.
_UNLESS_LED = """
local leader = redis.call('GET', KEYS[1])
if leader and leader ~= ARGV[1] then return 'fenced' end
table.remove(KEYS, 1)
table.remove(ARGV, 1)
"""

# KEYS leader; ARGV this trainer, its home, milliseconds. An earlier process of the same home is gone: who asks has its
# lock. Answers who leads now.
_LEAD = """
local leader = redis.call('GET', KEYS[1])
if leader and leader ~= ARGV[1] and string.sub(leader, 1, #ARGV[2]) ~= ARGV[2] then return leader end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return ARGV[1]
"""

_RESIGN = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 'ok'
"""

# KEYS head, stream; ARGV lineage, epoch, sequence, bytes, cap, field.
_APPEND = """
local head = redis.call('HMGET', KEYS[1], 'lineage', 'epoch', 'sequence')
if not head[1] then return 'empty' end
if head[1] ~= ARGV[1] or head[2] ~= ARGV[2] then return 'fenced' end
local sequence = tonumber(head[3])
if sequence >= tonumber(ARGV[3]) then return 'duplicate' end
if sequence + 1 ~= tonumber(ARGV[3]) then return 'gap' end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], ARGV[3] .. '-0', ARGV[6], ARGV[4])
redis.call('HSET', KEYS[1], 'sequence', ARGV[3])
return 'ok'
"""

# KEYS head; ARGV lineage, epoch, sequence, claimant. A later epoch takes the head of its own lineage; an earlier one is
# turned away. One that has lost what was already published must not number its increments the same way again, nor one
# whose epoch another process has taken: that one went on from the same state. Unless that was an earlier process of the
# same home, which died before its first base was on the disk: under this epoch nothing can have been published then.
_CLAIM = """
local head = redis.call('HMGET', KEYS[1], 'lineage', 'epoch', 'sequence', 'claimant')
if not head[1] then return 'empty' end
if head[1] ~= ARGV[1] then return 'foreign' end
if tonumber(head[2]) > tonumber(ARGV[2]) then return 'stale' end
local home = string.match(ARGV[4], '^.*:')
local own = head[4] == ARGV[4] or (head[4] and home and string.sub(head[4], 1, #home) == home)
if tonumber(head[2]) == tonumber(ARGV[2]) and head[4] and not own then return 'ahead' end
if tonumber(head[3]) > tonumber(ARGV[3]) then return 'ahead' end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'claimant', ARGV[4])
return 'ok'
"""

# KEYS head; ARGV lineage, epoch, '1' to take over a head of another lineage.
_MAY_WRITE = """
local function may_write(take_over)
  local head = redis.call('HMGET', KEYS[1], 'lineage', 'epoch')
  if not head[1] then return true end
  if head[1] ~= ARGV[1] then return take_over == '1' end
  return tonumber(head[2]) <= tonumber(ARGV[2])
end
if not may_write(ARGV[3]) then return 'fenced' end
"""

# As above; KEYS 2 chunk; ARGV 4 bytes. Checked with each chunk: a frozen trainer must not write into a later one's.
_CHUNK = (
    _MAY_WRITE
    + """
redis.call('SET', KEYS[2], ARGV[4])
return 'ok'
"""
)

# As above; KEYS 2 stream, 3 versions; ARGV 4 sequence, chunks, bytes, fingerprint, 8 oldest sequence the stream must
# keep, 9 claimant, 10 version name, 11 its description.
_REBASE = (
    _MAY_WRITE
    + """
local head = redis.call('HMGET', KEYS[1], 'lineage', 'epoch', 'sequence')
local sequence = tonumber(ARGV[4])
if head[1] == ARGV[1] and tonumber(head[3]) > sequence then sequence = tonumber(head[3]) end
redis.call('HSET', KEYS[1], 'lineage', ARGV[1], 'epoch', ARGV[2], 'sequence', sequence, 'base_sequence', ARGV[4],
  'base_chunks', ARGV[5], 'base_bytes', ARGV[6], 'fingerprint', ARGV[7], 'claimant', ARGV[9])
redis.call('HSET', KEYS[3], ARGV[10], ARGV[11])
redis.call('XTRIM', KEYS[2], 'MINID', ARGV[8] .. '-0')
return 'ok'
"""
)

# As above; KEYS 2 versions, 3.. what to remove; ARGV 4 the version it belongs to: a pinned one stays.
_DROP = (
    _MAY_WRITE
    + """
if ARGV[4] ~= '' and redis.call('HGET', KEYS[1], 'pin') == ARGV[4] then return 'pinned' end
for index = 3, #KEYS do redis.call('UNLINK', KEYS[index]) end
redis.call('HDEL', KEYS[2], ARGV[4])
return 'ok'
"""
)

# KEYS head; ARGV lineage, epoch, the note.
_HOLD = """
local head = redis.call('HMGET', KEYS[1], 'lineage', 'epoch')
if not head[1] then return 'empty' end
if head[1] ~= ARGV[1] or head[2] ~= ARGV[2] then return 'fenced' end
redis.call('HSET', KEYS[1], 'hold', ARGV[3])
return 'ok'
"""


@dataclass(frozen=True, slots=True)
class Head:
    """What Redis holds of a model now."""

    lineage: str
    epoch: int
    sequence: int
    base_sequence: int
    base_chunks: int


class Publisher:
    """Writes one model of one trainer. Not thread-safe: the delivery thread owns it."""

    def __init__(self, url: str, model: str, *, kept_bases: int, stream_increments: int, trainer: str = "") -> None:
        """Opens no connection yet; the first command does. `trainer` is who writes, as it calls itself in `lead`."""
        self._client: redis.Redis = redis.Redis.from_url(url, socket_timeout=10, socket_connect_timeout=5)
        self._keys = RedisKeys(model)
        self._kept_bases = kept_bases
        self._stream_increments = stream_increments
        self._trainer = trainer
        self._claimant = trainer or uuid.uuid4().hex

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def head(self) -> Head | None:
        """The head as it stands, or None where Redis knows nothing of the model.

        Raises:
            RedisUnavailable: no answer.
        """
        fields = cast("dict[bytes, bytes]", self._run("HGETALL", self._keys.head))
        if not fields:
            return None
        return Head(
            lineage=fields[b"lineage"].decode(),
            epoch=int(fields[b"epoch"]),
            sequence=int(fields[b"sequence"]),
            base_sequence=int(fields[b"base_sequence"]),
            base_chunks=int(fields[b"base_chunks"]),
        )

    def lead(self, home: str, lease_ms: int) -> str:
        """Takes the model for this trainer, or keeps it, where no other one has it.

        Args:
            home: what the names of trainers with the same state folder begin with; its lock must be held.
            lease_ms: how long it stays taken without another call.

        Returns:
            name of the trainer that leads now.

        Raises:
            RedisUnavailable: no answer.
        """
        return cast("bytes", self._run("EVAL", _LEAD, 1, self._keys.leader, self._trainer, home, lease_ms)).decode()

    def resign(self) -> None:
        """Lets another trainer take the model at once, if this one has it.

        Raises:
            RedisUnavailable: no answer.
        """
        self._run("EVAL", _RESIGN, 1, self._keys.leader, self._trainer)

    def claim(self, lineage: str, epoch: int, sequence: int) -> Claim:
        """Makes this epoch the only one that may publish, if the head is of this lineage.

        Args:
            lineage: this trainer's.
            epoch: its start number.
            sequence: of its newest durable state.

        Returns:
            "ok" where increments may follow; "empty" or "foreign" where a base must come first; "ahead" where more was
            published than this trainer still knows, so that it must go on under a new lineage.

        Raises:
            Fenced: another trainer leads; or a later epoch of the lineage holds the head and nobody does.
            RedisUnavailable: no answer.
        """
        answer = self._script(_CLAIM, [self._keys.head], [lineage, epoch, sequence, self._claimant])
        if answer == "stale" and self._trainer:
            return "ahead"  # whoever was later is gone: this trainer leads, with what it has
        if answer in {"fenced", "stale"}:
            self._raise_fenced(lineage, epoch)
        return cast("Claim", answer)

    def append(self, lineage: str, epoch: int, sequence: int, data: bytes) -> bool:
        """Appends one increment and moves the head to it, at once.

        Returns:
            True when the head now is at `sequence` or past it; False when it is not one behind (Redis was emptied or
            missed some), so that the caller must fill the gap or send a base.

        Raises:
            Fenced: the head belongs to another lineage or a later epoch.
            RedisUnavailable: no answer; whether the increment arrived is unknown, and sending it again is safe.
        """
        keys = [self._keys.head, self._keys.increments(lineage)]
        answer = self._script(_APPEND, keys, [lineage, epoch, sequence, data, self._stream_increments, INCREMENT_FIELD])
        if answer == "fenced":
            self._raise_fenced(lineage, epoch)
        return answer in {"ok", "duplicate"}

    def tell_hold(self, lineage: str, epoch: int, hold: Hold | None) -> None:
        """Writes beside the head why nothing is published, or that nothing is held back; nothing where Redis is empty.

        Raises:
            Fenced: the head belongs to another lineage or a later epoch.
            RedisUnavailable: no answer.
        """
        note = msgspec.json.encode(hold) if hold is not None else b""
        if self._script(_HOLD, [self._keys.head], [lineage, epoch, note]) == "fenced":
            self._raise_fenced(lineage, epoch)

    def replace_base(
        self,
        lineage: str,
        epoch: int,
        sequence: int,
        fingerprint: str,
        data: bytes,
        *,
        take_over: bool = False,
        created_ms: int = 0,
        samples_trained: int = 0,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Stores a base in chunks, moves the head to it, drops bases beyond the kept ones and trims the stream.

        `take_over` allows a head of another lineage to be replaced: at a trainer's start, never later. A pinned base
        stays however old it is. The last three arguments tell people what the version is.

        Raises:
            Fenced: the head went to another lineage or a later epoch meanwhile.
            RedisUnavailable: no answer; sending it again is safe.
        """
        chunks = range(0, len(data), BASE_CHUNK_BYTES)
        view = memoryview(data)
        writer = [lineage, epoch, "1" if take_over else "0"]
        for index, start in enumerate(chunks):
            keys = [self._keys.head, self._keys.base_chunk(lineage, sequence, index)]
            if self._script(_CHUNK, keys, [*writer, bytes(view[start : start + BASE_CHUNK_BYTES])]) == "fenced":
                self._raise_fenced(lineage, epoch)
        kept = sorted({*self._stored_bases(lineage), sequence})[-self._kept_bases :]
        base = StoredBase(
            lineage=lineage,
            sequence=sequence,
            epoch=epoch,
            chunks=len(chunks),
            size_bytes=len(data),
            fingerprint=fingerprint,
            created_ms=created_ms,
            samples_trained=samples_trained,
            metrics=dict(metrics or {}),
        )
        keys = [self._keys.head, self._keys.increments(lineage), self._keys.versions]
        described = [
            sequence,
            len(chunks),
            len(data),
            fingerprint,
            kept[0] + 1,
            self._claimant,
            base.version,
            msgspec.json.encode(base),
        ]
        if self._script(_REBASE, keys, [*writer, *described]) == "fenced":
            self._raise_fenced(lineage, epoch)
        self._drop_bases(lineage, epoch, {version_name(lineage, at) for at in kept})

    def _stored_bases(self, lineage: str) -> set[int]:
        """Sequences of the lineage's bases that are stored whole."""
        names = (name.decode() for name in cast("list[bytes]", self._run("HKEYS", self._keys.versions)))
        pairs = (name.rpartition("-") for name in names)
        return {int(sequence) for owner, _, sequence in pairs if owner == lineage}

    def _drop_bases(self, lineage: str, epoch: int, kept: set[str]) -> None:
        """Removes bases that are not kept, half-written ones too, and the streams of other lineages."""
        pieces: dict[str, list[str]] = {
            name.decode(): [] for name in cast("list[bytes]", self._run("HKEYS", self._keys.versions))
        }
        for key in self._scan(f"{self._keys.prefix}base:*"):
            owner, sequence, _ = key.decode().rsplit(":", 3)[1:]
            pieces.setdefault(version_name(owner, int(sequence)), []).append(key.decode())
        for version, keys in pieces.items():
            if version not in kept:
                self._drop(lineage, epoch, version, keys)
        current = self._keys.increments(lineage).encode()
        for key in self._scan(f"{self._keys.prefix}increments:*"):
            if key != current:
                self._drop(lineage, epoch, "", [key.decode()])

    def _drop(self, lineage: str, epoch: int, version: str, keys: list[str]) -> None:
        named = [self._keys.head, self._keys.versions, *keys]
        if self._script(_DROP, named, [lineage, epoch, "0", version]) == "fenced":
            self._raise_fenced(lineage, epoch)

    def _scan(self, pattern: str) -> list[bytes]:
        try:
            return list(self._client.scan_iter(match=pattern, count=1000))
        except redis.RedisError as error:
            raise self._unavailable(error) from error

    def _raise_fenced(self, lineage: str, epoch: int) -> None:
        led_by = self._run("GET", self._keys.leader)
        expected = f"expected lineage {lineage} with epoch {epoch}: a later trainer took over"
        message = f"redis head: {self.head()}, led by {led_by}, {expected}"
        raise Fenced(message)

    def _script(self, source: str, keys: list[str], arguments: list[Any]) -> str:
        keys, arguments = [self._keys.leader, *keys], [self._trainer, *arguments]
        answer = cast("bytes", self._run("EVAL", _UNLESS_LED + source, len(keys), *keys, *arguments))
        return answer.decode()

    def _run(self, *command: Any) -> Any:
        try:
            return self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            raise self._unavailable(error) from error

    @staticmethod
    def _unavailable(error: redis.RedisError) -> RedisUnavailable:
        return RedisUnavailable(f"redis: {type(error).__name__}: {error}")
