"""Which stored versions there are, and which one all servers must serve: listing, pinning and unpinning over Redis.

For the operator's side, by command or over HTTP; the servers follow what stands in Redis (`subscriber`). The only
module here beside the subscriber that touches Redis. Invariant: a pin is written in one step with the check that its
base is stored whole, so that every server can load it, and the publisher never removes it while it is pinned.

Without a version the newest base is pinned: it may be older than what answers, by as much as the trainer lets pass
between two bases, but every server, also one that starts later, can reach it without an increment.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import redis

from model_contract.errors import BadHeader
from model_contract.process_settings import SettingError, mask_url
from model_contract.published_versions import (
    HOLD_FIELD,
    PIN_DETAILS_FIELD,
    PIN_FIELD,
    Hold,
    Pin,
    StoredBase,
    parse_note,
    version_name,
)
from model_contract.redis_keys import RedisKeys
from serving.errors import VersionRefused, VersionsUnavailable

__all__ = ["StoredVersions", "VersionPins", "describe_pin"]

_TRIES = 5

# KEYS head, versions, chunks; ARGV version, details of the pin, the base's description as it was read.
_PIN = f"""
if redis.call('EXISTS', KEYS[1]) == 0 then return 'empty' end
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[3] then return 'changed' end
for index = 3, #KEYS do
  if redis.call('EXISTS', KEYS[index]) == 0 then return 'incomplete' end
end
redis.call('HSET', KEYS[1], '{PIN_FIELD}', ARGV[1], '{PIN_DETAILS_FIELD}', ARGV[2])
return 'ok'
"""

# KEYS head. The empty words stay: servers that hold on to a pin over an emptied Redis are told that it is over.
_UNPIN = f"""
if redis.call('EXISTS', KEYS[1]) == 0 then return 'empty' end
redis.call('HSET', KEYS[1], '{PIN_FIELD}', '', '{PIN_DETAILS_FIELD}', '')
return 'ok'
"""


@dataclass(frozen=True, slots=True)
class StoredVersions:
    """What Redis holds of a model.

    Attributes:
        head: version that the trainer published last.
        newest_base: version that a pin without a name would take.
        pin: what all servers must serve, None where they follow the head.
        hold: why the trainer publishes nothing, None where it does.
        bases: every base that is stored whole, newest cut first.
    """

    head: str
    newest_base: str
    pin: Pin | None
    hold: Hold | None
    bases: tuple[StoredBase, ...]

    def report(self) -> dict[str, Any]:
        """The same as plain values for JSON, each base with its version's name."""
        return {
            "head": self.head,
            "newest_base": self.newest_base,
            "pinned": None if self.pin is None else describe_pin(self.pin),
            "held_back": None if self.hold is None else msgspec.to_builtins(self.hold),
            "versions": [{"version": base.version, **msgspec.to_builtins(base)} for base in self.bases],
        }


def describe_pin(pin: Pin) -> dict[str, Any]:
    """A pin as plain values for JSON."""
    return {"version": pin.base.version, "by": pin.by, "since_ms": pin.since_ms}


