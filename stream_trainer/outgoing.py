"""From a cut of the trainer to the bytes that replicas read: rows without optimizer state, tombstones, dense tensors.

Knows no Redis and no file. Invariant: the same state gives the same bytes, so that an increment sent again after a
crash is the increment sent before it.
"""

import numpy as np

from model_contract.dense_layout import DenseLayout
from model_contract.increment import DenseTensor, Increment, IncrementHeader, IncrementKind, RowBlock, encode
from stream_trainer.model_state import ModelState

__all__ = ["DENSE_MEAN", "DENSE_STD", "PARAMETERS", "encode_state"]

PARAMETERS = "step/parameters"
DENSE_MEAN = "dense_mean"
DENSE_STD = "dense_std"


def encode_state(state: ModelState, kind: IncrementKind, layout: DenseLayout) -> bytes:
    """Encodes a delta as an increment, or a base as a base.

    Args:
        state: the cut.
        kind: "increment" or "base".
        layout: where each dense tensor lies in the parameter vector.
    """
    manifest = state.manifest
    header = IncrementHeader(
        kind=kind,
        schema_fingerprint=manifest.fingerprint,
        lineage=manifest.lineage,
        epoch=manifest.epoch,
        sequence=manifest.sequence,
        base_sequence=manifest.sequence if kind == "base" else manifest.base_sequence,
        created_ms=manifest.created_ms,
        newest_sample_ms=manifest.newest_sample_ms,
        samples_trained=manifest.samples_trained,
        offsets=tuple((o.topic, o.partition, o.next_offset) for o in manifest.offsets),
        sample_times=tuple((t.bucket_ms, t.count) for t in manifest.sample_times),
        metrics=manifest.metrics,
    )
    rows = state.rows.blocks
    blocks = tuple(RowBlock(b.slot, b.band, b.columns, "fp32", b.ids, b.values) for b in rows)
    alive = np.concatenate([b.ids for b in rows]) if rows else np.empty(0, np.uint64)
    tombstones = np.setdiff1d(state.rows.erased_ids, alive)
    tensors = layout.split(state.arrays[PARAMETERS].astype(np.float32, copy=False))
    moments = tuple(
        DenseTensor(name, state.arrays[f"serving/{name}"].astype(np.float32, copy=False))
        for name in (DENSE_MEAN, DENSE_STD)
        if state.arrays[f"serving/{name}"].size
    )
    return encode(Increment(header, blocks, tombstones, (*tensors, *moments)))
