"""The DLRM forward and backward with the hidden layers' products by AMX, as kernels.

Knows no table and no optimizer. What is multiplied (activations, their gradients, weights) goes into a product in one
term of bfloat16 or in three, see `amx_code`; sums, biases, interaction, last layer, logits and gradients are float32,
and so are the parameters. One term is bf16 as under torch's autocast or better, three are fp32.

Samples go through all layers in groups whose activations stay in the cache; every layer's input and gradient is kept
packed, and the weights' gradients are one product over all samples at the end.

Invariant: the same number of samples and the same input give the same bits; nothing is allocated; kernels here run
where `amx_support.amx_is_usable` says so.
"""

import numpy as np
from numpy.typing import NDArray

from model_contract.compiled import kernel
from model_contract.dlrm_kernels import (
    BIAS,
    INPUTS,
    OUTPUTS,
    NetworkShape,
    interact,
    last_layer,
    layer_weight,
    stage,
)
from stream_trainer.amx_code import BLOCK, configure_tiles, release_tiles
from stream_trainer.amx_products import (
    ADD_AND_STOP,
    NOTHING,
    STOP_SILENT,
    Ending,
    blocks,
    multiply,
    pack_left,
    pack_left_turned,
    pack_right,
    pack_right_turned,
)
from stream_trainer.amx_space import GROUP_ROWS, AmxSpace, PackedPlaces, PackedWeights
from stream_trainer.dlrm_backward import interact_back, last_layer_back, logit_gradient, through_relu

__all__ = ["amx_gradients", "pack_weights"]

_BLOCK = np.uint64(BLOCK)


