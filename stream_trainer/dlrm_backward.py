"""The DLRM's backward pass written out, and the dense optimizer: kernels beside `model_contract.dlrm_kernels`.

Knows no table and no batch queue. Invariant: gradients are exact (up to float32 rounding) for the sum of the samples'
weighted losses, whose derivative by each logit is handed in; nothing is allocated.
Source: Adagrad, Duchi, Hazan, Singer 2011.
"""

import numpy as np
from numpy.typing import NDArray

from model_contract.compiled import fast_kernel
from model_contract.dlrm_kernels import BIAS, OUTPUTS, WEIGHT, NetworkShape, layer_weight, stage
from model_contract.row_alignment import MEAN
from stream_trainer.alignment_backward import align_back, follow_statistics

__all__ = [
    "adagrad",
    "backward",
    "interact_back",
    "last_layer_back",
    "learn_dense",
    "logit_gradient",
    "through_relu",
]


@fast_kernel
def logit_gradient(
    logits: NDArray[np.float32], labels: NDArray[np.float32], weights: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Derivative of the weighted log-loss by each logit, all f32 (b,): w (sigmoid(logit) - y)."""
    one = np.float32(1)
    for row in range(logits.shape[0]):
        out[row] = weights[row] * (one / (one + np.exp(-logits[row])) - labels[row])


@fast_kernel
def last_layer_back(
    flat: NDArray[np.float32],
    layer: NDArray[np.int64],
    x: NDArray[np.float32],
    logit_grad: NDArray[np.float32],
    grad: NDArray[np.float32],
    x_grad: NDArray[np.float32],
) -> None:
    """Adds to the last layer's gradient in `grad` f32 (P,), and writes its input's."""
    width = x.shape[1]
    weight = flat[layer[WEIGHT] : layer[WEIGHT] + width]
    weight_grad = grad[layer[WEIGHT] : layer[WEIGHT] + width]
    bias_grad = grad[layer[BIAS]]
    for row in range(x.shape[0]):
        slope = logit_grad[row]
        bias_grad += slope
        for column in range(width):
            weight_grad[column] += slope * x[row, column]
        for column in range(width):
            x_grad[row, column] = slope * weight[column]
    grad[layer[BIAS]] = bias_grad


@fast_kernel
def through_relu(y: NDArray[np.float32], y_grad: NDArray[np.float32], bias_grad: NDArray[np.float32]) -> None:
    """Stops the gradient where the unit was silent, and adds what is left to the bias's, f32 (n,)."""
    zero = np.float32(0)
    for row in range(y.shape[0]):
        for column in range(y.shape[1]):
            passed = y_grad[row, column] if y[row, column] > zero else zero
            y_grad[row, column] = passed
            bias_grad[column] += passed


@fast_kernel
def interact_back(
    emb: NDArray[np.float32],
    bottom: NDArray[np.float32],
    out_grad: NDArray[np.float32],
    emb_grad: NDArray[np.float32],
    bottom_grad: NDArray[np.float32],
) -> None:
    """Reverse of `dlrm_kernels.interact`: fills emb_grad (b, F, D) and bottom_grad (b, D) or (0, 0)."""
    rows, slots, dim = emb.shape
    with_bottom = bottom.shape[0] > 0
    emb_grad[:] = np.float32(0)
    for row in range(rows):
        at = 0
        if with_bottom:
            for column in range(dim):
                bottom_grad[row, column] = out_grad[row, column]
            at = dim
        for slot in range(slots):
            if with_bottom:
                slope = out_grad[row, at]
                at += 1
                for column in range(dim):
                    emb_grad[row, slot, column] += slope * bottom[row, column]
                    bottom_grad[row, column] += slope * emb[row, slot, column]
            for other in range(slot):
                slope = out_grad[row, at]
                at += 1
                for column in range(dim):
                    emb_grad[row, slot, column] += slope * emb[row, other, column]
                    emb_grad[row, other, column] += slope * emb[row, slot, column]


@fast_kernel
def backward(
    shape: NetworkShape,
    flat: NDArray[np.float32],
    emb: NDArray[np.float32],
    dense: NDArray[np.float32],
    work: NDArray[np.float32],
    work_grad: NDArray[np.float32],
    logit_grad: NDArray[np.float32],
    grad: NDArray[np.float32],
    emb_grad: NDArray[np.float32],
) -> None:
    """Gradients of all parameters and of the pooled rows.

    Args:
        shape: of the network.
        flat: f32 (P,), the parameters that `forward` used.
        emb: f32 (b, F, D).
        dense: f32 (b, n).
        work: f32, the activations that `forward` left; those of an alignment are overwritten.
        work_grad: f32, as long as `work`, overwritten.
        logit_grad: f32 (b,).
        grad: f32 (P,), overwritten; behind the learned parameters are sums for `follow_statistics`.
        emb_grad: f32 (b, F, D), overwritten.
    """
    rows = emb.shape[0]
    layers, starts = shape.layers, shape.starts
    last = layers.shape[0] - 1
    x_grad = stage(work_grad, starts, last, rows)
    layer_weight(grad, layers[last])[:] = np.float32(0)
    grad[layers[last, BIAS]] = np.float32(0)
    last_layer_back(flat, layers[last], stage(work, starts, last, rows), logit_grad, grad, x_grad)
    for number in range(last - 1, shape.bottom - 1, -1):
        y_grad = stage(work_grad, starts, number + 1, rows)
        _layer_back(
            layers[number], stage(work, starts, number + 1, rows), y_grad, stage(work, starts, number, rows), grad
        )
        np.dot(y_grad, layer_weight(flat, layers[number]), stage(work_grad, starts, number, rows))
    bottom = work[:0].reshape(0, 0)
    bottom_grad = bottom
    if shape.bottom:
        bottom = stage(work, starts, shape.bottom - 1, rows)
        bottom_grad = stage(work_grad, starts, shape.bottom - 1, rows)
    out_grad = stage(work_grad, starts, shape.bottom, rows)
    if shape.align.size:
        first = layers.shape[0]
        aligned = stage(work, starts, first + 1, rows).reshape(emb.shape)
        aligned_grad = stage(work_grad, starts, first + 1, rows).reshape(emb.shape)
        interact_back(aligned, bottom, out_grad, aligned_grad, bottom_grad)
        projected, piece = stage(work, starts, first, rows), stage(work, starts, first + 2, rows)
        piece_grad = stage(work_grad, starts, first + 2, rows)
        align_back(shape.align, flat, emb, projected, aligned_grad, piece, piece_grad, grad, emb_grad)
    else:
        interact_back(emb, bottom, out_grad, emb_grad, bottom_grad)
    for number in range(shape.bottom - 1, -1, -1):
        y_grad = stage(work_grad, starts, number, rows)
        x = dense if number == 0 else stage(work, starts, number - 1, rows)
        _layer_back(layers[number], stage(work, starts, number, rows), y_grad, x, grad)
        if number:
            np.dot(y_grad, layer_weight(flat, layers[number]), stage(work_grad, starts, number - 1, rows))


@fast_kernel
def _layer_back(
    layer: NDArray[np.int64],
    y: NDArray[np.float32],
    y_grad: NDArray[np.float32],
    x: NDArray[np.float32],
    grad: NDArray[np.float32],
) -> None:
    bias_grad = grad[layer[BIAS] : layer[BIAS] + layer[OUTPUTS]]
    bias_grad[:] = np.float32(0)
    through_relu(y, y_grad, bias_grad)
    np.dot(y_grad.T, x, layer_weight(grad, layer))


@fast_kernel
def adagrad(
    flat: NDArray[np.float32],
    accumulators: NDArray[np.float32],
    grad: NDArray[np.float32],
    rate: float,
    eps: float,
) -> None:
    """One step of Adagrad on every parameter, all f32 (P,): a += g^2; w -= rate g / (sqrt(a) + eps)."""
    step, tiny = np.float32(rate), np.float32(eps)  # a double would make every sum below one
    for index in range(flat.shape[0]):
        slope = grad[index]
        accumulators[index] += slope * slope
        # np.divide, unlike `/`, cannot raise: only without that branch does the loop run in vectors, 7 x as fast
        flat[index] -= np.divide(step * slope, np.sqrt(accumulators[index]) + tiny)


@fast_kernel
def learn_dense(
    shape: NetworkShape,
    flat: NDArray[np.float32],
    accumulators: NDArray[np.float32],
    grad: NDArray[np.float32],
    rate: float,
    eps: float,
) -> None:
    """One step of everything dense: Adagrad on what is learned, then the alignment's statistics; all f32 (P,)."""
    learned = shape.align[MEAN] if shape.align.size else flat.shape[0]
    adagrad(flat[:learned], accumulators[:learned], grad[:learned], rate, eps)
    follow_statistics(shape.align, flat, grad)
