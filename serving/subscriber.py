"""Follows a model in Redis from a thread of its own: the base that the head names, then every increment after it.

Knows how to read Redis and nothing of what the bytes mean: `intake` judges them. The only module here that touches
Redis. Invariant: whatever Redis does, the replica goes on answering; every failure is noted, and tried again with a
growing pause. After a refusal it goes on reading, looks again at the entry that should come next, and takes the head's
base as soon as that one holds what is missing. While a pin stands beside the head, the pinned base is served and
nothing is applied; a pin is over when Redis says so, not when Redis was emptied.
"""

import logging
import random
import threading
from collections.abc import Mapping
from typing import TypeAlias, cast

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from model_contract.errors import BadHeader, SchemaError
from model_contract.process_settings import SettingError, mask_url
from model_contract.published_versions import HOLD_FIELD, PIN_DETAILS_FIELD, PIN_FIELD, Hold, Pin, parse_note
from model_contract.redis_keys import HEAD_FIELDS, INCREMENT_FIELD, RedisKeys, entry_id
from serving.errors import RefusalReason
from serving.feed_log import FeedLog
from serving.intake import Head, Intake, Outcome
from serving.settings import PREFIX, ServingSettings

__all__ = ["Subscriber"]

_log = logging.getLogger(__name__)

Entry: TypeAlias = tuple[bytes, dict[bytes, bytes]]  # its id and its fields

_ENTRIES_PER_READ = 4  # bounds the memory of one reply
_FIRST_PAUSE_S = 0.05
_READ_BYTES = 1 << 20