@kernel
def _panels_before(work: np.uint64, passed: np.uint64, share: np.uint64, panels: np.uint64) -> np.uint64:
    """How many panels of `share` work each, after `passed` of other work, begin before `work` is done."""
    if work <= passed:
        return np.uint64(0)
    return min((work - passed + share - np.uint64(1)) // share, panels)


@kernel
def pack_weights(
    shape: NetworkShape, places: PackedPlaces, flat: NDArray[np.float32], packed: PackedWeights, part: int, parts: int
) -> None:
    """Packs this part of the weights: blocks of 32 outputs, by the number of weights over all hidden layers."""
    hidden = shape.layers.shape[0] - 1
    total = np.uint64(0)
    for number in range(hidden):
        total += blocks(shape.layers[number, OUTPUTS]) * blocks(shape.layers[number, INPUTS])
    begin = np.uint64(part) * total // np.uint64(parts)
    end = np.uint64(part + 1) * total // np.uint64(parts)
    passed = np.uint64(0)
    for number in range(hidden):
        weight = layer_weight(flat, shape.layers[number])
        outputs, share = np.uint64(weight.shape[0]), blocks(weight.shape[1])
        count = blocks(outputs)
        first = _panels_before(begin, passed, share, count)
        last = _panels_before(end, passed, share, count)
        if first < last:
            pack_right_turned(weight, packed.forward[places.forward[number] :], first, last, places.terms)
            rows = min(last * _BLOCK, outputs)
            backward = packed.backward[places.backward[number] :]
            pack_right(weight, first * _BLOCK, rows, backward, first, count, places.terms)
        passed += count * share


@kernel
def _bias_of(shape: NetworkShape, number: int, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """What belongs to a layer's bias, in the parameters or in their gradient."""
    layer = shape.layers[number]
    return values[layer[BIAS] : layer[BIAS] + layer[OUTPUTS]]


@kernel
def _hidden_layer(
    shape: NetworkShape,
    places: PackedPlaces,
    flat: NDArray[np.float32],
    packed: PackedWeights,
    space: AmxSpace,
    number: int,
    x: NDArray[np.float32],
    y: NDArray[np.float32],
    step: np.uint64,
    steps: np.uint64,
) -> None:
    """Y = relu(x W^T + b); x is kept, packed, as `step` and on of `steps`."""
    rows = np.uint64(x.shape[0])
    pack_right(x, np.uint64(0), rows, space.inputs[places.inputs[number] :], step, steps, places.terms)
    pack_left(x, space.left, places.terms)
    weight = packed.forward[places.forward[number] :]
    nothing = flat[:0]
    ending = Ending(ADD_AND_STOP, _bias_of(shape, number, flat), nothing, nothing)
    multiply(space.left, weight, blocks(x.shape[1]), y, space.block, places.terms, ending)


@kernel
def _hidden_layer_back(
    shape: NetworkShape,
    places: PackedPlaces,
    packed: PackedWeights,
    space: AmxSpace,
    number: int,
    y_grad: NDArray[np.float32],
    x: NDArray[np.float32],
    x_grad: NDArray[np.float32],
    of_layer: bool,
    step: np.uint64,
    steps: np.uint64,
) -> None:
    """Keeps dy, packed; dx = dy W, through the relu of the layer before where x is `of_layer`; none for an empty x."""
    pack_left_turned(y_grad, space.slopes[places.slopes[number] :], step, steps, places.terms)
    if x.size == 0:
        return
    pack_left(y_grad, space.left, places.terms)
    nothing = space.grad[:0]
    ending = Ending(NOTHING, nothing, nothing, nothing)
    if of_layer:
        ending = Ending(STOP_SILENT, nothing, x.reshape(-1), _bias_of(shape, number - 1, space.grad))
    weight = packed.backward[places.backward[number] :]
    multiply(space.left, weight, blocks(y_grad.shape[1]), x_grad, space.block, places.terms, ending)


@kernel
def _forward(
    shape: NetworkShape,
    places: PackedPlaces,
    flat: NDArray[np.float32],
    packed: PackedWeights,
    space: AmxSpace,
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
    space: AmxSpace,
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
    last_layer_back(flat, shape.layers[last], stage(work, starts, last, rows), logit_grad, space.grad, x_grad)
    if last > shape.bottom:
        through_relu(stage(work, starts, last, rows), x_grad, _bias_of(shape, last - 1, space.grad))
    for number in range(last - 1, shape.bottom - 1, -1):
        y_grad = stage(work_grad, starts, number + 1, rows)
        x, x_grad = stage(work, starts, number, rows), stage(work_grad, starts, number, rows)
        inner = number > shape.bottom
        _hidden_layer_back(shape, places, packed, space, number, y_grad, x, x_grad, inner, step, steps)
    bottom = work[:0].reshape(0, 0)
    bottom_grad = bottom
    if shape.bottom:
        bottom = stage(work, starts, shape.bottom - 1, rows)
        bottom_grad = stage(work_grad, starts, shape.bottom - 1, rows)
    interact_back(emb, bottom, stage(work_grad, starts, shape.bottom, rows), emb_grad, bottom_grad)
    if shape.bottom:
        through_relu(bottom, bottom_grad, _bias_of(shape, shape.bottom - 1, space.grad))
    for number in range(shape.bottom - 1, -1, -1):
        y_grad = stage(work_grad, starts, number, rows)
        x = x_grad = work[:0].reshape(0, 0)
        if number:
            x, x_grad = stage(work, starts, number - 1, rows), stage(work_grad, starts, number - 1, rows)
        _hidden_layer_back(shape, places, packed, space, number, y_grad, x, x_grad, True, step, steps)


@kernel
def _clear_sums(shape: NetworkShape, grad: NDArray[np.float32]) -> None:
    """What groups add to: biases and the last layer."""
    last = shape.layers.shape[0] - 1
    for number in range(last + 1):
        _bias_of(shape, number, grad)[:] = np.float32(0)
    layer_weight(grad, shape.layers[last])[:] = np.float32(0)


@kernel
def amx_gradients(
    shape: NetworkShape,
    places: PackedPlaces,
    flat: NDArray[np.float32],
    packed: PackedWeights,
    space: AmxSpace,
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
    nothing = space.grad[:0]
    plain = Ending(NOTHING, nothing, nothing, nothing)
    for number in range(shape.layers.shape[0] - 1):
        left, right = space.slopes[places.slopes[number] :], space.inputs[places.inputs[number] :]
        weight_grad = layer_weight(space.grad, shape.layers[number])
        multiply(left, right, steps, weight_grad, space.block, places.terms, plain)
    release_tiles()
