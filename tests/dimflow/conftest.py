"""What several tests of the command need: reading a topic back."""

import time
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def records_of(kafka: Any) -> Callable[[str], dict[int, list[Any]]]:
    """Reads everything that is in a topic now, by partition."""
    from kafka import KafkaConsumer, TopicPartition

    def read(topic: str) -> dict[int, list[Any]]:
        consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap, auto_offset_reset="earliest", check_crcs=False)
        try:
            partitions = [TopicPartition(topic, at) for at in sorted(consumer.partitions_for_topic(topic) or ())]
            consumer.assign(partitions)
            ends = consumer.end_offsets(partitions)
            found: dict[int, list[Any]] = {tp.partition: [] for tp in partitions}
            deadline = time.monotonic() + 30
            while any(consumer.position(tp) < ends[tp] for tp in partitions):
                assert time.monotonic() < deadline, f"{topic} was not read within 30 s"
                for tp, records in consumer.poll(200).items():
                    found[tp.partition] += records
            return found
        finally:
            consumer.close()

    return read
