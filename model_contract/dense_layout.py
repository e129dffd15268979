"""Where every dense parameter lies in one flat vector, and what it starts as.

Knows no optimizer and no arithmetic of the network. Invariant: names and order follow from the schema alone (bottom
layers, then top layers, weight before bias, weight as (out, in) in C order, then the alignment), so that trainer,
increment and server cut the same vector in the same places; without its alignment a vector is that of the same schema
with zero_pad.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_contract.errors import SchemaError
from model_contract.increment import DenseTensor
from model_contract.schema import ModelSchema

__all__ = ["AlignmentEntry", "DenseEntry", "DenseLayout", "LinearEntry"]

_DOTS_GAIN = 1.5
"""What the logit gains from the sum of all dots at the start; 1 to 3 do equally well over 36 pairs."""

_PAIRS_OF_GAIN = 36
"""Pairs up to which that holds; where there are more, the gains of all of them together stay what they are there."""

_TOP_SCALE = 0.5
"""Of the top MLP's random weights: what is left of them still tells units apart, and a seed from another less."""


@dataclass(frozen=True, slots=True)
class DenseEntry:
    """One parameter: `flat[offset : offset + prod(shape)]` in C order."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))


@dataclass(frozen=True, slots=True)
class LinearEntry:
    """One linear layer y = x W^T + b, W (outputs, inputs): where its two parameters start in the flat vector."""

    inputs: int
    outputs: int
    weight_offset: int
    bias_offset: int


@dataclass(frozen=True, slots=True)
class AlignmentEntry:
    """Where the tensors of a linear alignment start in the flat vector; see `model_contract.row_alignment`.

    Attributes:
        slots: F.
        dim: D.
        weight: (F, D, D).
        scale: (F, D).
        shift: (F, D).
        mean: (F, D), of what the weight gives; from here on nothing is learned by gradient.
        variance: (F, D).
        batches: (1,), micro-batches that mean and variance have seen.
    """

    slots: int
    dim: int
    weight: int
    scale: int
    shift: int
    mean: int
    variance: int
    batches: int


class DenseLayout:
    """The dense parameters of a schema's DLRM.

    Attributes:
        bottom: layers from the n dense features to D; empty when the schema has no dense feature.
        top: layers from the interaction to one logit.
        align: the alignment's tensors, None for zero_pad.
        entries: every parameter in the order of the flat vector.
        learned: values in front that have a gradient; behind them are the alignment's statistics.
        size: P, values in the flat vector.
        vectors: vectors that interact with each other: F, and one more when there is a bottom MLP.
        pairs: pairs of them.
        interaction_width: inputs of the first top layer: one per pair of vectors, and D more when there is a bottom.
    """

    def __init__(self, schema: ModelSchema) -> None:
        inputs = len(schema.dense)
        self.vectors = len(schema.sparse) + (1 if inputs else 0)
        self.pairs = self.vectors * (self.vectors - 1) // 2
        self.interaction_width = self.pairs + (schema.dim if inputs else 0)
        if self.interaction_width == 0:
            detail = "the dot interaction needs at least two slots, or one slot and a dense feature"
            raise SchemaError(detail)
        bottom_widths = (inputs, *schema.bottom, schema.dim) if inputs else ()
        top_widths = (self.interaction_width, *schema.top, 1)
        self._entries: list[DenseEntry] = []
        self._size = 0
        self.bottom = self._stack("bottom", bottom_widths)
        self.top = self._stack("top", top_widths)
        self.align = self._alignment(len(schema.sparse), schema.dim) if schema.align == "linear" else None
        self.entries = tuple(self._entries)
        self.learned = self.align.mean if self.align else self._size
        self.size = self._size

    def _stack(self, name: str, widths: Sequence[int]) -> tuple[LinearEntry, ...]:
        layers = []
        for index, (inputs, outputs) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            weight = self._append(f"{name}.{index}.weight", (outputs, inputs))
            bias = self._append(f"{name}.{index}.bias", (outputs,))
            layers.append(LinearEntry(inputs, outputs, weight, bias))
        return tuple(layers)

    def _alignment(self, slots: int, dim: int) -> AlignmentEntry:
        places = {"weight": self._append("align.weight", (slots, dim, dim))}
        for name in ("scale", "shift", "mean", "variance"):
            places[name] = self._append(f"align.{name}", (slots, dim))
        return AlignmentEntry(slots, dim, batches=self._append("align.batches", (1,)), **places)

    def _append(self, name: str, shape: tuple[int, ...]) -> int:
        entry = DenseEntry(name, shape, self._size)
        self._entries.append(entry)
        self._size += entry.size
        return entry.offset

    def split(self, flat: NDArray[np.float32]) -> tuple[DenseTensor, ...]:
        """Cuts the flat vector into named tensors, as views.

        Args:
            flat: f32 (P,).

        Raises:
            SchemaError: the vector has another length or dtype.
        """
        if flat.shape != (self.size,) or flat.dtype != np.float32:
            detail = f"dense vector is {flat.dtype} {flat.shape}, expected float32 ({self.size},)"
            raise SchemaError(detail)
        return tuple(DenseTensor(e.name, flat[e.offset : e.offset + e.size].reshape(e.shape)) for e in self.entries)

    def join(self, tensors: Sequence[DenseTensor]) -> NDArray[np.float32]:
        """Puts named tensors, in any order, back into a new flat vector f32 (P,).

        Raises:
            SchemaError: a name is missing, unknown or given twice, or a shape differs.
        """
        given = {tensor.name: tensor.values for tensor in tensors}
        names = {entry.name for entry in self.entries}
        if len(given) != len(tensors) or given.keys() != names:
            detail = f"dense tensors {sorted(t.name for t in tensors)}, expected each once: {sorted(names)}"
            raise SchemaError(detail)
        flat = np.empty(self.size, np.float32)
        for entry in self.entries:
            values = given[entry.name]
            if values.shape != entry.shape:
                detail = f"dense tensor {entry.name} has shape {values.shape}, expected {entry.shape}"
                raise SchemaError(detail)
            flat[entry.offset : entry.offset + entry.size] = values.ravel()
        return flat

    def initial(self, seed: int) -> NDArray[np.float32]:
        """Fresh parameters f32 (P,), the same for the same seed.

        As published with DLRM: weights normal with variance 2 / (inputs + outputs), biases normal with variance
        1 / outputs. With two changes in the top MLP: the weights are half as large, and the first unit of every layer
        passes the sum of all dots on to the logit. So the network starts as a factorization machine with a little
        noise, and rows learn from the first sample on, in every seed. Through random layers alone the dots of fresh
        rows reach the logit with a small gain of random sign, and a seed's luck decides for half a million samples.
        An alignment starts as the identity in every seed.
        """
        generator = np.random.default_rng(seed)
        flat = np.zeros(self.size, np.float32)
        for layer in (*self.bottom, *self.top):
            count = layer.inputs * layer.outputs
            scale = np.sqrt(2.0 / (layer.inputs + layer.outputs)) * (_TOP_SCALE if layer in self.top else 1.0)
            weights = generator.standard_normal(count, np.float32) * np.float32(scale)
            flat[layer.weight_offset : layer.weight_offset + count] = weights
            biases = generator.standard_normal(layer.outputs, np.float32) * np.float32(np.sqrt(1.0 / layer.outputs))
            flat[layer.bias_offset : layer.bias_offset + layer.outputs] = biases
        self._pass_dots_on(flat)
        if self.align:
            at = self.align
            flat[at.weight : at.scale].reshape(-1, at.dim, at.dim)[:] = np.eye(at.dim)
            flat[at.scale : at.shift] = 1.0
            flat[at.variance : at.batches] = 1.0
        return flat

    def _pass_dots_on(self, flat: NDArray[np.float32]) -> None:
        gain = _DOTS_GAIN * min(1.0, _PAIRS_OF_GAIN / self.pairs)
        last = self.top[-1]
        flat[last.bias_offset] = 0.0
        for number, layer in enumerate(self.top[:-1]):
            row = flat[layer.weight_offset : layer.weight_offset + layer.inputs]
            row[:] = 0.0
            row[0] = 1.0
            flat[layer.bias_offset] = 0.0
            if number == 0:
                row[:] = 1.0
                row[: self.interaction_width - self.pairs] = 0.0
                flat[layer.bias_offset] = 1.0  # keeps the unit awake while dots are small, taken back at the end
                flat[last.bias_offset] = -gain
        if len(self.top) > 1:
            flat[last.weight_offset] = gain
        else:
            flat[last.weight_offset + self.interaction_width - self.pairs : last.bias_offset] = gain
