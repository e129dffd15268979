"""One micro-batch through the learner against the kernels it is made of, alone and shared among threads."""

import numpy as np
import pytest

import stream_trainer.dense_learner
from model_contract.dense_layout import DenseLayout
from model_contract.dlrm_forward import DenseNetwork
from stream_trainer.dense_learner import DenseLearner, gradients
from stream_trainer.dense_state import DenseState
from stream_trainer.dlrm_backward import adagrad
from stream_trainer.recipe import Recipe
from tests.stream_trainer.train_cases import schema

RECIPE = Recipe(batch_size=32)
MODEL = schema(dense=3)
LAYOUT = DenseLayout(MODEL)


def inputs(rows: int, seed: int) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(seed)
    return (
        generator.standard_normal((rows, 3, MODEL.dim), np.float32),
        generator.standard_normal((rows, 3), np.float32),
        generator.integers(0, 2, rows).astype(np.float32),
        generator.uniform(0, 2, rows).astype(np.float32),
    )


def learned(learner: DenseLearner, given: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
    emb = given[0]
    logits, emb_grad = np.full(len(emb), np.nan, np.float32), np.full_like(emb, np.nan)
    learner.learn(*given, logits, emb_grad)
    return logits, emb_grad


@pytest.mark.parametrize("rows", [32, 7, 1])
def test_predicts_then_learns(rows: int) -> None:
    state = DenseState(LAYOUT, RECIPE, seed=1)
    before, accumulators = state.parameters.copy(), state.accumulators.copy()
    given = inputs(rows, seed=2)
    learner = DenseLearner(state, RECIPE)
    logits, emb_grad = learned(learner, given)
    np.testing.assert_allclose(logits, DenseNetwork(MODEL).logits(before, *given[:2]), rtol=1e-5, atol=1e-6)
    expected_grad, space = np.empty_like(emb_grad), DenseLearner(state, RECIPE).spaces[0]
    gradients(learner.shape, before, space, given[0], expected_grad, *given[1:], np.empty(rows, np.float32))
    assert np.array_equal(emb_grad, expected_grad)
    adagrad(before, accumulators, space.grad, RECIPE.dense_rate, RECIPE.dense_eps)
    assert np.array_equal(state.parameters, before)
    assert np.array_equal(state.accumulators, accumulators)


@pytest.mark.parametrize("rows", [32, 5, 1])
@pytest.mark.parametrize("threads", [2, 5])
def test_threads_share_a_large_micro_batch(monkeypatch: pytest.MonkeyPatch, threads: int, rows: int) -> None:
    monkeypatch.setattr(stream_trainer.dense_learner, "_WIDE_PRODUCTS", 0)
    alone, shared = (DenseState(LAYOUT, RECIPE, seed=1) for _ in range(2))
    one, many = DenseLearner(alone, RECIPE, threads=1), DenseLearner(shared, RECIPE, threads=threads)
    assert len(many.spaces) == threads
    for seed in range(3):
        given = inputs(rows, seed)
        for found, expected in zip(learned(many, given), learned(one, given), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shared.parameters, alone.parameters, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shared.accumulators, alone.accumulators, rtol=1e-4, atol=1e-5)


def test_a_small_micro_batch_stays_on_one_core() -> None:
    assert len(DenseLearner(DenseState(LAYOUT, RECIPE, seed=1), RECIPE, threads=8).spaces) == 1
