"""SIGKILL of the trainer, at random moments and at every named step of the checkpoint writer and the publisher.

After each kill the folder is read as the next start would read it, and compared with what its offsets say; Redis must
not hold more than the disk. Lanes are loops of their own that run side by side, since most of a restart is waiting for
the consumer group to forget the dead member.
"""

import contextlib
import random
import shutil
import threading
import time
from collections import Counter
from pathlib import Path

from stream_trainer.model_state import Manifest
from stream_trainer.publisher import Head, Publisher
from tests.chaos.asking_client import AskingClient, OneStory, body_of
from tests.chaos.sample_ledger import Verdict
from tests.chaos.stage import ScenarioResult, Stage, read_folder, until

STEPS = frozenset(
    {
        "after_write",
        "after_fsync",
        "after_rename",
        "after_folder_fsync",
        "before_publish",
        "after_commit",
        "after_publish",
    }
)
"""What the writer and the publisher must pass; whatever else they pass is killed at as well."""

FIRST_BATCH_LIMIT_S = 10.0
AT_ONCE = "while training, started again at once"
_STEP_WAIT_S = 40.0
_TIMED_KILLS = 3


class Lane(threading.Thread):
    """One loop and its share of the kills."""

    def __init__(self, stage: Stage, kills: list[str], rng: random.Random) -> None:
        super().__init__(daemon=True)
        self.stage = stage
        self.result = ScenarioResult()
        self.kinds: Counter[str] = Counter()
        self.first_batch_s: list[float] = []
        self.missed: list[str] = []
        self.story = OneStory()
        self.asked = 0
        self._kills = kills
        self._rng = rng

    def run(self) -> None:
        try:
            with self.stage.running(), self._asking() as client:
                self.stage.feed.start(per_s=200)
                for kind in self._kills:
                    self._kill_once(kind)
                if not self.stage.trainer.running:
                    self._launch()
                self._note_first_batch(None)
                self.stage.finish(self.result)
            self.asked = client.answers
            self.result.served_wrong += client.wrong
            self.result.expect(len(self.story.lineages) == 1, f"lineages served: {self.story.lineages}")
            self.result.expect(client.failed == 0, f"{client.failed} predictions failed: {client.failures[-3:]}")
        except Exception as error:  # noqa: BLE001 - a lane's outermost frame: the report tells of it
            tail = ""
            with contextlib.suppress(Exception):
                tail = self.stage.trainer.log()[-1500:]
            self.result.faults.append(f"{type(error).__name__}: {error} {tail}")

    def _asking(self) -> AskingClient:
        return AskingClient(self.stage.server.port, [body_of(Stage.instances(0, 0, 5))], self.story, pause_s=0.1)

    def _kill_once(self, kind: str) -> None:
        trainer = self.stage.trainer
        if kind == AT_ONCE:
            trainer.end()
            begin = time.monotonic()
            self._launch()
            self._note_first_batch(begin)
            self.kinds[kind] += 1
            return
        if kind.startswith("step:"):
            trainer.end()
            occurrence = self._rng.randint(1, 5) if self._rng.random() < 0.7 else self._rng.randint(6, 30)
            self._launch(step=kind.removeprefix("step:"), occurrence=occurrence)
            if trainer.wait_for_end(_STEP_WAIT_S) is None:
                self.missed.append(kind)
        elif kind == "random:start":
            if not trainer.running:
                self._launch()
            trainer.wait_for_end(self._rng.uniform(0.0, 5.0))
        else:
            if not trainer.running:
                self._launch()
                self._note_first_batch(None)
            trainer.wait_for_end(self._rng.uniform(0.0, 1.5))
        trainer.end()
        self.kinds[kind] += 1
        self._judge()

    def _launch(self, **fate: object) -> None:
        self.stage.trainer.launch(**fate)

    def _note_first_batch(self, killed: float | None) -> None:
        """Waits for the first batch; `killed` is when the one before died, where the start followed at once."""
        until(lambda: self.stage.trainer.samples() > 0, "a first batch after a kill", 90, 0.05)
        if killed is not None:
            self.first_batch_s.append(time.monotonic() - killed)

    def _judge(self) -> None:
        state = read_folder(self.stage.trainer.state_dir)
        if state is None:
            self.result.faults.append("a kill left no state")
            return
        self.result.verdict += self.stage.ledger.judge(state)
        publisher = Publisher(self.stage.redis, self.stage.schema.name, kept_bases=2, stream_increments=600)
        head = publisher.head()
        publisher.close()
        if head is not None:
            self.result.verdict += compared_with_head(state.manifest, head)


