"""The state folder: bases, the deltas that follow them, and the way back to the newest complete state.

Knows no table and no Redis. Invariant: at any moment, also after a kill between two system calls, the folder holds a
base and an unbroken chain of deltas; what is removed is older than a newer complete base.
"""

import fcntl
import logging
import os
import uuid
from collections.abc import Callable
from pathlib import Path

from stream_trainer.errors import StateFolderInUse
from stream_trainer.model_state import ModelState, merge_states
from stream_trainer.state_chain import (
    AdmissionMerge,
    StateKind,
    StoredState,
    find_state,
    is_newer,
    read_file,
    sequences_in,
    state_path,
)
from stream_trainer.state_file import write_state

__all__ = ["CheckpointStore"]

logger = logging.getLogger(__name__)


class CheckpointStore:
    """Writes and reads one trainer's state folder. One writer thread; `close` gives up the lock.

    Attributes:
        folder: where the files lie.
        home: name of the folder, the same for every trainer that ever holds it.
    """

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
        self._lock = (folder / "lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            message = f"state_dir: {folder} is held by another trainer, expected a folder of this one's own"
            raise StateFolderInUse(message) from None
        self._lock.seek(0)
        self.home = self._lock.read().strip()
        if not self.home:
            self.home = uuid.uuid4().hex
            self._lock.write(self.home)
            self._lock.flush()
        for unfinished in folder.glob("*.unfinished"):
            unfinished.unlink()
        self.base_bytes = 0
        self.delta_bytes = 0

    def close(self) -> None:
        """Gives the folder free for another trainer."""
        self._lock.close()

    def load(self, fingerprint: str = "") -> StoredState | None:
        """The newest complete state, or None in a fresh folder; see `find_state`.

        The files left out are renamed to `*.broken`, and the samples in them are read from Kafka again.

        Raises:
            CheckpointError: there are bases or deltas, and no base can be read.
        """
        stored = find_state(self.folder, self._admission_merge, fingerprint)
        if stored is None:
            return None
        for file in stored.left_out:
            logger.error("%s is left out and becomes %s.broken: %s", file.name, file.name, file.reason)
            os.replace(self.folder / file.name, self.folder / f"{file.name}.broken")
        deltas = [self.folder / name for name in stored.files if name.startswith("delta")]
        self.delta_bytes = sum(path.stat().st_size for path in deltas)
        return stored

    def load_newest(self, other: Path, head_lineage: str, fingerprint: str) -> StoredState | None:
        """As `load`, or the state of another folder where that is newer; this folder's own files step aside then.

        Args:
            other: of a trainer that is gone, frozen or fenced; read, never written.
            head_lineage: what Redis holds, "" where that is not known.
            fingerprint: of the schema.
        """
        own = find_state(self.folder, self._admission_merge, fingerprint)
        found = find_state(other, self._admission_merge, fingerprint) if other.is_dir() else None
        if found is None or (own and not is_newer(found.state.manifest, own.state.manifest, head_lineage)):
            return self.load(fingerprint)
        logger.info("going on from %s at sequence %d", other, found.state.manifest.sequence)
        for kind in ("base", "delta"):
            for sequence in self._sequences(kind):
                path = self._path(kind, sequence)
                path.replace(path.with_name(path.name + ".replaced"))
        return found

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
        base = read_file(self.folder, "base", bases[-1])
        deltas = [read_file(self.folder, "delta", s) for s in self._sequences("delta") if s > base.manifest.sequence]
        admission = self._admission_merge(base.admission, [delta.admission_pages for delta in deltas])
        merged = merge_states(base, deltas, admission)
        if deltas:
            self.write_base(merged)
            self.delta_bytes = 0
        return merged

    def read_delta(self, sequence: int) -> ModelState | None:
        """A delta that is still in the folder, or None."""
        return read_file(self.folder, "delta", sequence) if self._path("delta", sequence).exists() else None

    def _sequences(self, kind: StateKind) -> list[int]:
        return sequences_in(self.folder, kind)

    def _path(self, kind: StateKind, sequence: int) -> Path:
        return state_path(self.folder, kind, sequence)

    def _drop_old(self) -> None:
        """Keeps the newest bases and every delta behind the oldest of them, so that each base can be followed."""
        bases = self._sequences("base")
        for sequence in bases[: -self._kept_bases]:
            self._path("base", sequence).unlink()
        oldest = bases[-self._kept_bases :][0]
        for sequence in self._sequences("delta"):
            if sequence <= oldest:
                self._path("delta", sequence).unlink()
