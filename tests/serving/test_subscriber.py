import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import redis

from dimflow.local_servers import LocalRedis
from model_contract.increment import encode
from model_contract.prediction_request import PredictionRequestDecoder
from model_contract.process_settings import SettingError
from model_contract.redis_keys import INCREMENT_FIELD, RedisKeys
from serving.process import ServingParts, assemble
from serving.settings import ServingSettings


@contextlib.contextmanager
def following(settings: ServingSettings) -> Iterator[ServingParts]:
    parts = assemble(settings)
    parts.subscriber.start()
    try:
        yield parts
    finally:
        assert parts.subscriber.stop(10)
        parts.endpoint.close()


def sequence(parts: ServingParts) -> int | None:
    return parts.replica.version and parts.replica.version.sequence


def assert_same_scores(parts: ServingParts, model: Any) -> None:
    instances = [model.instance() for _ in range(20)]
    batch = PredictionRequestDecoder(model.schema).decode(msgspec.json.encode({"instances": instances}))
    scores = parts.replica.score(batch).probabilities
    np.testing.assert_allclose(scores, [model.probability(instance) for instance in instances], atol=1e-6)


def test_follows_base_and_increments_of_a_model_that_appears_late(
    redis_model: Any, settings_for: Callable[..., ServingSettings], kit: Any
) -> None:
    model, store = redis_model
    with following(settings_for(model.schema)) as parts:
        kit.eventually(lambda: "no key" in parts.feed_log.state.waiting_for, "waits for a model")
        assert parts.replica.version is None
        model.sequence = 41
        store.put_base(model.base())
        kit.eventually(lambda: sequence(parts) == 41, "the base is loaded")
        for _ in range(5):
            store.add(model.step())
        kit.eventually(lambda: sequence(parts) == 46, "increments are applied")

        assert_same_scores(parts, model)
        assert parts.feed_log.state.refused == {}
        assert parts.feed_log.state.bases == 1


def test_a_large_base_comes_in_chunks(
    redis_model: Any, settings_for: Callable[..., ServingSettings], kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, store = redis_model
    monkeypatch.setattr(kit, "BASE_CHUNK_BYTES", 1000)
    store.put_base(model.base())
    assert int(store.client.hget(store.keys.head, "base_chunks")) > 5
    with following(settings_for(model.schema)) as parts:
        kit.eventually(lambda: sequence(parts) == 0, "the base is loaded")
        assert_same_scores(parts, model)


def test_a_gap_is_refused_until_a_base_closes_it(
    redis_model: Any, settings_for: Callable[..., ServingSettings], kit: Any
) -> None:
    model, store = redis_model
    store.put_base(model.base())
    with following(settings_for(model.schema)) as parts:
        store.add(model.step())
        kit.eventually(lambda: sequence(parts) == 1, "the first increment")
        instances = [model.instance() for _ in range(5)]
        truth = [model.probability(instance) for instance in instances]
        model.step()  # lost
        store.add(model.step())
        kit.eventually(lambda: parts.feed_log.state.refused == {"gap": 2}, "the gap is noted, by stream and by head")
        batch = PredictionRequestDecoder(model.schema).decode(msgspec.json.encode({"instances": instances}))
        np.testing.assert_allclose(parts.replica.score(batch).probabilities, truth, atol=1e-6)

        store.put_base(model.base())
        store.add(model.step())
        kit.eventually(lambda: sequence(parts) == 4, "base and increment after it")
        assert_same_scores(parts, model)
        assert parts.feed_log.state.waiting_for == ""


def test_a_trimmed_stream_leads_to_the_base(
    redis_model: Any, settings_for: Callable[..., ServingSettings], kit: Any
) -> None:
    model, store = redis_model
    store.put_base(model.base())
    with following(settings_for(model.schema)) as parts:
        kit.eventually(lambda: sequence(parts) == 0, "the first base")
    for _ in range(3):
        model.step()
    store.put_base(model.base())
    with following(settings_for(model.schema)) as parts:
        kit.eventually(lambda: sequence(parts) == 3, "a late server starts from the newest base")


def test_damaged_and_foreign_entries_are_passed_over(
    redis_model: Any, settings_for: Callable[..., ServingSettings], kit: Any
) -> None:
    """Entries with ids of their own stand between the right ones; the right ones are all applied."""
    model, store = redis_model
    rng = np.random.default_rng(3)
    store.put_base(model.base())
    stream = store.keys.increments(model.lineage)
    with following(settings_for(model.schema)) as parts:
        for round_ in range(4):
            increment = model.step()
            good = encode(increment)
            for number in range(10):
                bad = bytearray(good)
                bad[int(rng.integers(len(bad)))] ^= 0x10
                store.client.xadd(stream, {INCREMENT_FIELD: bytes(bad)}, id=f"{round_ + 1}-{number + 1}")
            foreign = replace(increment, header=replace(increment.header, lineage="elsewhere"))
            store.client.xadd(stream, {INCREMENT_FIELD: encode(foreign)}, id=f"{round_ + 1}-50")
            store.client.xadd(stream, {"other": b"x"}, id=f"{round_ + 1}-51")
            store.client.xadd(stream, {INCREMENT_FIELD: good}, id=f"{round_ + 1}-99")
            kit.eventually(lambda last=round_ + 1: sequence(parts) == last, "the right one is applied", 5)
            assert_same_scores(parts, model)
        refused = parts.feed_log.state.refused
        assert sum(refused.values()) == 48
        assert (refused["foreign_lineage"], refused["no_data"]) == (4, 4)


def test_an_entry_damaged_once_is_read_again_when_it_is_whole(
    redis_model: Any, settings_for: Callable[..., ServingSettings], kit: Any
) -> None:
    model, store = redis_model
    store.put_base(model.base())
    increment = model.step()
    store.add(increment, data=encode(increment)[:-1])
    with following(settings_for(model.schema)) as parts:
        kit.eventually(lambda: "bad_checksum" in parts.feed_log.state.refused, "refused")
        store.client.delete(store.keys.increments(model.lineage))
        store.add(increment)
        kit.eventually(lambda: sequence(parts) == 1, "the same sequence, whole", 5)
        assert parts.feed_log.state.refused == {"bad_checksum": 1}


def test_another_lineage_takes_over_with_its_base(
    redis_model: Any, settings_for: Callable[..., ServingSettings], kit: Any
) -> None:
    model, store = redis_model
    model.sequence = 10
    store.put_base(model.base())
    with following(settings_for(model.schema)) as parts:
        kit.eventually(lambda: sequence(parts) == 10, "the first lineage")
        model.lineage, model.sequence = "second", 3
        model.shake_dense()
        store.put_base(model.base())
        store.add(model.step())
        kit.eventually(lambda: parts.replica.version and parts.replica.version.name == "second-4", "the second one")
        assert_same_scores(parts, model)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fingerprint": "0" * 16}, "schema_mismatch"),
        ({"epoch": "many"}, "bad_head"),
        ({"lineage": "a{b}c"}, "bad_head"),
        ({"base_bytes": 1 << 50}, "limit_exceeded"),
        ({"base_bytes": 0}, "limit_exceeded"),
        ({"base_chunks": 2}, "base_incomplete"),
        ({"base_chunks": 0}, "base_incomplete"),
        ({"base_bytes": 100}, "base_incomplete"),
        ({"base_sequence": 5}, "base_incomplete"),
    ],
)
def test_a_head_that_cannot_be_followed_is_refused_and_a_right_one_taken_later(
    redis_model: Any, settings_for: Callable[..., ServingSettings], kit: Any, changes: dict[str, Any], reason: str
) -> None:
    model, store = redis_model
    base = model.base()
    store.put_base(base, **changes)
    with following(settings_for(model.schema)) as parts:
        kit.eventually(lambda: parts.feed_log.state.refused.get(reason), f"refused: {reason}")
        assert parts.replica.version is None
        store.put_base(base)
        kit.eventually(lambda: sequence(parts) == 0, "the right head")


