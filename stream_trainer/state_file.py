"""A model state as one file: an uncompressed .npz, which any numpy opens, under one seal.

The seal is the archive's comment, `dimflow crc32 <8 hex digits>`: the CRC-32 of every byte before those digits, so that
not a bit of the file can change unseen. A file without a comment is of an earlier version and has the CRC-32 of each
array alone.

Knows no folder and no chain. Invariant: a file that has its final name is complete and on the disk (written beside,
fsynced, renamed, folder fsynced), and reading it back gives an equal state; damage raises `CheckpointError`.
"""

import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedding_table.table import RowsOfBlock, TableChanges
from feature_admission.state_pages import StatePages
from stream_trainer.errors import CheckpointError
from stream_trainer.model_state import Arrays, Manifest, ModelState

__all__ = ["read_manifest", "read_state", "write_state"]

_SEAL = b"dimflow crc32 "
_SEAL_DIGITS = 8
_END_RECORD = b"PK\x05\x06"  # 22 bytes that end a ZIP archive; the last two say how long the comment is
_END_RECORD_BYTES = 22
_READ_BYTES = 1 << 20

_BLOCK_ARRAYS = ("columns", "ids", "values", "accumulators", "counts", "last_seen_s")


def write_state(path: Path, state: ModelState, at_step: Callable[[str], None] = lambda _: None) -> int:
    """Makes the file durable under its final name.

    Args:
        path: the final name; its folder must exist.
        state: what to write.
        at_step: called after each step with its name, for fault tests that die there.

    Returns:
        Size of the file in bytes.
    """
    arrays: dict[str, Any] = {"manifest": np.frombuffer(msgspec.json.encode(state.manifest), np.uint8)}
    places = [(block.slot, block.band) for block in state.rows.blocks]
    arrays["rows/places"] = np.array(places, np.int32).reshape(-1, 2)
    for index, block in enumerate(state.rows.blocks):
        for name in _BLOCK_ARRAYS:
            arrays[f"rows/{index}/{name}"] = getattr(block, name)
    arrays["rows/erased_ids"] = state.rows.erased_ids
    arrays |= {f"arrays/{name}": values for name, values in state.arrays.items()}
    arrays |= {f"admission/{name}": values for name, values in state.admission.items()}
    arrays["pages/names"] = np.array([pages.array for pages in state.admission_pages], np.str_)
    for index, pages in enumerate(state.admission_pages):
        arrays[f"pages/{index}/indices"] = pages.indices
        arrays[f"pages/{index}/pages"] = pages.pages
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("w+b") as file:
        np.savez(file, **arrays)
        _write_seal(file)
        at_step("after_write")
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    at_step("after_fsync")
    unfinished.rename(path)
    at_step("after_rename")
    _fsync_folder(path.parent)
    at_step("after_folder_fsync")
    return size


def read_state(path: Path) -> ModelState:
    """Reads and verifies a whole file.

    Raises:
        CheckpointError: the file is missing, cut short, damaged or of another making.
    """
    _check_seal(path)
    members = _read_members(path, lambda _: True)
    try:
        manifest = msgspec.json.decode(members["manifest"].tobytes(), type=Manifest)
        blocks = tuple(
            RowsOfBlock(int(slot), int(band), *(members[f"rows/{index}/{name}"] for name in _BLOCK_ARRAYS))
            for index, (slot, band) in enumerate(members["rows/places"])
        )
        rows = TableChanges(blocks=blocks, erased_ids=members["rows/erased_ids"])
        pages = tuple(
            StatePages(str(name), members[f"pages/{index}/indices"], members[f"pages/{index}/pages"])
            for index, name in enumerate(members["pages/names"])
        )
    except (KeyError, msgspec.MsgspecError) as error:
        message = f"{path}: {error}, expected a dimflow state"
        raise CheckpointError(message) from error
    return ModelState(
        manifest=manifest,
        rows=rows,
        arrays=_below("arrays/", members),
        admission=_below("admission/", members),
        admission_pages=pages,
    )


def read_manifest(path: Path) -> Manifest:
    """Reads the manifest alone, without the rows and without checking them.

    Raises:
        CheckpointError: as `read_state`.
    """
    members = _read_members(path, lambda name: name == "manifest")
    try:
        return msgspec.json.decode(members["manifest"].tobytes(), type=Manifest)
    except (KeyError, msgspec.MsgspecError) as error:
        message = f"{path}: {error}, expected a dimflow state"
        raise CheckpointError(message) from error


def _read_members(path: Path, wanted: Callable[[str], bool]) -> dict[str, NDArray[Any]]:
    try:
        # opened here, since numpy leaves a file open that turns out to be no archive
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if wanted(name)}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        message = f"{path}: cannot be read: {error}"
        raise CheckpointError(message) from error


def _write_seal(file: IO[bytes]) -> None:
    """Appends the seal to a finished archive."""
    file.seek(-2, os.SEEK_END)
    file.write((len(_SEAL) + _SEAL_DIGITS).to_bytes(2, "little") + _SEAL)
    checksum = _checksum(file, file.tell())
    file.seek(0, os.SEEK_END)
    file.write(b"%08x" % checksum)


def _check_seal(path: Path) -> None:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _END_RECORD_BYTES))
            end = file.read()
            if end.startswith(_END_RECORD) and end.endswith(b"\0\0"):
                return
            found = end[-_SEAL_DIGITS:]
            sealed = end[:-_SEAL_DIGITS].endswith(_SEAL)
            expected = b"%08x" % _checksum(file, size - _SEAL_DIGITS) if sealed else b""
    except OSError as error:
        message = f"{path}: cannot be read: {error}"
        raise CheckpointError(message) from error
    if not sealed:
        message = f"{path}: cannot be read: {size} bytes that end without a seal, expected a whole dimflow state"
        raise CheckpointError(message)
    if found != expected:
        message = f"{path}: cannot be read: its bytes have CRC-32 {expected.decode()}, its seal says {found!r}"
        raise CheckpointError(message)


def _checksum(file: IO[bytes], length: int) -> int:
    """CRC-32 of the first `length` bytes."""
    file.seek(0)
    checksum = 0
    while length > 0:
        piece = file.read(min(length, _READ_BYTES))
        if not piece:
            break
        checksum = zlib.crc32(piece, checksum)
        length -= len(piece)
    return checksum


def _below(prefix: str, members: dict[str, NDArray[Any]]) -> Arrays:
    return {name.removeprefix(prefix): values for name, values in members.items() if name.startswith(prefix)}


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
