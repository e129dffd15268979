"""Reading a state folder: which bases and deltas it holds, and the newest complete state among them.

Takes no lock and changes nothing, so it works beside a running trainer. Invariant: what is returned is a sound base
with an unbroken chain of sound deltas; every file that was left out is named with the reason.

Which file is left out: a base that cannot be read or is of another model, where an older one can stand in for it (the
deltas behind the oldest kept base are kept for that); the first delta that cannot be read, does not follow or is
missing, and all behind it.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from feature_admission.state_pages import StatePages
from stream_trainer.errors import CheckpointError, StateError
from stream_trainer.model_state import Arrays, Manifest, ModelState, check_follows, merge_states
from stream_trainer.state_file import read_manifest, read_state

__all__ = [
    "AdmissionMerge",
    "LeftOut",
    "StateFile",
    "StateKind",
    "StoredState",
    "describe_folder",
    "find_state",
    "is_newer",
    "read_file",
    "sequences_in",
    "state_path",
    "verify_folder",
]

logger = logging.getLogger(__name__)

StateKind: TypeAlias = Literal["base", "delta"]

# Applies the admission pages of deltas, in order, to a base's state: the policy knows how, the reader does not.
AdmissionMerge = Callable[[Arrays, Sequence[tuple[StatePages, ...]]], Arrays]

_NAME = re.compile(r"^(base|delta)-(\d{12})\.npz$")
_LOOKS = 5


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file that is not part of the state found, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class StoredState:
    """The newest complete state of a folder, the files it came from and those that had to be left out."""

    state: ModelState
    files: tuple[str, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the files left out."""
        return tuple(file.name for file in self.left_out)

    @property
    def behind(self) -> bool:
        """Whether a cut was lost that had been durable, so that Redis may have seen more than this state."""
        return any(_sequence_of(name) > self.state.manifest.sequence for name in self.skipped)


@dataclass(frozen=True, slots=True)
class StateFile:
    """One file of a state folder, for people."""

    name: str
    size_bytes: int
    manifest: Manifest | None
    error: str


def state_path(folder: Path, kind: StateKind, sequence: int) -> Path:
    """Where a base or a delta lies."""
    return folder / f"{kind}-{sequence:012d}.npz"


def sequences_in(folder: Path, kind: StateKind) -> list[int]:
    """Numbers of all bases or deltas there, ascending."""
    names = (_NAME.match(path.name) for path in folder.iterdir())
    return sorted(int(match[2]) for match in names if match and match[1] == kind)


def read_file(folder: Path, kind: StateKind, sequence: int) -> ModelState:
    """Reads and verifies a base or a delta, and that it is what its name says.

    Raises:
        CheckpointError: it is missing, damaged, or another file under this name.
    """
    path = state_path(folder, kind, sequence)
    state = read_state(path)
    found = state.manifest.sequence
    delta_like = bool(state.admission_pages or state.rows.erased_ids.size or state.manifest.sample_times)
    if found != sequence or (delta_like if kind == "base" else bool(state.admission)):
        holds = (
            f"a {'delta' if delta_like else 'base'} of sequence {found}" if found == sequence else f"sequence {found}"
        )
        message = f"{path}: holds {holds}, expected the {kind} {sequence}"
        raise CheckpointError(message)
    return state


def find_state(folder: Path, admission_merge: AdmissionMerge, fingerprint: str = "") -> StoredState | None:
    """The newest complete state, or None in a folder without one.

    Args:
        folder: of the files; may be written by a running trainer meanwhile.
        admission_merge: see there.
        fingerprint: of the schema expected; a base of another one is passed over where there is one of this.

    Raises:
        CheckpointError: there are bases or deltas, and no base can be read.
    """
    for look in range(_LOOKS):
        found = _look(folder, admission_merge, fingerprint)
        if found is None or look == _LOOKS - 1:
            return found
        if all((folder / name).exists() for name in found.skipped):
            return found
        logger.debug("%s changed while it was read", folder)  # a running trainer dropped what a newer base replaced
    return None


def is_newer(found: Manifest, known: Manifest, head_lineage: str) -> bool:
    """Whether to go on from one state rather than another: the later one of a lineage, else the one Redis holds."""
    if found.lineage == known.lineage:
        return (found.epoch, found.sequence) > (known.epoch, known.sequence)
    if head_lineage in {found.lineage, known.lineage}:
        return found.lineage == head_lineage
    return found.created_ms > known.created_ms


def describe_folder(folder: Path) -> list[StateFile]:
    """Every base and delta of a folder by sequence, by what each says of itself.

    Raises:
        CheckpointError: there is no such folder.
    """
    described = []
    for path in _paths(folder):
        try:
            manifest, error = read_manifest(path), ""
        except CheckpointError as caught:
            manifest, error = None, str(caught)
        described.append(StateFile(path.name, path.stat().st_size if path.exists() else 0, manifest, error))
    return described


