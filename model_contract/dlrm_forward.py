"""The DLRM's forward pass on the flat dense vector: numba and BLAS, no torch.

Knows no table, no optimizer and no version of a model. Invariant: the same function as `model_contract.dlrm.Dlrm`
within float32 rounding, and the same kernels as the trainer's fused step.
Source: Naumov et al. 2019, arXiv 1906.00091, section 2.
"""

import numpy as np
from numpy.typing import NDArray

from model_contract.dense_layout import DenseLayout
from model_contract.schema import ModelSchema

__all__ = ["DenseNetwork"]


class DenseNetwork:
    """Scores looked-up rows; thread-safe, since every call brings its own workspace."""

    def __init__(self, schema: ModelSchema) -> None:
        self.layout = DenseLayout(schema)

    def logits(
        self, flat: NDArray[np.float32], emb: NDArray[np.float32], dense: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Forward pass.

        Args:
            flat: f32 (P,), the dense parameters by `layout`.
            emb: f32 (B, F, D), pooled rows, C order.
            dense: f32 (B, n), transformed dense features (n may be 0).

        Returns:
            f32 (B,), logits; the probability is their sigmoid.
        """
        raise NotImplementedError
