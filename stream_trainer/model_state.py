"""One consistent cut of the trainer, complete (a base) or what changed since the last one (a delta), and their merge.

Knows no file, no Redis and no running trainer. Invariant: merging a base with the deltas that follow it, in order,
gives exactly the rows, arrays and offsets of the live trainer at the moment of the last cut.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from embedding_table.early_copies import EarlyCopy, settled
from embedding_table.table import RowsOfBlock, TableChanges
from feature_admission.state_pages import StatePages
from stream_trainer.errors import StateError

__all__ = [
    "Arrays",
    "Manifest",
    "ModelState",
    "SampleTimes",
    "TopicOffset",
    "check_follows",
    "merge_states",
    "settle_rows",
]

Arrays: TypeAlias = dict[str, NDArray[Any]]


class TopicOffset(msgspec.Struct, frozen=True, array_like=True):
    """Where reading goes on: `next_offset` is the first record that is not in the model."""

    topic: str
    partition: int
    next_offset: int


class SampleTimes(msgspec.Struct, frozen=True, array_like=True):
    """How many samples of one 10 ms bucket of Kafka time stamps were trained since the cut before."""

    bucket_ms: int
    count: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a cut is: whose, when, up to where in the topics.

    Attributes:
        lineage: one unbroken history of a model; a fresh state folder starts a new one.
        epoch: start number of the trainer inside the lineage; a later one fences off an earlier one.
        sequence: number of the cut, consecutive inside the lineage.
        base_sequence: of the newest base when a delta was made durable; a base's own number is its sequence.
        fingerprint: of the model schema.
        created_ms: when the cut was taken.
        newest_sample_ms: largest Kafka time stamp trained so far; 0 before the first sample.
        samples_trained: samples learned since the lineage began.
        dead_letters: records refused since the lineage began.
        offsets: every partition read so far.
        sample_times: histogram of the samples trained since the cut before.
        metrics: progressive metrics at the cut.
        count_decays: factors by which all traffic counts were multiplied since the cut before, in order.
        origin: (lineage, sequence) that this lineage branched off from, None where it began empty.
    """

    lineage: str
    epoch: int
    sequence: int
    fingerprint: str
    created_ms: int
    base_sequence: int = 0
    newest_sample_ms: int = 0
    samples_trained: int = 0
    dead_letters: int = 0
    offsets: tuple[TopicOffset, ...] = ()
    sample_times: tuple[SampleTimes, ...] = ()
    metrics: dict[str, float] = {}
    count_decays: tuple[float, ...] = ()
    origin: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class ModelState:
    """A base or a delta.

    Attributes:
        manifest: see `Manifest`.
        rows: all rows (base) or the rows that changed and the ids that were erased (delta).
        arrays: dense parameters with their optimizer, moments, metrics: complete in both kinds.
        admission: complete state of the admission policy (base), empty in a delta.
        admission_pages: pages of that state changed since the last cut (delta), empty in a base.
        early: rows of a delta that were copied before the cut; `settle_rows` puts them in their place.
    """

    manifest: Manifest
    rows: TableChanges
    arrays: Arrays
    admission: Arrays = field(default_factory=dict)
    admission_pages: tuple[StatePages, ...] = ()
    early: tuple[EarlyCopy, ...] = ()


def settle_rows(state: ModelState) -> ModelState:
    """The same cut with all its rows in `rows`; takes its time, so off the training thread."""
    return replace(state, rows=settled(state.early, state.rows), early=()) if state.early else state


def check_follows(before: Manifest, found: Manifest) -> None:
    """Asks whether a delta is the next one of a history.

    Raises:
        StateError: it belongs to another lineage that did not branch off here, to another schema, to a trainer that
            came before the one that `before` is of, or a sequence is missing.
    """
    related = found.lineage == before.lineage or found.origin == (before.lineage, before.sequence)
    if not (related and found.fingerprint == before.fingerprint and found.sequence == before.sequence + 1):
        message = (
            f"delta {found.sequence} of lineage {found.lineage} and schema {found.fingerprint} does not follow "
            f"{before.sequence} of {before.lineage} and {before.fingerprint}"
        )
        raise StateError(message)
    if found.epoch < before.epoch:
        message = (
            f"delta {found.sequence} is of epoch {found.epoch}, expected {before.epoch} or later: a fenced trainer's"
        )
        raise StateError(message)


