"""From decoded samples to handles: look up, count what has no row, admit, insert; the rest reads the missing row.

Knows no network and no queue. Invariant: after `prepare`, every handle is a live row; an id that has a row is never
counted again (its row counts it), so the sketch holds only what still waits outside.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.table import ABSENT, EmbeddingTable
from feature_admission.admission import AdmissionPolicy
from model_contract.dense_transform import RunningMoments, transform_dense
from model_contract.samples import SampleBatch
from model_contract.schema import ModelSchema
from stream_trainer.prepared_batch import PreparedBatch

__all__ = ["Preparation"]


class Preparation:
    """The stage before the step. One thread calls `prepare`; another may train the batch before meanwhile."""

    def __init__(self, table: EmbeddingTable, schema: ModelSchema, policy: AdmissionPolicy) -> None:
        self._table = table
        self._schema = schema
        self._policy = policy
        self._slots = len(schema.sparse)
        self._standardises = any(feature.transform == "standardise" for feature in schema.dense)
        self.moments = RunningMoments(len(schema.dense))
        self.refused = 0

    def prepare(self, batch: SampleBatch, now_s: int) -> PreparedBatch:
        """Looks up every id, admitting new ones.

        Args:
            batch: B decoded samples.
            now_s: seconds since the epoch, written to new rows.

        Returns:
            the batch with handles in place of ids and transformed dense features.
        """
        handles = self._table.find(batch.ids)
        absent = np.flatnonzero(handles == ABSENT)
        if absent.size:
            handles[absent] = self._admit(batch, absent, now_s)
        if self._schema.dense:
            if self._standardises:
                self.moments.observe(batch.dense)
            moments = self.moments.moments()
            dense = transform_dense(self._schema, batch.dense, moments.mean, moments.std)
        else:
            dense = np.empty((batch.rows, 0), np.float32)
        return PreparedBatch(handles, batch.offsets, dense, batch.labels, batch.weights)

    def _admit(self, batch: SampleBatch, absent: NDArray[np.intp], now_s: int) -> NDArray[np.uint32]:
        ids, first, inverse, counts = np.unique(
            batch.ids[absent], return_index=True, return_inverse=True, return_counts=True
        )
        slots = self._slots_of(batch, absent[first])
        self._policy.observe(ids, counts.astype(np.uint32), now_s)
        admitted = self._policy.admitted(ids)
        handles = self._table.missing_handles[slots]
        inserted = self._table.insert(ids[admitted], slots[admitted], now_s)
        room = inserted != ABSENT
        places = np.flatnonzero(admitted)
        handles[places[room]] = inserted[room]
        self.refused += int(counts.sum()) - int(counts[places[room]].sum())
        return handles[inverse]

    def _slots_of(self, batch: SampleBatch, positions: NDArray[np.intp]) -> NDArray[np.int32]:
        if len(batch.ids) == batch.rows * self._slots:  # one value a bag: position and bag are the same
            return (positions % self._slots).astype(np.int32)
        bags = np.searchsorted(batch.offsets, positions, side="right") - 1
        return (bags % self._slots).astype(np.int32)
