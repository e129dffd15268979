"""`dimflow train` with a fate: it may die at a named step of the writer, or its consumer may freeze.

Run as a script by the scenarios, with the options of `dimflow train`. Knows no scenario: what is to happen stands in a
file that is read, and removed, at the start, so that the next start lives. Invariant: without a fate it is the trainer.
"""

import argparse
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from model_contract.process_settings import add_setting_arguments, arguments_of, read_settings
from stream_trainer.process import run_trainer
from stream_trainer.records import RecordBatch
from stream_trainer.settings import PREFIX, TrainerSettings
from stream_trainer.trainer import Trainer


class Fate:
    """What is to happen to this process.

    The file holds JSON: `step` and `occurrence` (SIGKILL at the n-th time that step is passed), `freeze_after` (records
    after which the consumer stops fetching, silently, as in the stalls known of Faust). Every step that was passed is
    noted in `steps-passed` beside it, for whoever wants to know them all.
    """

    def __init__(self, path: Path) -> None:
        plan: dict[str, Any] = {}
        if path.exists():
            plan = json.loads(path.read_text())
            path.unlink()
        self._step = plan.get("step")
        self._left = plan.get("occurrence", 1)
        self.freeze_after: int | None = plan.get("freeze_after")
        self._passed: set[str] = set()
        self._notes = path.with_name("steps-passed")

    def at_step(self, name: str) -> None:
        if name not in self._passed:
            self._passed.add(name)
            with self._notes.open("a") as notes:
                notes.write(name + "\n")
        if name == self._step:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


class FreezingTrainer(Trainer):
    """Pauses the consumer behind everybody's back once it was offered enough."""

    freeze_after = 0
    _offered = 0

    async def offer(self, batch: RecordBatch) -> None:
        await super().offer(batch)
        self._offered += len(batch)
        if self._offered >= self.freeze_after:
            consumer = self._source._app.bulk_consumer  # type: ignore[attr-defined]
            consumer.pause_partitions(consumer.assignment())


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fate", type=Path, required=True)
    add_setting_arguments(parser, TrainerSettings, PREFIX)
    args = parser.parse_args()
    settings = read_settings(TrainerSettings, os.environ, PREFIX, arguments_of(args, TrainerSettings))
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    fate = Fate(args.fate)
    if fate.freeze_after is not None:
        from stream_trainer import process

        FreezingTrainer.freeze_after = fate.freeze_after
        process.Trainer = FreezingTrainer  # type: ignore[misc]
    return run_trainer(settings, fate.at_step)


if __name__ == "__main__":
    sys.exit(main())