class Subscriber:
    """Feeds an intake from Redis.

    Args:
        settings: where Redis is and how patient to be.
        keys: names of the model's keys.
        intake: judge of everything read; used by the subscriber's thread alone.
        feed_log: told whether Redis answers and what is waited for.

    Raises:
        SettingError: the Redis URL cannot be used.
    """

    def __init__(self, settings: ServingSettings, keys: RedisKeys, intake: Intake, feed_log: FeedLog) -> None:
        self._settings = settings
        self._keys = keys
        self._intake = intake
        self._feed_log = feed_log
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dimflow-subscriber", daemon=True)
        self._client = _client(settings)
        self._pause_s = _FIRST_PAUSE_S
        self._stream = ""
        self._cursor = "0-0"
        self._pin: Pin | None = None

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Starts to follow."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Stops after the read or the increment in work; answers whether it ended in time."""
        self._stopping.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                while not self._stopping.is_set():
                    self._follow_once()
            except (redis.RedisError, OSError) as error:
                if self._feed_log.disconnected(f"{type(error).__name__}: {error}"):
                    _log.warning("Redis at %s: %s; the model goes on answering", mask_url(self._settings.redis), error)
            except Exception as error:  # noqa: BLE001 - the outermost loop of a thread that must not end
                self._feed_log.waiting(f"recovery from {type(error).__name__}: {error}")
                _log.exception("the subscriber failed and starts over")
            self._pause()
        self._client.close()

    def _follow_once(self) -> None:
        """One look at the head and one read of the stream; waits `poll_ms` at most for something new."""
        head = self._read_head()
        self._feed_log.connected()
        if self._pin is not None:
            self._stay_at(self._pin)
            return
        if head is None or not self._intake.check_head(head):
            self._pause()
            return
        if self._intake.wants_base(head) and not self._load_base(head):
            self._pause()
            return
        self._pause_s = _FIRST_PAUSE_S
        self._read_increments(head)

    def _stay_at(self, pin: Pin) -> None:
        """Serves the pinned base and applies nothing; waits `poll_ms` for another word."""
        base, version = pin.base, self._intake.version
        if version is None or version.name != base.version:
            head = Head(
                lineage=base.lineage,
                epoch=base.epoch,
                sequence=base.sequence,
                base_sequence=base.sequence,
                base_chunks=base.chunks,
                base_bytes=base.size_bytes,
                fingerprint=base.fingerprint,
            )
            if not self._intake.check_head(head) or not self._load_base(head):
                self._pause()
                return
        self._feed_log.waiting("")
        self._pause_s = _FIRST_PAUSE_S
        self._stopping.wait(self._settings.poll_ms / 1000)

    def _read_increments(self, head: Head) -> None:
        version = self._intake.version
        if version is None:
            return
        stream = self._keys.increments(version.lineage)
        if stream != self._stream:
            self._stream, self._cursor = stream, entry_id(version.sequence)
        reply = self._client.xread({stream: self._cursor}, count=_ENTRIES_PER_READ, block=self._settings.poll_ms)
        entries = [entry for _, part in cast("list[tuple[bytes, list[Entry]]]", reply) for entry in part]
        if not entries:
            self._look_again(stream, version.sequence, head)
            return
        for entry, fields in entries:
            self._cursor = entry.decode("ascii")
            self._take(self._cursor, fields)

    def _look_again(self, stream: str, sequence: int, head: Head) -> None:
        """Nothing new came: reads once more what should come next, in case it was not there or not whole before."""
        if head.lineage != self._intake_lineage() or head.sequence <= sequence:
            self._feed_log.waiting("")
            return
        expected = entry_id(sequence + 1)
        found = cast("list[Entry]", self._client.xrange(stream, expected, expected))
        if not found:
            detail = f"the stream has no increment {sequence + 1}, the head is at {head.sequence}"
            self._intake.refuse(f"increment {expected}", RefusalReason.GAP, detail)
            return
        for entry, fields in found:
            if self._take(entry.decode("ascii"), fields) is Outcome.APPLIED:
                self._cursor = expected

    def _intake_lineage(self) -> str:
        version = self._intake.version
        return "" if version is None else version.lineage

    def _take(self, entry: str, fields: Mapping[bytes, bytes]) -> Outcome:
        data = fields.get(INCREMENT_FIELD.encode())
        source = f"increment {entry}"
        if data is None:
            return self._intake.refuse(source, RefusalReason.NO_DATA, f"the entry lacks the field {INCREMENT_FIELD!r}")
        return self._intake.take(source, data)

    def _load_base(self, head: Head) -> bool:
        data = self._read_base(head)
        if data is None or self._intake.take_base(head, data) is not Outcome.APPLIED:
            return False
        self._stream, self._cursor = self._keys.increments(head.lineage), entry_id(head.base_sequence)
        return True

    def _read_head(self) -> Head | None:
        """The head, None (with the reason noted) where there is none or it makes no sense; takes note of a pin."""
        names = [*HEAD_FIELDS, PIN_FIELD, PIN_DETAILS_FIELD, HOLD_FIELD]
        found = cast("list[bytes | None]", self._client.hmget(self._keys.head, names))
        values, notes = found[: len(HEAD_FIELDS)], found[len(HEAD_FIELDS) :]
        if all(value is None for value in values):
            self._feed_log.waiting(f"a model: Redis has no key {self._keys.head}")
            return None
        try:
            texts = {name: (value or b"").decode("utf-8") for name, value in zip(HEAD_FIELDS, values, strict=True)}
            numbers = {name: int(texts[name]) for name in HEAD_FIELDS if name not in {"lineage", "fingerprint"}}
            self._keys.increments(texts["lineage"])
            self._note(*notes)
        except (ValueError, SchemaError, BadHeader) as error:
            self._intake.refuse(
                "head", RefusalReason.BAD_HEAD, f"{dict(zip(HEAD_FIELDS, values, strict=True))}: {error}"
            )
            return None
        return Head(lineage=texts["lineage"], fingerprint=texts["fingerprint"], **numbers)

    def _note(self, pinned: bytes | None, details: bytes | None, hold: bytes | None) -> None:
        """Takes over what stands beside the head; where no word of a pin is there, an earlier one holds on.

        Raises:
            BadHeader, SchemaError: it makes no sense.
        """
        pin = parse_note(Pin, details) if pinned else None
        if pinned and (pin is None or pin.base.version.encode() != pinned):
            message = f"pin {pinned!r} with the details {details!r}"
            raise BadHeader(message)
        if pin is not None:
            self._keys.base_chunk(pin.base.lineage, pin.base.sequence, 0)
        if pinned is not None and pin != self._pin:
            _log.warning("%s", f"pinned to {pin.base.version} by {pin.by}" if pin else "no longer pinned")
            self._pin = pin
        self._feed_log.noted(self._pin, parse_note(Hold, hold))

    def _read_base(self, head: Head) -> bytearray | None:
        """The base's bytes, None (with the reason noted) where they are not all there or too many."""
        source = f"base {head.base_sequence}"
        limit = self._settings.max_base_bytes
        if not 0 < head.base_bytes <= limit:
            self._intake.refuse(
                source, RefusalReason.LIMIT_EXCEEDED, f"base of {head.base_bytes} bytes: expected 1 to {limit}"
            )
            return None
        data = bytearray(head.base_bytes)
        filled = 0
        for index in range(head.base_chunks):
            if self._stopping.is_set():
                return None
            key = self._keys.base_chunk(head.lineage, head.base_sequence, index)
            chunk = cast("bytes | None", self._client.get(key))
            if chunk is None or filled + len(chunk) > len(data):
                seen = "is absent" if chunk is None else f"makes it longer than {len(data)} bytes"
                self._intake.refuse(
                    source, RefusalReason.BASE_INCOMPLETE, f"chunk {index} of {head.base_chunks} {seen}"
                )
                return None
            data[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        if filled != len(data):
            self._intake.refuse(source, RefusalReason.BASE_INCOMPLETE, f"{filled} bytes: expected {len(data)}")
            return None
        return data

    def _pause(self) -> None:
        """Waits, longer each time, never the same time as another server."""
        self._stopping.wait(self._pause_s * random.uniform(0.5, 1.0))
        self._pause_s = min(self._pause_s * 2, self._settings.retry_max_s)


def _client(settings: ServingSettings) -> "redis.Redis":
    try:
        return redis.Redis.from_url(
            settings.redis,
            password=settings.redis_password or None,
            socket_connect_timeout=settings.redis_timeout_s,
            socket_timeout=settings.redis_timeout_s + settings.poll_ms / 1000,
            socket_read_size=_READ_BYTES,
            protocol=2,
            retry=Retry(NoBackoff(), 0),  # the subscriber's own loop tries again
        )
    except ValueError as error:
        raise SettingError(
            PREFIX + "REDIS", mask_url(settings.redis), f"a redis:// or rediss:// URL ({error})"
        ) from error
