"""The single-shot pass: predict and differentiate samples without learning them, and score them under other columns.

Knows the network and the table, not what follows from the sums. The loss's derivative by a mask alpha of ones on the
columns is sum e * dL/de (SSEDS: Qu et al. 2022, arXiv 2204.03281, section 3.2), so no mask is ever made.

Invariant: neither parameters nor rows change; the logits are those that training would record for the same samples if
they were one micro-batch each with nothing learned in between.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dimension_search.evidence import WindowSums
from embedding_table.bag_kernels import gather_bags
from embedding_table.row_statistics import row_statistics
from embedding_table.table import EmbeddingTable
from model_contract.dense_layout import DenseLayout
from model_contract.dlrm_kernels import forward, network_shape
from model_contract.schema import ModelSchema
from stream_trainer.dense_learner import gradients, new_space
from stream_trainer.prepared_batch import PreparedBatch
from stream_trainer.stream_heat import StreamHeat

__all__ = ["LookedUp", "SaliencyPass"]

_MICRO_BATCH = 128
_SUM = 0


@dataclass(frozen=True, slots=True, eq=False)
class LookedUp:
    """The rows that a batch reads, before pooling.

    Attributes:
        values: f32 (L, D), each lookup's row in its columns, zero elsewhere.
        bags: i64 (L,), the bag of each.
        scales: f32 (L,), what pooling multiplies it by.
        blocks: i32 (L,), slot * K + band, by the row's heat before this batch; a missing row is in the hottest band.
    """

    values: NDArray[np.float32]
    bags: NDArray[np.int64]
    scales: NDArray[np.float32]
    blocks: NDArray[np.int32]

    def pooled(self, values: NDArray[np.float32], bags: int) -> NDArray[np.float32]:
        """Pools `values` f32 (L, D), these or others in their place, into f32 (bags, D)."""
        if len(values) == bags:
            return values
        starts = np.searchsorted(self.bags, np.arange(bags))
        return np.asarray(np.add.reduceat(values * self.scales[:, None], starts, axis=0), np.float32)


class SaliencyPass:
    """Evidence about, and log-loss of, samples that are not learned yet.

    Args:
        schema: of the model.
        layout: of the dense parameters.
    """

    def __init__(self, schema: ModelSchema, layout: DenseLayout) -> None:
        self._slots = len(schema.sparse)
        self._dim = schema.dim
        self._pooling = schema.pooling_codes
        self._shape = network_shape(layout)
        self._space = new_space(_MICRO_BATCH, self._shape, layout.size)

    def look_up(self, table: EmbeddingTable, batch: PreparedBatch, heat: StreamHeat | None, now_s: int) -> LookedUp:
        """Reads the rows of a batch and tells the band in which each belongs, or is where no heat is given."""
        handles, lookups = batch.handles, batch.handles.size
        values = np.empty((lookups, self._dim), np.float32)
        single = np.arange(lookups + 1, dtype=np.int64)
        gather_bags(table.views(), handles, single, np.full(1, _SUM, np.int8), 0, lookups, values)
        members = np.diff(batch.offsets)
        bags = np.repeat(np.arange(members.size), members)
        mean = self._pooling[np.arange(members.size) % self._slots] != _SUM
        scales = np.where(mean, 1 / np.maximum(members, 1), 1).astype(np.float32)[bags]
        rows = row_statistics(table.views(), handles, table.bands, np.empty(0, np.uint32))
        bands = rows.bands
        if heat is not None:
            bands = heat.bands_of(rows.counts, rows.last_seen_s, now_s, rows.bands)
            bands[np.isin(handles, table.missing_handles)] = heat.bands - 1
        return LookedUp(values, bags, scales, (rows.slots * table.bands + bands).astype(np.int32))

    def observe(
        self, parameters: NDArray[np.float32], batch: PreparedBatch, looked_up: LookedUp, sums: WindowSums
    ) -> None:
        """Adds what each looked-up row does for the loss of the batch.

        Args:
            parameters: f32 (P,), dense.
            batch: B samples.
            looked_up: its rows.
            sums: receives value and derivative of every lookup.
        """
        slopes, _ = self.slopes(parameters, batch, looked_up)
        sums.add(batch.rows, looked_up.blocks, looked_up.values, slopes)

    def slopes(
        self, parameters: NDArray[np.float32], batch: PreparedBatch, looked_up: LookedUp
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The derivative of the weighted loss by each looked-up row, f32 (L, D), and the logits f32 (B,)."""
        emb = looked_up.pooled(looked_up.values, batch.rows * self._slots).reshape(batch.rows, self._slots, self._dim)
        slopes = np.empty_like(emb)
        logits = np.empty(batch.rows, np.float32)
        for lo in range(0, batch.rows, _MICRO_BATCH):
            here = slice(lo, lo + _MICRO_BATCH)
            gradients(
                self._shape,
                parameters,
                self._space,
                emb[here],
                slopes[here],
                batch.dense[here],
                batch.labels[here],
                batch.weights[here],
                logits[here],
            )
        by_lookup = slopes.reshape(-1, self._dim)
        if len(by_lookup) != len(looked_up.bags):
            by_lookup = by_lookup[looked_up.bags] * looked_up.scales[:, None]
        return by_lookup, logits

    def log_loss(
        self,
        parameters: NDArray[np.float32],
        batch: PreparedBatch,
        looked_up: LookedUp,
        wanted: NDArray[np.bool_] | None = None,
        missing: NDArray[np.float32] | None = None,
    ) -> float:
        """Sum of the weighted log-losses of a batch, with the rows as they are or as other columns would leave them.

        Args:
            parameters: f32 (P,), dense.
            batch: B samples.
            looked_up: its rows.
            wanted: bool (F * K, D), the columns of each block; None for those there are.
            missing: f32 (F, D), the slots' missing rows, read in place of rows whose block is given up, in the
                columns of the hottest band; None where such rows stay, as zeros.
        """
        values = looked_up.values
        if wanted is not None:
            values = np.where(wanted[looked_up.blocks], values, np.float32(0))
            if missing is not None:
                given_up = np.logical_not(np.asarray(wanted.any(axis=1))[looked_up.blocks])
                hottest = wanted.reshape(self._slots, -1, self._dim)[:, -1]
                values[given_up] = np.where(hottest, missing, np.float32(0))[looked_up.bags[given_up] % self._slots]
        logits = self.predict(parameters, batch, looked_up, values)
        signed = np.where(batch.labels > 0, -logits, logits).astype(np.float64)
        return float(np.sum(np.logaddexp(0, signed) * batch.weights))

    def predict(
        self,
        parameters: NDArray[np.float32],
        batch: PreparedBatch,
        looked_up: LookedUp,
        values: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Logits f32 (B,) of a batch that reads `values` f32 (L, D) for its lookups."""
        emb = looked_up.pooled(values, batch.rows * self._slots).reshape(batch.rows, self._slots, self._dim)
        logits = np.empty(batch.rows, np.float32)
        for lo in range(0, batch.rows, _MICRO_BATCH):
            here = slice(lo, lo + _MICRO_BATCH)
            forward(self._shape, parameters, emb[here], batch.dense[here], self._space.work, logits[here])
        return logits

    def missing_rows(self, table: EmbeddingTable) -> NDArray[np.float32]:
        """The slots' missing rows, f32 (F, D)."""
        values = np.empty((self._slots, self._dim), np.float32)
        offsets = np.arange(self._slots + 1, dtype=np.int64)
        gather_bags(table.views(), table.missing_handles, offsets, np.full(1, _SUM, np.int8), 0, self._slots, values)
        return values
