"""`dimflow dlq`: what is shown, what is chosen, and that nothing is sent twice by accident."""

import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from kafka import KafkaProducer

from dimflow.command import main
from stream_trainer.records import DeadLetter, TopicPartition


@pytest.fixture
def topic(kafka: Any) -> str:
    """Five letters in partition 0 and three in 1; the last cannot be sent again."""
    name = f"samples-{uuid.uuid4().hex[:10]}"
    from kafka.admin import KafkaAdminClient, NewTopic

    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    admin.create_topics([NewTopic(name, 1, 1), NewTopic(f"{name}.dlq", 2, 1)])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap)
    for number in range(8):
        letter = DeadLetter(
            source=TopicPartition(name, 0),
            offset=number,
            reason="not_json" if number < 3 else "bad_label",
            detail="at 'x\x07'",
            key=None,
            value=b"%d\x1b]0;evil\x07\xff" % number + b"z" * 100,
            headers=(),
            timestamp_ms=1_700_000_000_000 + number,
        )
        more = [("value-left-out-bytes", b"5000")] if number == 7 else []
        producer.send(
            f"{name}.dlq",
            b"" if more else letter.value,
            headers=[*letter.letter_headers(), *more],
            partition=number // 5,
            timestamp_ms=letter.timestamp_ms,
        )
    producer.flush()
    producer.close()
    return name


@pytest.fixture
def say(kafka: Any, topic: str, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*words: str) -> tuple[int, str, str]:
        code = main(["dlq", words[0], "--brokers", kafka.bootstrap, "--topic", topic, *words[1:]])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_the_list_shows_where_why_and_how_it_begins_without_control_characters(topic: str, say: Any) -> None:
    code, out, _ = say("list")
    assert code == 0
    assert not {char for char in out if ord(char) < 32} - {"\n"}
    assert "\\x1b]0;evil\\x07\\xff" in out
    assert f"{topic} 0/3" in out
    assert "(5000 bytes, left out)" in out
    assert "2023-11-14 22:13:20" in out

    found = json.loads(say("list", "--json")[1])
    assert [item["source"]["offset"] for item in found] == list(range(8))
    assert found[0]["value_bytes"] == 111
    assert found[7]["value_bytes"] == 5000
    assert found[0]["value_start"].endswith("…")


def test_letters_are_chosen_by_reason_place_and_number(say: Any) -> None:
    def numbers(*words: str) -> list[int]:
        return [item["source"]["offset"] for item in json.loads(say("list", "--json", *words)[1])]

    assert numbers("--reason", "not_json") == [0, 1, 2]
    assert numbers("--reason", "not_json", "--limit", "2") == [1, 2]
    assert numbers("--limit", "4") == [4, 5, 6, 7]
    assert numbers("--partition", "0", "--from-offset", "1", "--to-offset", "3") == [1, 2, 3]
    assert numbers("--partition", "1", "--reason", "bad_label") == [5, 6, 7]
    assert numbers("--reason", "none_such") == []
    assert say("list", "--reason", "none_such")[1] == "No dead letters.\n"


def test_a_replay_sends_once_and_again_only_when_asked(
    topic: str, say: Any, records_of: Callable[[str], dict[int, list[Any]]]
) -> None:
    code, out, _ = say("replay", "--dry-run")
    assert code == 0
    assert out == (
        f"7 letters would be sent to {topic} again; 4 bad_label; 3 not_json; 1 cannot be sent: its value was left out\n"
    )
    assert records_of(topic)[0] == []

    report = json.loads(say("replay", "--reason", "not_json", "--json")[1])
    assert (report["chosen"], report["sent"], report["sent_before"]) == (3, 3, 0)
    report = json.loads(say("replay", "--json")[1])
    assert (report["chosen"], report["sent"], report["sent_before"]) == (4, 4, 3)
    assert len(records_of(topic)[0]) == 7
    assert "7 were sent before (--again sends them too)" in say("replay")[1]
    assert len(records_of(topic)[0]) == 7
    assert [item["replayed"] for item in json.loads(say("list", "--json")[1])] == [True] * 7 + [False]
    assert "0/4 sent again" in say("list")[1]

    words = ("--partition", "0", "--from-offset", "4", "--to-offset", "4", "--again", "--json")
    assert json.loads(say("replay", *words)[1])["sent"] == 1
    assert [record.value[:1] for record in records_of(topic)[0]] == [b"%d" % n for n in (0, 1, 2, 3, 4, 5, 6, 4)]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("list", "--from-offset", "3"), "--partition: got 'nothing'"),
        (("list", "--partition", "9"), "--partition: got 9"),
        (("list", "--limit", "0"), "--limit: got 0"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(words: tuple[str, ...], told: str, say: Any) -> None:
    code, _, err = say(*words)
    assert code == 2
    assert told in err


def test_an_absent_topic_is_one_line(kafka: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dlq", "list", "--brokers", kafka.bootstrap, "--topic", kafka.fresh_name()]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_an_absent_broker_is_one_line() -> None:
    """In a process of its own: the client leaves the sockets of refused connections open."""
    words = ["dlq", "list", "--brokers", "127.0.0.1:1", "--connect-timeout-s", "0.5"]
    command = [sys.executable, "-W", "ignore", "-m", "dimflow", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "brokers 127.0.0.1:1: not reached within 0.5 s" in done.stderr
