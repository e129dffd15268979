"""Both vectors stay the same arrays; copies are copies."""

import numpy as np

from model_contract.dense_layout import DenseLayout
from stream_trainer.dense_state import DenseState
from stream_trainer.recipe import Recipe
from tests.stream_trainer.train_cases import schema


def test_starts_as_the_layout_and_the_recipe_say() -> None:
    layout = DenseLayout(schema())
    state = DenseState(layout, Recipe(dense_initial_accumulator=0.25), seed=4)
    assert np.array_equal(state.parameters, layout.initial(4))
    assert np.array_equal(state.accumulators, np.full(layout.size, 0.25, np.float32))


def test_a_state_is_a_copy_and_restoring_writes_in_place() -> None:
    layout = DenseLayout(schema())
    state = DenseState(layout, Recipe(), seed=4)
    held = state.parameters
    taken = state.state()
    held += 1
    assert np.array_equal(taken["parameters"], layout.initial(4))
    state.restore(taken)
    assert state.parameters is held
    assert np.array_equal(held, layout.initial(4))
