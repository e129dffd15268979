"""`dimflow dlq list` and `dimflow dlq replay`: what could not be learned, and sending it to the topic again.

Knows what a person wants to see and choose; Kafka is `dead_letter_topic`'s. Invariants: whatever bytes a record had,
no control character of theirs reaches the terminal; what was sent again once is not sent twice unless `--again`.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import nlargest
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dimflow.dead_letter_topic import DeadLetterTopic, Letter, Span
from dimflow.kafka_options import add_client_arguments, client_options
from model_contract.process_settings import SettingError

__all__ = ["add_dlq_arguments", "run_dlq"]

_WIDTH_WITHOUT_TERMINAL = 180
_SHOWN_BYTES = 60
_WHY_AT_MOST = 200


def add_dlq_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares both words below `dlq`."""
    words = parser.add_subparsers(dest="action", required=True, metavar="WHAT")
    listing = words.add_parser("list", help="show letters: where they came from, why, and how they begin")
    listing.add_argument("--limit", type=int, default=50, metavar="N", help="newest N (default: %(default)s)")
    replay = words.add_parser("replay", help="send letters to the topic again, as they were")
    replay.add_argument("--dry-run", action="store_true", help="say what would be sent, send nothing")
    replay.add_argument("--again", action="store_true", help="also those that were sent again before")
    for sub in (listing, replay):
        sub.add_argument("--brokers", default="127.0.0.1:9092", metavar="HOST:PORT", help="default: %(default)s")
        sub.add_argument("--topic", default="samples", help="topic of the samples (default: %(default)s)")
        sub.add_argument("--reason", action="append", default=[], metavar="CODE", help="only these; may be repeated")
        sub.add_argument("--partition", type=int, metavar="P", help="only this partition of the dead-letter topic")
        sub.add_argument("--from-offset", type=int, metavar="N", help="with --partition: from this letter on")
        sub.add_argument("--to-offset", type=int, metavar="N", help="with --partition: up to this letter")
        sub.add_argument("--json", action="store_true", help="print JSON")
        add_client_arguments(sub)


def run_dlq(args: argparse.Namespace) -> int:
    """Lists or replays; returns the exit code.

    Raises:
        SettingError: a choice that makes no sense.
        DeadLetterError: the topic cannot be read, or not all were sent.
    """
    if args.partition is None and (args.from_offset is not None or args.to_offset is not None):
        name = "--partition"
        raise SettingError(name, "nothing", "the partition that --from-offset and --to-offset count in")
    if args.action == "list" and args.limit < 1:
        name = "--limit"
        raise SettingError(name, args.limit, "1 or more")
    with DeadLetterTopic(
        args.brokers, args.topic, connect_timeout_s=args.connect_timeout_s, client_options=client_options(args)
    ) as topic:
        return _list(topic, args) if args.action == "list" else _replay(topic, args)


@dataclass(frozen=True, slots=True)
class _Found:
    """A letter of the choice, and whether it was sent again before."""

    letter: Letter
    replayed: bool


def _spans(topic: DeadLetterTopic, args: argparse.Namespace) -> Iterator[Span]:
    """From the first chosen letter of each partition to its end: marks stand behind what they mark."""
    spans = topic.spans()
    if args.partition is not None:
        spans = [span for span in spans if span.partition == args.partition]
        if not spans:
            name = "--partition"
            raise SettingError(name, args.partition, f"a partition of {args.topic}.dlq")
    for span in spans:
        yield Span(span.partition, max(span.begin, args.from_offset or 0), span.end)


def _chosen(letter: Letter, args: argparse.Namespace) -> bool:
    within = args.to_offset is None or letter.offset <= args.to_offset
    return within and (not args.reason or letter.reason in args.reason)


def _list(topic: DeadLetterTopic, args: argparse.Namespace) -> int:
    found: list[_Found] = []
    everything = not args.reason and args.to_offset is None
    for span in _spans(topic, args):
        begin = max(span.begin, span.end - args.limit) if everything else span.begin
        letters: list[Letter] = []
        marked: set[int] = set()
        for item in topic.letters_and_marks(Span(span.partition, begin, span.end)):
            if not isinstance(item, Letter):
                marked.update(item)
            elif _chosen(item, args):
                letters.append(item)
                if len(letters) > 2 * args.limit:
                    del letters[: -args.limit]
        found += [_Found(letter, letter.offset in marked) for letter in letters]
    newest = nlargest(args.limit, found, key=_place)
    newest.reverse()
    if args.json:
        _print_json([_described(item) for item in newest])
    else:
        _print(_table(newest) if newest else Text("No dead letters."))
    return 0


