"""The state folder: bases, the deltas that follow them, and the way back to the newest complete state.

Knows no table and no Redis. Invariant: at any moment, also after a kill between two system calls, the folder holds a
base and an unbroken chain of deltas; what is removed is older than a newer complete base.
"""

import fcntl
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from feature_admission.state_pages import StatePages
from stream_trainer.errors import CheckpointError, StateError, StateFolderInUse
from stream_trainer.model_state import Arrays, Manifest, ModelState, merge_states
from stream_trainer.state_file import read_manifest, read_state, write_state

__all__ = ["AdmissionMerge", "CheckpointStore", "StateFile", "StoredState", "describe_folder"]

logger = logging.getLogger(__name__)

_NAME = re.compile(r"^(base|delta)-(\d{12})\.npz$")

# Applies the admission pages of deltas, in order, to a base's state: the policy knows how, the store does not.
AdmissionMerge = Callable[[Arrays, Sequence[tuple[StatePages, ...]]], Arrays]


@dataclass(frozen=True, slots=True)
class StoredState:
    """What a start found: the newest complete state, and whether newer files had to be left out as broken."""

    state: ModelState
    skipped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StateFile:
    """One file of a state folder, for people."""

    name: str
    size_bytes: int
    manifest: Manifest | None
    error: str


def describe_folder(folder: Path) -> list[StateFile]:
    """Every base and delta of a folder by sequence; takes no lock, so it works beside a running trainer.

    Raises:
        CheckpointError: there is no such folder.
    """
    if not folder.is_dir():
        message = f"state_dir: {folder}, expected a folder"
        raise CheckpointError(message)
    described = []
    for path in sorted(folder.iterdir(), key=lambda path: path.name.partition("-")[2]):
        if not _NAME.match(path.name):
            continue
        try:
            manifest, error = read_manifest(path), ""
        except CheckpointError as caught:
            manifest, error = None, str(caught)
        described.append(StateFile(path.name, path.stat().st_size if path.exists() else 0, manifest, error))
    return described


class CheckpointStore:
    """Writes and reads one trainer's state folder. One writer thread; `close` gives up the lock."""

    def __init__(
        self,
        folder: Path,
        admission_merge: AdmissionMerge,
        kept_bases: int = 2,
        at_step: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Takes the folder, making it where it is missing.

        Raises:
            StateFolderInUse: another process holds it.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._admission_merge = admission_merge
        self._kept_bases = kept_bases
        self._at_step = at_step
        self._lock = (folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            message = f"state_dir: {folder} is held by another trainer, expected a folder of this one's own"
            raise StateFolderInUse(message) from None
        for unfinished in folder.glob("*.unfinished"):
            unfinished.unlink()
        self.base_bytes = 0
        self.delta_bytes = 0

    def close(self) -> None:
        """Gives the folder free for another trainer."""
        self._lock.close()

    def load(self) -> StoredState | None:
        """The newest complete state, or None in a fresh folder.

        A base that cannot be read falls back to the one before it; a delta that cannot be read ends its chain there.
        The files left out are renamed to `*.broken`, and the samples in them are read from Kafka again.

        Raises:
            CheckpointError: there are bases, and none can be read.
        """
        skipped: list[str] = []
        bases = self._sequences("base")
        for sequence in reversed(bases):
            path = self._path("base", sequence)
            try:
                base = read_state(path)
            except CheckpointError as error:
                logger.error("left out a base: %s", error)
                skipped.append(path.name)
                continue
            state = self._follow(base, skipped)
            for name in skipped:
                self._set_aside(name)
            return StoredState(state, tuple(skipped))
        if bases or self._sequences("delta"):
            message = f"{self.folder}: none of the bases {bases} can be read, expected at least one"
            raise CheckpointError(message)
        return None

    def write_base(self, state: ModelState) -> None:
        """Makes a complete state durable, then drops what it replaces."""
        self.base_bytes = write_state(self._path("base", state.manifest.sequence), state, self._at_step)
        self._drop_old()

    def write_delta(self, state: ModelState) -> None:
        """Makes what changed since the last state durable."""
        self.delta_bytes += write_state(self._path("delta", state.manifest.sequence), state, self._at_step)

    def compact(self) -> ModelState:
        """Merges the newest base with the deltas behind it into a new base, off the training path.

        Returns:
            the new base.

        Raises:
            CheckpointError: a file of the chain cannot be read.
        """
        bases = self._sequences("base")
        base = read_state(self._path("base", bases[-1]))
        deltas = [read_state(self._path("delta", s)) for s in self._sequences("delta") if s > base.manifest.sequence]
        merged = self._merge(base, deltas)
        if deltas:
            self.write_base(merged)
            self.delta_bytes = 0
        return merged

    def read_delta(self, sequence: int) -> ModelState | None:
        """A delta that is still in the folder, or None."""
        path = self._path("delta", sequence)
        return read_state(path) if path.exists() else None

    def _follow(self, base: ModelState, skipped: list[str]) -> ModelState:
        deltas: list[ModelState] = []
        expected = base.manifest.sequence + 1
        broken = False
        for sequence in self._sequences("delta"):
            if sequence < expected:
                continue
            path = self._path("delta", sequence)
            if not broken and sequence == expected:
                try:
                    deltas.append(read_state(path))
                    expected += 1
                    self.delta_bytes += path.stat().st_size
                    continue
                except CheckpointError as error:
                    logger.error("the chain of deltas ends early: %s", error)
            broken = True
            skipped.append(path.name)
        try:
            return self._merge(base, deltas)
        except StateError as error:
            message = f"{self.folder}: {error}"
            raise CheckpointError(message) from error

    def _merge(self, base: ModelState, deltas: Sequence[ModelState]) -> ModelState:
        admission = self._admission_merge(base.admission, [delta.admission_pages for delta in deltas])
        return merge_states(base, deltas, admission)

    def _sequences(self, kind: str) -> list[int]:
        names = (_NAME.match(path.name) for path in self.folder.iterdir())
        return sorted(int(match[2]) for match in names if match and match[1] == kind)

    def _path(self, kind: str, sequence: int) -> Path:
        return self.folder / f"{kind}-{sequence:012d}.npz"

    def _drop_old(self) -> None:
        """Keeps the newest bases and every delta behind the oldest of them, so that each base can be followed."""
        bases = self._sequences("base")
        for sequence in bases[: -self._kept_bases]:
            self._path("base", sequence).unlink()
        oldest = bases[-self._kept_bases :][0]
        for sequence in self._sequences("delta"):
            if sequence <= oldest:
                self._path("delta", sequence).unlink()

    def _set_aside(self, name: str) -> None:
        os.replace(self.folder / name, self.folder / f"{name}.broken")
