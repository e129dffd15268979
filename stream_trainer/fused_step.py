"""The fast train step: forward, backward and both optimizers as kernels, a whole batch under one released lock.

Knows no queue, no id and no torch. Invariant: equal to `AutogradStep` in fp32 within rounding; between two calls of
`train` nothing is half done. Small micro-batches run inside a single kernel call; where one micro-batch alone looks up
very many values, the table's own calls are used, which spread rows over cores (matrix products are BLAS's either way).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_table.bag_kernels import UpdateScratch, gather_bags, new_scratch, update_bags
from embedding_table.row_layout import TableViews
from embedding_table.table import EmbeddingTable
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


class _Rates(NamedTuple):
    """What kernels read of the recipe."""

    sparse: float
    sparse_eps: float
    dense: float
    dense_eps: float


class _Space(NamedTuple):
    """Working memory for micro-batches of at most `rows` samples.

    Attributes:
        work: f32 (rows * activations,), see `dlrm_kernels`.
        work_grad: f32, likewise.
        grad: f32 (P,).
        emb: f32 (rows * F, D), pooled rows.
        emb_grad: f32 (rows * F, D).
        logit_grad: f32 (rows,).
    """

    work: NDArray[np.float32]
    work_grad: NDArray[np.float32]
    grad: NDArray[np.float32]
    emb: NDArray[np.float32]
    emb_grad: NDArray[np.float32]
    logit_grad: NDArray[np.float32]


def _new_space(rows: int, slots: int, dim: int, shape: NetworkShape, size: int) -> _Space:
    per_row = int(shape.starts[-1])
    return _Space(
        work=np.empty(rows * per_row, np.float32),
        work_grad=np.empty(rows * per_row, np.float32),
        grad=np.empty(size, np.float32),
        emb=np.empty((rows * slots, dim), np.float32),
        emb_grad=np.empty((rows * slots, dim), np.float32),
        logit_grad=np.empty(rows, np.float32),
    )


@kernel
def _learn_dense(
    shape: NetworkShape,
    flat: NDArray[np.float32],
    accumulators: NDArray[np.float32],
    rates: _Rates,
    space: _Space,
    dense: NDArray[np.float32],
    labels: NDArray[np.float32],
    weights: NDArray[np.float32],
    logits: NDArray[np.float32],
) -> None:
    """Predicts b samples from the pooled rows in `space`, learns the dense side, leaves the rows' gradient there."""
    rows = labels.shape[0]
    slots = space.emb.shape[0] // space.logit_grad.shape[0]
    dim = space.emb.shape[1]
    emb = space.emb[: rows * slots].reshape(rows, slots, dim)
    emb_grad = space.emb_grad[: rows * slots].reshape(rows, slots, dim)
    logit_grad = space.logit_grad[:rows]
    forward(shape, flat, emb, dense, space.work, logits)
    logit_gradient(logits, labels, weights, logit_grad)
    backward(shape, flat, emb, dense, space.work, space.work_grad, logit_grad, space.grad, emb_grad)
    adagrad(flat, accumulators, space.grad, rates.dense, rates.dense_eps)


@kernel
def _learn_batch(
    shape: NetworkShape,
    flat: NDArray[np.float32],
    accumulators: NDArray[np.float32],
    rates: _Rates,
    space: _Space,
    views: TableViews,
    scratch: UpdateScratch,
    handles: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    pooling: NDArray[np.int8],
    dense: NDArray[np.float32],
    labels: NDArray[np.float32],
    weights: NDArray[np.float32],
    now_s: int,
    logits: NDArray[np.float32],
) -> None:
    """All micro-batches of a batch, one after another."""
    slots = pooling.shape[0]
    most = space.logit_grad.shape[0]
    for lo in range(0, labels.shape[0], most):
        hi = min(labels.shape[0], lo + most)
        bags = (hi - lo) * slots
        gather_bags(views, handles, offsets, pooling, lo * slots, hi * slots, space.emb[:bags])
        _learn_dense(
            shape, flat, accumulators, rates, space, dense[lo:hi], labels[lo:hi], weights[lo:hi], logits[lo:hi]
        )
        update_bags(
            views,
            handles,
            offsets,
            pooling,
            lo * slots,
            hi * slots,
            space.emb_grad[:bags],
            rates.sparse,
            rates.sparse_eps,
            now_s,
            scratch,
        )


class FusedStep:
    """The default train step (fp32); see `TrainStep` for what it promises."""

    def __init__(self, schema: ModelSchema, recipe: Recipe, seed: int) -> None:
        self._slots = len(schema.sparse)
        self._dim = schema.dim
        self._pooling = schema.pooling_codes
        self._recipe = recipe
        self._state = DenseState(DenseLayout(schema), recipe, seed)
        self._shape = network_shape(self.layout)
        self._rates = _Rates(recipe.sparse_rate, recipe.sparse_eps, recipe.dense_rate, recipe.dense_eps)
        self._space = _new_space(recipe.batch_size, self._slots, schema.dim, self._shape, self.layout.size)
        self._scratch = new_scratch(recipe.batch_size * self._slots, schema.dim)

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
        most = self._most_lookups(batch)
        if most * self._dim >= _WIDE_FLOATS:
            self._learn_wide(table, batch, now_s, logits)
            return logits
        if self._scratch.row.size < most:
            self._scratch = new_scratch(most, self._dim)
        _learn_batch(
            self._shape,
            self._state.parameters,
            self._state.accumulators,
            self._rates,
            self._space,
            table.views(),
            self._scratch,
            batch.handles,
            batch.offsets,
            self._pooling,
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

    def _most_lookups(self, batch: PreparedBatch) -> int:
        """Lookups of the micro-batch that has most."""
        borders = batch.offsets[:: self._slots * self._recipe.batch_size]
        lengths = np.diff(borders, append=batch.offsets[-1])
        return int(lengths.max(initial=0))

    def _learn_wide(self, table: EmbeddingTable, batch: PreparedBatch, now_s: int, logits: NDArray[np.float32]) -> None:
        for lo in range(0, batch.rows, self._recipe.batch_size):
            hi = min(batch.rows, lo + self._recipe.batch_size)
            offsets = batch.offsets[lo * self._slots : hi * self._slots + 1]
            handles = batch.handles[offsets[0] : offsets[-1]]
            offsets = offsets - offsets[0]
            bags = (hi - lo) * self._slots
            shape = (hi - lo, self._slots, self._dim)
            table.gather(handles, offsets, self._pooling, self._space.emb[:bags].reshape(shape))
            _learn_dense(
                self._shape,
                self._state.parameters,
                self._state.accumulators,
                self._rates,
                self._space,
                batch.dense[lo:hi],
                batch.labels[lo:hi],
                batch.weights[lo:hi],
                logits[lo:hi],
            )
            table.update(
                handles,
                offsets,
                self._pooling,
                self._space.emb_grad[:bags].reshape(shape),
                self._recipe.sparse_rate,
                self._recipe.sparse_eps,
                now_s,
            )
