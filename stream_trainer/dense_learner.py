"""The dense side of a train step: predicts samples from their pooled rows and learns all layers, on one or more cores.

Knows no table and no id. Invariant: the rows' gradient it leaves is that of the parameters from before this learning;
the same number of parts and the same input give the same bits.

Each thread takes its part of the samples through all layers, then its part of the parameters through the optimizer.
That beats a BLAS with threads of its own, which leaves everything between two products to one core; so whoever runs
this limits BLAS to one thread.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_table.thread_parts import available_threads, in_parts
from model_contract.compiled import kernel
from model_contract.dlrm_kernels import NetworkShape, forward, network_shape
from stream_trainer.dense_state import DenseState
from stream_trainer.dlrm_backward import adagrad, backward, logit_gradient
from stream_trainer.recipe import Recipe

__all__ = ["DenseLearner", "DenseSpace", "gradients", "new_space"]

_WIDE_PRODUCTS = 1 << 27
"""Samples times parameters of one micro-batch from which sharing it among cores pays."""


class DenseSpace(NamedTuple):
    """One thread's working memory for at most `logit_grad.size` samples.

    Attributes:
        work: f32 (rows * activations,), see `dlrm_kernels`.
        work_grad: f32, likewise.
        grad: f32 (P,).
        logit_grad: f32 (rows,).
    """

    work: NDArray[np.float32]
    work_grad: NDArray[np.float32]
    grad: NDArray[np.float32]
    logit_grad: NDArray[np.float32]


def new_space(rows: int, shape: NetworkShape, size: int) -> DenseSpace:
    """Working memory for `rows` samples of a network of `size` parameters."""
    floats = rows * int(shape.starts[-1])
    return DenseSpace(
        work=np.empty(floats, np.float32),
        work_grad=np.empty(floats, np.float32),
        grad=np.empty(size, np.float32),
        logit_grad=np.empty(rows, np.float32),
    )


@kernel
def gradients(
    shape: NetworkShape,
    flat: NDArray[np.float32],
    space: DenseSpace,
    emb: NDArray[np.float32],
    emb_grad: NDArray[np.float32],
    dense: NDArray[np.float32],
    labels: NDArray[np.float32],
    weights: NDArray[np.float32],
    logits: NDArray[np.float32],
) -> None:
    """Predicts b samples; leaves the parameters' gradient in `space` and the pooled rows' (b, F, D) in `emb_grad`."""
    if labels.shape[0] == 0:  # a thread whose part of a small last micro-batch is empty
        space.grad[:] = np.float32(0)
        return
    logit_grad = space.logit_grad[: labels.shape[0]]
    forward(shape, flat, emb, dense, space.work, logits)
    logit_gradient(logits, labels, weights, logit_grad)
    backward(shape, flat, emb, dense, space.work, space.work_grad, logit_grad, space.grad, emb_grad)


class DenseLearner:
    """Learns micro-batches of at most `recipe.batch_size` samples.

    Args:
        state: parameters and accumulators, changed in place.
        recipe: rates and micro-batch size.
        threads: cores to share a large micro-batch among; None for all there are.

    Attributes:
        shape: of the network.
        spaces: working memory, one for each part; a single one where a micro-batch is too small to be shared.
    """

    def __init__(self, state: DenseState, recipe: Recipe, threads: int | None = None) -> None:
        self.shape = network_shape(state.layout)
        self._state = state
        self._recipe = recipe
        rows, size = recipe.batch_size, state.layout.size
        shared = rows * size >= _WIDE_PRODUCTS
        parts = min(threads or available_threads(), rows) if shared else 1
        self.spaces = tuple(new_space(-(-rows // parts), self.shape, size) for _ in range(parts))

    def learn(
        self,
        emb: NDArray[np.float32],
        dense: NDArray[np.float32],
        labels: NDArray[np.float32],
        weights: NDArray[np.float32],
        logits: NDArray[np.float32],
        emb_grad: NDArray[np.float32],
    ) -> None:
        """One micro-batch.

        Args:
            emb: f32 (b, F, D), pooled rows.
            dense: f32 (b, n), transformed.
            labels: f32 (b,).
            weights: f32 (b,).
            logits: f32 (b,), written: from before the learning.
            emb_grad: f32 (b, F, D), written.
        """
        parts = len(self.spaces)
        rows = np.linspace(0, labels.shape[0], parts + 1).astype(np.int64)
        places = np.linspace(0, self._state.layout.size, parts + 1).astype(np.int64)

        def differentiate(part: int) -> None:
            here = slice(rows[part], rows[part + 1])
            gradients(
                self.shape,
                self._state.parameters,
                self.spaces[part],
                emb[here],
                emb_grad[here],
                dense[here],
                labels[here],
                weights[here],
                logits[here],
            )

        def learn(part: int) -> None:
            place = slice(places[part], places[part + 1])
            grad = self.spaces[0].grad[place]
            for space in self.spaces[1:]:
                grad += space.grad[place]
            parameters, accumulators = self._state.parameters[place], self._state.accumulators[place]
            adagrad(parameters, accumulators, grad, self._recipe.dense_rate, self._recipe.dense_eps)

        in_parts(differentiate, parts)
        in_parts(learn, parts)
