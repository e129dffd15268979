"""`dimflow produce`: its arguments, its progress bar and its figures; the work is done by the modules it names.

Knows where samples may come from and what a person wants to see of their way. Invariant: it ends with every sample
acknowledged, or with an error, or on Ctrl-C with the exit code 130; the figures say how many went.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dimflow.kafka_options import add_client_arguments, client_options
from dimflow.model_files import read_model_file
from dimflow.sample_columns import FileColumns
from dimflow.sample_feed import FeedPace, FeedReport, feed_samples
from dimflow.sample_files import read_samples, schema_of_names
from dimflow.sample_producer import ProduceProgress, SampleProducer
from dimflow.synthetic_streams import DriftingTeacher, RandomStream, SyntheticStream, best_auc
from model_contract.process_settings import SettingError
from model_contract.schema import ModelSchema

__all__ = ["add_produce_arguments", "run_produce"]

_BATCH_ROWS = 8192
_TOLD_LOGITS = 1_000_000
_INTERRUPTED = 130


def add_produce_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `dimflow produce`."""
    source = parser.add_argument_group("samples")
    one = source.add_mutually_exclusive_group(required=True)
    one.add_argument("--data", type=Path, metavar="FILE", help="a .parquet, .csv or .tsv file, sent in its order")
    one.add_argument("--stream", choices=("teacher", "random"), help="made-up samples: a drifting teacher, or noise")
    source.add_argument("--samples", type=_count, metavar="N", help="how many; default: the whole file, or no end")
    source.add_argument("--skip", type=_count, default=0, metavar="N", help="leave out the first N")
    source.add_argument("--seed", type=_count, default=0, help="of a made-up stream")

    names = parser.add_argument_group("columns of the file")
    names.add_argument("--model-file", type=Path, help="take slots and dense features from this model file")
    names.add_argument("--sparse", nargs="+", default=[], metavar="NAME", help="or name the slots")
    names.add_argument("--multi", nargs="+", default=[], metavar="NAME", help="those of them that hold lists")
    names.add_argument("--dense", nargs="+", default=[], metavar="NAME", help="and the dense features")
    names.add_argument("--label", default="label", metavar="NAME", help="0 or 1 (default: %(default)s)")
    names.add_argument("--time", default="ts_ms", metavar="NAME", help="ms since the epoch (default: %(default)s)")
    names.add_argument("--list-separator", metavar="TEXT", help="between the values of a list in a CSV cell")

    made = parser.add_argument_group("made-up streams")
    made.add_argument("--change-at", type=_count, metavar="N", help="teacher: item and noise swap roles at sample N")
    made.add_argument("--random-slots", type=_count, default=8, metavar="N", help="default: %(default)s")
    made.add_argument("--random-ids", type=_count, default=1_000_000, metavar="N", help="a slot; default: %(default)s")
    made.add_argument("--random-dense", type=_count, default=0, metavar="N", help="default: %(default)s")
    made.add_argument("--random-lookups", type=_count, default=1, metavar="N", help="ids a slot; default: %(default)s")
    made.add_argument("--random-varied", action="store_true", help="1 to so many ids instead of just so many")
    made.add_argument("--random-distribution", choices=("uniform", "gaussian"), default="uniform")

    target = parser.add_argument_group("Kafka")
    target.add_argument("--brokers", default="127.0.0.1:9092", metavar="HOST:PORT", help="default: %(default)s")
    target.add_argument("--topic", default="samples", help="default: %(default)s")
    target.add_argument("--partitions", type=_count, default=4, metavar="N", help="of the topic, where it is absent")
    target.add_argument("--format", choices=("arrow", "json"), default="arrow", help="default: %(default)s")
    target.add_argument("--rows-per-message", type=_count, default=4096, metavar="N", help="Arrow only")
    target.add_argument("--rate", type=float, metavar="N", help="samples a second; default: as fast as it goes")
    add_client_arguments(target)
    parser.add_argument("--json", action="store_true", help="no progress bar; the figures as one line of JSON")


def run_produce(args: argparse.Namespace) -> int:
    """Sends the samples; returns the exit code.

    Raises:
        SettingError: arguments that contradict each other, or a file that cannot be read.
        SampleFileError, StreamSettingError, ProduceError: see there.
    """
    if args.rate is not None and not args.rate > 0:
        name = "--rate"
        raise SettingError(name, str(args.rate), "samples a second, above 0")
    source = _source(args)
    with SampleProducer(
        args.brokers,
        args.topic,
        source.schema,
        form=args.format,
        rows_per_message=args.rows_per_message,
        create_partitions=args.partitions,
        connect_timeout_s=args.connect_timeout_s,
        client_options=client_options(args),
    ) as producer:
        pace = FeedPace(rate=args.rate)
        if args.json:
            report = feed_samples(producer, source.batches, pace)
        else:
            with _ProgressBar(args.samples) as bar:
                report = feed_samples(producer, source.batches, pace, bar.show)
    sys.stdout.write(_figures(report, source, as_json=args.json) + "\n")
    return _INTERRUPTED if report.interrupted else 0


