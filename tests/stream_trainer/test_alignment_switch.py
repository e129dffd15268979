"""A state of zero_pad goes on under a linear alignment and predicts the same; the way back is refused."""

from dataclasses import replace

import numpy as np
import pytest

from stream_trainer.alignment_switch import aligned_state
from stream_trainer.errors import StateError
from stream_trainer.learner import Learner
from stream_trainer.recipe import Recipe
from tests.stream_trainer.samples import SCHEMA, learner, samples

LINEAR = replace(SCHEMA, align="linear")
RECIPE = Recipe()


def taught(schema: object = SCHEMA) -> Learner:
    model = learner(schema, admission="always")  # type: ignore[arg-type]
    generator = np.random.default_rng(2)
    model.fresh_state(0)
    for _ in range(6):
        model.learn(model.prepare(samples(generator, 300), 10), 10)
    return model


def predictions(model: Learner) -> np.ndarray:
    batch = samples(np.random.default_rng(77), 128)
    return model.step.train(model.table, model.prepare(batch, 11), 11)


def test_a_running_model_goes_over_without_changing_a_prediction() -> None:
    old = taught()
    state = old.fresh_state(0)
    switched = aligned_state(state, LINEAR, RECIPE)
    new = learner(LINEAR, admission="always")
    new.restore(switched)

    assert switched.manifest.fingerprint == LINEAR.fingerprint
    assert switched.manifest.lineage != state.manifest.lineage
    assert switched.manifest.sequence == state.manifest.sequence
    assert new.counts == old.counts
    before, after = predictions(old), predictions(new)
    assert np.array_equal(before, after)
    assert not np.array_equal(predictions(old), predictions(new))  # and then it learns

    again = learner(LINEAR, admission="always")
    again.restore(new.fresh_state(0))  # from its own state it goes on as itself
    assert np.array_equal(again.step.parameters, new.step.parameters)


def test_what_needs_no_switch_is_left_alone() -> None:
    state = taught().fresh_state(0)
    other = replace(LINEAR, top=(9,))
    assert aligned_state(state, SCHEMA, RECIPE) is state
    assert aligned_state(state, other, RECIPE) is state
    assert aligned_state(state, replace(other, align="zero_pad"), RECIPE) is state
    linear = taught(LINEAR).fresh_state(0)
    assert aligned_state(linear, LINEAR, RECIPE) is linear


def test_the_way_back_is_refused() -> None:
    state = taught(LINEAR).fresh_state(0)
    with pytest.raises(StateError, match="align = 'linear'.*cannot be taken back"):
        aligned_state(state, SCHEMA, RECIPE)


def test_the_new_accumulators_start_where_the_recipe_says() -> None:
    recipe = Recipe(align_initial_accumulator=3.5)
    switched = aligned_state(taught().fresh_state(0), LINEAR, recipe)
    layout = learner(LINEAR).step.layout
    assert layout.align
    found = switched.arrays["step/accumulators"]
    assert found.shape == (layout.size,)
    assert np.all(found[layout.align.weight : layout.learned] == np.float32(3.5))
