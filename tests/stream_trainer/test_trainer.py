"""One trainer from the records' side, with a source in memory: offered, trained, durable, committed."""

import asyncio
from collections.abc import Mapping

from stream_trainer.records import TopicPartition
from tests.stream_trainer.test_chunk_source import json_sample, records


def test_a_clean_stop_makes_everything_durable_and_a_restart_begins_behind_it(make_trainer) -> None:
    trainer, source = make_trainer()

    async def first() -> Mapping[TopicPartition, int]:
        trainer.started(source)
        assert await trainer.start_offsets([TopicPartition("samples", 0)]) == {}
        await trainer.offer(records(0, 0, [json_sample(n) for n in range(30)]))
        await trainer.offer(records(1, 7, [json_sample(n) for n in range(5)]))
        await trainer.offer(records(0, 25, [json_sample(n) for n in range(25, 40)]))  # five of them a second time
        return await trainer.drain()

    expected = {TopicPartition("samples", 0): 40, TopicPartition("samples", 1): 12}
    assert asyncio.run(first()) == expected
    assert trainer.learner.counts.samples == 45
    assert source.committed[-1] == expected
    assert source.failed == []

    again, source = make_trainer()
    assert again.learner.counts.samples == 45

    async def second() -> None:
        again.started(source)
        asked = [TopicPartition("samples", n) for n in range(3)]
        assert await again.start_offsets(asked) == expected
        await again.offer(records(0, 0, [json_sample(n) for n in range(40)]))  # all of it a second time
        await again.drain()

    asyncio.run(second())
    assert again.learner.counts.samples == 45
