"""The fast train step with the dense layers' products in AMX tiles, in fp32 or bf16.

Knows no queue, no id and no torch. Invariant: as `FusedStep`'s in fp32; in bf16 equal to `AutogradStep` in fp32 within
what rounding factors to 8 bits does. Parameters, rows and all sums are float32, so a state of one goes on in the other.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.bag_kernels import UpdateScratch, gather_bags, update_bags
from embedding_table.row_layout import TableViews
from embedding_table.table import EmbeddingTable
from model_contract.compiled import kernel
from model_contract.dlrm_kernels import NetworkShape
from model_contract.schema import ModelSchema
from stream_trainer.amx_dense import AmxDenseLearner
from stream_trainer.amx_network import amx_gradients, pack_weights
from stream_trainer.amx_space import AmxSpace, PackedPlaces, PackedWeights
from stream_trainer.dense_learner import DenseSide
from stream_trainer.dlrm_backward import adagrad
from stream_trainer.fused_step import FusedStep, Rates
from stream_trainer.prepared_batch import PreparedBatch
from stream_trainer.recipe import Recipe
from stream_trainer.train_step import Precision

__all__ = ["AmxStep"]


@kernel
def _learn_batch(
    shape: NetworkShape,
    places: PackedPlaces,
    packed: PackedWeights,
    flat: NDArray[np.float32],
    accumulators: NDArray[np.float32],
    rates: Rates,
    space: AmxSpace,
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
    """As `FusedStep`'s."""
    most, slots, dim = emb.shape
    for lo in range(0, labels.shape[0], most):
        hi = min(labels.shape[0], lo + most)
        first, last = lo * slots, hi * slots
        rows, grads = emb[: hi - lo], emb_grad[: hi - lo]
        flat_rows, flat_grads = rows.reshape(last - first, dim), grads.reshape(last - first, dim)
        gather_bags(views, handles, offsets, pooling, first, last, flat_rows)
        pack_weights(shape, places, flat, packed, 0, 1)
        amx_gradients(
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


class AmxStep(FusedStep):
    """The train step where `amx_is_usable`; see `TrainStep` for what it promises.

    Args:
        schema: of the model.
        recipe: rates and micro-batch size.
        seed: of the dense parameters' start.
        precision: of the products.
        threads: cores to share a large micro-batch among; None for all there are.

    Raises:
        SchemaError: see `AmxDenseLearner`.
    """

    def __init__(
        self, schema: ModelSchema, recipe: Recipe, seed: int, precision: Precision, threads: int | None = None
    ) -> None:
        self._precision: Precision = precision
        super().__init__(schema, recipe, seed, threads)

    def _new_dense(self, recipe: Recipe, threads: int | None) -> DenseSide:
        self._amx = AmxDenseLearner(self._state, recipe, self._precision, threads)
        return self._amx

    def _learn_alone(
        self, table: EmbeddingTable, batch: PreparedBatch, now_s: int, logits: NDArray[np.float32]
    ) -> None:
        _learn_batch(
            self._amx.shape,
            self._amx.places,
            self._amx.packed,
            self._state.parameters,
            self._state.accumulators,
            self._rates,
            self._amx.spaces[0],
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
