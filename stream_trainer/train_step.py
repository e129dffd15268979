"""What every way of learning a batch promises: predict first, then learn, on rows that belong to the table.

Knows no queue, no id and no clock. Invariant: the logits returned are those *before* the sample's own micro-batch was
learned, so that a metric over them is progressive validation; a state taken between two calls and restored into a
fresh step continues bit-equal (for the same table).
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from embedding_table.table import EmbeddingTable
from model_contract.dense_layout import DenseLayout
from stream_trainer.prepared_batch import PreparedBatch

__all__ = ["Precision", "TrainStep"]

Precision = Literal["fp32", "bf16"]
"""Arithmetic of the dense layers' products; everything else is float32 always."""


class TrainStep(Protocol):
    """One learner: dense parameters with their optimizer, applied to batches of any size.

    Not thread-safe: one thread trains. `train` releases the interpreter lock, so another thread may prepare the next
    batch, and may insert rows into the table, meanwhile; it must not erase rows that this batch holds.
    """

    @property
    def layout(self) -> DenseLayout:
        """Names, shapes and offsets of the dense parameters."""

    @property
    def parameters(self) -> NDArray[np.float32]:
        """f32 (P,), the dense parameters, flat by `layout`: the live vector, to be copied by whoever keeps it."""

    def train(self, table: EmbeddingTable, batch: PreparedBatch, now_s: int) -> NDArray[np.float32]:
        """Learns `batch` in micro-batches of the recipe's size (the last one may be smaller).

        Args:
            table: rows to read and to update.
            batch: B samples; B = 0 is allowed.
            now_s: seconds since the epoch, written to the rows touched.

        Returns:
            f32 (B,), logits from before each sample's own micro-batch was learned.
        """

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Copies of everything the step carries over from batch to batch: parameters, accumulators, counters."""

    def restart_first_layer(self) -> None:
        """Puts the first top layer back to its start, with its optimizer state; between two calls of `train`."""

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes back what `state` returned; raises `StateError` on a missing name or another shape."""
