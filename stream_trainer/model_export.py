"""A model state as one plain .npz for other programs: ids, values, columns and dense tensors by name, numpy alone.

Knows no folder and no chain. Invariant: the same state gives the same arrays, and none of them needs dimflow (or
pickle) to be read. The arrays:

    manifest                 text, JSON: lineage, epoch, sequence, samples, Kafka offsets, metrics
    slots                    text (F,), names of the slots
    missing_ids              u64 (F,), id of each slot's row for what has no row
    dim                      i64, D; a row's columns that are not in its block are zero
    blocks                   i64, number of blocks of rows; of block k from 0 on:
    blocks/<k>/slot, band    text; i64, popularity band
    blocks/<k>/columns       u16 (d,), which of the D columns `values` holds
    blocks/<k>/ids           u64 (n,), feature ids: `model_contract.feature_id.feature_id(slot, value)`
    blocks/<k>/values        f32 (n, d)
    blocks/<k>/accumulators  f32 (n,), of row-wise Adagrad; counts f32 (n,), traffic; last_seen_s u32 (n,)
    dense/<name>             f32, one parameter of the network, such as dense/top.0.weight (outputs, inputs)
    dense_mean, dense_std    f32 (features,), for features with the transform `standardise`
"""

import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from model_contract.dense_layout import DenseLayout
from model_contract.schema import ModelSchema
from stream_trainer.errors import StateError
from stream_trainer.model_state import ModelState
from stream_trainer.outgoing import DENSE_MEAN, DENSE_STD, PARAMETERS

__all__ = ["export_arrays", "write_export"]

_ROW_ARRAYS = ("columns", "ids", "values", "accumulators", "counts", "last_seen_s")


def export_arrays(state: ModelState, schema: ModelSchema) -> dict[str, Any]:
    """The arrays of an export, by name.

    Args:
        state: complete.
        schema: whose names the slots and tensors have.

    Raises:
        StateError: the state is of another schema.
    """
    found = state.manifest.fingerprint
    if found != schema.fingerprint:
        message = f"the state is of schema {found}, the model file of {schema.fingerprint}: expected the same model"
        raise StateError(message)
    arrays: dict[str, Any] = {
        "manifest": np.array(msgspec.json.encode(state.manifest).decode()),
        "slots": np.array(schema.slot_names, np.str_),
        "missing_ids": schema.missing_ids,
        "dim": np.array(schema.dim, np.int64),
        "blocks": np.array(len(state.rows.blocks), np.int64),
    }
    for number, block in enumerate(state.rows.blocks):
        arrays[f"blocks/{number}/slot"] = np.array(schema.slot_names[block.slot])
        arrays[f"blocks/{number}/band"] = np.array(block.band, np.int64)
        arrays |= {f"blocks/{number}/{name}": getattr(block, name) for name in _ROW_ARRAYS}
    flat = state.arrays[PARAMETERS].astype(np.float32, copy=False)
    arrays |= {f"dense/{tensor.name}": tensor.values for tensor in DenseLayout(schema).split(flat)}
    arrays |= {name: state.arrays[f"serving/{name}"] for name in (DENSE_MEAN, DENSE_STD)}
    return arrays


def write_export(path: Path, state: ModelState, schema: ModelSchema) -> int:
    """Writes the export beside `path` and renames it; an earlier file of the name is replaced.

    Returns:
        size in bytes.

    Raises:
        StateError: the state is of another schema.
        OSError: the file cannot be written.
    """
    arrays = export_arrays(state, schema)
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
        size = file.tell()
    unfinished.replace(path)
    return size
