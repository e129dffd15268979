"""The fast train step: forward, backward and both optimizers as kernels, the interpreter lock released throughout.

Knows no queue, no id and no torch. Invariant: equal to `AutogradStep` in fp32 within rounding; between two calls of
`train` nothing is half done; the same threads and seed give the same bits.

Small micro-batches run one after another inside a single kernel call on one core (another thread prepares the next
batch on the other). A micro-batch that is much work by itself is shared: the table spreads its rows over cores, and
each core takes its part of the samples through all layers and then its part of the parameters through the optimizer.
That beats a BLAS with threads of its own, which leaves everything between two products to one core; so whoever runs
this limits BLAS to one thread.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_table.bag_kernels import UpdateScratch, gather_bags, new_scratch, update_bags
from embedding_table.row_layout import TableViews
from embedding_table.table import EmbeddingTable
from embedding_table.thread_parts import available_threads, in_parts
from model_contract.compiled import kernel
from model_contract.dense_layout import DenseLayout
from model_contract.dlrm_kernels import NetworkShape, forward, network_shape
from model_contract.schema import ModelSchema
from stream_trainer.dense_state import DenseState
from stream_trainer.dlrm_backward import adagrad, backward, logit_gradient
from stream_trainer.prepared_batch import PreparedBatch
from stream_trainer.recipe import Recipe

__all__ = ["FusedStep"]

_WIDE_FLOATS = 1 << 21
"""Values looked up by one micro-batch from which the table's parallel calls pay."""

_WIDE_PRODUCTS = 1 << 27
"""Samples times parameters of one micro-batch from which sharing it among cores pays."""


class _Rates(NamedTuple):
    """What kernels read of the recipe."""

    sparse: float
    sparse_eps: float
    dense: float
    dense_eps: float


class _Space(NamedTuple):
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


def _new_space(rows: int, shape: NetworkShape, size: int) -> _Space:
    floats = rows * int(shape.starts[-1])
    return _Space(
        work=np.empty(floats, np.float32),
        work_grad=np.empty(floats, np.float32),
        grad=np.empty(size, np.float32),
        logit_grad=np.empty(rows, np.float32),
    )


