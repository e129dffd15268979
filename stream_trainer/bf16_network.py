"""The DLRM forward and backward with the hidden layers' products in bfloat16 by AMX, as kernels.

Knows no table and no optimizer. What is multiplied (activations, their gradients, weights) is rounded to bfloat16 on
the way into a product; sums, biases, interaction, last layer, logits and gradients are float32, and so are the
parameters, as under torch's autocast or better.

Samples go through all layers in groups whose activations stay in the cache; every layer's input and gradient is kept
packed, and the weights' gradients are one product over all samples at the end.

Invariant: the same number of samples and the same input give the same bits; nothing is allocated; kernels here run
where `amx_support.amx_is_usable` says so.
"""

import numpy as np
from numpy.typing import NDArray

from model_contract.compiled import fast_kernel, kernel
from model_contract.dlrm_kernels import (
    BIAS,
    OUTPUTS,
    WEIGHT,
    NetworkShape,
    interact,
    last_layer,
    layer_weight,
    stage,
)
from stream_trainer.amx_code import BLOCK, configure_tiles, release_tiles
from stream_trainer.amx_products import (
    blocks,
    multiply,
    pack_left,
    pack_left_turned,
    pack_right,
    pack_right_turned,
)
from stream_trainer.bf16_space import GROUP_ROWS, Bf16Space, PackedPlaces, PackedWeights
from stream_trainer.dlrm_backward import interact_back, logit_gradient

__all__ = ["bf16_gradients", "pack_weights"]

_BLOCK = np.uint64(BLOCK)


@kernel
def pack_weights(
    shape: NetworkShape, places: PackedPlaces, flat: NDArray[np.float32], packed: PackedWeights, part: int, parts: int
) -> None:
    """Rounds and packs this part of the weights: blocks of 32 outputs, counted over all hidden layers."""
    hidden = shape.layers.shape[0] - 1
    total = np.uint64(0)
    for number in range(hidden):
        total += blocks(shape.layers[number, OUTPUTS])
    begin = np.uint64(part) * total // np.uint64(parts)
    end = np.uint64(part + 1) * total // np.uint64(parts)
    passed = np.uint64(0)
    for number in range(hidden):
        weight = layer_weight(flat, shape.layers[number])
        outputs = np.uint64(weight.shape[0])
        count = blocks(outputs)
        first, last = max(begin, passed) - passed, min(max(end, passed) - passed, count)
        if first < last:
            pack_right_turned(weight, packed.forward[places.forward[number] :], first, last)
            rows = min(last * _BLOCK, outputs)
            pack_right(weight, first * _BLOCK, rows, packed.backward[places.backward[number] :], first, count)
        passed += count


