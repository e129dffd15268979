"""Laws of every train step: predict before learning, cuts of a batch, empty batches, states."""

from collections.abc import Callable

import numpy as np
import pytest

from model_contract.dlrm_forward import DenseNetwork
from model_contract.schema import ModelSchema
from stream_trainer.amx_step import AmxStep
from stream_trainer.amx_support import amx_is_usable
from stream_trainer.autograd_step import AutogradStep
from stream_trainer.errors import StateError
from stream_trainer.fused_step import FusedStep
from stream_trainer.prepared_batch import PreparedBatch
from stream_trainer.recipe import Recipe
from stream_trainer.train_step import TrainStep
from tests.stream_trainer.train_cases import NOW_S, Case, make_case, schema

RECIPE = Recipe(batch_size=16, init_scale=0.4)

NewStep = Callable[[ModelSchema, Recipe, int], TrainStep]


@pytest.fixture(params=["fused", "autograd", "tiles", "tiles bf16", "autograd bf16"])
def new_step(request: pytest.FixtureRequest) -> NewStep:
    if "tiles" in request.param and not amx_is_usable():
        pytest.skip("this machine has no AMX for bfloat16, or does not lend it")
    makers: dict[str, NewStep] = {
        "fused": FusedStep,
        "autograd": AutogradStep,
        "tiles": lambda model, recipe, seed: AmxStep(model, recipe, seed, "fp32"),
        "tiles bf16": lambda model, recipe, seed: AmxStep(model, recipe, seed, "bf16"),
        "autograd bf16": lambda model, recipe, seed: AutogradStep(model, recipe, seed, "bf16"),
    }
    return makers[request.param]


def pooled(case: Case, batch: PreparedBatch) -> np.ndarray:
    """(B, F, D) by a plain loop."""
    rows, slots = batch.rows, len(case.model.sparse)
    everything = dict(zip(np.concatenate(case.rows_by_slot).tolist(), case.values(), strict=True))
    out = np.zeros((rows, slots, case.model.dim), np.float32)
    for bag in range(rows * slots):
        members = batch.handles[batch.offsets[bag] : batch.offsets[bag + 1]]
        total = sum(everything[int(handle)] for handle in members)
        mean = case.model.sparse[bag % slots].pooling == "mean"
        out[bag // slots, bag % slots] = total / len(members) if mean else total
    return out


def test_predicts_before_it_learns(new_step: NewStep, request: pytest.FixtureRequest) -> None:
    case = make_case(schema(dense=3))
    step = new_step(case.model, RECIPE, 1)
    batch = case.batch(16, seed=2)
    expected = DenseNetwork(case.model).logits(step.parameters.copy(), pooled(case, batch), batch.dense)
    tolerance = 0.05 if "bf16" in request.node.callspec.id else 1e-5
    np.testing.assert_allclose(step.train(case.table, batch, NOW_S), expected, rtol=tolerance, atol=tolerance)


def test_a_batch_is_its_micro_batches(new_step: NewStep) -> None:
    """Two calls, cut at a micro-batch's border, are one call."""
    together, apart = make_case(schema(dense=2)), make_case(schema(dense=2))
    one, two = new_step(together.model, RECIPE, 1), new_step(apart.model, RECIPE, 1)
    batch = together.batch(41, seed=3)
    logits = one.train(together.table, batch, NOW_S)
    border = int(batch.offsets[32 * 3])
    first = PreparedBatch(
        batch.handles[:border], batch.offsets[: 32 * 3 + 1], batch.dense[:32], batch.labels[:32], batch.weights[:32]
    )
    rest = PreparedBatch(
        batch.handles[border:],
        batch.offsets[32 * 3 :] - border,
        batch.dense[32:],
        batch.labels[32:],
        batch.weights[32:],
    )
    parts = [two.train(apart.table, part, NOW_S) for part in (first, rest)]
    assert np.array_equal(logits, np.concatenate(parts))
    assert np.array_equal(one.parameters, two.parameters)
    assert np.array_equal(together.values(), apart.values())


def test_an_empty_batch_changes_nothing(new_step: NewStep) -> None:
    case = make_case(schema(dense=2))
    step = new_step(case.model, RECIPE, 1)
    before = case.values(), step.parameters.copy()
    assert step.train(case.table, case.batch(0, seed=0), NOW_S).shape == (0,)
    assert np.array_equal(case.values(), before[0])
    assert np.array_equal(step.parameters, before[1])


def test_a_sample_of_no_weight_teaches_nothing(new_step: NewStep) -> None:
    case = make_case(schema(dense=2))
    step = new_step(case.model, RECIPE, 1)
    before = case.values(), step.parameters.copy()
    batch = case.batch(20, seed=4)
    batch.weights[:] = 0
    step.train(case.table, batch, NOW_S)
    assert np.array_equal(case.values(), before[0])
    assert np.array_equal(step.parameters, before[1])


def test_learns_what_can_be_learned(new_step: NewStep) -> None:
    """The label is the first slot's row number: in a few passes the loss falls far below chance."""
    case = make_case(schema(multi=False))
    step = new_step(case.model, RECIPE, 1)
    losses = []
    for seed in range(60):
        batch = case.batch(64, seed)
        batch.labels[:] = np.isin(batch.handles[::3], case.rows_by_slot[0][:10])
        logits = step.train(case.table, batch, NOW_S).astype(np.float64)
        losses.append(float(np.mean(np.logaddexp(0, logits) - batch.labels * logits)))
    assert losses[0] == pytest.approx(np.log(2), abs=0.15)
    assert np.mean(losses[-5:]) < 0.15


def test_a_restored_step_continues_bit_equal(new_step: NewStep) -> None:
    case, twin = make_case(schema(dense=2)), make_case(schema(dense=2))
    step, lost = new_step(case.model, RECIPE, 1), new_step(twin.model, RECIPE, 1)
    first, second = case.batch(40, seed=5), case.batch(40, seed=6)
    step.train(case.table, first, NOW_S)
    lost.train(twin.table, first, NOW_S)
    taken = lost.state()
    restored = new_step(twin.model, RECIPE, 99)
    restored.restore(taken)
    lost.train(make_case(twin.model).table, second, NOW_S)  # what it learns now is not in the state taken before
    expected = step.train(case.table, second, NOW_S)
    assert np.array_equal(restored.train(twin.table, second, NOW_S), expected)
    assert np.array_equal(restored.parameters, step.parameters)
    assert np.array_equal(twin.values(), case.values())


def test_a_foreign_state_is_refused(new_step: NewStep) -> None:
    model = schema()
    step = new_step(model, RECIPE, 1)
    state = step.state()
    before = step.parameters.copy()
    other = new_step(schema(top=(13, 5)), RECIPE, 1).state()
    with pytest.raises(StateError, match="parameters"):
        step.restore(other)
    with pytest.raises(StateError, match="accumulators is nothing"):
        step.restore({"parameters": state["parameters"] * 2})
    assert np.array_equal(step.parameters, before)
