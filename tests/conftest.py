"""The two real servers that tests share: one Kafka and one Redis a session, started when the first test asks.

`kafka` and `redis_server` are for tests that leave the servers as they are; each test takes a topic or a key prefix of
its own. Tests that kill, freeze or restart a server start one themselves (`dimflow.local_servers`).
"""

import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from dimflow.local_servers import LocalKafka, LocalRedis
from stream_trainer.onednn_guard import guard_onednn

# Warnings of third parties about themselves, which their callers cannot help; all others are errors.
_WARNINGS_OF_OTHERS = (
    "ignore:read_text is deprecated:DeprecationWarning:kafka.protocol.schemas.load_json",
    "ignore:open_text is deprecated:DeprecationWarning:importlib.resources._legacy",
)


def pytest_configure(config: pytest.Config) -> None:
    guard_onednn()  # it counts before oneDNN's first use, and any test that needs torch may be that
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; its children would not hear it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in _WARNINGS_OF_OTHERS:
        config.addinivalue_line("filterwarnings", line)


@dataclass(frozen=True, slots=True)
class SharedKafka:
    """The session's broker."""

    bootstrap: str

    def fresh_name(self, stem: str = "samples") -> str:
        """Returns a topic (or group) name that nobody has used, without creating anything."""
        return f"{stem}-{uuid.uuid4().hex[:12]}"

    def fresh_topic(self, partitions: int = 4, stem: str = "samples") -> str:
        """Creates an empty topic and returns its name."""
        from kafka.admin import KafkaAdminClient, NewTopic

        name = self.fresh_name(stem)
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            admin.create_topics([NewTopic(name=name, num_partitions=partitions, replication_factor=1)])
        finally:
            admin.close()
        return name


@dataclass(frozen=True, slots=True)
class SharedRedis:
    """The session's Redis."""

    url: str

    def fresh_prefix(self, stem: str = "test") -> str:
        """Returns a key prefix (or model name) that nobody has used."""
        return f"{stem}-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def kafka() -> Iterator[SharedKafka]:
    with LocalKafka() as server:
        yield SharedKafka(server.bootstrap)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[SharedRedis]:
    with LocalRedis() as server:
        yield SharedRedis(server.url)
