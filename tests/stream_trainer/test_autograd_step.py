"""One step against the definition: torch's own optimizer on the dense side, the formula of row-wise Adagrad on rows."""

import numpy as np
import pytest
import torch

from model_contract.dlrm import Dlrm
from stream_trainer.autograd_step import AutogradStep
from stream_trainer.recipe import Recipe
from tests.stream_trainer.train_cases import NOW_S, make_case, schema

RECIPE = Recipe(batch_size=32, init_scale=0.4, sparse_rate=0.07, sparse_decay=0.7, dense_rate=0.03, dense_eps=1e-6)


def test_two_micro_batches_follow_the_formulas() -> None:
    """Every row is looked up by two samples of one slot at most, so that the test can sum by hand."""
    case = make_case(schema(dense=3, multi=False), rows_per_slot=15)
    step = AutogradStep(case.model, RECIPE, seed=3)
    module = Dlrm(case.model)
    module.load_flat(step.parameters)
    optimizer = torch.optim.Adagrad(module.parameters(), lr=0.03, eps=1e-6)
    handles = np.concatenate(case.rows_by_slot)
    place = {int(handle): row for row, handle in enumerate(handles)}
    rows = torch.from_numpy(case.values()).requires_grad_()
    accumulators = torch.full((len(handles),), RECIPE.sparse_initial_accumulator)
    for seed in (1, 2):
        batch = case.batch(32, seed)
        logits = step.train(case.table, batch, NOW_S)
        looked_up = torch.tensor([place[int(handle)] for handle in batch.handles]).view(32, 3)
        predicted = module(rows[looked_up], torch.from_numpy(batch.dense))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            predicted, torch.from_numpy(batch.labels), torch.from_numpy(batch.weights), reduction="sum"
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        grad = rows.grad
        assert grad is not None
        touched = grad.square().sum(dim=1) > 0
        accumulators[touched] *= RECIPE.sparse_decay
        accumulators += grad.square().mean(dim=1)
        with torch.no_grad():
            rows -= 0.07 * grad / (accumulators.sqrt() + RECIPE.sparse_eps).unsqueeze(1)
        rows.grad = None
        np.testing.assert_allclose(logits, predicted.detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(case.values(), rows.detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(step.parameters, module.flat(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dense", [0, 3])
def test_bf16_stays_near_fp32(dense: int) -> None:
    exact, rough = make_case(schema(dense=dense)), make_case(schema(dense=dense))
    fp32 = AutogradStep(exact.model, RECIPE, seed=3)
    bf16 = AutogradStep(rough.model, RECIPE, seed=3, precision="bf16")
    for seed in range(4):
        batch = exact.batch(64, seed)
        expected = fp32.train(exact.table, batch, NOW_S)
        found = bf16.train(rough.table, batch, NOW_S)
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() < 0.15
    assert not np.array_equal(fp32.parameters, bf16.parameters)
    assert bf16.parameters.dtype == np.float32
