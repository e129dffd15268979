"""`dimflow versions`, `rollback`, `pin` and `unpin`: which stored version all servers serve, told over Redis.

Knows the terminal; what a pin is and when it is refused stands in `serving.version_pins`. Invariant: a command that
returns 0 has said what all servers will serve from now on, and Redis holds just that.
"""

import argparse
import getpass
import socket
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from model_contract.published_versions import StoredBase
from serving.version_pins import StoredVersions, VersionPins, describe_pin

__all__ = ["add_version_arguments", "run_version_command"]

_WIDTH_WITHOUT_TERMINAL = 150


def add_version_arguments(parser: argparse.ArgumentParser, word: str) -> None:
    """Declares the options of one of the four words."""
    parser.add_argument("--redis", default="redis://127.0.0.1:6379/0", metavar="URL", help="default: %(default)s")
    parser.add_argument("--model", required=True, help="name of the model, as in its model file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    if word == "rollback":
        parser.add_argument("version", help="version to serve, as `dimflow versions` names it, or its sequence alone")
    if word == "pin":
        parser.add_argument("version", nargs="?", help="the same; default: the newest base")
    if word in {"rollback", "pin"}:
        parser.add_argument("--by", default="", metavar="TEXT", help="who says so, for /model (default: user@host)")


def run_version_command(args: argparse.Namespace) -> int:
    """Does what `args.word` says and prints what holds now; returns the exit code.

    Raises:
        VersionRefused: no such version is stored whole.
        VersionsUnavailable: Redis does not answer, or holds nothing of the model.
    """
    pins = VersionPins(args.redis, args.model, now_ms=lambda: time.time_ns() // 1_000_000)
    try:
        text, document = _WORDS[args.word](pins, args)
    finally:
        pins.close()
    if args.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")
    else:
        _print(text)
    return 0


def _versions(pins: VersionPins, _: argparse.Namespace) -> tuple[Any, Any]:
    found = pins.versions()
    return draw_versions(found), found.report()


def _pin(pins: VersionPins, args: argparse.Namespace) -> tuple[Any, Any]:
    pin = pins.pin(args.version, args.by or f"{getpass.getuser()}@{socket.gethostname()}")
    text = f"All servers of {args.model} serve {pin.base.version} and stay there until `dimflow unpin`."
    return Text(text), {"pinned": describe_pin(pin)}


def _unpin(pins: VersionPins, args: argparse.Namespace) -> tuple[Any, Any]:
    pins.unpin()
    return Text(f"All servers of {args.model} follow the trainer."), {"pinned": None}


_WORDS: dict[str, Callable[[VersionPins, argparse.Namespace], tuple[Any, Any]]] = {
    "versions": _versions,
    "rollback": _pin,
    "pin": _pin,
    "unpin": _unpin,
}


def draw_versions(found: StoredVersions) -> Table:
    """Every stored base, newest first, with what it learned and how well it predicted then."""
    caption = [f"head {found.head}"]
    if found.pin is not None:
        caption.append(f"pinned by {found.pin.by} at {_time(found.pin.since_ms)}")
    if found.hold is not None:
        caption.append(f"held back since {_time(found.hold.since_ms)}: {found.hold.detail}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption="\n".join(caption), caption_justify="left")
    table.add_column("version", overflow="fold")
    table.add_column("cut (UTC)", no_wrap=True)
    for heading in ("samples", "log-loss", "AUC", "MB"):
        table.add_column(heading, no_wrap=True, justify="right")
    table.add_column("")
    for base in found.bases:
        table.add_row(
            base.version,
            _time(base.created_ms),
            f"{base.samples_trained:,}",
            _metric(base, "log_loss"),
            _metric(base, "auc"),
            f"{base.size_bytes / 1e6:,.1f}",
            _marks(found, base),
        )
    return table


def _marks(found: StoredVersions, base: StoredBase) -> str:
    marks = {
        "pinned": found.pin is not None and found.pin.base.version == base.version,
        "newest": base.version == found.newest_base,
    }
    return ", ".join(mark for mark, holds in marks.items() if holds)


def _metric(base: StoredBase, name: str) -> str:
    """Of the window of newest samples at the cut."""
    value = base.metrics.get(f"window_{name}")
    return "–" if value is None else f"{value:.4f}"


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _print(text: Any) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_WITHOUT_TERMINAL)
    console.print(text)
