"""Redis and Kafka stopped, killed, emptied and frozen under a running loop, while a client asks all the time.

No prediction may fail, the server must say that it gets older, and when the server that was taken away is back, what
was produced until then must be answered from soon.
"""

import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from dimflow.local_servers import LocalKafka, LocalRedis
from tests.chaos.asking_client import AskingClient, OneStory, body_of
from tests.chaos.stage import ScenarioResult, Stage, page, until

CATCH_UP_LIMIT_S = 10.0
_RATE = 200.0


class Watch(threading.Thread):
    """Reads the server's staleness twice a second, and starts a trainer again that ended, as a supervisor does."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(daemon=True)
        self.oldest_s = 0.0
        self.ends: list[int | None] = []
        self._stage = stage
        self._stopping = threading.Event()

    def run(self) -> None:
        while not self._stopping.wait(0.25):
            numbers = page(self._stage.server.url)
            self.oldest_s = max(self.oldest_s, numbers.get("dimflow_serving_staleness_seconds", 0.0))
            trainer = self._stage.trainer
            if not trainer.running:
                self.ends.append(trainer.wait_for_end(0.0))
                trainer.launch()

    def stop(self) -> None:
        self._stopping.set()
        self.join(20)


def run(folder: Path, seed: int, outage_s: float) -> ScenarioResult:
    """All outages, one after the other, on one loop."""
    result = ScenarioResult()
    rng = random.Random(f"{seed}/outages")
    story = OneStory()
    with (
        LocalKafka(data_dir=folder / "kafka") as kafka,
        LocalRedis(data_dir=folder / "redis") as redis,
        Stage(folder / "outages", kafka.bootstrap, redis.url, seed).running() as stage,
        AskingClient(stage.server.port, [body_of(Stage.instances(0, 0, 5))], story, pause_s=0.02) as client,
    ):
        stage.feed.start(_RATE)
        watch = Watch(stage)
        watch.start()
        for name, take, give in outages(kafka, redis, outage_s):
            wait_steady(stage)
            failed, watch.oldest_s = client.failed, 0.0
            time.sleep(rng.uniform(0.0, 0.5))
            begin = time.monotonic()
            take()
            away_s = time.monotonic() - begin
            give()
            back, handed = time.monotonic(), list(stage.ledger.handed)
            stage.wait_served(stage.ledger.good(handed), within_s=120)
            took_s = time.monotonic() - back
            stale = watch.oldest_s
            result.figures[name] = {
                "away_s": round(away_s, 1),
                "restart_s": round(back - begin - away_s, 1),
                "oldest_s": round(stale, 1),
                "caught_up_s": round(took_s, 2),
                "failed_predictions": client.failed - failed,
            }
            result.limit("caught_up_within_10_s", holds=took_s <= CATCH_UP_LIMIT_S)
            if away_s >= 1.0:
                result.expect(stale >= 0.8 * away_s, f"{name}: the staleness gauge rose to {stale:.1f} s only")
        watch.stop()
        stage.finish(result)
    result.served_wrong += client.wrong
    result.expect(len(story.lineages) == 1, f"lineages served: {story.lineages}")
    result.expect(client.failed == 0, f"{client.failed} predictions failed: {client.failures[-3:]}")
    result.figures |= {
        "answers_meanwhile": client.answers,
        "slowest_answer_s": round(client.slowest_s, 3),
        "trainer_ends": watch.ends,
    }
    return result


def wait_steady(stage: Stage) -> None:
    """Until what is produced now is served within a second or two, so that each outage meets a loop that runs."""
    until(lambda: stage.ledger.good() - stage.served_samples() < 3 * _RATE, "the loop runs freely", 60)


def outages(
    kafka: LocalKafka, redis: LocalRedis, outage_s: float
) -> list[tuple[str, Callable[[], None], Callable[[], None]]]:
    """Name, what takes a server away and lasts as long as it is, what brings it back."""

    def away(stop: Callable[[], None], lasting_s: float) -> Callable[[], None]:
        def take() -> None:
            stop()
            time.sleep(lasting_s)

        return take

    def emptied() -> None:
        for path in redis.data_dir.iterdir():
            if path.name != "server.log":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        redis.restart()

    return [
        ("redis_stopped", away(redis.terminate, outage_s), redis.restart),
        ("redis_emptied", away(redis.terminate, 0.0), emptied),
        ("redis_killed_and_restarted_from_its_file", away(redis.kill, 0.0), redis.restart),
        ("redis_frozen", away(redis.freeze, outage_s), redis.thaw),
        ("kafka_killed_and_restarted_on_its_log", away(kafka.kill, 0.0), kafka.restart),
        ("kafka_stopped", away(kafka.terminate, outage_s), kafka.restart),
    ]
