"""Turned columns: predictions stay, rows keep their columns, and what they say gathers in the first ones."""

from dataclasses import replace

import numpy as np
import pytest

from dimension_search.heat import HeatBands
from embedding_table.table import ABSENT, RowsOfBlock
from model_contract.dense_layout import DenseLayout
from stream_trainer.dimension_rules import DimensionRules
from stream_trainer.errors import StateError
from stream_trainer.learner import Learner
from stream_trainer.model_state import ModelState
from stream_trainer.process import make_learner
from stream_trainer.turned_columns import turned_state
from tests.integration.test_live_resize import settle
from tests.stream_trainer.samples import SCHEMA, samples, settings

DIM = 8
LINEAR = replace(SCHEMA, dim=DIM, align="linear")
LAYOUT = DenseLayout(LINEAR)
RULES = DimensionRules(heat=HeatBands((0.03, 0.5)), half_life_samples=2_000, search_every_samples=0)


def new() -> Learner:
    return make_learner(LINEAR, settings(admission="always"), None, RULES)


def taught(seed: int, *, narrow: bool, half_way: bool = False) -> Learner:
    """A model with rows in three bands; narrow ones in nested columns, half-way in the midst of a resize."""
    model = new()
    settle(model)
    generator = np.random.default_rng(seed)
    for now_s in range(20):
        model.learn(model.prepare(samples(generator, 300, LINEAR), now_s), now_s)
        if narrow and now_s == 10:
            chances = generator.random((len(LINEAR.sparse), 3, DIM)) < 0.6
            nested = np.logical_or.accumulate(chances, axis=1)
            nested[:, -1, 0] = True
            model.table.begin_resize([np.flatnonzero(c).astype(np.uint16) for c in nested.reshape(-1, DIM)])
            model.table.resize_some(30 if half_way else 1 << 20)
        if not model.table.resizing:
            model.tidy(now_s)
    return model


def restored(state: ModelState) -> Learner:
    model = new()
    model.restore(state)
    return model


def predictions(model: Learner) -> np.ndarray:
    batch = samples(np.random.default_rng(77), 128, LINEAR)
    bags = np.repeat(np.arange(len(batch.offsets) - 1), np.diff(batch.offsets))
    absent = model.table.find(batch.ids) == ABSENT  # a newborn row is random, and in other directions after a turn
    batch.ids[absent] = LINEAR.missing_ids[bags[absent] % len(LINEAR.sparse)]
    return model.step.train(model.table, model.prepare(batch, 20), 20)


@pytest.mark.parametrize(("narrow", "half_way"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("seed", range(3))
def test_predictions_stay_and_so_do_the_columns_of_every_row(seed: int, narrow: bool, half_way: bool) -> None:
    model = taught(seed, narrow=narrow, half_way=half_way)
    state = model.fresh_state(0)
    assert model.table.resizing == half_way
    turned = turned_state(state, LAYOUT)
    np.testing.assert_allclose(predictions(restored(turned)), predictions(restored(state)), rtol=1e-4, atol=1e-5)
    for old, new_ in zip(state.rows.blocks, turned.rows.blocks, strict=True):
        assert np.array_equal(old.columns, new_.columns)
        np.testing.assert_allclose(
            np.square(new_.values).sum(axis=1), np.square(old.values).sum(axis=1), rtol=1e-3, atol=1e-6
        )
    plain, other = restored(state), restored(turned)
    for one in (plain, other):  # what a resize under way cuts off is the same in both
        assert one.table.resizing == half_way
        while one.table.resizing:
            one.table.resize_some(1 << 20)
    np.testing.assert_allclose(predictions(other), predictions(plain), rtol=1e-4, atol=1e-5)


def second_moments(blocks: tuple[RowsOfBlock, ...], slot: int) -> np.ndarray:
    found = np.zeros((DIM, DIM))
    for block in blocks:
        if block.slot == slot:
            place = np.ix_(block.columns, block.columns)
            found[place] += (block.values * block.counts[:, None]).T.astype(np.float64) @ block.values
    return found


def test_what_rows_say_gathers_in_the_first_columns() -> None:
    state = taught(1, narrow=False).fresh_state(0)
    turned = turned_state(state, LAYOUT)
    for slot in range(len(LINEAR.sparse)):
        before, after = (second_moments(found.rows.blocks, slot) for found in (state, turned))
        diagonal = np.diag(after)
        assert np.all(np.diff(diagonal) <= 1e-5 * diagonal[0])
        assert np.abs(after - np.diag(diagonal)).max() < 1e-4 * diagonal[0]
        assert diagonal[0] > 1.2 * np.diag(before).max()


def test_a_search_forgets_what_it_knew_of_single_columns() -> None:
    model = taught(2, narrow=True)
    state = model.fresh_state(0)
    state.arrays["dimensions/spectrum"] = state.arrays["dimensions/squared"] = np.ones((3, 3, DIM))
    assert state.arrays["dimensions/running_first"].any()
    turned = turned_state(state, LAYOUT)
    assert not {"dimensions/spectrum", "dimensions/squared"} & turned.arrays.keys()
    assert not turned.arrays["dimensions/running_first"].any()
    assert np.array_equal(turned.arrays["dimensions/active"], state.arrays["dimensions/active"])


def test_without_an_alignment_it_is_refused() -> None:
    with pytest.raises(StateError, match="align is 'zero_pad', expected 'linear'"):
        turned_state(taught(0, narrow=False).fresh_state(0), DenseLayout(replace(LINEAR, align="zero_pad")))
