"""What the trainer process does when something is wrong: its exit code, its log, and what it leaves in Kafka."""

import signal
from typing import Any

from stream_trainer.app import EXIT_CLEAN, EXIT_FAILED, EXIT_STALLED

MIB = 1 << 20


def letters_of(bootstrap: str, topic: str, count: int) -> list[Any]:
    from confluent_kafka import Consumer

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "auto.offset.reset": "earliest"})
    try:
        consumer.subscribe([f"{topic}.dlq"])
        letters: list[Any] = []
        for _ in range(100):
            message = consumer.poll(0.3)
            if message is None:
                if len(letters) >= count:
                    break
            else:
                assert message.error() is None
                letters.append(message)
        return letters
    finally:
        consumer.close()


def test_dead_letters_carry_the_record_byte_for_byte(kafka: Any, recorder: Any) -> None:
    from confluent_kafka import Producer

    topic = kafka.fresh_topic(partitions=1)
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True, "message.max.bytes": 4 * MIB}
    )
    own = [("content-type", b"text/odd"), ("empty", b""), ("none", None), ("reason", b"mine")]
    stamps = [1_508_310_000_001 + 7 * number for number in range(50)]
    for number, stamp in enumerate(stamps):
        value = b"large" + b" " * (2 * MIB) if number == 20 else None if number >= 40 else b"%d" % number
        producer.produce(topic, value, key=b"\xff\x00k" if number == 3 else None, timestamp=stamp, headers=own)
    assert producer.flush(30) == 0
    run = recorder(kafka.bootstrap, topic, largest_letter_bytes=MIB)
    assert run.run(stop_after=50, dead=["3", "17", "large", None]) == EXIT_CLEAN
    letters = sorted(letters_of(kafka.bootstrap, topic, 13), key=lambda letter: letter.timestamp()[1])
    assert [letter.value() for letter in letters] == [b"3", b"17", b"", *[None] * 10]
    assert [letter.key() for letter in letters] == [b"\xff\x00k", *[None] * 12]
    for letter, offset in zip(letters, (3, 17, 20, *range(40, 50)), strict=True):
        assert letter.timestamp()[1] == stamps[offset]
        added = [
            ("reason", b"on_request"),
            ("detail", "as the plan says: ü".encode()),
            ("source-topic", topic.encode()),
            ("source-partition", b"0"),
            ("source-offset", b"%d" % offset),
        ]
        left_out = [("value-left-out-bytes", b"%d" % (2 * MIB + 5))] if offset == 20 else []
        assert letter.headers() == own + added + left_out