def verify_folder(folder: Path) -> list[StateFile]:
    """As `describe_folder`, with every byte read and checked, and whether each file is what its name and place say.

    Raises:
        CheckpointError: there is no such folder.
    """
    verified = []
    for path in _paths(folder):
        kind, sequence = _parsed(path.name)
        try:
            manifest, error = read_file(folder, kind, sequence).manifest, ""
        except CheckpointError as caught:
            if not path.exists():  # a running trainer dropped it meanwhile
                continue
            manifest, error = None, str(caught)
        verified.append(StateFile(path.name, path.stat().st_size if path.exists() else 0, manifest, error))
    return _placed(verified)


def _placed(files: Sequence[StateFile]) -> list[StateFile]:
    """Adds an error to sound files that are of another model than most, or do not follow the delta before them."""
    known = Counter(file.manifest.fingerprint for file in files if file.manifest)
    usual = known.most_common(1)[0][0] if known else ""
    before: Manifest | None = None
    placed = []
    for file in files:
        found, error = file.manifest, file.error
        kind, sequence = _parsed(file.name)
        if found is None:
            before = None if kind == "delta" else before
        elif found.fingerprint != usual:
            error = f"{file.name} is of schema {found.fingerprint}, expected {usual}"
            before = None if kind == "delta" else before
        elif kind == "delta" and before is not None and sequence > before.sequence:
            try:
                check_follows(before, found)
                before = found
            except StateError as caught:
                error, before = str(caught), found if found.sequence > before.sequence + 1 else None
        elif before is None:
            before = found
        placed.append(replace(file, error=error))
    return placed


def _paths(folder: Path) -> list[Path]:
    if not folder.is_dir():
        message = f"state_dir: {folder}, expected a folder"
        raise CheckpointError(message)
    paths = (path for path in folder.iterdir() if _NAME.match(path.name))
    return sorted(paths, key=lambda path: (path.name.partition("-")[2], path.name))


def _look(folder: Path, admission_merge: AdmissionMerge, fingerprint: str) -> StoredState | None:
    left_out: list[LeftOut] = []
    foreign: ModelState | None = None
    bases = sequences_in(folder, "base")
    for sequence in reversed(bases):
        try:
            base = read_file(folder, "base", sequence)
        except CheckpointError as error:
            left_out.append(LeftOut(state_path(folder, "base", sequence).name, str(error)))
            continue
        if fingerprint not in {"", base.manifest.fingerprint}:
            foreign = foreign or base
            reason = f"is of schema {base.manifest.fingerprint}, expected {fingerprint}"
            left_out.append(LeftOut(state_path(folder, "base", sequence).name, reason))
            continue
        return _follow(folder, base, admission_merge, left_out)
    if foreign is not None:
        return StoredState(foreign, (), ())  # every base is: whoever restores it says so
    if bases or sequences_in(folder, "delta"):
        message = f"{folder}: none of the bases {bases} can be read, expected at least one"
        raise CheckpointError(message)
    return None


def _follow(folder: Path, base: ModelState, merge: AdmissionMerge, left_out: list[LeftOut]) -> StoredState:
    deltas: list[ModelState] = []
    files = [state_path(folder, "base", base.manifest.sequence).name]
    before = base.manifest
    broken = ""
    for sequence in sequences_in(folder, "delta"):
        if sequence <= base.manifest.sequence:
            continue
        name = state_path(folder, "delta", sequence).name
        if not broken and sequence != before.sequence + 1:
            broken = f"delta {before.sequence + 1} is missing"
        if not broken:
            try:
                delta = read_file(folder, "delta", sequence)
                check_follows(before, delta.manifest)
            except (CheckpointError, StateError) as error:
                broken = f"delta {sequence} is left out"
                left_out.append(LeftOut(name, str(error)))
                continue
            deltas.append(delta)
            files.append(name)
            before = delta.manifest
            continue
        left_out.append(LeftOut(name, f"does not count without what comes before it: {broken}"))
    try:
        admission = merge(base.admission, [delta.admission_pages for delta in deltas])
        return StoredState(merge_states(base, deltas, admission), tuple(files), tuple(left_out))
    except StateError as error:
        message = f"{folder}: {error}"
        raise CheckpointError(message) from error


def _parsed(name: str) -> tuple[StateKind, int]:
    kind: StateKind = "base" if name.startswith("base") else "delta"
    return kind, _sequence_of(name)


def _sequence_of(name: str) -> int:
    match = _NAME.match(name)
    return int(match[2]) if match else -1
