"""Pins over a real Redis: only what every server can load is pinned, and servers follow, now and after a restart."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import redis

from model_contract.prediction_request import PredictionRequestDecoder
from model_contract.process_settings import SettingError
from model_contract.published_versions import Hold, StoredBase
from serving.errors import VersionRefused, VersionsUnavailable
from serving.process import ServingParts, assemble
from serving.settings import ServingSettings
from serving.version_pins import VersionPins

Instances = list[dict[str, Any]]


@pytest.fixture
def site(redis_model: Any, redis_server: Any) -> Iterator[tuple[Any, Any, VersionPins]]:
    model, store = redis_model
    pins = VersionPins(redis_server.url, model.schema.name, now_ms=lambda: 123)
    yield model, store, pins
    pins.close()


@contextlib.contextmanager
def following(settings: ServingSettings) -> Iterator[ServingParts]:
    parts = assemble(settings)
    parts.subscriber.start()
    try:
        yield parts
    finally:
        assert parts.subscriber.stop(10)
        parts.endpoint.close()
        parts.pins.close()


def name_of(parts: ServingParts) -> str | None:
    return parts.replica.version and parts.replica.version.name


def answers(parts: ServingParts, instances: Instances) -> list[float]:
    batch = PredictionRequestDecoder(parts.schema).decode(msgspec.json.encode({"instances": instances}))
    return parts.replica.score(batch).probabilities.tolist()


def grown(model: Any, store: Any, steps: int) -> None:
    for _ in range(steps):
        store.add(model.step())


def test_a_rolled_back_server_stays_and_catches_up_after_unpin(
    site: Any, settings_for: Callable[..., ServingSettings], kit: Any
) -> None:
    model, store, pins = site
    instances = [model.instance() for _ in range(10)]
    store.put_base(model.base())
    truth = [model.probability(instance) for instance in instances]
    with following(settings_for(model.schema)) as parts:
        grown(model, store, 3)
        kit.eventually(lambda: name_of(parts) == "first-3", "it follows")

        pin = pins.pin("first-0", "ops")
        assert (pin.base.version, pin.by, pin.since_ms) == ("first-0", "ops", 123)
        kit.eventually(lambda: name_of(parts) == "first-0", "rolled back")
        np.testing.assert_allclose(answers(parts, instances), truth, atol=1e-6)
        grown(model, store, 2)
        store.put_base(model.base())
        grown(model, store, 1)
        kit.eventually(lambda: parts.feed_log.state.pin == pin, "the pin is told")
        assert parts.feed_log.state.waiting_for == ""
        with following(settings_for(model.schema)) as late:
            kit.eventually(lambda: name_of(late) == "first-0", "a restarted server comes up with it")
            np.testing.assert_allclose(answers(late, instances), truth, atol=1e-6)
        assert name_of(parts) == "first-0"

        pins.unpin()
        kit.eventually(lambda: name_of(parts) == "first-6", "caught up")
        truth = [model.probability(instance) for instance in instances]
        np.testing.assert_allclose(answers(parts, instances), truth, atol=1e-6)
        assert parts.feed_log.state.pin is None
        assert parts.feed_log.state.refused == {}


def test_after_unpin_what_the_stream_no_longer_has_comes_from_the_base(
    site: Any, settings_for: Callable[..., ServingSettings], kit: Any
) -> None:
    model, store, pins = site
    store.put_base(model.base())
    with following(settings_for(model.schema)) as parts:
        pins.pin(None, "ops")
        kit.eventually(lambda: parts.feed_log.state.pin is not None and name_of(parts) == "first-0", "pinned")
        grown(model, store, 5)
        store.put_base(model.base())
        grown(model, store, 1)
        store.client.xtrim(store.keys.increments("first"), minid="6-0")
        pins.unpin()
        kit.eventually(lambda: name_of(parts) == "first-6", "base and increment")


def test_a_pin_to_what_answers_already_loads_nothing(
    site: Any, settings_for: Callable[..., ServingSettings], kit: Any
) -> None:
    model, store, pins = site
    store.put_base(model.base())
    grown(model, store, 2)
    with following(settings_for(model.schema)) as parts:
        kit.eventually(lambda: name_of(parts) == "first-2", "it follows")
        store.put_base(model.base())
        pins.pin("2", "ops")
        kit.eventually(lambda: parts.feed_log.state.pin is not None, "pinned")
        grown(model, store, 1)
        with pytest.raises(AssertionError, match="moves"):
            kit.eventually(lambda: name_of(parts) != "first-2", "it moves", 0.3)
        assert name_of(parts) == "first-2"
        assert parts.feed_log.state.bases == 1
        pins.unpin()
        kit.eventually(lambda: name_of(parts) == "first-3", "goes on where it was")
        assert parts.feed_log.state.bases == 1


def test_a_server_stays_pinned_over_an_emptied_redis_until_it_is_told(
    site: Any, settings_for: Callable[..., ServingSettings], kit: Any
) -> None:
    model, store, pins = site
    store.put_base(model.base())
    with following(settings_for(model.schema)) as parts:
        pins.pin(None, "ops")
        kit.eventually(lambda: parts.feed_log.state.pin is not None, "pinned")
        store.client.delete(*store.client.keys(f"{store.keys.prefix}*"))
        model.step()
        store.put_base(model.base())
        grown(model, store, 1)
        with pytest.raises(AssertionError, match="moves"):
            kit.eventually(lambda: name_of(parts) != "first-0", "it moves", 1.0)
        assert parts.feed_log.state.pin is not None
        pins.unpin()
        kit.eventually(lambda: name_of(parts) == "first-2", "told")


def test_a_pinned_base_that_cannot_be_loaded_leaves_the_model_as_it_is(
    site: Any, settings_for: Callable[..., ServingSettings], kit: Any
) -> None:
    model, store, pins = site
    store.put_base(model.base())
    grown(model, store, 1)
    with following(settings_for(model.schema)) as parts:
        kit.eventually(lambda: name_of(parts) == "first-1", "it follows")
        key = store.keys.base_chunk("first", 0, 0)
        store.client.setrange(key, 200, b"\x00damaged")
        pins.pin("first-0", "ops")
        kit.eventually(lambda: "bad_checksum" in parts.feed_log.state.refused, "refused")
        grown(model, store, 1)
        with pytest.raises(AssertionError, match="moves"):
            kit.eventually(lambda: name_of(parts) != "first-1", "it moves", 0.5)
        pins.unpin()
        kit.eventually(lambda: name_of(parts) == "first-2", "goes on")


@pytest.mark.parametrize("pin", [b"first-0", b"other-0"])
def test_a_pin_that_makes_no_sense_is_refused_and_nothing_moves(
    pin: bytes, site: Any, settings_for: Callable[..., ServingSettings], kit: Any
) -> None:
    model, store, pins = site
    store.put_base(model.base())
    with following(settings_for(model.schema)) as parts:
        kit.eventually(lambda: name_of(parts) == "first-0", "it follows")
        base = StoredBase(lineage="a:b", sequence=0, epoch=1, chunks=1, size_bytes=9, fingerprint="f")
        details = msgspec.json.encode({"base": base, "by": "x", "since_ms": 1}) if pin == b"other-0" else b"{"
        store.client.hset(store.keys.head, mapping={"pin": pin, "pin_details": details})
        kit.eventually(lambda: "bad_head" in parts.feed_log.state.refused, "refused")
        grown(model, store, 1)
        with pytest.raises(AssertionError, match="moves"):
            kit.eventually(lambda: name_of(parts) != "first-0", "it moves", 0.5)
        pins.unpin()
        kit.eventually(lambda: name_of(parts) == "first-1", "goes on")


def test_why_the_trainer_holds_back_reaches_the_log(
    site: Any, settings_for: Callable[..., ServingSettings], kit: Any
) -> None:
    model, store, _ = site
    store.put_base(model.base())
    hold = Hold(reason="log_loss", detail="twice its level", since_ms=5, sequence=1)
    with following(settings_for(model.schema)) as parts:
        kit.eventually(lambda: name_of(parts) == "first-0", "it follows")
        store.client.hset(store.keys.head, "hold", msgspec.json.encode(hold))
        kit.eventually(lambda: parts.feed_log.state.hold == hold, "told")
        store.client.hset(store.keys.head, "hold", "")
        kit.eventually(lambda: parts.feed_log.state.hold is None, "over")


def test_only_what_is_stored_whole_is_pinned_and_the_error_lists_it(site: Any) -> None:
    model, store, pins = site
    with pytest.raises(VersionsUnavailable, match="no trainer has published"):
        pins.versions()
    with pytest.raises(VersionsUnavailable, match="no trainer has published"):
        pins.unpin()
    store.put_base(model.base())
    model.step()
    store.put_base(model.base())
    for unknown in ("first-7", "7", "second-0", ""):
        with pytest.raises(VersionRefused, match="is not stored; expected one of first-1, first-0"):
            pins.pin(unknown, "ops")
    assert pins.pin("1", "ops").base.version == "first-1"
    assert pins.pin(None, "ops").base.version == "first-1"

    store.client.delete(store.keys.base_chunk("first", 0, 0))
    with pytest.raises(VersionRefused, match="first-0: its base is not whole"):
        pins.pin("first-0", "ops")
    found = pins.versions()
    assert (found.head, found.newest_base, found.hold) == ("first-1", "first-1", None)
    assert found.pin is not None
    assert found.pin.base.version == "first-1", "what could not be pinned changed nothing"
    assert [base.version for base in found.bases] == ["first-1", "first-0"]
    assert found.report()["pinned"] == {"version": "first-1", "by": "ops", "since_ms": 123}
    assert found.report()["versions"][0]["version"] == "first-1"


def test_a_bare_sequence_that_two_lineages_have_is_refused(site: Any) -> None:
    model, store, pins = site
    store.put_base(model.base())
    model.lineage = "second"
    store.put_base(model.base())
    with pytest.raises(VersionRefused, match="names several"):
        pins.pin("0", "ops")
    assert pins.pin("first-0", "ops").base.lineage == "first"


def test_a_base_that_goes_while_it_is_pinned_is_not_pinned(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, store, pins = site
    store.put_base(model.base())
    found = pins._read()
    store.client.hdel(store.keys.versions, "first-0")
    monkeypatch.setattr(pins, "_read", lambda: found)
    with pytest.raises(VersionRefused, match="changed 5 times"):
        pins.pin("first-0", "ops")
    assert not store.client.hexists(store.keys.head, "pin")


def test_a_redis_that_is_away_and_one_that_cannot_be() -> None:
    pins = VersionPins("redis://127.0.0.1:1/0", "m", now_ms=lambda: 0)
    with pytest.raises(VersionsUnavailable, match="redis: ConnectionError"):
        pins.versions()
    pins.close()
    with pytest.raises(SettingError, match="redis: got 'http://x:"):
        VersionPins("http://x:secret@y", "m", now_ms=lambda: 0)
    assert issubclass(redis.ConnectionError, redis.RedisError)