def merge_states(base: ModelState, deltas: Sequence[ModelState], admission: Arrays) -> ModelState:
    """The base that the trainer would have written at the last delta.

    Args:
        base: a complete state.
        deltas: the states that follow it, in order, none left out.
        admission: the admission policy's complete state after the last delta (the policy itself applies its pages).

    Raises:
        StateError: a delta does not follow, see `check_follows`.
    """
    before = base.manifest
    for delta in deltas:
        check_follows(before, delta.manifest)
        before = delta.manifest
    if not deltas:
        return base
    decays = [np.asarray(delta.manifest.count_decays, np.float32) for delta in deltas]
    rows = _merge_rows([base.rows, *(delta.rows for delta in deltas)], decays)
    manifest = msgspec.structs.replace(deltas[-1].manifest, sample_times=(), count_decays=())
    return ModelState(manifest=manifest, rows=rows, arrays=deltas[-1].arrays, admission=admission)


def _merge_rows(parts: Sequence[TableChanges], decays: Sequence[NDArray[np.float32]]) -> TableChanges:
    """Last writer wins, per id; an erased id goes unless a later (or the same) part brings it back."""
    blocks = [(part, block) for part, changes in enumerate(parts) for block in changes.blocks]
    ids = [block.ids for _, block in blocks]
    sizes = np.array([len(block_ids) for block_ids in ids], np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    # Inside one part the tombstones come before the rows: an id erased and admitted again is alive.
    ranks = [np.full(len(block.ids), 2 * part + 1, np.int32) for part, block in blocks]
    tombstones = [changes.erased_ids for changes in parts]
    tombstone_ranks = [np.full(len(erased), 2 * part, np.int32) for part, erased in enumerate(tombstones)]
    all_ids = np.concatenate([*ids, *tombstones]) if blocks or tombstones else np.empty(0, np.uint64)
    all_ranks = np.concatenate([*ranks, *tombstone_ranks])
    order = np.lexsort((all_ranks, all_ids))
    last = np.ones(len(order), bool)
    last[:-1] = all_ids[order][1:] != all_ids[order][:-1]
    winners = order[last]
    alive = np.zeros(len(all_ids), bool)
    alive[winners] = True
    kept = [np.flatnonzero(alive[starts[index] : starts[index + 1]]) for index in range(len(blocks))]
    columns: dict[tuple[int, int], NDArray[np.uint16]] = {}
    for keep, (_, block) in zip(kept, blocks, strict=True):
        key = (block.slot, block.band)  # while columns change, rows of both come: none of either may be lost here
        known = columns.get(key, np.empty(0, np.uint16))
        columns[key] = np.union1d(known, block.columns) if keep.size else known
    merged: dict[tuple[int, int], list[RowsOfBlock]] = {key: [] for key in columns}
    for keep, (part, block) in zip(kept, blocks, strict=True):
        key = (block.slot, block.band)
        merged[key].append(_kept_rows(block, keep, columns[key], decays[part:]))
    joined = (_join_blocks(merged[key]) for key in sorted(merged))
    return TableChanges(blocks=tuple(joined), erased_ids=np.empty(0, np.uint64))


def _kept_rows(
    block: RowsOfBlock, keep: NDArray[np.intp], columns: NDArray[np.uint16], decays: Iterable[NDArray[np.float32]]
) -> RowsOfBlock:
    counts = block.counts[keep]
    for factors in decays:
        for factor in factors:
            counts *= factor
    return RowsOfBlock(
        slot=block.slot,
        band=block.band,
        columns=columns,
        ids=block.ids[keep],
        values=_to_columns(block.values[keep], block.columns, columns),
        accumulators=block.accumulators[keep],
        counts=counts,
        last_seen_s=block.last_seen_s[keep],
    )


def _to_columns(values: NDArray[np.float32], old: NDArray[np.uint16], new: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The same rows under another list of active columns: new ones start at zero, dropped ones are lost."""
    if np.array_equal(old, new):
        return values
    moved = np.zeros((len(values), len(new)), np.float32)
    _, from_old, to_new = np.intersect1d(old, new, assume_unique=True, return_indices=True)
    moved[:, to_new] = values[:, from_old]
    return moved


def _join_blocks(parts: Sequence[RowsOfBlock]) -> RowsOfBlock:
    first = parts[0]
    ids = np.concatenate([part.ids for part in parts])
    order = np.argsort(ids)
    return replace(
        first,
        ids=ids[order],
        values=np.concatenate([part.values for part in parts])[order],
        accumulators=np.concatenate([part.accumulators for part in parts])[order],
        counts=np.concatenate([part.counts for part in parts])[order],
        last_seen_s=np.concatenate([part.last_seen_s for part in parts])[order],
    )
