"""The alignment's gradients against autograd, and what batch norm's statistics do to it against the textbook form."""

import dataclasses

import numpy as np
import pytest
import torch

from model_contract.dense_layout import DenseLayout
from model_contract.dlrm import Alignment, Dlrm
from model_contract.dlrm_kernels import network_shape
from model_contract.row_alignment import align_rows, alignment_places
from stream_trainer.alignment_backward import EPSILON, SETTLED_AFTER, align_back, follow_statistics
from stream_trainer.dense_learner import gradients, new_space
from tests.model_contract.test_row_alignment import stirred
from tests.stream_trainer.train_cases import schema

MODEL = dataclasses.replace(schema(), align="linear")
LAYOUT = DenseLayout(MODEL)
PLACES = alignment_places(LAYOUT.align)
SLOTS, DIM = 3, MODEL.dim


def named(flat: np.ndarray) -> dict[str, np.ndarray]:
    """The alignment's tensors, views."""
    return {t.name.removeprefix("align."): t.values for t in LAYOUT.split(flat) if t.name.startswith("align.")}


def rows_of(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, SLOTS, DIM), np.float32)


def sums_of(flat: np.ndarray, emb: np.ndarray) -> np.ndarray:
    """What `align_back` leaves, on no slopes at all."""
    rows = len(emb)
    projected, aligned = np.empty((rows, SLOTS * DIM), np.float32), np.empty_like(emb)
    piece, piece_grad = (np.empty((rows, DIM), np.float32) for _ in range(2))
    grad, nothing = np.full_like(flat, np.nan), np.zeros_like(emb)
    align_rows(PLACES, flat, emb, projected, aligned, piece)
    align_back(PLACES, flat, emb, projected, nothing, piece, piece_grad, grad, np.empty_like(emb))
    return grad


@pytest.mark.parametrize("dense", [0, 4])
@pytest.mark.parametrize("top", [(), (7,), (12, 5)])
def test_gradients_equal_autograd_s(top: tuple[int, ...], dense: int) -> None:
    model = dataclasses.replace(schema(dense=dense, top=top), align="linear")
    layout, module = DenseLayout(model), Dlrm(model)
    flat, rows = stirred(layout, 1), 23
    module.load_flat(flat)
    generator = np.random.default_rng(1)
    emb = rows_of(rows, 2)
    inputs = generator.standard_normal((rows, dense)).astype(np.float32)
    labels = generator.integers(0, 2, rows).astype(np.float32)
    weights = generator.uniform(0, 2, rows).astype(np.float32)
    tensor = torch.from_numpy(emb.copy()).requires_grad_()
    torch.nn.functional.binary_cross_entropy_with_logits(
        module(tensor, torch.from_numpy(inputs)), torch.from_numpy(labels), torch.from_numpy(weights), reduction="sum"
    ).backward()
    parameters = dict(module.named_parameters())
    learned = [parameters[e.name].grad for e in layout.entries if e.offset < layout.learned]
    expected = np.concatenate([grad.numpy().ravel() for grad in learned])

    shape = network_shape(layout)
    space = new_space(rows, shape, layout.size)
    space.grad[:] = np.nan
    emb_grad = np.full_like(emb, np.nan)
    gradients(shape, flat, space, emb, emb_grad, inputs, labels, weights, np.empty(rows, np.float32))
    np.testing.assert_allclose(space.grad[: layout.learned], expected, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(emb_grad, tensor.grad.numpy(), rtol=2e-4, atol=2e-5)
    assert np.isfinite(space.grad).all()


def test_statistics_are_first_only_measured() -> None:
    flat = stirred(LAYOUT, 1)
    tensors = named(flat)
    tensors["mean"][:], tensors["variance"][:], tensors["batches"][:] = 0, 1, 0
    before = flat.copy()
    emb = rows_of(40 * 8, 3) * 3 + 1
    for batch in np.split(emb, 8):
        follow_statistics(PLACES, flat, sums_of(flat, batch))
    z = np.einsum("bfi,fij->bfj", emb, tensors["weight"])
    np.testing.assert_allclose(tensors["mean"], z.mean(axis=0), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(tensors["variance"], z.var(axis=0), rtol=1e-3)
    assert tensors["batches"][0] == 8
    assert np.array_equal(flat[: LAYOUT.learned], before[: LAYOUT.learned])


def test_settled_it_is_batch_norm_with_running_statistics() -> None:
    """Against gamma (z - mean) / sqrt(variance + eps) + beta with a gamma and a beta that stay."""
    flat = stirred(LAYOUT, 1)
    tensors = named(flat)
    tensors["variance"][:] = np.abs(tensors["variance"]) + 0.1
    tensors["batches"][:] = SETTLED_AFTER
    deviation = np.sqrt(tensors["variance"] + EPSILON)
    gamma = tensors["scale"] * deviation
    beta = tensors["shift"] + tensors["scale"] * tensors["mean"]
    for seed in range(30):
        follow_statistics(PLACES, flat, sums_of(flat, 5 * rows_of(16, seed) + 2))
    assert tensors["batches"][0] == SETTLED_AFTER
    deviations = np.sqrt(tensors["variance"] + EPSILON)
    assert (np.abs(deviations / deviation - 1) > 0.1).mean() > 0.5
    emb = rows_of(9, 99)
    aligned = np.empty_like(emb)
    align_rows(PLACES, flat, emb, np.empty((9, SLOTS * DIM), np.float32), aligned, np.empty((9, DIM), np.float32))
    z = np.einsum("bfi,fij->bfj", emb, tensors["weight"])
    np.testing.assert_allclose(aligned, gamma * (z - tensors["mean"]) / deviations + beta, rtol=1e-3, atol=1e-4)


def test_parts_of_a_micro_batch_add_up_and_none_moves_nothing() -> None:
    whole, parts = stirred(LAYOUT, 1), stirred(LAYOUT, 1)
    for flat in (whole, parts):
        named(flat)["variance"][:] = 1
        named(flat)["batches"][:] = SETTLED_AFTER
    emb = rows_of(50, 3)
    follow_statistics(PLACES, whole, sums_of(whole, emb))
    follow_statistics(PLACES, parts, sums_of(parts, emb[:20]) + sums_of(parts, emb[20:]))
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)
    follow_statistics(PLACES, parts, np.zeros_like(parts))
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)
    follow_statistics(np.empty(0, np.int64), parts, sums_of(parts, emb))
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)


def test_a_column_without_variance_that_grows_is_not_scaled_to_nothing() -> None:
    flat = LAYOUT.initial(0)
    tensors = named(flat)
    tensors["variance"][:], tensors["batches"][:] = 0, SETTLED_AFTER
    for seed in range(200):
        follow_statistics(PLACES, flat, sums_of(flat, 0.05 * rows_of(32, seed)))
    assert tensors["scale"].min() > 0.7
    assert np.isfinite(flat).all()


def test_the_module_has_what_it_is_compared_with() -> None:
    assert LAYOUT.align
    assert {name for name, p in Alignment(LAYOUT.align).named_parameters() if p.requires_grad} == {
        "weight",
        "scale",
        "shift",
    }
