"""The command line: one word each for demo, train, serve, produce, inspect, checkpoint and search.

Knows only which word leads where: what a word needs is imported when it is used, so that `dimflow serve` runs without
torch or Faust and `dimflow produce` without either. Invariant: a refused setting or argument ends with exit code 2 and
one line that names it; nothing was started then.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from model_contract.errors import DimflowError, SchemaError
from model_contract.process_settings import SettingError, add_setting_arguments, arguments_of, read_settings

__all__ = ["main"]

_BAD_SETTING = 2
_FAILED = 1
_MISSING_EXTRA = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code of the process."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    word = next(iter(given), "")
    try:
        args = _parser(word).parse_args(given)
        return int(args.run(args))
    except (SettingError, SchemaError) as error:
        sys.stderr.write(f"dimflow {word}: {error}\n")
        return _BAD_SETTING
    except ModuleNotFoundError as error:
        extra = {
            "train": "trainer",
            "serve": "serving",
            "produce": "trainer",
            "search": "trainer",
            "checkpoint": "trainer",
        }.get(word, "trainer,serving,local")
        sys.stderr.write(f"dimflow {word}: {error}; install it with: pip install 'dimflow[{extra}]'\n")
        return _MISSING_EXTRA
    except DimflowError as error:
        sys.stderr.write(f"dimflow {word}: {error}\n")
        return _FAILED
    except KeyboardInterrupt:
        return 130


def _parser(asked: str) -> argparse.ArgumentParser:
    """Only the word that is asked for declares its options: the others' packages need not be installed."""
    parser = argparse.ArgumentParser(prog="dimflow", description="Online learning from Kafka to /predict.")
    words = parser.add_subparsers(dest="word", required=True, metavar="COMMAND")
    for word, text, declare, run in _WORDS:
        sub = words.add_parser(word, help=text, description=text)
        sub.set_defaults(run=run)
        if word == asked:
            declare(sub)
    return parser


def _declare_train(parser: argparse.ArgumentParser) -> None:
    from stream_trainer.settings import PREFIX, TrainerSettings

    add_setting_arguments(parser, TrainerSettings, PREFIX)


def _train(args: argparse.Namespace) -> int:
    from stream_trainer.process import run_trainer
    from stream_trainer.settings import PREFIX, TrainerSettings

    settings = read_settings(TrainerSettings, os.environ, PREFIX, arguments_of(args, TrainerSettings))
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    return run_trainer(settings)


def _declare_serve(parser: argparse.ArgumentParser) -> None:
    from serving.settings import PREFIX, ServingSettings

    add_setting_arguments(parser, ServingSettings, PREFIX)


def _serve(args: argparse.Namespace) -> int:
    from serving.process import serve
    from serving.settings import PREFIX, ServingSettings

    settings = read_settings(ServingSettings, os.environ, PREFIX, arguments_of(args, ServingSettings))
    return serve(settings)


def _declare_produce(parser: argparse.ArgumentParser) -> None:
    from dimflow.produce_command import add_produce_arguments

    add_produce_arguments(parser)


def _produce(args: argparse.Namespace) -> int:
    from dimflow.produce_command import run_produce

    return run_produce(args)


def _declare_inspect(parser: argparse.ArgumentParser) -> None:
    from dimflow.inspect_command import add_inspect_arguments

    add_inspect_arguments(parser)


def _inspect(args: argparse.Namespace) -> int:
    from dimflow.inspect_command import run_inspect

    return run_inspect(args)


def _declare_checkpoint(parser: argparse.ArgumentParser) -> None:
    from dimflow.checkpoint_command import add_checkpoint_arguments

    add_checkpoint_arguments(parser)


def _checkpoint(args: argparse.Namespace) -> int:
    from dimflow.checkpoint_command import run_checkpoint

    return run_checkpoint(args)


def _declare_search(parser: argparse.ArgumentParser) -> None:
    from dimflow.search_command import add_search_arguments

    add_search_arguments(parser)


def _search(args: argparse.Namespace) -> int:
    from dimflow.search_command import run_search

    return run_search(args)


def _declare_demo(parser: argparse.ArgumentParser) -> None:
    from dimflow.demo_command import add_demo_arguments

    add_demo_arguments(parser)


def _demo(args: argparse.Namespace) -> int:
    from dimflow.demo_command import run_demo

    return run_demo(args)


_WORDS = (
    ("demo", "Start Kafka, Redis, trainer and server, stream samples through them and watch", _declare_demo, _demo),
    ("train", "Learn from a Kafka topic and publish increments to Redis", _declare_train, _train),
    ("serve", "Answer /predict from the increments in Redis", _declare_serve, _serve),
    ("produce", "Send a Parquet or CSV file or a synthetic stream to Kafka", _declare_produce, _produce),
    ("inspect", "Look at a state folder, its plans, a model file or what Redis holds", _declare_inspect, _inspect),
    ("checkpoint", "List, verify or export the checkpoints in a state folder", _declare_checkpoint, _checkpoint),
    ("search", "Ask a running trainer for a dimension search", _declare_search, _search),
)