def compared_with_head(manifest: Manifest, head: Head) -> Verdict:
    """Nothing may be public that is not on the disk."""
    if head.lineage != manifest.lineage or head.sequence <= manifest.sequence:
        return Verdict()
    return Verdict(mixed=1, reasons=(f"redis is at {head.sequence}, the disk at {manifest.sequence}",))


def kills_of(count: int, steps: list[str], rng: random.Random) -> list[str]:
    """Half at named steps, each as often as any other; half at random, most of them while training."""
    named = [f"step:{steps[number % len(steps)]}" for number in range((count + 1) // 2)]
    rest = ["random:start" if rng.random() < 0.3 else "random:training" for _ in range(count - len(named))]
    kinds = named + rest
    rng.shuffle(kinds)
    return kinds


def run(folder: Path, brokers: str, redis: str, seed: int, kills: int, lanes: int) -> ScenarioResult:
    """Shares the kills out among lanes; a few more are on a loop that is alone, to see how soon it learns again."""
    rng = random.Random(f"{seed}/kills")
    steps = sorted(STEPS)
    kinds = kills_of(kills, steps, rng)
    running = [
        Lane(
            Stage(folder / f"lane-{n}", brokers, redis, seed + n, stream_increments=40),
            kinds[n::lanes],
            random.Random(f"{seed}/kills/{n}"),
        )
        for n in range(lanes)
    ]
    for lane in running:
        lane.start()
    for lane in running:
        lane.join()
    alone = Lane(Stage(folder / "alone", brokers, redis, seed + lanes), [AT_ONCE] * min(_TIMED_KILLS, kills), rng)
    alone.start()
    alone.join()
    running.append(alone)
    result = ScenarioResult()
    counted: Counter[str] = Counter()
    first_batch_s: list[float] = []
    passed: set[str] = set()
    for lane in running:
        result.verdict += lane.result.verdict
        result.faults += lane.result.faults
        result.served_wrong += lane.result.served_wrong
        counted += lane.kinds
        first_batch_s += lane.first_batch_s
        passed |= steps_passed(lane)
        result.expect(not lane.missed, f"steps never passed: {lane.missed}")
    result.expect(passed >= STEPS, f"the writer never passed {sorted(STEPS - passed)}")
    due = kills + min(_TIMED_KILLS, kills)
    result.expect(counted.total() == due, f"{counted.total()} of {due} kills")
    first_batch_s.sort()
    compared = sum(lane.result.figures.get("answers_compared_with_disk", 0) for lane in running)
    result.limit("first_batch_within_10_s", holds=bool(first_batch_s) and first_batch_s[-1] <= FIRST_BATCH_LIMIT_S)
    result.figures = {
        "kills": counted.total(),
        "by_kind": dict(sorted(counted.items())),
        "steps_not_killed_at": sorted(passed - STEPS),
        "lanes": lanes,
        "samples": sum(lane.result.figures.get("samples", 0) for lane in running),
        "answers_compared_with_disk": compared,
        "answers_meanwhile": sum(lane.asked for lane in running),
        "first_batch_s": quantiles(first_batch_s),
    }
    return result


def steps_passed(lane: Lane) -> set[str]:
    notes = lane.stage.folder / "trainer" / "steps-passed"
    passed = set(notes.read_text().split()) if notes.exists() else set()
    shutil.rmtree(lane.stage.folder, ignore_errors=True)
    return passed


def quantiles(values: list[float]) -> dict[str, float]:
    """Count, median, 95 % and largest of sorted values."""
    if not values:
        return {"count": 0}
    at = [values[len(values) // 2], values[min(len(values) - 1, int(0.95 * len(values)))], values[-1]]
    return {"count": len(values), **dict(zip(("p50", "p95", "max"), (round(v, 2) for v in at), strict=True))}
