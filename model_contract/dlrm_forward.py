"""Scores of looked-up rows from the flat dense vector, for whoever holds rows: numba and BLAS, no torch.

Knows no table, no optimizer and no version of a model. Invariant: the same function as `model_contract.dlrm.Dlrm`
within float32 rounding, by the same kernels as the trainer's fused step.
"""

import numpy as np
from numpy.typing import NDArray

from model_contract.compiled import kernel
from model_contract.dense_layout import DenseLayout
from model_contract.dlrm_kernels import NetworkShape, forward, network_shape
from model_contract.errors import SchemaError
from model_contract.schema import ModelSchema

__all__ = ["DenseNetwork"]

_TILE_ROWS = 256
"""Samples that go through the layers together: their activations stay in the cache."""


@kernel
def _forward_tiles(
    shape: NetworkShape,
    flat: NDArray[np.float32],
    emb: NDArray[np.float32],
    dense: NDArray[np.float32],
    work: NDArray[np.float32],
    logits: NDArray[np.float32],
) -> None:
    rows = emb.shape[0]
    for lo in range(0, rows, _TILE_ROWS):
        hi = min(rows, lo + _TILE_ROWS)
        forward(shape, flat, emb[lo:hi], dense[lo:hi], work, logits[lo:hi])


class DenseNetwork:
    """Scores looked-up rows; thread-safe, since every call brings its own workspace."""

    def __init__(self, schema: ModelSchema) -> None:
        self.layout = DenseLayout(schema)
        self._shape = network_shape(self.layout)
        self._emb_shape = (len(schema.sparse), schema.dim)
        self._dense_width = len(schema.dense)

    def logits(
        self, flat: NDArray[np.float32], emb: NDArray[np.float32], dense: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Forward pass.

        Args:
            flat: f32 (P,), the dense parameters by `layout`.
            emb: f32 (B, F, D), pooled rows.
            dense: f32 (B, n), transformed dense features (n may be 0).

        Returns:
            f32 (B,), logits; the probability is their sigmoid.

        Raises:
            SchemaError: an array of another shape than the schema's.
        """
        rows = emb.shape[0]
        _expect("flat", flat, (self.layout.size,))
        _expect("emb", emb, (rows, *self._emb_shape))
        _expect("dense", dense, (rows, self._dense_width))
        logits = np.empty(rows, np.float32)
        work = np.empty(min(rows, _TILE_ROWS) * int(self._shape.starts[-1]), np.float32)
        _forward_tiles(self._shape, _plain(flat), _plain(emb), _plain(dense), work, logits)
        return logits


def _plain(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """The array as kernels are compiled for: float32, C order, not typed as read-only."""
    plain = np.ascontiguousarray(array, np.float32)
    return plain if plain.flags.writeable else plain.copy()


def _expect(name: str, array: NDArray[np.float32], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        detail = f"{name} has shape {array.shape}, expected {shape}"
        raise SchemaError(detail)