@fast_kernel
def _add_bias_and_stop(y: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
    """Y = relu(y + b)."""
    zero = np.float32(0)
    for row in range(y.shape[0]):
        for column in range(y.shape[1]):
            y[row, column] = max(y[row, column] + bias[column], zero)


@fast_kernel
def _through_relu(y: NDArray[np.float32], y_grad: NDArray[np.float32], bias_grad: NDArray[np.float32]) -> None:
    """Stops the gradient where the unit was silent, and adds what is left to the bias's."""
    zero = np.float32(0)
    for row in range(y.shape[0]):
        for column in range(y.shape[1]):
            passed = y_grad[row, column] if y[row, column] > zero else zero
            y_grad[row, column] = passed
            bias_grad[column] += passed


@fast_kernel
def _last_layer_back(
    flat: NDArray[np.float32],
    layer: NDArray[np.int64],
    x: NDArray[np.float32],
    logit_grad: NDArray[np.float32],
    grad: NDArray[np.float32],
    x_grad: NDArray[np.float32],
) -> None:
    """Adds to the last layer's gradient and writes its input's."""
    width = x.shape[1]
    weight = flat[layer[WEIGHT] : layer[WEIGHT] + width]
    weight_grad = grad[layer[WEIGHT] : layer[WEIGHT] + width]
    for row in range(x.shape[0]):
        slope = logit_grad[row]
        grad[layer[BIAS]] += slope
        for column in range(width):
            weight_grad[column] += slope * x[row, column]
        for column in range(width):
            x_grad[row, column] = slope * weight[column]


@kernel
def _hidden_layer(
    shape: NetworkShape,
    places: PackedPlaces,
    flat: NDArray[np.float32],
    packed: PackedWeights,
    space: Bf16Space,
    number: int,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    step: np.uint64,
    steps: np.uint64,
) -> None:
    """Y = relu(x W^T + b); x is kept, packed, as `step` and on of `steps`."""
    layer = shape.layers[number]
    rows = np.uint64(x.shape[0])
    pack_right(x, np.uint64(0), rows, space.inputs[places.inputs[number] :], step, steps)
    pack_left(x, space.left)
    multiply(space.left, packed.forward[places.forward[number] :], blocks(x.shape[1]), y, space.corner)
    _add_bias_and_stop(y, flat[layer[BIAS] : layer[BIAS] + layer[OUTPUTS]])


@kernel
def _hidden_layer_back(
    shape: NetworkShape,
    places: PackedPlaces,
    space: Bf16Space,
    number: int,
    y: NDArray[np.float32],
    y_grad: NDArray[np.float32],
    step: np.uint64,
    steps: np.uint64,
) -> None:
    """Takes the gradient through the relu and keeps it, packed."""
    layer = shape.layers[number]
    _through_relu(y, y_grad, space.grad[layer[BIAS] : layer[BIAS] + layer[OUTPUTS]])
    pack_left_turned(y_grad, space.slopes[places.slopes[number] :], step, steps)


@kernel
def _input_gradient(
    places: PackedPlaces,
    packed: PackedWeights,
    space: Bf16Space,
    number: int,
    y_grad: NDArray[np.float32],
    x_grad: NDArray[np.float32],
) -> None:
    """Dx = dy W."""
    pack_left(y_grad, space.left)
    multiply(space.left, packed.backward[places.backward[number] :], blocks(y_grad.shape[1]), x_grad, space.corner)


@kernel
def _forward(
    shape: NetworkShape,
    places: PackedPlaces,
    flat: NDArray[np.float32],
    packed: PackedWeights,
    space: Bf16Space,
    emb: NDArray[np.float32],
    dense: NDArray[np.float32],
    logits: NDArray[np.float32],
    step: np.uint64,
    steps: np.uint64,
) -> None:
    """As `dlrm_kernels.forward`, for one group."""
    rows, work, starts = emb.shape[0], space.work, shape.starts
    x = dense
    for number in range(shape.bottom):
        y = stage(work, starts, number, rows)
        _hidden_layer(shape, places, flat, packed, space, number, x, y, step, steps)
        x = y
    bottom = work[:0].reshape(0, 0)
    if shape.bottom:
        bottom = stage(work, starts, shape.bottom - 1, rows)
    x = stage(work, starts, shape.bottom, rows)
    interact(emb, bottom, x)
    last = shape.layers.shape[0] - 1
    for number in range(shape.bottom, last):
        y = stage(work, starts, number + 1, rows)
        _hidden_layer(shape, places, flat, packed, space, number, x, y, step, steps)
        x = y
    last_layer(flat, shape.layers[last], x, logits)


@kernel
def _backward(
    shape: NetworkShape,
    places: PackedPlaces,
    flat: NDArray[np.float32],
    packed: PackedWeights,
    space: Bf16Space,
    emb: NDArray[np.float32],
    logit_grad: NDArray[np.float32],
    emb_grad: NDArray[np.float32],
    step: np.uint64,
    steps: np.uint64,
) -> None:
    """As `dlrm_backward.backward` but for the weights of hidden layers, for one group."""
    rows, work, work_grad, starts = emb.shape[0], space.work, space.work_grad, shape.starts
    last = shape.layers.shape[0] - 1
    x_grad = stage(work_grad, starts, last, rows)
    _last_layer_back(flat, shape.layers[last], stage(work, starts, last, rows), logit_grad, space.grad, x_grad)
    for number in range(last - 1, shape.bottom - 1, -1):
        y, y_grad = stage(work, starts, number + 1, rows), stage(work_grad, starts, number + 1, rows)
        _hidden_layer_back(shape, places, space, number, y, y_grad, step, steps)
        _input_gradient(places, packed, space, number, y_grad, stage(work_grad, starts, number, rows))
    bottom = work[:0].reshape(0, 0)
    bottom_grad = bottom
    if shape.bottom:
        bottom = stage(work, starts, shape.bottom - 1, rows)
        bottom_grad = stage(work_grad, starts, shape.bottom - 1, rows)
    interact_back(emb, bottom, stage(work_grad, starts, shape.bottom, rows), emb_grad, bottom_grad)
    for number in range(shape.bottom - 1, -1, -1):
        y_grad = stage(work_grad, starts, number, rows)
        _hidden_layer_back(shape, places, space, number, stage(work, starts, number, rows), y_grad, step, steps)
        if number:
            _input_gradient(places, packed, space, number, y_grad, stage(work_grad, starts, number - 1, rows))


@kernel
def _clear_sums(shape: NetworkShape, grad: NDArray[np.float32]) -> None:
    """What groups add to: biases and the last layer."""
    last = shape.layers.shape[0] - 1
    for number in range(last + 1):
        layer = shape.layers[number]
        grad[layer[BIAS] : layer[BIAS] + layer[OUTPUTS]] = np.float32(0)
    layer_weight(grad, shape.layers[last])[:] = np.float32(0)


@kernel
def bf16_gradients(
    shape: NetworkShape,
    places: PackedPlaces,
    flat: NDArray[np.float32],
    packed: PackedWeights,
    space: Bf16Space,
    emb: NDArray[np.float32],
    emb_grad: NDArray[np.float32],
    dense: NDArray[np.float32],
    labels: NDArray[np.float32],
    weights: NDArray[np.float32],
    logits: NDArray[np.float32],
) -> None:
    """Predicts b samples; leaves the parameters' gradient in `space` and the pooled rows' (b, F, D) in `emb_grad`.

    Args:
        shape: of the network.
        places: of packed factors.
        flat: f32 (P,), the parameters; of hidden weights only what is packed is used.
        packed: all of the weights.
        space: working memory of this thread.
        emb: f32 (b, F, D).
        emb_grad: f32 (b, F, D), overwritten.
        dense: f32 (b, n).
        labels: f32 (b,).
        weights: f32 (b,).
        logits: f32 (b,), written.
    """
    rows = labels.shape[0]
    if rows == 0:  # a thread whose part of a small last micro-batch is empty
        space.grad[:] = np.float32(0)
        return
    steps = blocks(rows)
    _clear_sums(shape, space.grad)
    configure_tiles()
    for lo in range(0, rows, GROUP_ROWS):
        hi = min(rows, lo + GROUP_ROWS)
        step = np.uint64(lo) // _BLOCK
        logit_grad = space.logit_grad[: hi - lo]
        _forward(shape, places, flat, packed, space, emb[lo:hi], dense[lo:hi], logits[lo:hi], step, steps)
        logit_gradient(logits[lo:hi], labels[lo:hi], weights[lo:hi], logit_grad)
        _backward(shape, places, flat, packed, space, emb[lo:hi], logit_grad, emb_grad[lo:hi], step, steps)
    for number in range(shape.layers.shape[0] - 1):
        left, right = space.slopes[places.slopes[number] :], space.inputs[places.inputs[number] :]
        multiply(left, right, steps, layer_weight(space.grad, shape.layers[number]), space.corner)
    release_tiles()
