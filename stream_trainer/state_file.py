"""A model state as one file: an uncompressed .npz, which any numpy opens and whose every array carries a CRC-32.

Knows no folder and no chain. Invariant: a file that has its final name is complete and on the disk (written beside,
fsynced, renamed, folder fsynced), and reading it back gives an equal state; damage raises `CheckpointError`.
"""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedding_table.table import RowsOfBlock, TableChanges
from feature_admission.state_pages import StatePages
from stream_trainer.errors import CheckpointError
from stream_trainer.model_state import Arrays, Manifest, ModelState

__all__ = ["read_manifest", "read_state", "write_state"]

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
    with unfinished.open("wb") as file:
        np.savez(file, **arrays)
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
    """Reads the manifest alone, without the rows.

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


def _below(prefix: str, members: dict[str, NDArray[Any]]) -> Arrays:
    return {name.removeprefix(prefix): values for name, values in members.items() if name.startswith(prefix)}


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