def _count(text: str) -> int:
    number = int(text.replace("_", ""))
    if number < 0:
        message = f"{text}: expected 0 or more"
        raise argparse.ArgumentTypeError(message)
    return number


@dataclass(slots=True)
class _Source:
    """Samples on their way, and the true logits seen so far where there are any."""

    schema: ModelSchema
    batches: Iterator[pa.RecordBatch]
    logits: list[NDArray[np.float64]] = field(default_factory=list)


def _source(args: argparse.Namespace) -> _Source:
    if args.stream is not None:
        stream = _stream(args)
        source = _Source(stream.schema, iter(()))
        source.batches = _told(stream, args, source.logits)
        return source
    schema = _schema(args)
    columns = FileColumns(args.label, args.time, args.list_separator)
    batches = read_samples(args.data, schema, columns, batch_rows=_BATCH_ROWS, rows=args.samples, skip_rows=args.skip)
    return _Source(schema, batches)


def _stream(args: argparse.Namespace) -> SyntheticStream:
    if args.stream == "teacher":
        return DriftingTeacher(seed=args.seed, change_at=args.change_at)
    return RandomStream(
        [args.random_ids] * args.random_slots,
        args.random_dense,
        args.random_lookups,
        fixed=not args.random_varied,
        distribution=args.random_distribution,
        seed=args.seed,
    )


def _told(
    stream: SyntheticStream, args: argparse.Namespace, logits: list[NDArray[np.float64]]
) -> Iterator[pa.RecordBatch]:
    """The stream's samples, keeping their true logits up to a million."""
    for number, batch in enumerate(stream.batches(args.samples, _BATCH_ROWS, start=args.skip)):
        if number * _BATCH_ROWS < _TOLD_LOGITS:
            logits.append(batch.true_logits)
        yield batch.samples


def _schema(args: argparse.Namespace) -> ModelSchema:
    if args.model_file is None:
        if not args.sparse:
            name = "--sparse"
            raise SettingError(name, "nothing", "the file's slots, or --model-file")
        return schema_of_names(args.sparse, args.dense, frozenset(args.multi))
    if args.sparse or args.dense or args.multi:
        name = "--model-file"
        raise SettingError(name, str(args.model_file), "no --sparse, --dense or --multi beside it")
    return read_model_file(args.model_file)


def _figures(report: FeedReport, source: _Source, as_json: bool) -> str:
    progress = report.progress
    best = best_auc(np.concatenate(source.logits)) if source.logits else None
    per_s = progress.acknowledged / report.elapsed_s if report.elapsed_s > 0 else 0.0
    if as_json:
        figures = {
            "samples": progress.sent,
            "acknowledged": progress.acknowledged,
            "messages": progress.messages,
            "bytes": progress.sent_bytes,
            "seconds": round(report.elapsed_s, 3),
            "samples_per_s": round(per_s, 1),
            "best_auc": best,
            "interrupted": report.interrupted,
        }
        return msgspec.json.encode(figures).decode()
    text = (
        f"{progress.acknowledged:,} samples acknowledged in {progress.messages:,} messages "
        f"({progress.sent_bytes / 1e6:,.1f} MB), {per_s:,.0f} samples/s"
    )
    if best is not None:
        text += f"; best reachable AUC {best:.4f}"
    return text + ("; interrupted" if report.interrupted else "")


class _ProgressBar:
    """A bar on the terminal's error output; nothing where that is no terminal."""

    def __init__(self, total: int | None) -> None:
        console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task("samples", total=total, text="connecting")

    def __enter__(self) -> "_ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, progress: ProduceProgress, elapsed_s: float) -> None:
        """Redraws the bar."""
        per_s = progress.acknowledged / elapsed_s if elapsed_s > 0 else 0.0
        waiting = progress.sent - progress.acknowledged
        text = f"{per_s:,.0f}/s  {progress.sent_bytes / 1e6:,.1f} MB  {waiting:,} unacknowledged"
        self._progress.update(self._task, completed=progress.acknowledged, text=text)
