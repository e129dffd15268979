"""Topics are made as they were asked for; the watch sees a real topic grow and a reader that does not follow."""

import asyncio
import threading
from typing import Any

import pytest

from stream_trainer.broker_client import PartitionWatch, client_options, ensure_topics
from stream_trainer.errors import TransportError
from stream_trainer.records import TopicPartition
from stream_trainer.stall_detector import Stall
from stream_trainer.stream_settings import StreamSettings


def described(bootstrap: str, topics: list[str]) -> dict[str, int]:
    from kafka.admin import KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        return {topic["name"]: len(topic["partitions"]) for topic in admin.describe_topics(topics)}
    finally:
        admin.close()


def test_topics_are_made_once_and_kept_as_they_are(kafka: Any) -> None:
    topic = kafka.fresh_name()
    settings = StreamSettings(brokers=kafka.bootstrap, topic=topic, partitions=3)
    asyncio.run(ensure_topics(settings))
    asyncio.run(ensure_topics(StreamSettings(brokers=kafka.bootstrap, topic=topic, partitions=5)))
    assert described(kafka.bootstrap, [topic, f"{topic}.dlq"]) == {topic: 3, f"{topic}.dlq": 3}


def test_a_topic_that_cannot_be_made_is_an_error(kafka: Any) -> None:
    settings = StreamSettings(brokers=kafka.bootstrap, topic=kafka.fresh_name(), replication=3)
    with pytest.raises(TransportError, match="3 replicas was refused: InvalidReplicationFactorError"):
        asyncio.run(ensure_topics(settings))


def test_the_watch_knows_the_end_and_reports_who_does_not_follow(kafka: Any) -> None:
    from kafka import KafkaProducer

    topic = kafka.fresh_topic(partitions=1)
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    for future in [producer.send(topic, b"x") for _ in range(10)]:
        future.get(30)
    producer.close()
    partition = TopicPartition(topic, 0)
    stalls: list[Stall] = []
    seen = threading.Event()

    def note(stall: Stall) -> None:
        stalls.append(stall)
        seen.set()

    settings = StreamSettings(brokers=kafka.bootstrap, topic=topic, watchdog_s=0.2)
    watch = PartitionWatch(settings, lambda: {partition: 4}, note)
    watch.start()
    assert seen.wait(20)
    watch.stop()
    assert watch.ends == {partition: 10}
    assert [(stall.partition, stall.position, stall.end) for stall in stalls] == [(partition, 4, 10)]


def test_a_secret_channel_is_asked_for() -> None:
    settings = StreamSettings(
        brokers="h:1", topic="t", security_protocol="SASL_SSL", sasl_username="u", sasl_password="p"
    )
    options = client_options(settings)
    assert (options["security_protocol"], options["sasl_mechanism"]) == ("SASL_SSL", "PLAIN")
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("u", "p")
    assert options["ssl_context"] is not None
    assert client_options(StreamSettings(brokers="h:1", topic="t"))["ssl_context"] is None
