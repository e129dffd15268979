"""An increment or a base: what the trainer publishes and a replica applies, as values in memory.

Knows no bytes (`model_contract.increment`), no Redis, no table. Invariants: rows are absolute values, so applying an
increment twice equals applying it once; an id appears in at most one block; tombstones are applied before rows, so
an id that was evicted and came back within one interval is alive.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["DenseTensor", "DenseType", "Increment", "IncrementHeader", "IncrementKind", "IncrementLimits", "RowBlock"]

IncrementKind = Literal["base", "increment"]
DenseType = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class IncrementHeader:
    """What an increment says about itself.

    Attributes:
        kind: "base" holds every row, "increment" those changed since the sequence before it.
        schema_fingerprint: the model's `ModelSchema.fingerprint`.
        lineage: name of the unbroken history this sequence belongs to; another lineage needs a new base.
        epoch: number of the trainer's life in this lineage; a later writer has a higher one.
        sequence: of an increment, its place, one more than that of the increment before; of a base, the sequence of
            the last increment it holds.
        base_sequence: sequence of the base this increment builds on (of a base: its own).
        created_ms: when the cut was made.
        newest_sample_ms: time stamp of the newest sample trained, 0 if none.
        samples_trained: samples of the whole lineage that this state has learned from.
        offsets: (topic, partition, next offset to read) of everything this state holds.
        sample_times: (bucket_ms, count) of the Kafka time stamps, floored to 10 ms, of the samples trained since the
            previous increment, ascending; from it a replica tells how long each sample took to be answered from.
        metrics: named finite numbers such as the recent log-loss.
    """

    kind: IncrementKind
    schema_fingerprint: str
    lineage: str
    epoch: int
    sequence: int
    base_sequence: int
    created_ms: int
    newest_sample_ms: int = 0
    samples_trained: int = 0
    offsets: tuple[tuple[str, int, int], ...] = ()
    sample_times: tuple[tuple[int, int], ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class RowBlock:
    """Rows of one (slot, band) that share their active columns and the way they are stored.

    There are several of one (slot, band) where rows differ in precision, and while columns change. What a precision
    means is between who packs the rows and who reads them: here a row is bytes.

    Attributes:
        slot: index of the slot in the schema.
        band: popularity band.
        columns: (d,) uint16, ascending: the columns of D that a row's values fill; the others are zero.
        precision: name of the codec that packed the rows.
        ids: (n,) uint64 feature ids.
        data: (n, bytes of a row) uint8.
        shared: (k,) float32, what the rows share, such as a codebook of scales; two blocks that differ in nothing else
            differ in this.
    """

    slot: int
    band: int
    columns: NDArray[np.uint16]
    precision: str
    ids: NDArray[np.uint64]
    data: NDArray[np.uint8]
    shared: NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class DenseTensor:
    """One named parameter of the dense network.

    Attributes:
        name: such as "top.0.weight".
        values: float32 of any shape.
        dtype: what the values are rounded to on their way; read back they are float32 again.
    """

    name: str
    values: NDArray[np.float32]
    dtype: DenseType = "float32"


@dataclass(frozen=True, slots=True, eq=False)
class Increment:
    """A change of the model, or all of it.

    Attributes:
        header: what it is and where it belongs.
        blocks: changed rows (of a base: all rows).
        tombstones: (t,) uint64, ids that lost their row; empty in a base.
        dense: the dense network's parameters.
    """

    header: IncrementHeader
    blocks: tuple[RowBlock, ...]
    tombstones: NDArray[np.uint64]
    dense: tuple[DenseTensor, ...]


@dataclass(frozen=True, slots=True)
class IncrementLimits:
    """What a reader is ready to take, checked before anything is allocated.

    Attributes:
        max_bytes: of the whole encoded increment.
        max_header_bytes: of its JSON header.
        max_rows: over all blocks, and likewise of tombstones.
        max_blocks: blocks of rows.
        max_tensors: dense tensors.
        max_dim: columns of a block.
    """

    max_bytes: int = 1 << 34
    max_header_bytes: int = 1 << 24
    max_rows: int = 1 << 28
    max_blocks: int = 1 << 16
    max_tensors: int = 1 << 12
    max_dim: int = 1024
