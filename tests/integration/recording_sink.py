"""A process around `run_app` whose sink writes down what it was offered; run by the tests, with a plan in JSON.

What it has written is its checkpoint: one line a batch, appended at once, read back at the next start. So what stands
in the file after any number of kills is what a trainer would have learnt.
"""

import asyncio
import dataclasses
import json
import logging
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stream_trainer.app import run_app
from stream_trainer.records import RecordBatch, RecordSource, TopicPartition
from stream_trainer.stream_settings import StreamSettings


@dataclasses.dataclass(kw_only=True)
class Plan:
    """What the process has to do.

    Attributes:
        settings: arguments of `StreamSettings`.
        record: file to write.
        stop_after: records, in all runs together, after which it stops itself.
        delay_s: taken by each offer.
        hang_after: records after which an offer never returns.
        freeze_after: records after which fetching stops silently, as in the stalls known of Faust.
        fail_after: records after which an offer raises.
        dead: values that go to the dead letters.
        drain_s: how long the drain takes.
    """

    settings: dict[str, Any]
    record: str
    stop_after: int | None = None
    delay_s: float = 0.0
    hang_after: int | None = None
    freeze_after: int | None = None
    fail_after: int | None = None
    dead: tuple[str | None, ...] = ()
    drain_s: float = 0.0


class RecordingSink:
    """Implements `RecordSink`."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._count = 0
        self._next: dict[TopicPartition, int] = {}
        self._file = os.open(plan.record, os.O_CREAT | os.O_RDWR | os.O_APPEND)
        self._read_back()

    def _read_back(self) -> None:
        written = Path(self._plan.record).read_bytes()
        os.truncate(self._plan.record, written.rfind(b"\n") + 1)  # a kill may have cut the last line
        for line in Path(self._plan.record).read_text().splitlines():
            entry = json.loads(line)
            if "offsets" in entry:
                self._next[TopicPartition(entry["topic"], entry["partition"])] = entry["offsets"][-1] + 1
                self._count += len(entry["offsets"])

    def started(self, source: RecordSource) -> None:
        self._source = source
        self._note(event="started", rss_bytes=rss_bytes())

    async def start_offsets(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        self._note(event="gained", partitions=partitions)
        return {partition: self._next[partition] for partition in partitions if partition in self._next}

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        self._note(event="lost", partitions=partitions)

    async def offer(self, batch: RecordBatch) -> None:
        plan = self._plan
        await asyncio.sleep(plan.delay_s)
        if plan.hang_after is not None and self._count >= plan.hang_after:
            self._note(event="hanging", progress=self._source.progress())
            await asyncio.Event().wait()
        if plan.fail_after is not None and self._count >= plan.fail_after:
            message = "a sink that breaks"
            raise RuntimeError(message)
        letters = [
            batch.dead_letter(index, "on_request", "as the plan says: ü")
            for index, value in enumerate(batch.values)
            if (None if value is None else text_of(value)) in plan.dead
        ]
        if letters:
            await self._source.send_dead_letters(letters)
        self._count += len(batch)
        self._next[batch.source] = batch.next_offset
        self._note(
            topic=batch.topic,
            partition=batch.partition,
            offsets=batch.offsets.tolist(),
            values=[None if value is None else text_of(value) for value in batch.values],
            keys=[None if key is None else key.decode(errors="replace") for key in batch.keys],
            times=batch.timestamps_ms.tolist(),
            types=batch.content_types,
            size_bytes=batch.size_bytes,
        )
        self._source.commit({batch.source: batch.next_offset})
        if plan.stop_after is not None and self._count >= plan.stop_after:
            self._source.stop()
        if plan.freeze_after is not None and self._count >= plan.freeze_after:
            consumer = self._source._app.bulk_consumer  # type: ignore[attr-defined]
            consumer.pause_partitions(consumer.assignment())

    async def drain(self) -> Mapping[TopicPartition, int]:
        await asyncio.sleep(self._plan.drain_s)
        self._note(event="drained", rss_bytes=rss_bytes())
        return self._next

    def _note(self, **entry: Any) -> None:
        os.write(self._file, json.dumps(entry).encode() + b"\n")


def text_of(value: bytes) -> str:
    """The beginning of a value without its padding."""
    return value[:40].decode(errors="replace").rstrip(" ")


def rss_bytes() -> int:
    """The most memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    plan = Plan(**json.loads(sys.argv[1]))
    return run_app(StreamSettings(**plan.settings), RecordingSink(plan))


if __name__ == "__main__":
    sys.exit(main())
