"""How `dimflow search` asks a running trainer for a search: one small file in the state folder.

Knows neither the command nor the trainer. `ask` writes the file, `take` reads and removes it; a later request replaces
one that nobody has taken yet.

Invariant: a request is there whole or not at all, and is taken at most once; what cannot be read is removed and refused
with its reason in the log.
"""

import logging
import os
from pathlib import Path
from typing import Literal

import msgspec

from dimension_search.errors import SearchError

__all__ = ["COMMAND_TRIGGER", "SearchMode", "SearchRequest", "ask", "take", "withdraw"]

COMMAND_TRIGGER = "command"
"""What `DimensionPlan.trigger` says where a request asked for the plan."""

SearchMode = Literal["plan-only", "apply"]

_FILE = "search.request"
_MAX_BYTES = 4096
_log = logging.getLogger(__name__)


class SearchRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked for.

    Attributes:
        mode: "plan-only" for a plan that changes nothing, "apply" for one that is applied where its verdict allows.
        asked_ms: milliseconds since the epoch, by the asker's clock.
    """

    mode: SearchMode
    asked_ms: int


def ask(folder: Path, mode: SearchMode, asked_ms: int) -> None:
    """Leaves a request for the trainer that works in this folder.

    Raises:
        SearchError: the folder is not there or cannot be written to.
    """
    text = msgspec.json.encode(SearchRequest(mode=mode, asked_ms=asked_ms))
    beside = folder / f"{_FILE}.{os.getpid()}.unfinished"
    try:
        beside.write_bytes(text)
        beside.rename(folder / _FILE)
    except OSError as error:
        message = f"state_dir: {folder}: {error.strerror}, expected a folder that a trainer works in"
        raise SearchError(message) from error


def take(folder: Path) -> SearchRequest | None:
    """The request in this folder, which is removed; None where there is none that can be read."""
    path, taken = folder / _FILE, folder / f"{_FILE}.taken"
    try:
        path.rename(taken)  # first of all: a request that replaces this one now is another one
    except FileNotFoundError:
        return None
    try:
        with taken.open("rb") as file:
            text = file.read(_MAX_BYTES)
        taken.unlink()
        return msgspec.json.decode(text, type=SearchRequest)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        _log.warning("%s is refused: %s", path, error)
        return None


def withdraw(folder: Path) -> bool:
    """Removes a request that nobody has taken; whether there was one."""
    try:
        (folder / _FILE).unlink()
    except FileNotFoundError:
        return False
    return True
