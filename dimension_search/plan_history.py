"""Every plan with its verdict, kept on the disk for people who ask why a width or a precision is what it is.

Knows a folder and one file in it, no trainer. One plan a line, as JSON, oldest first: those of widths in `plans.jsonl`,
those of precision in `precision.jsonl`. Nothing is trained from it: losing it costs the history and no model.

Invariant: a plan that `append` returned from is on the disk; a line torn by a crash is dropped, the whole ones before
and after it are kept; the file never holds more than twice the lines that are kept.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from dimension_search.errors import SearchError
from dimension_search.plan import DimensionPlan, read_plan, write_plan
from dimension_search.precision_plan import PrecisionPlan, read_precision_plan, write_precision_plan

__all__ = ["KEPT_PLANS", "PlanHistory", "PrecisionHistory"]

KEPT_PLANS = 1000
_log = logging.getLogger(__name__)

_Plan = TypeVar("_Plan")


class _History(Generic[_Plan]):
    """The plans of one model; one process writes, any may read meanwhile.

    Args:
        path: of the file; its folder must exist before the first `append`.
        kept: lines to keep at least.
        write: makes a line of a plan.
        read: makes a plan of a line; raises `SearchError` where it is none.
    """

    def __init__(self, path: Path, kept: int, write: Callable[[_Plan], bytes], read: Callable[[bytes], _Plan]) -> None:
        self._path = path
        self._kept = kept
        self._write = write
        self._read = read
        self._lines: int | None = None  # counted when the first plan is appended

    def append(self, plan: _Plan) -> None:
        """Adds a plan behind all others.

        Raises:
            OSError: the disk does not take it.
        """
        if self._lines is None:
            self._lines = self._path.read_bytes().count(b"\n") if self._path.exists() else 0
        with self._path.open("ab+") as file:
            file.write(self._line_break(file.tell()) + self._write(plan) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._lines += 1
        if self._lines == 1:
            _sync_folder(self._path.parent)
        if self._lines >= 2 * self._kept:
            self._shorten()

    def read(self, last: int | None = None) -> list[_Plan]:
        """The last plans, oldest first; empty where there are none yet.

        Args:
            last: how many at most, from 1 on; None for all that are kept.
        """
        lines = list(enumerate(self._lines_now(), 1))[-min(last or self._kept, self._kept) :]
        plans = [self._plan_in(line, f"{self._path}:{number}") for number, line in lines]
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
        beside = self._path.with_name(self._path.name + ".unfinished")
        with beside.open("wb") as file:
            file.write(b"".join(line + b"\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        beside.rename(self._path)
        _sync_folder(self._path.parent)
        self._lines = len(lines)

    def _plan_in(self, line: bytes, place: str) -> _Plan | None:
        try:
            return self._read(line)
        except SearchError as error:
            _log.warning("%s is dropped: %s", place, error)
            return None


class PlanHistory(_History[DimensionPlan]):
    """Plans of widths; see `_History`.

    Args:
        folder: holds the file.
        kept: lines to keep at least.
    """

    def __init__(self, folder: Path, kept: int = KEPT_PLANS) -> None:
        super().__init__(folder / "plans.jsonl", kept, write_plan, read_plan)


class PrecisionHistory(_History[PrecisionPlan]):
    """Plans of precision, without what the rows of their tiers share; see `PlanHistory`."""

    def __init__(self, folder: Path, kept: int = KEPT_PLANS) -> None:
        super().__init__(folder / "precision.jsonl", kept, _write_for_people, read_precision_plan)


def _write_for_people(plan: PrecisionPlan) -> bytes:
    return write_precision_plan(plan.without_shared())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
