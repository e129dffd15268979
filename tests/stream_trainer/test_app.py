"""How the application is set up; what it does with a broker stands in `tests/integration`."""

import asyncio
import gc
import os
from pathlib import Path

import faust
import pytest

from stream_trainer.app import EXIT_CLEAN, EXIT_FAILED, EXIT_STALLED, create_app, run_app
from stream_trainer.bulk_consumer import BulkConsumer
from stream_trainer.records import RecordSink
from stream_trainer.stream_settings import StreamSettings


class NoSink(RecordSink):
    """Never called."""


def conf_of(settings: StreamSettings) -> faust.Settings:
    async def make() -> faust.Settings:
        app = create_app(settings, NoSink())
        assert isinstance(app.consumer, BulkConsumer)
        assert app.bulk_consumer.positions() == {}, "before the start nothing is assigned"
        app.bulk_consumer._thread.thread_loop.close()  # as the thread would do at its end
        return app.conf

    return asyncio.run(make())


def test_the_settings_that_keep_faust_from_losing_or_serving_anything() -> None:
    conf = conf_of(StreamSettings(brokers="one:1, two:2", topic="t", group="g", session_timeout_s=9.0))
    assert [str(url) for url in conf.broker] == ["kafka://one:1", "kafka://two:2"]
    assert conf.id == "g"
    assert not conf.web_enabled
    assert not conf.topic_allow_declare
    assert conf.topic_disable_leader
    assert not conf.stream_wait_empty
    assert conf.store.scheme == "memory"
    assert (conf.value_serializer, conf.key_serializer) == ("raw", "raw")
    assert conf.processing_guarantee.value == "at_least_once"
    assert (conf.broker_session_timeout, conf.broker_heartbeat_interval) == (9.0, 3.0)
    assert conf.producer_acks == -1


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"])
def test_the_security_protocol_reaches_the_client(protocol: str) -> None:
    settings = StreamSettings(
        brokers="h:1",
        topic="t",
        security_protocol=protocol,  # type: ignore[arg-type]
        sasl_username="u",
        sasl_password="p",
    )
    credentials = conf_of(settings).broker_credentials
    assert (credentials.protocol.value if credentials is not None else "PLAINTEXT") == protocol


def test_making_the_application_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    conf_of(StreamSettings(brokers="h:1", topic="t"))
    assert os.listdir(tmp_path) == []


def test_the_collector_is_left_as_it_was() -> None:
    before = gc.get_threshold()
    settings = StreamSettings(brokers="127.0.0.1:9", topic="t", connect_timeout_s=0.0)
    assert run_app(settings, NoSink()) == EXIT_FAILED
    assert gc.get_threshold() == before


def test_exit_codes_differ() -> None:
    assert len({EXIT_CLEAN, EXIT_FAILED, EXIT_STALLED}) == 3
    assert EXIT_CLEAN == 0
