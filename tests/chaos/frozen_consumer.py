"""A consumer that stops fetching while its process looks alive: the watchdog must end it, the next start must go on."""

import random
import time
from pathlib import Path
from typing import Any

from stream_trainer.app import EXIT_STALLED
from tests.chaos.stage import ScenarioResult, Stage, until

WATCHDOG_LIMIT_S = 30.0
FIRST_BATCH_LIMIT_S = 10.0


def run(folder: Path, brokers: str, redis: str, seed: int, watchdog_s: float | None) -> ScenarioResult:
    """Freezes the consumer after some records; `watchdog_s` None is the trainer's own default."""
    result = ScenarioResult()
    settings: dict[str, Any] = {} if watchdog_s is None else {"watchdog_s": watchdog_s}
    stage = Stage(folder / "frozen-consumer", brokers, redis, seed, **settings)
    with stage.running():
        trainer = stage.trainer
        trainer.terminate()
        trainer.launch(freeze_after=random.Random(f"{seed}/consumer").randint(50, 400))
        stage.feed.start(200)
        until(lambda: trainer.samples() > 0, "it learns before it freezes")
        frozen_at = standstill(stage)
        code = trainer.wait_for_end(120)
        exited_s = time.monotonic() - frozen_at
        result.expect(code == EXIT_STALLED, f"the frozen trainer ended with {code}, expected {EXIT_STALLED}")
        trainer.end()
        begin = time.monotonic()
        trainer.launch()
        until(lambda: trainer.samples() > 0, "the restart learns")
        first_batch_s = time.monotonic() - begin
        stage.wait_served(stage.ledger.good())
        caught_up_s = time.monotonic() - begin
        stage.finish(result)
    result.limit("watchdog_within_30_s", holds=exited_s <= WATCHDOG_LIMIT_S)
    result.limit("first_batch_within_10_s", holds=first_batch_s <= FIRST_BATCH_LIMIT_S)
    result.figures |= {
        "watchdog_s": watchdog_s or "default",
        "exited_after_s": round(exited_s, 1),
        "first_batch_s": round(first_batch_s, 2),
        "caught_up_s": round(caught_up_s, 2),
    }
    return result


def standstill(stage: Stage) -> float:
    """When the trainer learned its last batch, to a tenth of a second."""
    last, since = -1.0, time.monotonic()
    while time.monotonic() - since < 1.0:
        learned = stage.trainer.samples()
        if learned != last:
            last, since = learned, time.monotonic()
        time.sleep(0.05)
    return since
