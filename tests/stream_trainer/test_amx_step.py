"""The whole step by tiles beside autograd in fp32, through the real table, in one call and shared among threads."""

import numpy as np
import pytest

import stream_trainer.dense_learner
import stream_trainer.fused_step
from stream_trainer.amx_step import AmxStep
from stream_trainer.autograd_step import AutogradStep
from stream_trainer.fused_step import FusedStep
from stream_trainer.recipe import Recipe
from stream_trainer.train_step import Precision
from tests.stream_trainer.amx_cases import needs_amx
from tests.stream_trainer.train_cases import NOW_S, Case, make_case, schema

pytestmark = needs_amx
RECIPE = Recipe(batch_size=32, init_scale=0.4, dense_eps=1e-6)
GENTLE = Recipe(batch_size=32, init_scale=0.4, dense_initial_accumulator=1e4, sparse_initial_accumulator=1e4)
"""Accumulators so large that a step is the gradient times a constant."""


TOLERANCE: dict[Precision, float] = {"fp32": 1e-5, "bf16": 0.1}
"""Length of a gradient's error over the gradient's."""


def trained(precision: Precision, case: Case) -> list[np.ndarray]:
    step = AmxStep(case.model, RECIPE, 7, precision)
    logits = [step.train(case.table, case.batch(75, seed), NOW_S) for seed in range(3)]
    return [np.concatenate(logits), step.parameters, np.asarray(step.state()["accumulators"]), case.values()]


@pytest.mark.parametrize("dense", [0, 4])
@pytest.mark.parametrize(("dim", "top"), [(6, (12, 5)), (16, (40,)), (3, ())])
@pytest.mark.parametrize("precision", TOLERANCE)
def test_gradients_are_those_of_autograd(precision: Precision, dim: int, top: tuple[int, ...], dense: int) -> None:
    model = schema(dense=dense, dim=dim, top=top)
    changes = []
    for step in (AmxStep(model, GENTLE, 7, precision), AutogradStep(model, GENTLE, 7)):
        case = make_case(model)
        before = case.values(), step.parameters.copy()
        logits = step.train(case.table, case.batch(32, 1), NOW_S)
        changes.append((logits, case.values() - before[0], (step.parameters - before[1]) * 1e3))
    for found, expected in zip(*changes, strict=True):
        assert np.linalg.norm(found - expected) < TOLERANCE[precision] * np.linalg.norm(expected)


@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-4), ("bf16", 0.1)])
def test_follows_autograd_over_several_batches(precision: Precision, near: float) -> None:
    recipe = Recipe(batch_size=32, init_scale=0.4, dense_initial_accumulator=1.0)  # else a first step is a mere sign
    exact, rough = make_case(schema(dense=3)), make_case(schema(dense=3))
    plain, step = AutogradStep(exact.model, recipe, 3), AmxStep(rough.model, recipe, 3, precision)
    for seed in range(4):
        batch = exact.batch(64, seed)
        expected, found = plain.train(exact.table, batch, NOW_S), step.train(rough.table, batch, NOW_S)
        assert np.abs(found - expected).mean() < near
    assert step.parameters.dtype == np.float32


@pytest.mark.parametrize("precision", TOLERANCE)
def test_wide_batches_through_the_table_s_own_calls_learn_the_same(
    monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    model = schema(dense=3)
    inside = trained(precision, make_case(model))
    monkeypatch.setattr(stream_trainer.fused_step, "_WIDE_FLOATS", 0)
    wide = trained(precision, make_case(model))
    for found, expected in zip(wide, inside, strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-4), ("bf16", 0.02)])
def test_samples_shared_among_threads_learn_the_same(
    monkeypatch: pytest.MonkeyPatch, precision: Precision, near: float
) -> None:
    model = schema(dense=3)
    alone = trained(precision, make_case(model))
    monkeypatch.setattr(stream_trainer.dense_learner, "_WIDE_PRODUCTS", 0)
    monkeypatch.setattr(stream_trainer.dense_learner, "available_threads", lambda: 3)
    shared, again = trained(precision, make_case(model)), trained(precision, make_case(model))
    for found, twice, expected in zip(shared, again, alone, strict=True):
        np.testing.assert_allclose(found, expected, rtol=near, atol=near)
        assert np.array_equal(found, twice)


def test_a_state_goes_on_in_the_other_precision() -> None:
    case = make_case(schema(dense=2))
    rough, exact = AmxStep(case.model, RECIPE, 1, "bf16"), FusedStep(case.model, RECIPE, 2)
    rough.train(case.table, case.batch(64, 1), NOW_S)
    exact.restore(rough.state())
    rough.restore(exact.state())
    assert np.array_equal(exact.parameters, rough.parameters)