def test_a_slow_sink_bounds_the_memory(kafka: Any, recorder: Any, fill: Any, eventually: Any) -> None:
    topic = kafka.fresh_topic(partitions=4)
    fill(kafka.bootstrap, topic, 4, 0, 400, padding_bytes=100_000)  # 160 MB
    run = recorder(kafka.bootstrap, topic, fetch_bytes=MIB // 2)
    run.start(delay_s=0.2)
    eventually(lambda: run.count() > 100, "it reads, slowly")
    run.signal(signal.SIGTERM)
    assert run.wait() == EXIT_CLEAN
    assert run.count() < 1000
    grown = run.events("drained")[0]["rss_bytes"] - run.events("started")[0]["rss_bytes"]
    assert grown < 40 * MIB, f"{grown / MIB:.0f} MiB for 4 partitions of 0.5 MiB each"


def test_sigterm_drains_and_commits_what_was_offered(kafka: Any, recorder: Any, fill: Any, eventually: Any) -> None:
    topic = kafka.fresh_topic(partitions=2)
    fill(kafka.bootstrap, topic, 2, 0, 3000, padding_bytes=100)
    run = recorder(kafka.bootstrap, topic, fetch_bytes=8 << 10)
    run.start(delay_s=0.01, drain_s=0.5)
    eventually(lambda: run.count() > 500, "it reads")
    run.signal(signal.SIGTERM)
    assert run.wait() == EXIT_CLEAN
    taken = {partition: len(values) for partition, values in run.column("values").items()}
    assert run.entries()[-1]["event"] == "drained", "nothing is offered after the drain"
    assert "stopped at" in run.log.read_text()
    assert {partition: values[-1] for partition, values in run.column("offsets").items()} == {
        partition: count - 1 for partition, count in taken.items()
    }


def test_a_second_signal_ends_it_at_once(kafka: Any, recorder: Any, eventually: Any) -> None:
    run = recorder(kafka.bootstrap, kafka.fresh_topic(partitions=1))
    run.start(drain_s=60.0)
    eventually(lambda: "Worker ready" in run.log.read_text(), "it reads")
    run.signal(signal.SIGTERM)
    eventually(lambda: "training and writing" in run.log.read_text(), "it drains")
    run.signal(signal.SIGTERM)
    assert run.wait(5) == 128 + signal.SIGTERM


def test_a_drain_that_hangs_is_given_up(kafka: Any, recorder: Any, eventually: Any) -> None:
    run = recorder(kafka.bootstrap, kafka.fresh_topic(partitions=1), drain_timeout_s=0.5)
    run.start(drain_s=60.0)
    eventually(lambda: "Worker ready" in run.log.read_text(), "it reads")
    run.signal(signal.SIGINT)
    assert run.wait(10) == EXIT_FAILED
    assert "the last checkpoint stands" in run.log.read_text()


def test_the_watchdog_ends_a_process_whose_sink_hangs(kafka: Any, recorder: Any, fill: Any) -> None:
    topic = kafka.fresh_topic(partitions=1)
    fill(kafka.bootstrap, topic, 1, 0, 1000, padding_bytes=100)
    run = recorder(kafka.bootstrap, topic, fetch_bytes=8 << 10, watchdog_s=1.0)
    assert run.run(hang_after=100) == EXIT_STALLED
    log = run.log.read_text()
    assert "STALLED" in log
    assert "Thread" in log, "the stacks of all threads are shown"
    assert not run.events("drained")


def test_the_watchdog_ends_a_process_whose_fetching_freezes(kafka: Any, recorder: Any, fill: Any) -> None:
    topic = kafka.fresh_topic(partitions=2)
    fill(kafka.bootstrap, topic, 2, 0, 2000, padding_bytes=100)
    run = recorder(kafka.bootstrap, topic, fetch_bytes=8 << 10, watchdog_s=1.0)
    assert run.run(freeze_after=100) == EXIT_STALLED
    assert run.run(stop_after=4000) == EXIT_CLEAN, "started again it goes on"
    assert run.column("values") == {p: [str(n) for n in range(2000)] for p in range(2)}


def test_a_sink_that_raises_ends_the_process_without_a_drain(kafka: Any, recorder: Any, fill: Any) -> None:
    topic = kafka.fresh_topic(partitions=1)
    fill(kafka.bootstrap, topic, 1, 0, 100)
    run = recorder(kafka.bootstrap, topic)
    assert run.run(fail_after=0) == EXIT_FAILED
    assert "a sink that breaks" in run.log.read_text()
    assert not run.events("drained")


def test_without_brokers_it_ends_and_says_so(recorder: Any) -> None:
    run = recorder("127.0.0.1:9", "samples", connect_timeout_s=0.5)
    assert run.run() == EXIT_FAILED
    assert "none of '127.0.0.1:9' answered within 0.5 s" in run.log.read_text()


def test_an_absent_topic_that_may_not_be_made_is_an_error(kafka: Any, recorder: Any) -> None:
    topic = kafka.fresh_name()
    run = recorder(kafka.bootstrap, topic, create_topics=False)
    assert run.run() == EXIT_FAILED
    assert f"topics: ['{topic}', '{topic}.dlq'] do not exist" in run.log.read_text()


def test_a_topic_that_ends_before_the_checkpoint_is_an_error(kafka: Any, recorder: Any, fill: Any) -> None:
    topic = kafka.fresh_topic(partitions=1)
    fill(kafka.bootstrap, topic, 1, 0, 10)
    run = recorder(kafka.bootstrap, topic)
    run.record.write_text(f'{{"topic": "{topic}", "partition": 0, "offsets": [76]}}\n')
    assert run.run() == EXIT_FAILED
    assert f"{topic}/0: ends at offset 10, the checkpoint at 77" in run.log.read_text()
