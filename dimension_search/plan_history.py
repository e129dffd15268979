"""Every plan with its verdict, kept on the disk for people who ask why a width is what it is.

Knows a folder and one file in it, no trainer. One plan a line, as JSON, oldest first, in `plans.jsonl`. Nothing is
trained from it: losing it costs the history and no model.

Invariant: a plan that `append` returned from is on the disk; a line torn by a crash is dropped, the whole ones before
and after it are kept; the file never holds more than twice the lines that are kept.
"""

import logging
import os
from pathlib import Path

from dimension_search.errors import SearchError
from dimension_search.plan import DimensionPlan, read_plan, write_plan

__all__ = ["KEPT_PLANS", "PlanHistory"]

KEPT_PLANS = 1000
_FILE = "plans.jsonl"
_log = logging.getLogger(__name__)


class PlanHistory:
    """The plans of one model; one process writes, any may read meanwhile.

    Args:
        folder: holds the file; must exist before the first `append`.
        kept: lines to keep at least.
    """

    def __init__(self, folder: Path, kept: int = KEPT_PLANS) -> None:
        self._path = folder / _FILE
        self._kept = kept
        self._lines: int | None = None  # counted when the first plan is appended

    def append(self, plan: DimensionPlan) -> None:
        """Adds a plan behind all others.

        Raises:
            OSError: the disk does not take it.
        """
        if self._lines is None:
            self._lines = self._path.read_bytes().count(b"\n") if self._path.exists() else 0
        with self._path.open("ab+") as file:
            file.write(self._line_break(file.tell()) + write_plan(plan) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._lines += 1
        if self._lines == 1:
            _sync_folder(self._path.parent)
        if self._lines >= 2 * self._kept:
            self._shorten()

    def read(self, last: int | None = None) -> list[DimensionPlan]:
        """The last plans, oldest first; empty where there are none yet.

        Args:
            last: how many at most, from 1 on; None for all that are kept.
        """
        lines = list(enumerate(self._lines_now(), 1))[-min(last or self._kept, self._kept) :]
        plans = [_plan_in(line, f"{self._path}:{number}") for number, line in lines]
        return [plan for plan in plans if plan is not None]

    def _lines_now(self) -> list[bytes]:
        return self._path.read_bytes().splitlines() if self._path.exists() else []

    def _line_break(self, end: int) -> bytes:
        """What must stand before the next line: a line break where a crash has torn the last one."""
        if not end:
            return b""
        with self._path.open("rb") as file:
            file.seek(end - 1)
            return b"" if file.read(1) == b"\n" else b"\n"

    def _shorten(self) -> None:
        """Keeps the last plans only: written beside, fsynced, renamed."""
        lines = self._lines_now()[-self._kept :]
        beside = self._path.with_name(_FILE + ".unfinished")
        with beside.open("wb") as file:
            file.write(b"".join(line + b"\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        beside.rename(self._path)
        _sync_folder(self._path.parent)
        self._lines = len(lines)


def _plan_in(line: bytes, place: str) -> DimensionPlan | None:
    try:
        return read_plan(line)
    except SearchError as error:
        _log.warning("%s is dropped: %s", place, error)
        return None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
