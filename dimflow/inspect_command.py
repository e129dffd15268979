"""`dimflow inspect`: what a state folder, Redis or a model file holds, as JSON; the plans of a search as a table too.

Knows no format itself: files, heads and schemas are read by their owners. Changes nothing anywhere.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

from dimflow.errors import CommandError

__all__ = ["add_inspect_arguments", "run_inspect"]


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the things that can be looked at."""
    things = parser.add_subparsers(dest="thing", required=True, metavar="WHAT")
    state = things.add_parser("state", help="the checkpoints in a state folder")
    state.add_argument("folder", type=Path)
    model = things.add_parser("model", help="a model file: slots, layers, fingerprint")
    model.add_argument("file", type=Path)
    redis = things.add_parser("redis", help="what Redis holds of a model")
    redis.add_argument("--redis", default="redis://127.0.0.1:6379/0", metavar="URL")
    redis.add_argument("--model", required=True, help="name of the model, as in its model file")
    plans = things.add_parser("plans", help="what dimension searches planned, why, and what became of it")
    plans.add_argument("--state-dir", type=Path, required=True, help="state folder of the trainer")
    plans.add_argument("--plot", type=Path, metavar="FILE.png", help="draw widths over samples by slot and band")
    plans.add_argument("--json", action="store_true", help="print the plans as JSON")


def run_inspect(args: argparse.Namespace) -> int:
    """Prints one JSON document, or the tables of plans; returns the exit code."""
    if args.thing == "plans":
        return _plans(args)
    look = {"state": _state, "model": _model, "redis": _redis}[args.thing]
    _print_json(look(args))
    return 0


def _print_json(document: Any) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")


def _plans(args: argparse.Namespace) -> int:
    from dimension_search.plan_history import PlanHistory
    from dimflow.plan_report import print_plans

    if not args.state_dir.is_dir():
        message = f"state_dir: {args.state_dir}, expected a folder"
        raise CommandError(message)
    plans = PlanHistory(args.state_dir).read()
    if args.plot is not None:
        from dimflow.plan_plot import save_plot

        save_plot(plans, args.plot)
    if args.json:
        _print_json(plans)
    else:
        print_plans(plans)
    return 0


def _state(args: argparse.Namespace) -> Any:
    from stream_trainer.state_chain import describe_folder

    return describe_folder(args.folder)


def _model(args: argparse.Namespace) -> Any:
    from dimflow.model_files import read_model_file
    from model_contract.dense_layout import DenseLayout

    schema = read_model_file(args.file)
    layout = DenseLayout(schema)
    return {
        "name": schema.name,
        "fingerprint": schema.fingerprint,
        "sparse": list(schema.sparse),
        "dense": list(schema.dense),
        "dim": schema.dim,
        "dense_parameters": {entry.name: entry.shape for entry in layout.entries},
        "dense_bytes": layout.size * 4,
    }


def _redis(args: argparse.Namespace) -> Any:
    from stream_trainer.publisher import Publisher

    publisher = Publisher(args.redis, args.model, kept_bases=1, stream_increments=1)
    try:
        return publisher.head()
    finally:
        publisher.close()
