"""Where `amx_network` keeps what it packs, and its working memory.

Knows no kernel and no arithmetic. Invariant: places follow from the network's shape and the most samples of a part, so
they serve every smaller part as well. The last layer has one output and no place: it is no product of matrices.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding_table.kernel_arrays import empty_on_lines
from model_contract.dlrm_kernels import INPUTS, OUTPUTS, NetworkShape
from stream_trainer.amx_products import BLOCK_FLOATS, packed_size

__all__ = [
    "GROUP_ROWS",
    "AmxSpace",
    "PackedPlaces",
    "PackedWeights",
    "new_amx_space",
    "new_packed_weights",
    "packed_places",
]

GROUP_ROWS = 256
"""Samples that go through all layers together, a multiple of 32: their activations stay in the cache."""


class PackedPlaces(NamedTuple):
    """Where each hidden layer's packed factors start, in elements.

    Attributes:
        forward: i64 (hidden layers,), of the weight in `PackedWeights.forward`.
        backward: i64 (hidden layers,), of the weight in `PackedWeights.backward`.
        inputs: i64 (hidden layers,), of the layer's input in `AmxSpace.inputs`.
        slopes: i64 (hidden layers,), of its output's gradient in `AmxSpace.slopes`.
        terms: of every packed value, see `amx_code`.
    """

    forward: NDArray[np.int64]
    backward: NDArray[np.int64]
    inputs: NDArray[np.int64]
    slopes: NDArray[np.int64]
    terms: np.uint64


class PackedWeights(NamedTuple):
    """The hidden layers' weights, as right factors of both products they are in.

    Attributes:
        forward: u16, transposes W^T: y = x W^T.
        backward: u16, W: dx = dy W.
    """

    forward: NDArray[np.uint16]
    backward: NDArray[np.uint16]


class AmxSpace(NamedTuple):
    """One thread's working memory for a part of a micro-batch.

    Attributes:
        work: f32, activations of a group of samples, see `dlrm_kernels`.
        work_grad: f32, likewise, their gradients.
        logit_grad: f32 (group,).
        left: u16, the left factor at work.
        inputs: u16, every hidden layer's input x, as right factor of dW = dy^T x.
        slopes: u16, every hidden layer's dy, as left factor of it.
        block: f32, see `amx_products.multiply`.
        grad: f32 (P,).
    """

    work: NDArray[np.float32]
    work_grad: NDArray[np.float32]
    logit_grad: NDArray[np.float32]
    left: NDArray[np.uint16]
    inputs: NDArray[np.uint16]
    slopes: NDArray[np.uint16]
    block: NDArray[np.float32]
    grad: NDArray[np.float32]


def _starts(sizes: list[int]) -> NDArray[np.int64]:
    return np.cumsum([0, *sizes], dtype=np.int64)


def _hidden_widths(shape: NetworkShape) -> list[tuple[int, int]]:
    return [(int(layer[INPUTS]), int(layer[OUTPUTS])) for layer in shape.layers[:-1]]


def packed_places(shape: NetworkShape, rows: int, terms: int) -> PackedPlaces:
    """Places for parts of at most `rows` samples in 1 or 3 terms; each array ends with the end of the last factor."""
    widths = _hidden_widths(shape)
    return PackedPlaces(
        forward=_starts([packed_size(outputs, inputs, terms) for inputs, outputs in widths]),
        backward=_starts([packed_size(inputs, outputs, terms) for inputs, outputs in widths]),
        inputs=_starts([packed_size(inputs, rows, terms) for inputs, _ in widths]),
        slopes=_starts([packed_size(outputs, rows, terms) for _, outputs in widths]),
        terms=np.uint64(terms),
    )


def new_packed_weights(places: PackedPlaces) -> PackedWeights:
    """Memory for them."""
    forward, backward = (empty_on_lines(int(starts[-1]), np.uint16) for starts in (places.forward, places.backward))
    return PackedWeights(forward, backward)


def new_amx_space(shape: NetworkShape, places: PackedPlaces, size: int, rows: int) -> AmxSpace:
    """Working memory for at most `rows` samples and `size` parameters, as many as `places` was made for."""
    group = min(rows, GROUP_ROWS)
    widest = max((width for layer in _hidden_widths(shape) for width in layer), default=0)
    return AmxSpace(
        work=empty_on_lines(group * int(shape.starts[-1]), np.float32),
        work_grad=empty_on_lines(group * int(shape.starts[-1]), np.float32),
        logit_grad=np.empty(group, np.float32),
        left=empty_on_lines(packed_size(group, widest, int(places.terms)), np.uint16),
        inputs=empty_on_lines(int(places.inputs[-1]), np.uint16),
        slopes=empty_on_lines(int(places.slopes[-1]), np.uint16),
        block=empty_on_lines(BLOCK_FLOATS, np.float32),
        grad=np.empty(size, np.float32),
    )
