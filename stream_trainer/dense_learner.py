"""The dense side of a train step: predicts samples from their pooled rows and learns all layers, on one or more cores.

Knows no table and no id. Invariant: the rows' gradient it leaves is that of the parameters from before this learning;
the same number of parts and the same input give the same bits.

Each thread takes its part of the samples through all layers, then its part of the parameters through the optimizer.
That beats a BLAS with threads of its own, which leaves everything between two products to one core; so whoever runs
this limits BLAS to one thread.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from embedding_table.thread_parts import available_threads, in_parts, parts_of
from model_contract.compiled import kernel
from model_contract.dlrm_kernels import NetworkShape, forward, network_shape
from stream_trainer.alignment_backward import follow_statistics
from stream_trainer.dense_state import DenseState
from stream_trainer.dlrm_backward import adagrad, backward, logit_gradient
from stream_trainer.recipe import Recipe

__all__ = ["DenseLearner", "DenseSide", "DenseSpace", "gradients", "learn_from", "new_space", "parts_of_batch"]

_WIDE_PRODUCTS = 1 << 27
"""Samples times parameters of one micro-batch from which sharing it among cores pays."""
_LEARNED_AT_ONCE = 1 << 16
"""Parameters that are worth a part of the optimizer's work of their own."""


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


def parts_of_batch(rows: int, size: int, threads: int | None) -> int:
    """Into how many parts a micro-batch of `rows` samples is cut, on `size` parameters.

    Args:
        rows: samples of a full micro-batch.
        size: P.
        threads: cores to share it among; None for all there are.
    """
    return min(threads or available_threads(), rows) if rows * size >= _WIDE_PRODUCTS else 1


def learn_from(shape: NetworkShape, state: DenseState, recipe: Recipe, grads: Sequence[NDArray[np.float32]]) -> None:
    """One step of everything dense on the sum of the parts' gradients, each f32 (P,); the first is overwritten."""
    threads, learned = len(grads), state.layout.learned
    pieces = parts_of(learned, _LEARNED_AT_ONCE, threads)
    places = np.linspace(0, learned, pieces + 1).astype(np.int64)

    def learn(piece: int) -> None:
        place = slice(places[piece], places[piece + 1])
        grad = grads[0][place]
        for other in grads[1:]:
            grad += other[place]
        adagrad(state.parameters[place], state.accumulators[place], grad, recipe.dense_rate, recipe.dense_eps)

    in_parts(learn, pieces, threads)
    if state.layout.align:
        for other in grads[1:]:
            grads[0][learned:] += other[learned:]
        follow_statistics(shape.align, state.parameters, grads[0])


class DenseSide(Protocol):
    """Learns micro-batches of at most the recipe's size."""

    @property
    def parts(self) -> int:
        """Threads that share a micro-batch; 1 where it is too small to be shared."""

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
        parts = parts_of_batch(rows, size, threads)
        self.spaces = tuple(new_space(-(-rows // parts), self.shape, size) for _ in range(parts))

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
        parts = self.parts
        rows = np.linspace(0, labels.shape[0], parts + 1).astype(np.int64)

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

        in_parts(differentiate, parts, parts)
        learn_from(self.shape, self._state, self._recipe, [space.grad for space in self.spaces])