def _replay(topic: DeadLetterTopic, args: argparse.Namespace) -> int:
    chosen: dict[int, list[int]] = {}
    reasons: Counter[str] = Counter()
    before, obstacles = 0, Counter[str]()
    for span in _spans(topic, args):
        wanted: dict[int, tuple[str, str]] = {}
        marked: set[int] = set()
        for item in topic.letters_and_marks(span):
            if not isinstance(item, Letter):
                marked.update(item)
            elif _chosen(item, args):
                wanted[item.offset] = item.reason, item.obstacle
        for offset, (reason, obstacle) in wanted.items():
            if obstacle:
                obstacles[obstacle] += 1
            elif offset in marked and not args.again:
                before += 1
            else:
                chosen.setdefault(span.partition, []).append(offset)
                reasons[reason] += 1
    sent = 0
    if not args.dry_run and chosen:
        for sent in topic.replay(chosen):  # noqa: B007  what it says last counts
            pass
    report = {
        "topic": args.topic,
        "chosen": reasons.total(),
        "sent": sent,
        "dry_run": args.dry_run,
        "sent_before": before,
        "reasons": dict(reasons.most_common()),
        "left_out": dict(obstacles),
    }
    if args.json:
        _print_json(report)
    else:
        sys.stdout.write(_sentence(report) + "\n")
    return 0


def _sentence(report: dict[str, Any]) -> str:
    count = report["chosen"] if report["dry_run"] else report["sent"]
    verb = "would be sent" if report["dry_run"] else "were sent"
    parts = [f"{count} letters {verb} to {report['topic']} again"]
    parts += [f"{number} {_printable(reason)}" for reason, number in report["reasons"].items()]
    if report["sent_before"]:
        parts.append(f"{report['sent_before']} were sent before (--again sends them too)")
    parts += [f"{number} cannot be sent: {why}" for why, number in report["left_out"].items()]
    return "; ".join(parts)


def _place(item: _Found) -> tuple[int, int, int]:
    return item.letter.timestamp_ms, item.letter.partition, item.letter.offset


def _described(item: _Found) -> dict[str, Any]:
    letter = item.letter
    return {
        "partition": letter.partition,
        "offset": letter.offset,
        "timestamp_ms": letter.timestamp_ms,
        "reason": letter.reason,
        "detail": letter.detail,
        "source": {
            "topic": letter.source_topic,
            "partition": letter.source_partition,
            "offset": letter.source_offset,
        },
        "replayed": item.replayed,
        "value_bytes": letter.left_out_bytes if letter.value == b"" else letter.value and len(letter.value),
        "value_start": _start(letter),
    }


def _table(found: list[_Found]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("letter", "time (UTC)", "source"):
        table.add_column(heading, no_wrap=True)
    table.add_column("reason", overflow="fold")
    table.add_column("value", overflow="fold")
    for item in found:
        letter = item.letter
        when = datetime.fromtimestamp(max(letter.timestamp_ms, 0) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        place = f"{letter.partition}/{letter.offset}" + (" sent again" if item.replayed else "")
        source = f"{_printable(letter.source_topic)} {letter.source_partition}/{letter.source_offset}"
        why = Text.assemble(_printable(letter.reason), (f" {_printable(letter.detail[:_WHY_AT_MOST])}", "dim"))
        table.add_row(Text(place), Text(when), Text(source), why, Text(_start(letter)))
    return table


def _start(letter: Letter) -> str:
    """The first bytes of the value, escaped."""
    if letter.left_out_bytes is not None:
        return f"({letter.left_out_bytes} bytes, left out)"
    if letter.value is None:
        return "(no value)"
    more = "…" if len(letter.value) > _SHOWN_BYTES else ""
    return _printable(letter.value[:_SHOWN_BYTES].decode(errors="backslashreplace")) + more


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _print_json(document: Any) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n")


def _print(text: Any) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_WITHOUT_TERMINAL)
    console.print(text)
