"""Which of several trainers of a model trains: one leads, the others stand by until it is gone.

Two things are held, in this order. The lock of the state folder: the system gives it up when its process ends, however
it ends, and not before; so a standby on the same folder takes over at once, and a frozen leader's folder is never
written by two. Then the lease in Redis, renewed four times in its length: so that a standby with a folder of its own
takes over when the leader's process, machine or network stands still.

Knows no Kafka and no model. Invariant: who has not both (or no Redis to ask) neither joins the consumer group nor
touches the model in Redis. The lease is for peace; that nothing stale is published is up to the scripts of
`publisher`, which turn away whoever lost it or has an older epoch.
"""

import logging
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from stream_trainer.checkpoint_store import CheckpointStore
from stream_trainer.errors import Fenced, RedisUnavailable, StateFolderInUse
from stream_trainer.publisher import Publisher

__all__ = ["LeaderLease", "stop_signals", "wait_for_folder"]

logger = logging.getLogger(__name__)

_LOOK_S = 0.2
_RENEWALS = 4


def wait_for_folder(
    open_store: Callable[[], CheckpointStore], stopping: threading.Event, on_wait: Callable[[], None]
) -> CheckpointStore | None:
    """Takes the state folder as soon as no other process holds it.

    Args:
        open_store: takes it, or raises `StateFolderInUse`.
        stopping: ends the wait.
        on_wait: called once, where there is something to wait for.

    Returns:
        the folder, None where `stopping` was set first.
    """
    told = False
    while True:
        try:
            return open_store()
        except StateFolderInUse as error:
            if not told:
                logger.info("standby: %s", error)
                on_wait()
                told = True
        if stopping.wait(_LOOK_S):
            return None


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set, in the main thread; elsewhere nothing sets it."""
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda *_: stopping.set()) for number in numbers]
    try:
        yield stopping
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def trainer_name(home: str) -> str:
    """A name that no other process has, and that tells whose folder it holds."""
    return f"{home}:{uuid.uuid4().hex}"


class LeaderLease:
    """Keeps one trainer's lease in Redis alive from a thread of its own.

    Attributes:
        name: what the trainer calls itself in Redis.
        on_lost: called, again and again, while another trainer leads; set it when there is something to stop.
    """

    def __init__(self, new_publisher: Callable[[str], Publisher], home: str, lease_s: float) -> None:
        """`new_publisher` makes one under a trainer's name; this one is not shared. `home` is the state folder's."""
        self.name = trainer_name(home)
        self.on_lost: Callable[[Fenced], None] = lambda error: logger.error("%s", error)
        self._home = f"{home}:"
        self._lease_s = lease_s
        self._publisher = new_publisher(self.name)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="leader-lease", daemon=True)

    def wait(self, stopping: threading.Event, on_wait: Callable[[], None]) -> bool:
        """Returns True when this trainer leads, or Redis does not answer; False where `stopping` was set first."""
        told = ""
        while True:
            try:
                leader = self._lead()
            except RedisUnavailable as error:
                if not told:
                    logger.warning("redis does not say who leads; going on, as publishing is fenced: %s", error)
                    leader = self.name
                else:
                    # A live leader, cut off as this one is, comes first when Redis is back.
                    leader = told
                    stopping.wait(self._lease_s)
            if leader == self.name:
                self._thread.start()
                return True
            if leader != told:
                logger.info("standby: trainer %s leads", leader)
                if not told:
                    on_wait()
                told = leader
            if stopping.wait(min(_LOOK_S, self._lease_s / _RENEWALS)):
                return False

    def close(self) -> None:
        """Gives the lease back."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        with suppress(RedisUnavailable):
            self._publisher.resign()
        self._publisher.close()

    def _lead(self) -> str:
        return self._publisher.lead(self._home, int(self._lease_s * 1000))

    def _renew(self) -> None:
        while not self._stopping.wait(self._lease_s / _RENEWALS):
            try:
                leader = self._lead()
            except RedisUnavailable as error:
                logger.debug("the lease waits for redis: %s", error)
                continue
            if leader != self.name:
                self.on_lost(Fenced(f"trainer {leader} leads now, this is {self.name}: it took over meanwhile"))
