"""A batch ready to be learned: ids are handles of the table by now, dense features are transformed.

Knows nothing of hashing, admission or the network. Invariant: sample-major CSR as in `SampleBatch`; no bag is empty,
and every handle is a live row of the table (an id without a row of its own carries its slot's missing row).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PreparedBatch"]


@dataclass(frozen=True, slots=True)
class PreparedBatch:
    """B samples over F slots and n dense features, in stream order; a train step cuts it into micro-batches.

    Attributes:
        handles: u32 (L,), rows of the table.
        offsets: i64 (B*F+1,), bag (b, f) is `handles[offsets[b*F+f]:offsets[b*F+f+1]]`; `offsets[0]` is 0.
        dense: f32 (B, n), transformed, missing values already 0.
        labels: f32 (B,), 0 or 1.
        weights: f32 (B,), finite and >= 0; 1 where the sample gave none.
    """

    handles: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    dense: NDArray[np.float32]
    labels: NDArray[np.float32]
    weights: NDArray[np.float32]

    @property
    def rows(self) -> int:
        """B, the number of samples."""
        return int(self.labels.shape[0])

    def first(self, rows: int) -> "PreparedBatch":
        """The first `rows` samples, all of them where there are no more; views of the same arrays."""
        if rows >= self.rows:
            return self
        bags = (self.offsets.size - 1) // self.rows * rows
        return PreparedBatch(
            handles=self.handles[: self.offsets[bags]],
            offsets=self.offsets[: bags + 1],
            dense=self.dense[:rows],
            labels=self.labels[:rows],
            weights=self.weights[:rows],
        )
