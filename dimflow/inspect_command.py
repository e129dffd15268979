"""`dimflow inspect`: what a state folder, Redis or a model file holds, as JSON for people and programs.

Knows no format itself: files, heads and schemas are read by their owners. Changes nothing anywhere.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["add_inspect_arguments", "run_inspect"]


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the three things that can be looked at."""
    things = parser.add_subparsers(dest="thing", required=True, metavar="WHAT")
    state = things.add_parser("state", help="the checkpoints in a state folder")
    state.add_argument("folder", type=Path)
    model = things.add_parser("model", help="a model file: slots, layers, fingerprint")
    model.add_argument("file", type=Path)
    redis = things.add_parser("redis", help="what Redis holds of a model")
    redis.add_argument("--redis", default="redis://127.0.0.1:6379/0", metavar="URL")
    redis.add_argument("--model", required=True, help="name of the model, as in its model file")


def run_inspect(args: argparse.Namespace) -> int:
    """Prints one JSON document; returns the exit code."""
    look = {"state": _state, "model": _model, "redis": _redis}[args.thing]
    document = msgspec.json.format(msgspec.json.encode(look(args)), indent=2)
    sys.stdout.write(document.decode() + "\n")
    return 0


def _state(args: argparse.Namespace) -> Any:
    from stream_trainer.checkpoint_store import describe_folder

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
