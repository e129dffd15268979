"""The fast train step with the dense layers' products in bfloat16, for processors with AMX.

Knows no queue, no id and no torch. Invariant: as `FusedStep`'s, equal to `AutogradStep` in fp32 within what rounding
factors to 8 bits does; parameters, rows and all sums stay float32, so a state of either precision goes on in the other.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.bag_kernels import UpdateScratch, gather_bags, update_bags
from embedding_table.row_layout import TableViews
from embedding_table.table import EmbeddingTable
from model_contract.compiled import kernel
from model_contract.dlrm_kernels import NetworkShape
from stream_trainer.bf16_dense import Bf16DenseLearner
from stream_trainer.bf16_network import bf16_gradients, pack_weights
from stream_trainer.bf16_space import Bf16Space, PackedPlaces, PackedWeights
from stream_trainer.dense_learner import DenseSide
from stream_trainer.dlrm_backward import adagrad
from stream_trainer.fused_step import FusedStep, Rates
from stream_trainer.prepared_batch import PreparedBatch
from stream_trainer.recipe import Recipe

__all__ = ["Bf16Step"]


@kernel
def _learn_batch(
    shape: NetworkShape,
    places: PackedPlaces,
    packed: PackedWeights,
    flat: NDArray[np.float32],
    accumulators: NDArray[np.float32],
    rates: Rates,
    space: Bf16Space,
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
    """As the fp32 step's."""
    most, slots, dim = emb.shape
    for lo in range(0, labels.shape[0], most):
        hi = min(labels.shape[0], lo + most)
        first, last = lo * slots, hi * slots
        rows, grads = emb[: hi - lo], emb_grad[: hi - lo]
        flat_rows, flat_grads = rows.reshape(last - first, dim), grads.reshape(last - first, dim)
        gather_bags(views, handles, offsets, pooling, first, last, flat_rows)
        pack_weights(shape, places, flat, packed, 0, 1)
        bf16_gradients(
            shape,
            places,
            flat,
            packed,
            space,
            rows,
            grads,
            dense[lo:hi],
            labels[lo:hi],
            weights[lo:hi],
            logits[lo:hi],
        )
        adagrad(flat, accumulators, space.grad, rates.dense, rates.dense_eps)
        update_bags(
            views,
            handles,
            offsets,
            pooling,
            first,
            last,
            flat_grads,
            rates.sparse,
            rates.sparse_eps,
            now_s,
            scratch,
            rates.sparse_decay,
            rates.sparse_reference_width,
        )


class Bf16Step(FusedStep):
    """The train step for bf16 where `amx_is_usable`; see `TrainStep` for its promises, `FusedStep` for arguments."""

    def _new_dense(self, recipe: Recipe, threads: int | None) -> DenseSide:
        self._bf16 = Bf16DenseLearner(self._state, recipe, threads)
        return self._bf16

    def _learn_alone(
        self, table: EmbeddingTable, batch: PreparedBatch, now_s: int, logits: NDArray[np.float32]
    ) -> None:
        _learn_batch(
            self._bf16.shape,
            self._bf16.places,
            self._bf16.packed,
            self._state.parameters,
            self._state.accumulators,
            self._rates,
            self._bf16.spaces[0],
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
