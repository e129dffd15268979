"""The dense side of a train step with its products in bfloat16: packs the weights, then as `dense_learner`.

Knows no table and no id. Invariant: as `DenseLearner`'s; what is packed is packed anew for every micro-batch, so
parameters may be changed from outside between two.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.thread_parts import in_parts
from model_contract.dlrm_kernels import network_shape
from model_contract.errors import SchemaError
from stream_trainer.bf16_network import bf16_gradients, pack_weights
from stream_trainer.bf16_space import new_bf16_space, new_packed_weights, packed_places
from stream_trainer.dense_learner import learn_from, parts_of_batch
from stream_trainer.dense_state import DenseState
from stream_trainer.recipe import Recipe

__all__ = ["Bf16DenseLearner"]


class Bf16DenseLearner:
    """Learns micro-batches of at most `recipe.batch_size` samples, where `amx_is_usable`.

    Args:
        state: parameters and accumulators, changed in place.
        recipe: rates and micro-batch size.
        threads: cores to share a large micro-batch among; None for all there are.

    Raises:
        SchemaError: the model has a linear alignment, which these kernels do not know.

    Attributes:
        shape: of the network.
        places: of packed factors.
        packed: the weights as they were last packed.
        spaces: working memory, one for each part; a single one where a micro-batch is too small to be shared.
    """

    def __init__(self, state: DenseState, recipe: Recipe, threads: int | None = None) -> None:
        if state.layout.align:
            detail = "align is 'linear'; expected 'zero_pad' where the products are in bf16"
            raise SchemaError(detail)
        self.shape = network_shape(state.layout)
        self._state = state
        self._recipe = recipe
        rows, size = recipe.batch_size, state.layout.size
        parts = parts_of_batch(rows, size, threads)
        most = -(-rows // parts)
        self.places = packed_places(self.shape, most)
        self.packed = new_packed_weights(self.places)
        self.spaces = tuple(new_bf16_space(self.shape, self.places, size, most) for _ in range(parts))

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

        def pack(part: int) -> None:
            pack_weights(shape, places, flat, self.packed, part, parts)

        def differentiate(part: int) -> None:
            here = slice(rows[part], rows[part + 1])
            given = emb[here], emb_grad[here], dense[here], labels[here], weights[here], logits[here]
            bf16_gradients(shape, places, flat, self.packed, self.spaces[part], *given)

        in_parts(pack, parts)
        in_parts(differentiate, parts)
        learn_from(shape, self._state, self._recipe, [space.grad for space in self.spaces])