def test_redis_killed_emptied_and_refilled(kit: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    model = kit.PlainModel(kit.schema_with_dense("killed"), rng)
    with LocalRedis() as server:
        settings = ServingSettings(
            model_file=kit.write_model_file(model.schema, tmp_path), redis=server.url, poll_ms=20, retry_max_s=0.2
        )
        with redis.Redis.from_url(server.url) as client:
            store = kit.RedisModel(client, model.schema)
            store.put_base(model.base())
        with following(settings) as parts:
            kit.eventually(lambda: sequence(parts) == 0, "the base")
            server.kill()
            kit.eventually(lambda: not parts.feed_log.state.connected, "Redis is missed")
            assert_same_scores(parts, model)
            server.restart()
            with redis.Redis.from_url(server.url) as client:
                client.flushall()
                store = kit.RedisModel(client, model.schema)
                kit.eventually(lambda: "no key" in parts.feed_log.state.waiting_for, "an empty Redis")
                assert_same_scores(parts, model)
                model.step()
                store.put_base(model.base())
                store.add(model.step())
                kit.eventually(lambda: sequence(parts) == 2, "caught up")
            assert_same_scores(parts, model)
            assert parts.feed_log.state.reconnects >= 1


def test_redis_frozen_is_noticed_and_forgiven(kit: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    model = kit.PlainModel(kit.schema_with_dense("frozen"), rng)
    with LocalRedis() as server:
        settings = ServingSettings(
            model_file=kit.write_model_file(model.schema, tmp_path),
            redis=server.url,
            redis_timeout_s=0.2,
            poll_ms=20,
            retry_max_s=0.2,
        )
        with redis.Redis.from_url(server.url) as client, following(settings) as parts:
            store = kit.RedisModel(client, model.schema)
            store.put_base(model.base())
            kit.eventually(lambda: sequence(parts) == 0, "the base")
            server.freeze()
            kit.eventually(lambda: not parts.feed_log.state.connected, "Redis is missed")
            assert_same_scores(parts, model)
            server.thaw()
            store.add(model.step())
            kit.eventually(lambda: sequence(parts) == 1, "caught up")
            assert_same_scores(parts, model)


def test_a_failure_nobody_foresaw_does_not_end_the_thread(
    redis_model: Any, settings_for: Callable[..., ServingSettings], kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, store = redis_model
    parts = assemble(settings_for(model.schema))
    failures = []

    def fail(*_: Any) -> bool:
        failures.append(1)
        message = "unforeseen"
        raise RuntimeError(message)

    with monkeypatch.context() as patch:
        patch.setattr(parts.intake, "check_head", fail)
        store.put_base(model.base())
        parts.subscriber.start()
        kit.eventually(lambda: len(failures) > 1, "it goes on after a failure")
    try:
        assert parts.subscriber.alive
        kit.eventually(lambda: sequence(parts) == 0, "and recovers")
    finally:
        assert parts.subscriber.stop(10)
        parts.endpoint.close()


def test_a_url_that_is_none_stops_the_start(kit: Any, tmp_path: Path) -> None:
    schema = kit.schema_with_dense()
    settings = ServingSettings(model_file=kit.write_model_file(schema, tmp_path), redis="http://user:secret@x/0")

    with pytest.raises(SettingError) as caught:
        assemble(settings)
    assert "DIMFLOW_SERVING_REDIS" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert RedisKeys(schema.name).head.startswith("dimflow:")
