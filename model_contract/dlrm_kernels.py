"""The DLRM's forward pass as kernels on one flat parameter vector, whatever the widths.

Knows no table, no optimizer and no torch. Invariant: sums run in the same order for the same build and shapes, and
kernels here allocate nothing, so that a train step may run thousands of them under one released lock.

The activations of b samples lie in one flat array: stage k is `work[b * starts[k] : b * starts[k + 1]]` as (b, width):
first the output of every bottom layer, then what the top MLP reads, then the output of every top layer but the last;
behind them the stages of `row_alignment` where there is one.
Source: Naumov et al. 2019, arXiv 1906.00091, section 2; matrix products are BLAS (numba's np.dot).
"""

from typing import NamedTuple

import numpy as np

# numba's np.dot calls this BLAS; loaded here, so that whoever limits BLAS threads after this import limits this one too
import scipy.linalg.cython_blas  # noqa: F401
from numpy.typing import NDArray

from model_contract.compiled import fast_kernel
from model_contract.dense_layout import DenseLayout
from model_contract.row_alignment import align_rows, alignment_places, alignment_widths

__all__ = [
    "BIAS",
    "INPUTS",
    "OUTPUTS",
    "WEIGHT",
    "NetworkShape",
    "forward",
    "interact",
    "last_layer",
    "layer_weight",
    "network_shape",
    "stage",
]

INPUTS, OUTPUTS, WEIGHT, BIAS = 0, 1, 2, 3  # columns of `NetworkShape.layers`


class NetworkShape(NamedTuple):
    """What kernels need to know of a `DenseLayout`.

    Attributes:
        layers: i64 (layers, 4): inputs, outputs, offset of the weight and of the bias in the flat vector.
        bottom: how many of the layers are the bottom MLP's.
        starts: i64 (stages + 1,), where each stage of the activations starts, per sample.
        align: i64, see `row_alignment.alignment_places`; empty for zero_pad. Its stages are the last three.
    """

    layers: NDArray[np.int64]
    bottom: int
    starts: NDArray[np.int64]
    align: NDArray[np.int64]


def network_shape(layout: DenseLayout) -> NetworkShape:
    """The shape of a layout's network; `starts[-1]` floats of work are needed per sample."""
    layers = [(e.inputs, e.outputs, e.weight_offset, e.bias_offset) for e in (*layout.bottom, *layout.top)]
    widths = [e.outputs for e in layout.bottom] + [layout.interaction_width] + [e.outputs for e in layout.top[:-1]]
    widths += alignment_widths(layout.align)
    starts = np.zeros(len(widths) + 1, np.int64)
    np.cumsum(widths, out=starts[1:])
    return NetworkShape(np.array(layers, np.int64), len(layout.bottom), starts, alignment_places(layout.align))


@fast_kernel
def stage(work: NDArray[np.float32], starts: NDArray[np.int64], number: int, rows: int) -> NDArray[np.float32]:
    """The view (rows, width) of one stage of the activations, or of their gradients."""
    width = starts[number + 1] - starts[number]
    return work[rows * starts[number] : rows * starts[number + 1]].reshape(rows, width)


@fast_kernel
def layer_weight(flat: NDArray[np.float32], layer: NDArray[np.int64]) -> NDArray[np.float32]:
    """The view (outputs, inputs) of a layer's weight."""
    size = layer[INPUTS] * layer[OUTPUTS]
    return flat[layer[WEIGHT] : layer[WEIGHT] + size].reshape(layer[OUTPUTS], layer[INPUTS])


@fast_kernel
def _hidden_layer(
    flat: NDArray[np.float32], layer: NDArray[np.int64], x: NDArray[np.float32], y: NDArray[np.float32]
) -> None:
    """Y = relu(x W^T + b)."""
    np.dot(x, layer_weight(flat, layer).T, y)
    bias = flat[layer[BIAS] : layer[BIAS] + layer[OUTPUTS]]
    zero = np.float32(0)
    for row in range(y.shape[0]):
        for column in range(y.shape[1]):
            y[row, column] = max(y[row, column] + bias[column], zero)


@fast_kernel
def last_layer(
    flat: NDArray[np.float32], layer: NDArray[np.int64], x: NDArray[np.float32], logits: NDArray[np.float32]
) -> None:
    """Logits (b,) from what the last hidden layer put out, x f32 (b, inputs)."""
    weight = flat[layer[WEIGHT] : layer[WEIGHT] + layer[INPUTS]]
    for row in range(x.shape[0]):
        total = np.float32(0)
        for column in range(x.shape[1]):
            total += x[row, column] * weight[column]
        logits[row] = total + flat[layer[BIAS]]


@fast_kernel
def interact(emb: NDArray[np.float32], bottom: NDArray[np.float32], out: NDArray[np.float32]) -> None:
    """Writes [bottom, every dot product of two vectors]: pairs of the strict lower triangle, row by row.

    Args:
        emb: f32 (b, F, D).
        bottom: f32 (b, D), the vector before the slots; (0, 0) when there is none.
        out: f32 (b, width).
    """
    rows, slots, dim = emb.shape
    with_bottom = bottom.shape[0] > 0
    for row in range(rows):
        at = 0
        if with_bottom:
            for column in range(dim):
                out[row, column] = bottom[row, column]
            at = dim
        for slot in range(slots):
            if with_bottom:
                total = np.float32(0)
                for column in range(dim):
                    total += emb[row, slot, column] * bottom[row, column]
                out[row, at] = total
                at += 1
            for other in range(slot):
                total = np.float32(0)
                for column in range(dim):
                    total += emb[row, slot, column] * emb[row, other, column]
                out[row, at] = total
                at += 1


@fast_kernel
def forward(
    shape: NetworkShape,
    flat: NDArray[np.float32],
    emb: NDArray[np.float32],
    dense: NDArray[np.float32],
    work: NDArray[np.float32],
    logits: NDArray[np.float32],
) -> None:
    """Logits of b samples; leaves every activation in `work` for a backward pass.

    Args:
        shape: of the network.
        flat: f32 (P,), the dense parameters.
        emb: f32 (b, F, D), pooled rows.
        dense: f32 (b, n), transformed.
        work: f32, at least b * starts[-1].
        logits: f32 (b,), written.
    """
    rows = emb.shape[0]
    x = dense
    for number in range(shape.bottom):
        y = stage(work, shape.starts, number, rows)
        _hidden_layer(flat, shape.layers[number], x, y)
        x = y
    bottom = work[:0].reshape(0, 0)
    if shape.bottom:
        bottom = stage(work, shape.starts, shape.bottom - 1, rows)
    x = stage(work, shape.starts, shape.bottom, rows)
    if shape.align.size:
        first = shape.layers.shape[0]
        projected = stage(work, shape.starts, first, rows)
        aligned = stage(work, shape.starts, first + 1, rows).reshape(emb.shape)
        align_rows(shape.align, flat, emb, projected, aligned, stage(work, shape.starts, first + 2, rows))
        interact(aligned, bottom, x)
    else:
        interact(emb, bottom, x)
    last = shape.layers.shape[0] - 1
    for number in range(shape.bottom, last):
        y = stage(work, shape.starts, number + 1, rows)
        _hidden_layer(flat, shape.layers[number], x, y)
        x = y
    last_layer(flat, shape.layers[last], x, logits)
