"""Both vectors stay the same arrays; copies are copies."""

import numpy as np
import pytest

from model_contract.dense_layout import DenseLayout
from stream_trainer.dense_state import DenseState, initial_accumulators
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


@pytest.mark.parametrize("top", [(), (12, 5)])
def test_a_first_layer_that_starts_anew_leaves_everything_else_alone(top: tuple[int, ...]) -> None:
    layout = DenseLayout(schema(dense=2, top=top, align="linear"))
    state = DenseState(layout, Recipe(dense_initial_accumulator=0.25), seed=4)
    fresh = state.state()
    np.add(state.parameters, 1, out=state.parameters)
    np.add(state.accumulators, 1, out=state.accumulators)
    moved = state.state()
    state.restart_first_layer()
    for entry in layout.entries:
        place = slice(entry.offset, entry.offset + entry.size)
        expected = fresh if entry.name.startswith("top.0.") else moved
        assert np.array_equal(state.parameters[place], expected["parameters"][place])
        assert np.array_equal(state.accumulators[place], expected["accumulators"][place])


def test_an_alignment_s_accumulators_start_apart() -> None:
    layout = DenseLayout(schema(align="linear"))
    found = initial_accumulators(layout, Recipe(dense_initial_accumulator=0.25, align_initial_accumulator=2.0))
    assert layout.align
    assert np.all(found[: layout.align.weight] == 0.25)
    assert np.all(found[layout.align.weight : layout.learned] == 2)
