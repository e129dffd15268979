"""`dimflow demo`: its arguments, its samples and its screen; the run itself is `dimflow.demo_run`.

Knows where samples may come from: a file, the stream of clicks that lies beside the checkout, or a synthetic teacher.
"""

import argparse
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from rich.live import Live

from dimflow.demo_run import DemoOptions, run_loop
from dimflow.demo_view import DemoMoment, draw, terminal
from dimflow.model_files import packaged_model_file, read_model_file
from dimflow.sample_columns import FileColumns
from dimflow.sample_files import read_samples
from dimflow.synthetic_streams import DriftingTeacher
from model_contract.schema import ModelSchema

__all__ = ["add_demo_arguments", "run_demo"]

_CLICKS = Path(__file__).resolve().parents[2] / "shared" / "data" / "globo_days_1_8.parquet"
_BATCH_ROWS = 2048


def add_demo_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the demo's options."""
    parser.add_argument("--data", help="Parquet or CSV file, or 'teacher'; default: the clicks if they are there")
    parser.add_argument("--model-file", type=Path, help="model file of that data; default: by the data's name")
    parser.add_argument("--samples", type=int, help="stop after this many; default: until the data ends, or Ctrl-C")
    parser.add_argument("--seed", type=int, default=0, help="seed of the model")
    parser.add_argument("--brokers", help="a Kafka that runs already, host:port; default: starts one")
    parser.add_argument("--redis", help="a Redis that runs already, as URL; default: starts one")
    parser.add_argument("--keep", type=Path, help="folder that keeps the trainer's state and log")
    parser.add_argument("--search", action="store_true", help="let every embedding find its own width while it learns")
    parser.add_argument("--json", action="store_true", help="no screen; one line of JSON at the end")


def run_demo(args: argparse.Namespace) -> int:
    """Runs the demo; returns the exit code."""
    data = _data(args.data)
    model_file = args.model_file or packaged_model_file(_model_of(data))
    schema = read_model_file(model_file)
    options = DemoOptions(
        schema=schema,
        model_file=model_file,
        batches=_batches(data, schema, args.samples, args.seed),
        samples=args.samples,
        seed=args.seed,
        brokers=args.brokers,
        redis=args.redis,
        keep_dir=args.keep,
        search=args.search,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a plain `kill` cleans up as Ctrl-C does
    console = terminal()
    if args.json:
        logging.basicConfig(level=logging.WARNING)
        stages: set[str] = set()

        def say(moment: DemoMoment) -> None:
            if moment.stage not in stages:
                stages.add(moment.stage)
                console.print(moment.stage, style="dim")

        report = run_loop(options, say)
    else:
        with Live(console=console, auto_refresh=False) as live:
            report = run_loop(options, lambda moment: live.update(draw(moment), refresh=True))
    if report is None:
        return 130
    sys.stdout.write(report.as_json() + "\n")
    return 0


def _data(asked: str | None) -> Path | None:
    """The file to stream, or None for the teacher."""
    if asked == "teacher":
        return None
    if asked is not None:
        return Path(asked)
    return _CLICKS if _CLICKS.exists() else None


def _model_of(data: Path | None) -> str:
    """Which packaged model file reads this data, by the file's name; the teacher has its own."""
    if data is None:
        return "teacher"
    return next((name for name in ("globo", "movielens", "criteo") if data.name.startswith(name)), "globo")


def _batches(data: Path | None, schema: ModelSchema, samples: int | None, seed: int) -> Iterator[pa.RecordBatch]:
    if data is not None:
        return read_samples(data, schema, FileColumns(), batch_rows=_BATCH_ROWS, rows=samples)
    return (batch.samples for batch in DriftingTeacher(seed=seed).batches(samples, _BATCH_ROWS))
