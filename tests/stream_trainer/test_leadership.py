"""Who trains: one at a time, the next one as soon as the first is gone, and nobody who was left behind."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stream_trainer.checkpoint_store import CheckpointStore
from stream_trainer.errors import Fenced
from stream_trainer.leadership import LeaderLease, stop_signals, wait_for_folder
from stream_trainer.publisher import Publisher
from tests.stream_trainer.states import merge_pages

HOLDER = """
import sys, time
from pathlib import Path
from stream_trainer.checkpoint_store import CheckpointStore
store = CheckpointStore(Path(sys.argv[1]), lambda base, pages: base)
print(store.home, flush=True)
time.sleep(120)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_folder_is_taken_as_soon_as_its_process_is_gone_however_it_ends(tmp_path: Path, holder) -> None:
    home = holder.stdout.readline().strip()
    waits: list[int] = []
    taken: list[CheckpointStore | None] = []
    stopping = threading.Event()

    def wait() -> None:
        taken.append(wait_for_folder(lambda: CheckpointStore(tmp_path, merge_pages), stopping, lambda: waits.append(1)))

    waiting = threading.Thread(target=wait)
    waiting.start()
    holder.send_signal(signal.SIGSTOP)
    time.sleep(0.6)
    assert taken == []  # a frozen process keeps its folder
    assert waits == [1]
    holder.kill()
    waiting.join(10)

    assert taken[0] is not None
    assert taken[0].home == home  # the folder's name, not the process'
    taken[0].close()


def test_a_wait_can_be_ended(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, merge_pages)
    stopping = threading.Event()
    stopping.set()
    assert wait_for_folder(lambda: CheckpointStore(tmp_path, merge_pages), stopping, lambda: None) is None
    store.close()


def test_signals_end_a_wait_and_are_handed_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals() as stopping:
        signal.raise_signal(signal.SIGTERM)
        assert stopping.wait(5)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def lease(redis_server) -> Iterator[Callable[..., LeaderLease]]:
    model = redis_server.fresh_prefix("model")
    made: list[LeaderLease] = []

    def make(home: str, lease_s: float = 0.8, url: str = redis_server.url) -> LeaderLease:
        made.append(
            LeaderLease(
                lambda name: Publisher(url, model, kept_bases=1, stream_increments=10, trainer=name), home, lease_s
            )
        )
        return made[-1]

    yield make
    for one in made:
        one.close()


def waits(lease: LeaderLease, within_s: float) -> bool:
    """Whether it does not lead by then."""
    stopping = threading.Event()
    threading.Timer(within_s, stopping.set).start()
    return not lease.wait(stopping, lambda: None)


def test_the_first_leads_while_it_renews_and_the_next_when_it_gives_up(lease) -> None:
    first, second = lease("a"), lease("b")
    assert not waits(first, 5)
    assert waits(second, 2)  # longer than a lease
    first.close()
    began = time.monotonic()
    assert not waits(second, 5)
    assert time.monotonic() - began < 2


def test_a_process_of_the_same_folder_need_not_wait_for_the_lease_to_run_out(lease) -> None:
    assert not waits(lease("a", 60), 5)
    began = time.monotonic()
    assert not waits(lease("a", 60), 5)
    assert time.monotonic() - began < 2


def test_a_leader_that_stood_still_is_told_that_it_was_left_behind(lease, redis_server) -> None:
    frozen, second = lease("a"), lease("b")
    lost: list[Fenced] = []
    frozen.on_lost = lost.append
    assert not waits(frozen, 5)
    frozen._lead = lambda: frozen.name  # its thread does not come to it, as in a frozen process
    assert not waits(second, 10)
    assert lost == []
    del frozen._lead
    deadline = time.monotonic() + 10
    while not lost:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert second.name in str(lost[0])


def test_without_redis_a_trainer_goes_on(lease) -> None:
    assert not waits(lease("a", url="redis://127.0.0.1:1/0"), 30)
