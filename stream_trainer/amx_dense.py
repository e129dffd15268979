"""The dense side of a train step with its products by AMX: packs the weights, then as `dense_learner`.

Knows no table and no id. Invariant: as `DenseLearner`'s; what is packed is packed anew for every micro-batch, so
parameters may be changed from outside between two.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.thread_parts import in_parts, parts_of
from model_contract.dense_layout import DenseLayout
from model_contract.dlrm_kernels import network_shape
from model_contract.errors import SchemaError
from stream_trainer.amx_network import amx_gradients, pack_weights
from stream_trainer.amx_space import new_amx_space, new_packed_weights, packed_places
from stream_trainer.dense_learner import learn_from, parts_of_batch
from stream_trainer.dense_state import DenseState
from stream_trainer.recipe import Recipe
from stream_trainer.train_step import Precision

__all__ = ["AmxDenseLearner", "pays_in_fp32"]

_TERMS: dict[Precision, int] = {"bf16": 1, "fp32": 3}
_TILED_PRODUCTS = 1 << 24
"""Samples times parameters of one micro-batch from which products in three terms beat fused multiply-adds."""
_PACKED_AT_ONCE = 1 << 16
"""Parameters that are worth a part of the packing of their own."""


def pays_in_fp32(rows: int, layout: DenseLayout) -> bool:
    """Whether fp32 by AMX is faster than without, for micro-batches of `rows` samples; False for what it cannot do."""
    return rows * layout.size >= _TILED_PRODUCTS and not layout.align


class AmxDenseLearner:
    """Learns micro-batches of at most `recipe.batch_size` samples, where `amx_is_usable`.

    Args:
        state: parameters and accumulators, changed in place.
        recipe: rates and micro-batch size.
        precision: of the products.
        threads: cores to share a large micro-batch among; None for all there are.

    Raises:
        SchemaError: the model has a linear alignment, which these kernels do not know.

    Attributes:
        shape: of the network.
        places: of packed factors.
        packed: the weights as they were last packed.
        spaces: working memory, one for each part; a single one where a micro-batch is too small to be shared.
    """

    def __init__(self, state: DenseState, recipe: Recipe, precision: Precision, threads: int | None = None) -> None:
        if state.layout.align:
            detail = "align is 'linear'; expected 'zero_pad' where the products are in AMX tiles"
            raise SchemaError(detail)
        self.shape = network_shape(state.layout)
        self._state = state
        self._recipe = recipe
        rows, size = recipe.batch_size, state.layout.size
        parts = parts_of_batch(rows, size, threads)
        most = -(-rows // parts)
        self.places = packed_places(self.shape, most, _TERMS[precision])
        self.packed = new_packed_weights(self.places)
        self.spaces = tuple(new_amx_space(self.shape, self.places, size, most) for _ in range(parts))

    @property
    def parts(self) -> int:
        """See `DenseSide.parts`."""
        return len(self.spaces)

    def learn(
        self,
        emb: NDArray[np.float32],
        dense: NDArray[np.float32],
        labels: NDArray[np.float32],
        weights: NDArray[np.float32],
        logits: NDArray[np.float32],
        emb_grad: NDArray[np.float32],
    ) -> None:
        """See `DenseSide.learn`."""
        parts, shape, places, flat = self.parts, self.shape, self.places, self._state.parameters
        rows = np.linspace(0, labels.shape[0], parts + 1).astype(np.int64)

        pieces = parts_of(flat.size, _PACKED_AT_ONCE, parts)

        def pack(piece: int) -> None:
            pack_weights(shape, places, flat, self.packed, piece, pieces)

        def differentiate(part: int) -> None:
            here = slice(rows[part], rows[part + 1])
            given = emb[here], emb_grad[here], dense[here], labels[here], weights[here], logits[here]
            amx_gradients(shape, places, flat, self.packed, self.spaces[part], *given)

        in_parts(pack, pieces, parts)
        in_parts(differentiate, parts, parts)
        learn_from(shape, self._state, self._recipe, [space.grad for space in self.spaces])
