"""Cuts on their way to disk and Redis: what is public is durable, what Redis missed reaches it, in order and once."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from model_contract.increment import Increment, IncrementLimits, decode
from model_contract.redis_keys import RedisKeys
from stream_trainer.checkpoint_store import CheckpointStore
from stream_trainer.delivery import Delivery
from stream_trainer.errors import Fenced
from stream_trainer.model_state import Manifest, ModelState
from stream_trainer.outgoing import encode_state
from stream_trainer.publisher import Publisher
from tests.stream_trainer.states import LAYOUT, block, merge_pages, state, with_manifest


class Site:
    """One state folder and one model in Redis; trainers come and go."""

    def __init__(self, folder: Path, url: str, model: str) -> None:
        self.folder, self.url, self.keys = folder, url, RedisKeys(model)
        self.durable: list[int] = []
        self.client = redis.Redis.from_url(url)
        self._open: list[tuple[CheckpointStore, Publisher]] = []

    def start(
        self, found: ModelState | None = None, at_step: Callable[[str], None] = lambda _: None, **options: object
    ) -> tuple[Delivery, ModelState]:
        store = CheckpointStore(self.folder, merge_pages)
        publisher = Publisher(str(options.pop("url", self.url)), self.model, kept_bases=2, stream_increments=100)
        self._open.append((store, publisher))
        behind = bool(options.pop("behind", False))
        settings = {"compact_ratio": 1e9, "compact_increments": 1_000_000, **options}
        delivery = Delivery(store, publisher, LAYOUT, at_step=at_step, **settings)
        delivery.on_durable = self._on_durable
        stored = store.load()
        begin = found or (stored.state if stored else state(0, [block(0, [1, 2], 0.0)]))
        return delivery, delivery.start(begin, behind=behind)

    @property
    def model(self) -> str:
        return self.keys.model

    def _on_durable(self, manifest: Manifest) -> None:
        self.durable.append(manifest.sequence)

    def release(self) -> None:
        """What the kernel does for a killed process: the lock goes, the connections close."""
        for store, publisher in self._open:
            store.close()
            publisher.close()
        self._open.clear()

    def head(self) -> dict[str, str]:
        return {k.decode(): v.decode() for k, v in self.client.hgetall(self.keys.head).items()}

    def increments(self, lineage: str = "aaaa") -> list[Increment]:
        entries = self.client.xrange(self.keys.increments(lineage))
        return [decode(f[b"data"], limits=IncrementLimits(), expected_fingerprint=None) for _, f in entries]

    def wait(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not done():
            assert time.monotonic() < deadline, self.head()
            time.sleep(0.01)


@pytest.fixture
def site(tmp_path: Path, redis_server) -> Iterator[Site]:
    site = Site(tmp_path, redis_server.url, redis_server.fresh_prefix("model"))
    yield site
    site.release()
    site.client.close()


def delta(sequence: int, begun: ModelState) -> ModelState:
    found = state(sequence, [block(0, [sequence], float(sequence))])
    return with_manifest(found, lineage=begun.manifest.lineage, epoch=begun.manifest.epoch)


def test_cuts_become_durable_then_public_in_order(site: Site) -> None:
    delivery, begun = site.start()
    for sequence in (1, 2, 3):
        delivery.offer(delta(sequence, begun))
    delivery.close()

    assert site.durable == [1, 2, 3]
    assert [i.header.sequence for i in site.increments()] == [1, 2, 3]
    assert site.head()["sequence"] == "3"
    assert site.head()["base_sequence"] == "0"
    assert {i.header.epoch for i in site.increments()} == {2}
    assert delivery.counts.increments == 3


def test_what_a_killed_trainer_had_on_disk_is_published_by_the_next_with_the_same_bytes(site: Site) -> None:
    def die(step: str) -> None:
        if step == "before_publish" and len(site.increments()) == 1:
            message = "killed"
            raise OSError(message)

    delivery, begun = site.start(at_step=die)
    delivery.offer(delta(1, begun))
    site.wait(lambda: delivery.ready)
    delivery.offer(delta(2, begun))
    with pytest.raises(OSError, match="killed"):
        delivery.close()
    assert [i.header.sequence for i in site.increments()] == [1]
    stored = CheckpointStore.read_delta(delivery._store, 2)
    site.release()

    second, again = site.start()
    site.wait(lambda: site.head()["sequence"] == "2")
    second.offer(delta(3, again))
    second.close()

    assert [i.header.sequence for i in site.increments()] == [1, 2, 3]
    assert [i.header.epoch for i in site.increments()] == [2, 2, 3]
    published = site.client.xrange(site.keys.increments("aaaa"), "2-0", "2-0")[0][1][b"data"]
    assert published == encode_state(stored, "increment", LAYOUT)


def test_an_emptied_redis_is_filled_again_without_a_restart(site: Site) -> None:
    delivery, begun = site.start()
    delivery.offer(delta(1, begun))
    site.wait(lambda: site.head().get("sequence") == "1")
    site.client.delete(*site.client.keys(f"{site.keys.prefix}*"))
    delivery.offer(delta(2, begun))
    delivery.offer(delta(3, begun))
    delivery.close()

    assert site.head()["base_sequence"] == "2"
    assert site.head()["sequence"] == "3"
    assert [i.header.sequence for i in site.increments()] == [3]
    base = site.client.get(site.keys.base_chunk("aaaa", 2, 0))
    found = decode(base, limits=IncrementLimits(), expected_fingerprint=None)
    assert found.header.kind == "base"
    assert found.blocks[0].ids.tolist() == [1, 2]
    assert found.blocks[0].values[:, 0].tolist() == [1.0, 2.0]


def test_redis_away_at_the_start_and_for_a_while_loses_nothing(site: Site, redis_server) -> None:
    delivery, begun = site.start(url="redis://127.0.0.1:1/0")
    delivery.offer(delta(1, begun))
    delivery.offer(delta(2, begun))
    delivery.close()
    assert site.durable == [1, 2]
    assert delivery.counts.redis_failures > 0
    assert site.head() == {}
    site.release()

    second, again = site.start()
    second.offer(delta(3, again))
    second.close()

    assert (site.head()["base_sequence"], site.head()["sequence"]) == ("2", "3")


def test_a_later_trainer_stops_the_earlier_one(site: Site, tmp_path: Path) -> None:
    delivery, begun = site.start()
    site.client.hset(site.keys.head, "epoch", begun.manifest.epoch + 1)
    delivery.offer(delta(1, begun))
    site.wait(lambda: delivery._failure is not None)

    with pytest.raises(Fenced):
        delivery.offer(delta(2, begun))
    with pytest.raises(Fenced):
        delivery.close()
    assert site.increments() == []


def test_a_state_that_fell_behind_what_was_published_goes_on_under_a_new_lineage(site: Site) -> None:
    delivery, begun = site.start()
    for sequence in (1, 2):
        delivery.offer(delta(sequence, begun))
    delivery.close()
    site.release()
    for broken in site.folder.glob("delta-000000000002.npz"):
        broken.write_bytes(b"rotten")

    second, again = site.start()
    second.offer(delta(2, again))
    second.close()

    assert again.manifest.lineage != "aaaa"
    assert site.head()["lineage"] == again.manifest.lineage
    assert site.head()["base_sequence"] == "1"
    assert [i.header.sequence for i in site.increments(again.manifest.lineage)] == [2]
    assert site.increments("aaaa") == []


def test_a_base_follows_when_the_increments_outgrow_it(site: Site) -> None:
    delivery, begun = site.start(compact_increments=2)
    for sequence in range(1, 6):
        delivery.offer(delta(sequence, begun))
        site.wait(lambda: delivery.ready)
    delivery.close()

    assert int(site.head()["base_sequence"]) >= 2
    assert site.head()["sequence"] == "5"
    assert delivery.counts.bases >= 2
    assert len(list(site.folder.glob("base-*.npz"))) == 2


def test_a_start_from_behind_what_was_durable_goes_on_as_a_lineage_of_its_own(site: Site) -> None:
    delivery, begun = site.start()
    for sequence in (1, 2):
        delivery.offer(delta(sequence, begun))
    delivery.close()
    site.release()
    path = site.folder / "delta-000000000002.npz"
    path.write_bytes(path.read_bytes()[:100])

    store = CheckpointStore(site.folder, merge_pages)
    stored = store.load()
    store.close()
    assert stored.behind
    second, again = site.start(stored.state, behind=True)
    assert again.manifest.lineage != "aaaa"
    assert again.manifest.origin == ("aaaa", 1)
    second.offer(with_manifest(delta(2, again), origin=again.manifest.origin))
    second.close()
    assert site.head()["lineage"] == again.manifest.lineage
    assert site.head()["sequence"] == "2"
    site.release()

    # the base of the branch is harmed as well: the chain leads over the old lineage to where the new one began
    (site.folder / "base-000000000001.npz").write_bytes(b"")
    store = CheckpointStore(site.folder, merge_pages)
    stored = store.load()
    store.close()
    assert (stored.state.manifest.lineage, stored.state.manifest.sequence) == (again.manifest.lineage, 2)
    assert stored.skipped == ("base-000000000001.npz",)
    assert not stored.behind


def test_a_lineage_that_was_left_is_not_gone_on_with(site: Site) -> None:
    delivery, begun = site.start()
    delivery.offer(delta(1, begun))
    delivery.close()
    site.release()
    publisher = Publisher(site.url, site.model, kept_bases=2, stream_increments=100)
    publisher.replace_base("bbbb", 9, 1, begun.manifest.fingerprint, b"another trainer's", take_over=True)
    publisher.close()

    second, again = site.start()
    second.close()
    assert again.manifest.lineage not in {"aaaa", "bbbb"}
    assert again.manifest.origin == ("aaaa", 1)
    assert site.head()["lineage"] == again.manifest.lineage