@kernel
def _gradients(
    shape: NetworkShape,
    flat: NDArray[np.float32],
    space: _Space,
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


@kernel
def _learn_batch(
    shape: NetworkShape,
    flat: NDArray[np.float32],
    accumulators: NDArray[np.float32],
    rates: _Rates,
    space: _Space,
    emb: NDArray[np.float32],
    emb_grad: NDArray[np.float32],
    views: TableViews,
    scratch: UpdateScratch,
    pooling: NDArray[np.int8],
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    dense: NDArray[np.float32],
    labels: NDArray[np.float32],
    weights: NDArray[np.float32],
    now_s: int,
    logits: NDArray[np.float32],
) -> None:
    """All micro-batches of a batch, one after another; emb and emb_grad f32 (micro-batch, F, D) are working memory."""
    most, slots, dim = emb.shape
    for lo in range(0, labels.shape[0], most):
        hi = min(labels.shape[0], lo + most)
        rows = hi - lo
        first, last = lo * slots, hi * slots
        pooled, pooled_grad = emb[:rows], emb_grad[:rows]
        gather_bags(views, handles, offsets, pooling, first, last, pooled.reshape(rows * slots, dim))
        _gradients(shape, flat, space, pooled, pooled_grad, dense[lo:hi], labels[lo:hi], weights[lo:hi], logits[lo:hi])
        adagrad(flat, accumulators, space.grad, rates.dense, rates.dense_eps)
        grad = pooled_grad.reshape(rows * slots, dim)
        update_bags(views, handles, offsets, pooling, first, last, grad, rates.sparse, rates.sparse_eps, now_s, scratch)


class FusedStep:
    """The default train step (fp32); see `TrainStep` for what it promises.

    Args:
        schema: of the model.
        recipe: rates and micro-batch size.
        seed: of the dense parameters' start.
        threads: cores to share a large micro-batch among; None for all there are.
    """

    def __init__(self, schema: ModelSchema, recipe: Recipe, seed: int, threads: int | None = None) -> None:
        self._pooling = schema.pooling_codes
        self._recipe = recipe
        self._state = DenseState(DenseLayout(schema), recipe, seed)
        self._shape = network_shape(self.layout)
        self._rates = _Rates(recipe.sparse_rate, recipe.sparse_eps, recipe.dense_rate, recipe.dense_eps)
        rows, size = recipe.batch_size, self.layout.size
        shared = rows * size >= _WIDE_PRODUCTS
        parts = min(threads or available_threads(), rows) if shared else 1
        self._spaces = [_new_space(-(-rows // parts), self._shape, size) for _ in range(parts)]
        self._emb = np.empty((rows, len(schema.sparse), schema.dim), np.float32)
        self._emb_grad = np.empty_like(self._emb)
        self._scratch = new_scratch(rows * len(schema.sparse), schema.dim)

    @property
    def layout(self) -> DenseLayout:
        """See `TrainStep.layout`."""
        return self._state.layout

    @property
    def parameters(self) -> NDArray[np.float32]:
        """See `TrainStep.parameters`."""
        return self._state.parameters

    def train(self, table: EmbeddingTable, batch: PreparedBatch, now_s: int) -> NDArray[np.float32]:
        """See `TrainStep.train`."""
        logits = np.empty(batch.rows, np.float32)
        most, slots, dim = self._emb.shape
        borders = batch.offsets[:: most * slots]
        lookups = int(np.diff(borders, append=batch.offsets[-1]).max(initial=0))
        if len(self._spaces) > 1 or lookups * dim >= _WIDE_FLOATS:
            for lo in range(0, batch.rows, most):
                self._learn_shared(table, batch, lo, min(batch.rows, lo + most), now_s, logits)
            return logits
        if self._scratch.row.size < lookups:
            self._scratch = new_scratch(lookups, dim)
        _learn_batch(
            self._shape,
            self._state.parameters,
            self._state.accumulators,
            self._rates,
            self._spaces[0],
            self._emb,
            self._emb_grad,
            table.views(),
            self._scratch,
            self._pooling,
            batch.handles,
            batch.offsets,
            batch.dense,
            batch.labels,
            batch.weights,
            now_s,
            logits,
        )
        return logits

    def state(self) -> dict[str, NDArray[np.generic]]:
        """See `TrainStep.state`."""
        return self._state.state()

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """See `TrainStep.restore`."""
        self._state.restore(state)

    def _learn_shared(
        self, table: EmbeddingTable, batch: PreparedBatch, lo: int, hi: int, now_s: int, logits: NDArray[np.float32]
    ) -> None:
        """One micro-batch, samples lo .. hi, by the table's own calls and by as many threads as there are spaces."""
        slots = self._emb.shape[1]
        offsets = batch.offsets[lo * slots : hi * slots + 1]
        handles = batch.handles[offsets[0] : offsets[-1]]
        offsets = offsets - offsets[0]
        emb, emb_grad = self._emb[: hi - lo], self._emb_grad[: hi - lo]
        table.gather(handles, offsets, self._pooling, emb)
        rates, parts = self._rates, len(self._spaces)
        samples = np.linspace(0, hi - lo, parts + 1).astype(np.int64)
        places = np.linspace(0, self.layout.size, parts + 1).astype(np.int64)

        def differentiate(part: int) -> None:
            first, last = samples[part], samples[part + 1]
            here = slice(lo + first, lo + last)
            _gradients(
                self._shape,
                self._state.parameters,
                self._spaces[part],
                emb[first:last],
                emb_grad[first:last],
                batch.dense[here],
                batch.labels[here],
                batch.weights[here],
                logits[here],
            )

        def learn(part: int) -> None:
            place = slice(places[part], places[part + 1])
            grad = self._spaces[0].grad[place]
            for space in self._spaces[1:]:
                grad += space.grad[place]
            adagrad(self._state.parameters[place], self._state.accumulators[place], grad, rates.dense, rates.dense_eps)

        in_parts(differentiate, parts)
        in_parts(learn, parts)
        table.update(handles, offsets, self._pooling, emb_grad, rates.sparse, rates.sparse_eps, now_s)
