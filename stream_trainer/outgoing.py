"""From a cut of the trainer to the bytes that replicas read: rows without optimizer state, tombstones, dense tensors.

Knows no Redis, no file, and not how a row's tier is chosen. Invariant: the same state and the same tiers give the same
bytes, so that an increment sent again after a crash is the increment sent before it.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embedding_table.row_codecs import CODECS, RowCodec
from embedding_table.table import RowsOfBlock
from embedding_table.tier_packing import pack_in_tiers
from model_contract.dense_layout import DenseLayout
from model_contract.dense_rounding import holds
from model_contract.increment import (
    DenseTensor,
    DenseType,
    Increment,
    IncrementHeader,
    IncrementKind,
    RowBlock,
    encode,
)
from stream_trainer.model_state import ModelState

__all__ = ["DENSE_MEAN", "DENSE_STD", "PARAMETERS", "RowTiers", "encode_state"]

PARAMETERS = "step/parameters"
DENSE_MEAN = "dense_mean"
DENSE_STD = "dense_std"


class RowTiers(Protocol):
    """How precisely each row is sent.

    What rows share should stay the same from cut to cut: a replica keeps a store for every list of shared values that a
    row still needs, so values learned anew with each increment cost it a page of memory each.
    """

    def split(self, block: RowsOfBlock) -> Sequence[tuple[NDArray[np.int64], RowCodec, NDArray[np.float32] | None]]:
        """Parts of the block's n rows, each row in one of them; what is decided follows from the block's content alone.

        Returns:
            for each part: numbers of its rows, i64; their codec; what they share, f32 as the codec has it, or None to
            learn it from these rows.
        """
        ...


def encode_state(
    state: ModelState,
    kind: IncrementKind,
    layout: DenseLayout,
    tiers: RowTiers | None = None,
    dense_dtype: DenseType = "float32",
) -> bytes:
    """Encodes a delta as an increment, or a base as a base.

    Args:
        state: the cut.
        kind: "increment" or "base".
        layout: where each dense tensor lies in the parameter vector.
        tiers: how precise each row is; rows that their codec cannot hold go by a wider one. None: all are fp32.
        dense_dtype: of the network's tensors; one that does not fit into 16 bits stays float32, and so do the moments
            of dense features, which are as large as the features.

    Raises:
        UnfitValues: a row holds NaN or infinity.
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
    blocks = tuple(packed for block in rows for packed in _packed_blocks(block, tiers))
    tombstones = _without(np.unique(state.rows.erased_ids), [block.ids for block in rows])
    tensors = tuple(
        DenseTensor(tensor.name, tensor.values, dense_dtype if holds(tensor.values, dense_dtype) else "float32")
        for tensor in layout.split(state.arrays[PARAMETERS].astype(np.float32, copy=False))
    )
    moments = tuple(
        DenseTensor(name, state.arrays[f"serving/{name}"].astype(np.float32, copy=False))
        for name in (DENSE_MEAN, DENSE_STD)
        if state.arrays[f"serving/{name}"].size
    )
    return encode(Increment(header, blocks, tombstones, (*tensors, *moments)))


def _without(erased: NDArray[np.uint64], alive: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """Erased ids (t,), ascending, less those that are alive again; without sorting the many that live."""
    gone = np.ones(erased.size, np.bool_)
    for ids in alive if erased.size else ():
        places = np.minimum(np.searchsorted(erased, ids), erased.size - 1)
        gone[places[erased[places] == ids]] = False
    return erased[gone]


def _packed_blocks(block: RowsOfBlock, tiers: RowTiers | None) -> list[RowBlock]:
    if tiers is None:
        parts: Sequence[tuple[NDArray[np.int64], RowCodec, NDArray[np.float32] | None]]
        parts = [(np.arange(block.ids.size), CODECS["fp32"], None)]
    else:
        parts = tiers.split(block)
    return [
        RowBlock(
            slot=block.slot,
            band=block.band,
            columns=block.columns,
            precision=part.packed.codec,
            ids=block.ids[part.rows],
            data=part.packed.data,
            shared=part.packed.shared,
        )
        for part in pack_in_tiers(block.values, block.ids, parts)
    ]
