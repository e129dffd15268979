"""Kafka to the sink with the real broker: every record once, in order, from where the sink says, whatever happens."""

import random
import signal
import time
from typing import Any

from dimflow.local_servers import LocalKafka


def committed(bootstrap: str, group: str) -> dict[int, int]:
    from kafka.admin import KafkaAdminClient

    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        offsets = admin.list_group_offsets({group: None})
        found = offsets[group]
        return {tp.partition: at.offset for tp, at in found.items()}
    finally:
        admin.close()


def texts(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last)]


def test_records_arrive_once_in_order_with_all_their_columns(kafka: Any, recorder: Any) -> None:
    from confluent_kafka import Producer

    topic = kafka.fresh_topic(partitions=3)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True})
    base_ms = 1_508_310_000_123  # long ago: a broker that deletes by time would have deleted it
    for number in range(3000):
        headers = [("content-type", b"application/x")] if number % 3 == 2 else [("Content-Type", b"a/b"), ("n", b"1")]
        producer.produce(
            topic,
            None if number % 1000 == 999 else b"%d" % number,
            key=None if number % 2 else b"k%d" % number,
            partition=number % 3,
            timestamp=base_ms + number,
            headers=None if number % 3 == 0 else headers,
        )
    assert producer.flush(30) == 0
    run = recorder(kafka.bootstrap, topic)
    assert run.run(stop_after=3000) == 0
    for partition in range(3):
        numbers = list(range(partition, 3000, 3))
        assert run.column("values")[partition] == [None if n % 1000 == 999 else str(n) for n in numbers]
        assert run.column("keys")[partition] == [None if n % 2 else f"k{n}" for n in numbers]
        assert run.column("times")[partition] == [base_ms + n for n in numbers]
        assert run.column("offsets")[partition] == list(range(1000))
        assert set(run.column("types")[partition]) == {(None, "a/b", "application/x")[partition]}
    expected_bytes = sum(len(b"%d" % n) for n in range(3000) if n % 1000 != 999)
    assert expected_bytes - 3 <= sum(batch["size_bytes"] for batch in run.batches()) <= expected_bytes
    assert committed(kafka.bootstrap, topic) == {0: 1000, 1: 1000, 2: 1000}


def test_kills_at_random_moments_lose_nothing_and_repeat_nothing(
    kafka: Any, recorder: Any, fill: Any, eventually: Any
) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    chooser = random.Random(seed)
    topic = kafka.fresh_topic(partitions=2)
    run = recorder(kafka.bootstrap, topic, fetch_bytes=8 << 10)
    fill(kafka.bootstrap, topic, 2, 0, 10_000, padding_bytes=100)
    for _ in range(4):
        before = run.count()
        run.start(delay_s=0.02)
        target = before + chooser.randrange(100, 3000)
        eventually(lambda target=target: run.count() >= target, f"seed {seed}: {target} records")
        run.kill()
    assert run.run(stop_after=20_000) == 0
    assert run.column("values") == {0: texts(0, 10_000), 1: texts(0, 10_000)}, f"seed {seed}"


def test_the_sinks_offsets_win_over_the_groups(kafka: Any, recorder: Any, fill: Any) -> None:
    topic = kafka.fresh_topic(partitions=1)
    fill(kafka.bootstrap, topic, 1, 0, 2000, padding_bytes=100)
    run = recorder(kafka.bootstrap, topic, fetch_bytes=8 << 10)
    assert run.run(stop_after=2000) == 0
    assert committed(kafka.bootstrap, topic) == {0: 2000}
    lines = run.record.read_text().splitlines(keepends=True)
    run.record.write_text("".join(lines[: len(lines) // 2]))  # an older checkpoint is restored
    assert 0 < run.count() < 2000
    assert run.run(stop_after=2000) == 0
    assert run.column("values") == {0: texts(0, 2000)}


def test_start_latest_leaves_out_what_was_there(kafka: Any, recorder: Any, fill: Any, eventually: Any) -> None:
    topic = kafka.fresh_topic(partitions=1)
    fill(kafka.bootstrap, topic, 1, 0, 100)
    run = recorder(kafka.bootstrap, topic, start="latest")
    run.start(stop_after=50)
    eventually(lambda: "Worker ready" in run.log.read_text(), "it reads")
    fill(kafka.bootstrap, topic, 1, 100, 150)
    assert run.wait() == 0
    assert run.column("values") == {0: texts(100, 150)}


def test_rebalances_neither_lose_nor_repeat(kafka: Any, recorder: Any, fill: Any, eventually: Any) -> None:
    topic = kafka.fresh_topic(partitions=4)
    first = recorder(kafka.bootstrap, topic, "first", fetch_bytes=4 << 10)
    second = recorder(kafka.bootstrap, topic, "second", fetch_bytes=4 << 10)
    fill(kafka.bootstrap, topic, 4, 0, 4000, padding_bytes=100)
    first.start(delay_s=0.01)
    eventually(lambda: first.count() > 1000, "the first reads")
    second.start(delay_s=0.01)
    eventually(lambda: second.count() > 1000, "the second reads")
    assert len(first.events("lost")[0]["partitions"]) == 2
    second.signal(signal.SIGTERM)
    assert second.wait() == 0
    eventually(lambda: first.count() >= 16_000, "the first takes everything back", 60)
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    assert first.column("values") == {partition: texts(0, 4000) for partition in range(4)}
    for partition, values in second.column("values").items():
        assert values == texts(0, len(values)), partition


def test_a_broker_that_dies_and_one_that_freezes_are_outlived(recorder: Any, fill: Any, eventually: Any) -> None:
    with LocalKafka() as server:
        run = recorder(server.bootstrap, "samples", partitions=2, watchdog_s=4.0)
        run.start(stop_after=6000, delay_s=0.01)
        eventually(lambda: "reading on at" in run.log.read_text(), "it made the topics and reads")
        fill(server.bootstrap, "samples", 2, 0, 1000)
        eventually(lambda: run.count() == 2000, "it reads")
        server.kill()
        server.restart()
        fill(server.bootstrap, "samples", 2, 1000, 2000)
        eventually(lambda: run.count() == 4000, "it reads after the restart", 60)
        server.freeze()
        frozen_at = time.monotonic()
        eventually(lambda: time.monotonic() - frozen_at > 6.0, "longer than the watchdog's patience")
        server.thaw()
        assert run.running, "a broker that does not answer is not a stall"
        fill(server.bootstrap, "samples", 2, 2000, 3000)
        assert run.wait() == 0
        assert run.column("values") == {0: texts(0, 3000), 1: texts(0, 3000)}
