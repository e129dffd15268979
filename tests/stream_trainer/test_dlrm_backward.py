"""Gradients written out against autograd, and the optimizer against torch's."""

import numpy as np
import pytest
import torch

from model_contract.dense_layout import DenseLayout
from model_contract.dlrm import Dlrm
from model_contract.dlrm_kernels import forward, network_shape
from stream_trainer.dlrm_backward import adagrad, backward, logit_gradient
from tests.stream_trainer.train_cases import schema


@pytest.mark.parametrize("dense", [0, 4])
@pytest.mark.parametrize("top", [(), (7,), (12, 5)])
def test_gradients_equal_autograd_s(top: tuple[int, ...], dense: int) -> None:
    model = schema(dense=dense, top=top)
    layout, module = DenseLayout(model), Dlrm(model)
    generator = np.random.default_rng(1)
    flat = layout.initial(1)
    module.load_flat(flat)
    rows = 23
    emb = generator.standard_normal((rows, 3, model.dim)).astype(np.float32)
    inputs = generator.standard_normal((rows, dense)).astype(np.float32)
    labels = generator.integers(0, 2, rows).astype(np.float32)
    weights = generator.uniform(0, 2, rows).astype(np.float32)

    tensor = torch.from_numpy(emb.copy()).requires_grad_()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        module(tensor, torch.from_numpy(inputs)), torch.from_numpy(labels), torch.from_numpy(weights), reduction="sum"
    )
    loss.backward()
    named = dict(module.named_parameters())
    expected = np.concatenate([named[e.name].grad.numpy().ravel() for e in layout.entries])

    shape = network_shape(layout)
    work, work_grad = (np.empty(rows * int(shape.starts[-1]), np.float32) for _ in range(2))
    logits, logit_grad = np.empty(rows, np.float32), np.empty(rows, np.float32)
    grad, emb_grad = np.full(layout.size, np.nan, np.float32), np.full_like(emb, np.nan)
    forward(shape, flat, emb, inputs, work, logits)
    logit_gradient(logits, labels, weights, logit_grad)
    backward(shape, flat, emb, inputs, work, work_grad, logit_grad, grad, emb_grad)
    np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(emb_grad, tensor.grad.numpy(), rtol=1e-4, atol=1e-5)


def test_logit_gradient_keeps_calm_at_extremes() -> None:
    logits = np.array([-1e4, -100, 0, 100, 1e4], np.float32)
    out = np.empty(5, np.float32)
    logit_gradient(logits, np.zeros(5, np.float32), np.ones(5, np.float32), out)
    np.testing.assert_allclose(out, [0, 0, 0.5, 1, 1], atol=1e-7)


def test_adagrad_equals_torch_s() -> None:
    generator = np.random.default_rng(2)
    flat = generator.standard_normal(100).astype(np.float32)
    accumulators = np.full(100, 0.3, np.float32)
    parameter = torch.nn.Parameter(torch.from_numpy(flat.copy()))
    optimizer = torch.optim.Adagrad([parameter], lr=0.05, initial_accumulator_value=0.3, eps=1e-5)
    for _ in range(5):
        grad = generator.standard_normal(100).astype(np.float32)
        parameter.grad = torch.from_numpy(grad)
        optimizer.step()
        adagrad(flat, accumulators, grad, 0.05, 1e-5)
    np.testing.assert_allclose(flat, parameter.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_adagrad_leaves_a_parameter_without_gradient_alone() -> None:
    flat = np.ones(3, np.float32)
    adagrad(flat, np.zeros(3, np.float32), np.zeros(3, np.float32), 0.1, 1e-8)
    assert np.array_equal(flat, np.ones(3, np.float32))
