"""One micro-batch through the learner by tiles: alone, shared among threads, and after parameters were restored."""

import numpy as np
import pytest

import stream_trainer.dense_learner
from model_contract.dense_layout import DenseLayout
from model_contract.errors import SchemaError
from stream_trainer.amx_dense import AmxDenseLearner, pays_in_fp32
from stream_trainer.dense_learner import DenseLearner
from stream_trainer.dense_state import DenseState
from stream_trainer.recipe import Recipe
from stream_trainer.train_step import Precision
from tests.stream_trainer.amx_cases import needs_amx
from tests.stream_trainer.test_dense_learner import inputs, learned
from tests.stream_trainer.train_cases import schema

pytestmark = needs_amx
RECIPE = Recipe(batch_size=80, dense_initial_accumulator=0.1)
LAYOUT = DenseLayout(schema(dense=3))
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


@pytest.mark.parametrize("rows", [80, 7, 1])
def test_learns_in_fp32_what_the_kernels_without_tiles_learn(rows: int) -> None:
    expected_state, state = (DenseState(LAYOUT, RECIPE, seed=1) for _ in range(2))
    without, with_tiles = DenseLearner(expected_state, RECIPE), AmxDenseLearner(state, RECIPE, "fp32")
    for seed in range(3):
        given = inputs(rows, seed)
        for found, right in zip(learned(with_tiles, given), learned(without, given), strict=True):
            np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.parameters, expected_state.parameters, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [80, 7, 1])
def test_learns_in_bf16_nearly_what_fp32_learns(rows: int) -> None:
    exact, rough = (DenseState(LAYOUT, RECIPE, seed=1) for _ in range(2))
    given = inputs(rows, seed=2)
    before = exact.parameters.copy()
    expected = learned(DenseLearner(exact, RECIPE), given)
    for found, right in zip(learned(AmxDenseLearner(rough, RECIPE, "bf16"), given), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=0.05, atol=0.05)
    moved, expected_move = rough.parameters - before, exact.parameters - before
    assert np.linalg.norm(moved - expected_move) < 0.1 * np.linalg.norm(expected_move)
    assert rough.parameters.dtype == np.float32


@pytest.mark.parametrize("rows", [80, 5, 1])
@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_threads_share_a_large_micro_batch(
    monkeypatch: pytest.MonkeyPatch, precision: Precision, threads: int, rows: int
) -> None:
    """Every sample is rounded alike wherever it is, so only the order of float32 sums differs."""
    monkeypatch.setattr(stream_trainer.dense_learner, "_WIDE_PRODUCTS", 0)
    alone, shared = (DenseState(LAYOUT, RECIPE, seed=1) for _ in range(2))
    one, many = (
        AmxDenseLearner(*given) for given in ((alone, RECIPE, precision, 1), (shared, RECIPE, precision, threads))
    )
    assert (one.parts, many.parts) == (1, threads)
    given = inputs(rows, 3)
    for found, expected in zip(learned(many, given), learned(one, given), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(shared.parameters, alone.parameters, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_same_input_gives_the_same_bits(precision: Precision) -> None:
    states = [DenseState(LAYOUT, RECIPE, seed=1) for _ in range(2)]
    for state in states:
        learner = AmxDenseLearner(state, RECIPE, precision)
        for seed in range(3):
            learned(learner, inputs(40, seed))
    assert np.array_equal(states[0].parameters, states[1].parameters)


def test_parameters_changed_from_outside_are_the_ones_used() -> None:
    state, fresh = (DenseState(LAYOUT, RECIPE, seed=seed) for seed in (1, 2))
    learner = AmxDenseLearner(state, RECIPE, "fp32")
    learned(learner, inputs(40, 0))
    state.restore(fresh.state())
    given = inputs(40, 1)
    found, expected = learned(learner, given), learned(AmxDenseLearner(fresh, RECIPE, "fp32"), given)
    assert np.array_equal(found[0], expected[0])


def test_a_linear_alignment_is_refused() -> None:
    with pytest.raises(SchemaError, match="align is 'linear'; expected 'zero_pad'"):
        AmxDenseLearner(DenseState(DenseLayout(schema(align="linear")), RECIPE, seed=1), RECIPE, "fp32")


def test_fp32_by_tiles_pays_from_many_products_on() -> None:
    wide = DenseLayout(schema(dense=3, top=(1024, 1024)))
    assert pays_in_fp32(128, wide)
    assert not pays_in_fp32(2, wide)
    assert not pays_in_fp32(128, LAYOUT)
    assert not pays_in_fp32(2048, DenseLayout(schema(dense=3, top=(1024, 1024), align="linear")))