class VersionPins:
    """Reads and writes one model's pins; safe from several threads.

    Args:
        url: of Redis.
        model: the schema's name.
        password: where the URL holds none.
        timeout_s: how long Redis may take to answer.
        now_ms: the clock.

    Raises:
        SettingError: the URL cannot be used.
        SchemaError: the model's name cannot be one.
    """

    def __init__(
        self, url: str, model: str, *, password: str = "", timeout_s: float = 5.0, now_ms: Callable[[], int]
    ) -> None:
        self._keys = RedisKeys(model)
        self._now_ms = now_ms
        try:
            self._client = redis.Redis.from_url(
                url, password=password or None, socket_connect_timeout=timeout_s, socket_timeout=timeout_s, protocol=2
            )
        except ValueError as error:
            name = "redis"
            raise SettingError(name, mask_url(url), f"a redis:// or rediss:// URL ({error})") from error

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def versions(self) -> StoredVersions:
        """What there is.

        Raises:
            VersionsUnavailable: no answer, or nothing of the model.
        """
        return self._read()[0]

    def _read(self) -> tuple[StoredVersions, dict[str, bytes]]:
        """What there is, and each base's description as it stands in Redis."""
        names = ["lineage", "sequence", "base_sequence", PIN_DETAILS_FIELD, HOLD_FIELD]
        fields = cast("list[bytes | None]", self._run("HMGET", self._keys.head, *names))
        lineage, sequence, base_sequence = fields[:3]
        if lineage is None or sequence is None or base_sequence is None:
            raise self._nothing()
        try:
            pin, hold = parse_note(Pin, fields[3]), parse_note(Hold, fields[4])
            texts = cast("dict[bytes, bytes]", self._run("HGETALL", self._keys.versions))
            bases = [base for text in texts.values() if (base := parse_note(StoredBase, text)) is not None]
        except BadHeader as error:
            message = f"redis: {self._keys.head}: {error}"
            raise VersionsUnavailable(message) from error
        found = StoredVersions(
            head=version_name(lineage.decode(), int(sequence)),
            newest_base=version_name(lineage.decode(), int(base_sequence)),
            pin=pin,
            hold=hold,
            bases=tuple(sorted(bases, key=lambda base: (base.created_ms, base.sequence), reverse=True)),
        )
        return found, {name.decode(): text for name, text in texts.items()}

    def pin(self, version: str | None, by: str) -> Pin:
        """Makes all servers serve a stored base, and stay there.

        Args:
            version: its name, or its bare sequence where no other base has it; None for the newest base.
            by: who says so, for others to read.

        Raises:
            VersionRefused: no such base is stored whole.
            VersionsUnavailable: no answer, or nothing of the model.
        """
        for _ in range(_TRIES):
            found, texts = self._read()
            base = _chosen(found, version)
            pin = Pin(base=base, by=by, since_ms=self._now_ms())
            chunks = [self._keys.base_chunk(base.lineage, base.sequence, index) for index in range(base.chunks)]
            keys = [self._keys.head, self._keys.versions, *chunks]
            text = texts.get(base.version, b"")
            answer = self._script(_PIN, keys, [base.version, msgspec.json.encode(pin), text])
            if answer == b"ok":
                return pin
            if answer == b"incomplete":
                message = f"version {base.version}: its base is not whole in Redis; {_choice(found)}"
                raise VersionRefused(message)
        message = f"version {version}: it changed {_TRIES} times while it was pinned; try again"
        raise VersionRefused(message)

    def unpin(self) -> None:
        """Lets all servers follow the trainer again.

        Raises:
            VersionsUnavailable: no answer, or nothing of the model.
        """
        if self._script(_UNPIN, [self._keys.head], []) == b"empty":
            raise self._nothing()

    def _nothing(self) -> VersionsUnavailable:
        return VersionsUnavailable(f"redis: no key {self._keys.head}: no trainer has published this model yet")

    def _script(self, source: str, keys: list[str], arguments: list[Any]) -> bytes:
        return cast("bytes", self._run("EVAL", source, len(keys), *keys, *arguments))

    def _run(self, *command: Any) -> Any:
        try:
            return self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            message = f"redis: {type(error).__name__}: {error}"
            raise VersionsUnavailable(message) from error


def _chosen(found: StoredVersions, version: str | None) -> StoredBase:
    wanted = found.newest_base if version is None else version
    fitting = [base for base in found.bases if wanted in {base.version, str(base.sequence)}]
    if len(fitting) == 1:
        return fitting[0]
    several = "names several" if fitting else "is not stored"
    message = f"version {wanted}: {several}; {_choice(found)}"
    raise VersionRefused(message)


def _choice(found: StoredVersions) -> str:
    return "expected one of " + (", ".join(base.version for base in found.bases) or "those in Redis, which has none")
