"""`dimflow checkpoint`: lists, verifies and exports the checkpoints in a state folder, also beside a running trainer.

Knows no file format itself: files are read by their owners. Changes nothing in the folder. Invariant: `verify` ends
with 0 only if every byte of every base and delta was read and found sound.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from dimflow.errors import CommandError
from dimflow.model_files import read_model_file
from stream_trainer.model_export import write_export
from stream_trainer.state_chain import StateFile, describe_folder, find_state, verify_folder

__all__ = ["add_checkpoint_arguments", "run_checkpoint"]

_DAMAGED = 1


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what can be done with checkpoints."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="WHAT")
    texts = {
        "list": "every base and delta: sequence, samples, offsets, size, age",
        "verify": "read and check every byte; exit code 1 and the file's name on damage",
        "export": "the newest state as one .npz that numpy alone can read: ids, values, columns, dense tensors by name",
    }
    for action, text in texts.items():
        sub = actions.add_parser(action, help=text, description=text)
        sub.add_argument("--state-dir", type=Path, required=True, help="state folder of a trainer")
        if action == "export":
            sub.add_argument("--model-file", type=Path, required=True, help="TOML file of the model, for its names")
            sub.add_argument("--out", type=Path, required=True, metavar="FILE.npz", help="where to write it")
        else:
            sub.add_argument("--json", action="store_true", help="print JSON")


def run_checkpoint(args: argparse.Namespace) -> int:
    """Does it and prints what there is; returns the exit code.

    Raises:
        CheckpointError: there is no such folder, or nothing sound to export.
        CommandError: there is nothing to export, or no place for it.
    """
    if args.action == "export":
        return _export(args)
    files = (verify_folder if args.action == "verify" else describe_folder)(args.state_dir)
    if args.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(files), indent=2).decode() + "\n")
    else:
        sys.stdout.write(_table(files))
    damaged = [file for file in files if file.error]
    if args.action == "list":
        return 0
    for file in damaged:
        sys.stderr.write(f"dimflow checkpoint: {file.name} is damaged: {file.error}\n")
    if not files:
        sys.stderr.write(f"dimflow checkpoint: {args.state_dir} holds no checkpoint\n")
    return _DAMAGED if damaged or not files else 0


def _table(files: Sequence[StateFile]) -> str:
    now_s = time.time()
    rows = [("sequence", "kind", "epoch", "samples", "bytes", "age", "offsets")]
    for file in files:
        kind, _, number = file.name.removesuffix(".npz").partition("-")
        manifest = file.manifest
        if manifest is None:
            rows.append((str(int(number)), kind, "", "", f"{file.size_bytes:,}", "", f"DAMAGED: {file.error}"))
            continue
        offsets = " ".join(f"{o.topic}/{o.partition}={o.next_offset}" for o in manifest.offsets)
        rows.append(
            (
                str(manifest.sequence),
                kind,
                str(manifest.epoch),
                f"{manifest.samples_trained:,}",
                f"{file.size_bytes:,}",
                _age(now_s - manifest.created_ms / 1000),
                f"DAMAGED: {file.error}" if file.error else offsets,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = ("  ".join([*(cell.rjust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in rows)
    return "".join(line.rstrip() + "\n" for line in lines)


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _export(args: argparse.Namespace) -> int:
    schema = read_model_file(args.model_file)
    describe_folder(args.state_dir)  # says so where there is no folder
    stored = find_state(args.state_dir, lambda base, _: base, schema.fingerprint)
    if stored is None:
        message = f"{args.state_dir} holds no checkpoint: expected a trainer's state folder"
        raise CommandError(message)
    for file in stored.left_out:
        sys.stderr.write(f"dimflow checkpoint: {file.name} is left out: {file.reason}\n")
    try:
        size_bytes = write_export(args.out, stored.state, schema)
    except OSError as error:
        message = f"--out {args.out}: {error}"
        raise CommandError(message) from error
    manifest = stored.state.manifest
    told: dict[str, Any] = {
        "file": str(args.out),
        "bytes": size_bytes,
        "lineage": manifest.lineage,
        "sequence": manifest.sequence,
        "samples": manifest.samples_trained,
        "rows": stored.state.rows.rows,
    }
    sys.stdout.write(msgspec.json.encode(told).decode() + "\n")
    return 0
