"""The publisher against a real Redis: order, duplicates, gaps, fencing, bases, an emptied server."""

import time
from collections.abc import Iterator

import pytest
import redis

from model_contract.published_versions import Hold, StoredBase, parse_note
from model_contract.redis_keys import BASE_CHUNK_BYTES, RedisKeys
from stream_trainer.errors import Fenced, RedisUnavailable
from stream_trainer.publisher import Head, Publisher


@pytest.fixture
def model(redis_server) -> str:
    return redis_server.fresh_prefix("model")


@pytest.fixture
def client(redis_server) -> Iterator[redis.Redis]:
    client = redis.Redis.from_url(redis_server.url)
    yield client
    client.close()


@pytest.fixture
def publisher(redis_server, model) -> Iterator[Publisher]:
    publisher = Publisher(redis_server.url, model, kept_bases=2, stream_increments=100)
    yield publisher
    publisher.close()


def stream(client: redis.Redis, model: str, lineage: str) -> list[tuple[str, bytes]]:
    entries = client.xrange(RedisKeys(model).increments(lineage))
    return [(entry_id.decode(), fields[b"data"]) for entry_id, fields in entries]


def test_increments_follow_the_base_and_each_other(publisher: Publisher, client: redis.Redis, model: str) -> None:
    assert publisher.head() is None
    assert publisher.claim("a", 1, 0) == "empty"
    assert not publisher.append("a", 1, 1, b"too early")

    publisher.replace_base("a", 1, 0, "f", b"base")
    assert publisher.append("a", 1, 1, b"one")
    assert publisher.append("a", 1, 2, b"two")

    assert publisher.head() == Head("a", 1, 2, 0, 1)
    assert stream(client, model, "a") == [("1-0", b"one"), ("2-0", b"two")]


def test_a_duplicate_changes_nothing_and_a_gap_is_refused(
    publisher: Publisher, client: redis.Redis, model: str
) -> None:
    publisher.replace_base("a", 1, 5, "f", b"base")
    publisher.append("a", 1, 6, b"six")

    assert publisher.append("a", 1, 6, b"six again")
    assert not publisher.append("a", 1, 8, b"eight")

    assert stream(client, model, "a") == [("6-0", b"six")]


def test_a_later_epoch_fences_off_the_earlier_one(publisher: Publisher, client: redis.Redis, model: str) -> None:
    publisher.replace_base("a", 1, 0, "f", b"base")
    publisher.append("a", 1, 1, b"one")

    assert publisher.claim("a", 2, 1) == "ok"

    with pytest.raises(Fenced):
        publisher.append("a", 1, 2, b"stale")
    with pytest.raises(Fenced):
        publisher.replace_base("a", 1, 2, "f", b"stale base")
    with pytest.raises(Fenced):
        publisher.claim("a", 1, 2)
    assert publisher.append("a", 2, 2, b"two")
    assert stream(client, model, "a") == [("1-0", b"one"), ("2-0", b"two")]
    assert not client.exists(RedisKeys(model).base_chunk("a", 2, 0))


def test_another_lineage_is_taken_over_only_on_purpose(publisher: Publisher, client: redis.Redis, model: str) -> None:
    publisher.replace_base("a", 3, 7, "f", b"base of a")
    publisher.append("a", 3, 8, b"eight")

    assert publisher.claim("b", 1, 0) == "foreign"
    with pytest.raises(Fenced):
        publisher.replace_base("b", 1, 0, "f", b"base of b")
    publisher.replace_base("b", 1, 0, "f", b"base of b", take_over=True)

    assert publisher.head() == Head("b", 1, 0, 0, 1)
    assert stream(client, model, "a") == []
    with pytest.raises(Fenced):
        publisher.append("a", 3, 9, b"nine")


def test_a_trainer_that_lost_what_was_published_is_told(publisher: Publisher) -> None:
    publisher.replace_base("a", 1, 9, "f", b"base")

    assert publisher.claim("a", 2, 8) == "ahead"


