"""Gradients by tiles against the fp32 kernels, over groups and edges; weights packed part by part."""

import numpy as np
import pytest

from model_contract.dense_layout import DenseLayout
from model_contract.dlrm_kernels import network_shape
from stream_trainer.amx_network import amx_gradients, pack_weights
from stream_trainer.amx_space import GROUP_ROWS, new_amx_space, new_packed_weights, packed_places
from stream_trainer.dense_learner import DenseLearner, gradients
from stream_trainer.dense_state import DenseState
from stream_trainer.recipe import Recipe
from tests.stream_trainer.amx_cases import needs_amx
from tests.stream_trainer.train_cases import schema

pytestmark = needs_amx


def both_gradients(
    rows: int, dense: int, dim: int, top: tuple[int, ...], terms: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Logits, parameters' and rows' gradients: by tiles in so many terms, and by the fp32 kernels."""
    layout = DenseLayout(schema(dense=dense, dim=dim, top=top))
    recipe = Recipe(batch_size=max(rows, 1))
    state = DenseState(layout, recipe, seed=1)
    generator = np.random.default_rng(rows)
    emb = generator.standard_normal((rows, 3, dim), np.float32) * np.float32(0.5)
    given = (
        generator.standard_normal((rows, dense), np.float32),
        generator.integers(0, 2, rows).astype(np.float32),
        generator.uniform(0, 2, rows).astype(np.float32),
    )
    exact_space = DenseLearner(state, recipe, threads=1).spaces[0]
    shape = network_shape(layout)
    places = packed_places(shape, recipe.batch_size, terms)
    packed = new_packed_weights(places)
    for part in range(3):
        pack_weights(shape, places, state.parameters, packed, part, 3)
    space = new_amx_space(shape, places, layout.size, recipe.batch_size)
    for array in (space.grad, space.work, space.work_grad, exact_space.grad):
        array[:] = np.nan
    logits, exact_logits = np.empty(rows, np.float32), np.empty(rows, np.float32)
    emb_grad, exact_emb_grad = np.full_like(emb, np.nan), np.full_like(emb, np.nan)
    amx_gradients(shape, places, state.parameters, packed, space, emb, emb_grad, *given, logits)
    gradients(shape, state.parameters, exact_space, emb, exact_emb_grad, *given, exact_logits)
    return [(logits, exact_logits), (space.grad, exact_space.grad), (emb_grad, exact_emb_grad)]


def off(found: np.ndarray, expected: np.ndarray) -> float:
    """Length of the error over that of what is expected."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("rows", [1, 31, 32, 70, GROUP_ROWS + 33])
@pytest.mark.parametrize(("dense", "dim", "top"), [(3, 6, (12, 5)), (0, 16, (40, 33)), (5, 64, (100,))])
def test_one_term_is_near_the_fp32_kernels(rows: int, dense: int, dim: int, top: tuple[int, ...]) -> None:
    for found, expected in both_gradients(rows, dense, dim, top, terms=1):
        assert np.isfinite(found).all()
        assert off(found, expected) < 0.1  # a factor's rounding is up to 2^-9; a unit near zero may wake or sleep
        assert not np.array_equal(found, expected)


@pytest.mark.parametrize("rows", [1, 31, 32, 70, GROUP_ROWS + 33])
@pytest.mark.parametrize(("dense", "dim", "top"), [(3, 6, (12, 5)), (0, 16, (40, 33)), (5, 64, (100,))])
def test_three_terms_are_fp32(rows: int, dense: int, dim: int, top: tuple[int, ...]) -> None:
    for found, expected in both_gradients(rows, dense, dim, top, terms=3):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        assert off(found, expected) < 5e-6


@pytest.mark.parametrize("terms", [1, 3])
def test_a_network_without_hidden_layers_is_exact(terms: int) -> None:
    for found, expected in both_gradients(40, 0, 6, (), terms):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("terms", [1, 3])
def test_no_samples_have_no_gradient(terms: int) -> None:
    _, (grad, _), _ = both_gradients(0, 3, 6, (12, 5), terms)
    assert (grad == 0).all()


@pytest.mark.parametrize("terms", [1, 3])
def test_parts_pack_what_one_packs(terms: int) -> None:
    layout = DenseLayout(schema(dense=3, dim=40, top=(130, 70, 33)))
    shape = network_shape(layout)
    places = packed_places(shape, 8, terms)
    flat = layout.initial(1)
    alone = new_packed_weights(places)
    pack_weights(shape, places, flat, alone, 0, 1)
    for parts in (2, 3, 50):
        shared = new_packed_weights(places)
        for packed in shared:
            packed[:] = 0xFFFF
        for part in range(parts):
            pack_weights(shape, places, flat, shared, part, parts)
        for found, expected in zip(shared, alone, strict=True):
            assert np.array_equal(found, expected)
