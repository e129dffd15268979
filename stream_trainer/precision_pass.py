"""What codecs do to samples that are not learned yet: evidence for a search, and judgement of its plans.

Knows the network, the table and how rows are decoded; not what follows. Every row that a batch reads is encoded and
decoded once for each codec or plan, however often it is read.

Invariant: neither parameters nor rows change; the rows are those a server would read if a cut were taken now.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dimension_search.learned_scales import LearnedScales
from dimension_search.precision_evidence import PrecisionSums
from dimension_search.precision_search import Judged
from dimension_search.row_importance import LEVELS, levels_of
from dimension_search.row_tiers import PlanTiers
from embedding_table.row_statistics import row_statistics
from embedding_table.table import EmbeddingTable
from model_contract.dense_layout import DenseLayout
from model_contract.schema import ModelSchema
from stream_trainer.prepared_batch import PreparedBatch
from stream_trainer.saliency_pass import LookedUp, SaliencyPass

__all__ = ["JudgedSums", "PrecisionPass", "RowsRead", "learn_blocks", "log_losses"]

_SAMPLED_ROWS = 1 << 14  # of a block, to learn what its rows share

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class RowsRead:
    """The rows that a batch reads, each once.

    Attributes:
        looked_up: the same by lookup, L of them.
        members: i64 (L,), the row of each lookup.
        values: f32 (U, D), zero in columns that a row does not have.
        counts: f32 (U,), decayed counts before this batch.
        blocks: i64 (U,), slot * K + band.
        columns: u16 (d,), of every block, K to a slot.
        bands: K.
    """

    looked_up: LookedUp
    members: NDArray[np.int64]
    values: NDArray[np.float32]
    counts: NDArray[np.float32]
    blocks: NDArray[np.int64]
    columns: list[NDArray[np.uint16]]
    bands: int

    @property
    def classes(self) -> NDArray[np.int64]:
        """Class i64 (U,) of each row, see `PrecisionEvidence`."""
        return self.blocks * LEVELS + levels_of(self.counts)

    def decoded(
        self, tiers: PlanTiers, known: dict[tuple[int, bytes], NDArray[np.float32]] | None = None
    ) -> NDArray[np.float32]:
        """The rows f32 (U, D) as a server with these tiers reads them.

        Args:
            tiers: of a plan.
            known: by block and its tiers, what other plans have decoded of these rows; is added to.
        """
        known = {} if known is None else known
        read = np.zeros_like(self.values)
        order = np.argsort(self.blocks, kind="stable")
        borders = np.searchsorted(self.blocks[order], np.arange(len(self.columns) + 1))
        for block in np.flatnonzero(np.diff(borders)).tolist():
            rows, columns = order[borders[block] : borders[block + 1]], self.columns[block]
            slot, band = divmod(block, self.bands)
            key = block, tiers.key(slot, band)
            if key not in known:
                some = np.ascontiguousarray(self.values[rows][:, columns])
                known[key] = tiers.decoded(slot, band, self.counts[rows], some)
            read[rows[:, None], columns] = known[key]
        return read


class JudgedSums:
    """Sums over held-back samples of what a plan does to their predictions."""

    def __init__(self) -> None:
        self.samples = 0
        self._weight = 0.0
        self._before = 0.0
        self._expected = 0.0
        self._measured = 0.0
        self._squares = 0.0

    @np.errstate(invalid="ignore", over="ignore")
    def add(self, batch: PreparedBatch, before: NDArray[np.float32], after: NDArray[np.float32]) -> None:
        """Adds B samples with their logits f32 (B,) from trained and from decoded rows."""
        then, now = before.astype(np.float64), after.astype(np.float64)
        rise = log_losses(now, batch.labels) - log_losses(then, batch.labels)
        divergence = (then - now) / (1 + np.exp(-then)) + np.logaddexp(0, now) - np.logaddexp(0, then)
        self.samples += batch.rows
        self._weight += float(batch.weights.sum())
        self._before += float(log_losses(then, batch.labels) @ batch.weights)
        self._expected += float(divergence @ batch.weights)
        self._measured += float(rise @ batch.weights)
        self._squares += float((rise * batch.weights) @ (rise * batch.weights))

    def judged(self) -> Judged | None:
        """What they say; None while all weights are 0."""
        if not self._weight or not self._before:
            return None
        return Judged(
            samples=self.samples,
            log_loss=self._before / self._weight,
            expected=self._expected / self._before,
            measured=self._measured / self._before,
            noise=float(np.sqrt(self._squares)) / self._before,
        )


class PrecisionPass:
    """Reads, differentiates and predicts samples through codecs.

    Args:
        schema: of the model.
        layout: of the dense parameters.
    """

    def __init__(self, schema: ModelSchema, layout: DenseLayout) -> None:
        self._pass = SaliencyPass(schema, layout)
        self._slots = len(schema.sparse)

    def read(self, table: EmbeddingTable, batch: PreparedBatch) -> RowsRead:
        """The rows of a batch as they are now."""
        looked_up = self._pass.look_up(table, batch, None, 0)
        handles, first, members = np.unique(batch.handles, return_index=True, return_inverse=True)
        rows = row_statistics(table.views(), handles, table.bands, np.empty(0, np.uint32))
        return RowsRead(
            looked_up=looked_up,
            members=members,
            values=looked_up.values[first],
            counts=rows.counts,
            blocks=(rows.slots * np.int64(table.bands) + rows.bands).astype(np.int64),
            columns=[table.columns(slot, band) for slot in range(table.slots) for band in range(table.bands)],
            bands=table.bands,
        )

    @np.errstate(invalid="ignore", over="ignore")
    def observe(
        self,
        parameters: NDArray[np.float32],
        batch: PreparedBatch,
        read: RowsRead,
        codecs: list[PlanTiers],
        sums: PrecisionSums,
    ) -> None:
        """Adds what each codec does to a batch, to second order; see `PrecisionEvidence`.

        Args:
            parameters: f32 (P,), dense.
            batch: B samples.
            read: their rows.
            codecs: one plan for each codec of the sums, that gives it to all rows.
            sums: to be added to.
        """
        slopes, logits = self._pass.slopes(parameters, batch, read.looked_up)
        chance = 1 / (1 + np.exp(-logits.astype(np.float64)))
        error = np.maximum(np.abs(chance - batch.labels), 1e-9) * np.sqrt(batch.weights)
        with np.errstate(divide="ignore"):
            factors = np.where(batch.weights > 0, np.sqrt(chance * (1 - chance)) / error, 0.0)
        by_lookup = slopes * factors[read.looked_up.bags // self._slots, None].astype(np.float32)
        classes = read.classes[read.members]
        losses = log_losses(logits.astype(np.float64), batch.labels)
        sums.add_samples(batch.rows, float(batch.weights.sum()), float(losses @ batch.weights))
        norms = np.einsum("ud,ud->u", read.values, read.values, dtype=np.float64)
        sums.add_lookups(classes, norms[read.members], np.einsum("ld,ld->l", by_lookup, by_lookup, dtype=np.float64))
        for number, tiers in enumerate(codecs):
            errors = read.decoded(tiers) - read.values
            shift = np.einsum("ld,ld->l", by_lookup, errors[read.members], dtype=np.float64)
            lost = np.einsum("ud,ud->u", errors, errors, dtype=np.float64)
            sums.add_errors(number, classes, shift**2 / 2, lost[read.members])

    def predict(
        self,
        parameters: NDArray[np.float32],
        batch: PreparedBatch,
        read: RowsRead,
        values: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Logits f32 (B,) of a batch that reads `values` f32 (U, D) for its rows."""
        return self._pass.predict(parameters, batch, read.looked_up, values[read.members])


@np.errstate(invalid="ignore")
def log_losses(logits: Floats, labels: NDArray[np.float32]) -> Floats:
    """Log-losses f64 (B,) of samples."""
    return np.logaddexp(0, np.where(labels > 0, -logits, logits))


def learn_blocks(table: EmbeddingTable, shared: LearnedScales, first: int, most_rows: int) -> int:
    """Learns what the rows of blocks share, from this block on, until so many rows were looked at.

    Returns:
        the block to go on with; F * K after the last.
    """
    blocks = table.slots * table.bands
    rows = table.live_rows()
    homes = (rows.slots * table.bands + rows.bands).astype(np.uint16)
    order = np.argsort(homes, kind="stable")
    borders = np.searchsorted(homes[order], np.arange(blocks + 1))
    learned, block = 0, first
    while block < blocks and learned < most_rows:
        here = order[borders[block] : borders[block + 1]]
        here = here[:: max(1, -(-here.size // _SAMPLED_ROWS))]
        columns = table.columns(*divmod(block, table.bands))
        values = np.ascontiguousarray(table.read_rows(rows.handles[here])[:, columns])
        shared.learn(block, rows.counts[here], values)
        learned += here.size
        block += 1
    return block