def test_a_large_base_lies_in_chunks_and_old_ones_go(publisher: Publisher, client: redis.Redis, model: str) -> None:
    data = bytes(range(256)) * (BASE_CHUNK_BYTES // 256) + b"tail"
    keys = RedisKeys(model)
    for sequence in (1, 2, 3):
        publisher.replace_base("a", 1, sequence, "f", data)
        publisher.append("a", 1, sequence + 1, b"next")

    stored = b"".join(client.get(keys.base_chunk("a", 3, i)) for i in range(2))
    assert stored == data
    assert client.exists(keys.base_chunk("a", 2, 0))
    assert not client.exists(keys.base_chunk("a", 1, 0))
    assert [entry_id for entry_id, _ in stream(client, model, "a")] == ["3-0", "4-0"]
    assert publisher.head() == Head("a", 1, 4, 3, 2)


def test_an_emptied_server_says_so(publisher: Publisher, client: redis.Redis, model: str) -> None:
    publisher.replace_base("a", 1, 0, "f", b"base")
    client.delete(*client.keys(f"{RedisKeys(model).prefix}*"))

    assert not publisher.append("a", 1, 1, b"one")


def test_a_server_that_is_away_is_reported_as_such() -> None:
    publisher = Publisher("redis://127.0.0.1:1/0", "m", kept_bases=1, stream_increments=10)

    with pytest.raises(RedisUnavailable, match="redis: ConnectionError"):
        publisher.head()
    publisher.close()


def test_a_hold_stands_beside_the_head_and_only_its_owner_writes_it(
    publisher: Publisher, client: redis.Redis, model: str
) -> None:
    hold = Hold(reason="log_loss", detail="twice its level", since_ms=5, sequence=7)
    publisher.tell_hold("a", 1, hold)
    assert not client.exists(RedisKeys(model).head), "an empty Redis gets no head of nothing but a note"
    publisher.replace_base("a", 2, 0, "f", b"base")
    publisher.tell_hold("a", 2, hold)
    assert parse_note(Hold, client.hget(RedisKeys(model).head, "hold")) == hold
    for lineage, epoch in (("a", 1), ("b", 2)):
        with pytest.raises(Fenced):
            publisher.tell_hold(lineage, epoch, None)
    publisher.tell_hold("a", 2, None)
    assert client.hget(RedisKeys(model).head, "hold") == b""
    assert publisher.head() == Head("a", 2, 0, 0, 1)


def test_whole_bases_are_listed_and_a_pinned_one_outlives_its_time_and_its_lineage(
    publisher: Publisher, client: redis.Redis, model: str
) -> None:
    keys = RedisKeys(model)
    facts = {"created_ms": 77, "samples_trained": 9, "metrics": {"log_loss": 0.5}}
    publisher.replace_base("a", 1, 1, "f", b"base one", **facts)
    assert parse_note(StoredBase, client.hget(keys.versions, "a-1")) == StoredBase(
        lineage="a", sequence=1, epoch=1, chunks=1, size_bytes=8, fingerprint="f", **facts
    )
    client.set(keys.base_chunk("a", 2, 0), b"half of a base")
    client.hset(keys.head, "pin", "a-1")
    for sequence in (3, 4, 5):
        publisher.replace_base("a", 1, sequence, "f", b"base")
    assert sorted(client.hkeys(keys.versions)) == [b"a-1", b"a-4", b"a-5"]
    assert client.get(keys.base_chunk("a", 1, 0)) == b"base one"
    assert not client.exists(keys.base_chunk("a", 2, 0))
    assert client.hget(keys.head, "pin") == b"a-1"

    publisher.replace_base("b", 1, 0, "f", b"base of b", take_over=True)
    assert sorted(client.hkeys(keys.versions)) == [b"a-1", b"b-0"]
    assert client.get(keys.base_chunk("a", 1, 0)) == b"base one"
    client.hset(keys.head, "pin", "")
    publisher.replace_base("b", 1, 1, "f", b"base of b")
    assert sorted(client.hkeys(keys.versions)) == [b"b-0", b"b-1"]
    assert not client.exists(keys.base_chunk("a", 1, 0))


def test_a_frozen_trainer_of_a_former_lineage_removes_nothing_of_its_successors(
    publisher: Publisher, client: redis.Redis, model: str
) -> None:
    publisher.replace_base("a", 1, 1, "f", b"base of a")
    publisher.replace_base("b", 1, 1, "f", b"base of b", take_over=True)
    publisher.append("b", 1, 2, b"two")
    with pytest.raises(Fenced):
        publisher._drop_bases("a", 1, {"a-1"})  # where it was frozen: between its base and the removal of older ones
    assert client.exists(RedisKeys(model).base_chunk("b", 1, 0))
    assert stream(client, model, "b") == [("2-0", b"two")]


def led(redis_server, model: str, name: str) -> Publisher:
    return Publisher(redis_server.url, model, kept_bases=2, stream_increments=100, trainer=name)


def test_while_another_trainer_leads_nothing_can_be_written(
    publisher: Publisher, client: redis.Redis, redis_server, model: str
) -> None:
    first, second = led(redis_server, model, "x:1"), led(redis_server, model, "y:2")
    assert first.lead("x:", 60_000) == "x:1"
    assert second.lead("y:", 60_000) == "x:1"
    first.replace_base("a", 1, 0, "f", b"base")
    assert first.append("a", 1, 1, b"one")
    for other in (second, publisher):
        with pytest.raises(Fenced, match="led by b'x:1'"):
            other.claim("a", 2, 1)
        with pytest.raises(Fenced):
            other.append("a", 1, 2, b"two")
        with pytest.raises(Fenced):
            other.replace_base("b", 1, 0, "f", b"base", take_over=True)
    assert stream(client, model, "a") == [("1-0", b"one")]

    second.resign()  # is not its to give
    assert second.lead("y:", 60_000) == "x:1"
    first.resign()
    assert second.lead("y:", 60_000) == "y:2"
    with pytest.raises(Fenced):
        first.append("a", 1, 2, b"two")
    assert second.claim("a", 2, 1) == "ok"
    first.close()
    second.close()


def test_a_lease_runs_out_and_one_home_has_one_process(redis_server, model: str) -> None:
    first, again, second = (led(redis_server, model, name) for name in ("x:1", "x:2", "y:1"))
    assert first.lead("x:", 60_000) == "x:1"
    assert again.lead("x:", 50) == "x:2"
    time.sleep(0.1)
    assert second.lead("y:", 60_000) == "y:1"
    for one in (first, again, second):
        one.close()


def test_who_goes_on_from_a_state_that_another_went_on_from_is_told_to_branch_off(redis_server, model: str) -> None:
    first, second = led(redis_server, model, "x:1"), led(redis_server, model, "y:1")
    first.replace_base("a", 1, 0, "f", b"base")
    assert first.claim("a", 2, 0) == "ok"
    assert first.claim("a", 2, 0) == "ok"  # sent again, as the answer had not come
    assert second.claim("a", 2, 0) == "ahead"  # the same state, the same epoch, another process
    assert first.claim("a", 7, 0) == "ok"
    assert second.claim("a", 3, 0) == "ahead"  # a state from before
    first.close()
    second.close()


def test_who_died_between_its_claim_and_its_first_base_is_followed_under_the_same_epoch(
    redis_server, model: str
) -> None:
    first, again, other = (led(redis_server, model, name) for name in ("x:1", "x:2", "xy:3"))
    first.replace_base("a", 1, 0, "f", b"base")
    assert first.append("a", 1, 1, b"one")
    assert first.claim("a", 2, 1) == "ok"  # its base of epoch 2 never reaches the disk
    assert again.claim("a", 2, 1) == "ok"
    assert other.claim("a", 2, 1) == "ahead"  # of another home
    assert again.append("a", 2, 2, b"two")
    assert first.claim("a", 2, 1) == "ahead"  # something was published meanwhile
    for one in (first, again, other):
        one.close()
