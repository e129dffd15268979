"""The fast train step: forward, backward and both optimizers as kernels, the interpreter lock released throughout.

Knows no queue, no id and no torch. Invariant: equal to `AutogradStep` in fp32 within rounding; between two calls of
`train` nothing is half done; the same threads and seed give the same bits.

Small micro-batches run one after another inside a single kernel call on one core (another thread prepares the next
batch on the other). A micro-batch that is much work by itself is shared: the table spreads its rows over cores, the
`DenseLearner` its samples.
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
from model_contract.dlrm_kernels import NetworkShape
from model_contract.schema import ModelSchema
from stream_trainer.dense_learner import DenseLearner, DenseSide, DenseSpace, gradients
from stream_trainer.dense_state import DenseState
from stream_trainer.dlrm_backward import learn_dense
from stream_trainer.prepared_batch import PreparedBatch
from stream_trainer.recipe import Recipe

__all__ = ["FusedStep", "Rates"]

_WIDE_FLOATS = 1 << 21
"""Values looked up by one micro-batch from which the table's parallel calls pay."""


class Rates(NamedTuple):
    """What kernels read of the recipe."""

    sparse: float
    sparse_eps: float
    sparse_decay: float
    sparse_reference_width: float
    dense: float
    dense_eps: float


@kernel
def _learn_batch(
    shape: NetworkShape,
    flat: NDArray[np.float32],
    accumulators: NDArray[np.float32],
    rates: Rates,
    space: DenseSpace,
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
        gradients(shape, flat, space, pooled, pooled_grad, dense[lo:hi], labels[lo:hi], weights[lo:hi], logits[lo:hi])
        learn_dense(shape, flat, accumulators, space.grad, rates.dense, rates.dense_eps)
        grad = pooled_grad.reshape(rows * slots, dim)
        update_bags(
            views,
            handles,
            offsets,
            pooling,
            first,
            last,
            grad,
            rates.sparse,
            rates.sparse_eps,
            now_s,
            scratch,
            rates.sparse_decay,
            rates.sparse_reference_width,
        )


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
        self._state = DenseState(DenseLayout(schema), recipe, seed)
        self._rates = Rates(
            recipe.sparse_rate,
            recipe.sparse_eps,
            recipe.sparse_decay,
            recipe.sparse_reference_width,
            recipe.dense_rate,
            recipe.dense_eps,
        )
        self._dense = self._new_dense(recipe, threads)
        rows = recipe.batch_size
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
        if self._dense.parts > 1 or lookups * dim >= _WIDE_FLOATS:
            for lo in range(0, batch.rows, most):
                self._learn_shared(table, batch, lo, min(batch.rows, lo + most), now_s, logits)
            return logits
        blocks = table.views().block_width.size
        if self._scratch.row.size < lookups or self._scratch.block_rows.size != blocks:
            self._scratch = new_scratch(max(lookups, self._scratch.row.size), dim, blocks)
        self._learn_alone(table, batch, now_s, logits)
        return logits

    def state(self) -> dict[str, NDArray[np.generic]]:
        """See `TrainStep.state`."""
        return self._state.state()

    def restart_first_layer(self) -> None:
        """See `TrainStep.restart_first_layer`."""
        self._state.restart_first_layer()

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """See `TrainStep.restore`."""
        self._state.restore(state)

    def _new_dense(self, recipe: Recipe, threads: int | None) -> DenseSide:
        self._fp32 = DenseLearner(self._state, recipe, threads)
        return self._fp32

    def _learn_alone(
        self, table: EmbeddingTable, batch: PreparedBatch, now_s: int, logits: NDArray[np.float32]
    ) -> None:
        """All micro-batches in one call on one core."""
        _learn_batch(
            self._fp32.shape,
            self._state.parameters,
            self._state.accumulators,
            self._rates,
            self._fp32.spaces[0],
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

    def _learn_shared(
        self, table: EmbeddingTable, batch: PreparedBatch, lo: int, hi: int, now_s: int, logits: NDArray[np.float32]
    ) -> None:
        """One micro-batch, samples lo .. hi, by the table's own calls and the dense learner's threads."""
        slots = self._emb.shape[1]
        offsets = batch.offsets[lo * slots : hi * slots + 1]
        handles = batch.handles[offsets[0] : offsets[-1]]
        offsets = offsets - offsets[0]
        emb, emb_grad = self._emb[: hi - lo], self._emb_grad[: hi - lo]
        table.gather(handles, offsets, self._pooling, emb)
        self._dense.learn(emb, batch.dense[lo:hi], batch.labels[lo:hi], batch.weights[lo:hi], logits[lo:hi], emb_grad)
        rates = self._rates
        table.update(
            handles,
            offsets,
            self._pooling,
            emb_grad,
            rates.sparse,
            rates.sparse_eps,
            now_s,
            rates.sparse_decay,
            rates.sparse_reference_width,
        )
