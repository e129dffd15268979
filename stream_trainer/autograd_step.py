"""The plain train step: the torch module, autograd, and the same two optimizers; fp32 or bf16 autocast.

Knows no queue, no id and no kernel of its own. Invariant: in fp32 it defines what `FusedStep` computes. In bf16 the
dense layers' products run in bfloat16 under autocast; parameters, rows, sums and the loss stay fp32.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embedding_table.table import EmbeddingTable
from model_contract.dense_layout import DenseLayout
from model_contract.dlrm import Alignment, Dlrm
from model_contract.schema import ModelSchema
from stream_trainer.alignment_backward import EPSILON, SETTLED_AFTER
from stream_trainer.dense_state import DenseState
from stream_trainer.onednn_guard import guard_onednn
from stream_trainer.prepared_batch import PreparedBatch
from stream_trainer.recipe import Recipe
from stream_trainer.train_step import Precision

__all__ = ["AutogradStep"]


class AutogradStep:
    """Train step by autograd; see `TrainStep` for what it promises."""

    def __init__(self, schema: ModelSchema, recipe: Recipe, seed: int, precision: Precision = "fp32") -> None:
        guard_onednn()  # in fp32 too: oneDNN reads its limit once, whoever uses it first
        self._slots = len(schema.sparse)
        self._dim = schema.dim
        self._pooling = schema.pooling_codes
        self._recipe = recipe
        self._bf16 = precision == "bf16"
        self._state = DenseState(DenseLayout(schema), recipe, seed)
        self._module = Dlrm(schema)
        named = dict(self._module.named_parameters())
        parameters = torch.from_numpy(self._state.parameters)
        accumulators = torch.from_numpy(self._state.accumulators)
        self._learned: list[tuple[Tensor, Tensor]] = []
        for entry in self.layout.entries:
            place = slice(entry.offset, entry.offset + entry.size)
            named[entry.name].data = parameters[place].view(entry.shape)
            self._learned.append((named[entry.name], accumulators[place].view(entry.shape)))

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
        for lo in range(0, batch.rows, self._recipe.batch_size):
            hi = min(batch.rows, lo + self._recipe.batch_size)
            offsets = batch.offsets[lo * self._slots : hi * self._slots + 1]
            handles = batch.handles[offsets[0] : offsets[-1]]
            offsets = offsets - offsets[0]
            emb = np.empty((hi - lo, self._slots, self._dim), np.float32)
            table.gather(handles, offsets, self._pooling, emb)
            rows = torch.from_numpy(emb).requires_grad_()
            logits[lo:hi] = self._learn_dense(rows, batch, lo, hi)
            grad = rows.grad
            if grad is not None:
                rate, eps, decay = self._recipe.sparse_rate, self._recipe.sparse_eps, self._recipe.sparse_decay
                reference = self._recipe.sparse_reference_width
                table.update(handles, offsets, self._pooling, grad.numpy(), rate, eps, now_s, decay, reference)
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

    def _learn_dense(self, rows: Tensor, batch: PreparedBatch, lo: int, hi: int) -> NDArray[np.float32]:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            logits = self._module(rows, torch.from_numpy(batch.dense[lo:hi])).float()
        losses = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, torch.from_numpy(batch.labels[lo:hi]), torch.from_numpy(batch.weights[lo:hi]), reduction="sum"
        )
        self._module.zero_grad(set_to_none=True)
        losses.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            projected = self._module.align.project(rows) if self._module.align else None
            for parameter, accumulator in self._learned:
                if parameter.grad is not None:
                    accumulator.addcmul_(parameter.grad, parameter.grad)
                    root = accumulator.sqrt().add_(self._recipe.dense_eps)
                    parameter.addcdiv_(parameter.grad, root, value=-self._recipe.dense_rate)
            if self._module.align and projected is not None:
                _follow(self._module.align, projected)
        predicted: NDArray[np.float32] = logits.detach().numpy()
        return predicted


def _follow(align: Alignment, projected: Tensor) -> None:
    """What `alignment_backward.follow_statistics` does, by torch: projected f32 (b, F, D), from before the step."""
    seen = float(align.batches)
    rate = 1 / min(seen + 1, SETTLED_AFTER)
    mean, variance = align.mean.clone(), align.variance.clone()
    apart = projected - mean
    align.mean.add_(rate * apart.mean(dim=0))
    align.variance.mul_(1 - rate).add_(rate * apart.square().mean(dim=0)).sub_((align.mean - mean).square()).clamp_(0)
    align.batches.fill_(min(seen + 1, SETTLED_AFTER))
    if seen >= SETTLED_AFTER:  # gamma and beta stay, so scale and shift move
        scaled = align.scale * ((variance + EPSILON) / (align.variance + EPSILON)).sqrt()
        align.shift.add_(align.scale * mean - scaled * align.mean)
        align.scale.copy_(scaled)
