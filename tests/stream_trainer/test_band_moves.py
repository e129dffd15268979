"""Rows between bands as they grow hot or cold, and what goes where there are too many."""

import numpy as np

from stream_trainer.band_moves import BandMoves
from stream_trainer.stream_heat import StreamHeat
from tests.stream_trainer.test_dimension_keeper import BANDS, EVERYTHING, ROWS, Run, rows_by_id, rules_with


def test_rows_cross_bands_both_ways() -> None:
    run = Run(rules_with(heat=BANDS, half_life_samples=2 * ROWS, search_every_samples=0, drop_cold=False))
    run.learn(3)
    bands = run.model.table.bands
    born = {id_: block % bands for id_, (block, _, _) in rows_by_id(run).items()}
    assert set(born.values()) == {bands - 1}  # seen just now, all of them
    run.model.table.take_changes()  # so that rows which are not used again are no changed ones: others in turn
    run.learn(14, ids=20)
    cooled = {id_: block % bands for id_, (block, _, _) in rows_by_id(run).items()}
    rare = [id_ for id_ in born if 1000 < id_ < 4000 and 20 < id_ % 1000 < 200]
    assert len(rare) > 20
    assert {cooled[id_] for id_ in rare} == {0, 1}

    batch = run.batch()
    batch.ids[:] = np.resize(np.array(rare, np.uint64), batch.ids.size)
    run.model.learn(run.model.prepare(batch, run.now_s), run.now_s)
    run.model.tidy(run.now_s, EVERYTHING)
    again = {id_: block % bands for id_, (block, _, _) in rows_by_id(run).items()}
    assert {again[id_] for id_ in rare} == {bands - 1}


def test_changed_rows_take_turns_where_there_are_more_than_a_quiet_moment_has_time_for() -> None:
    run = Run(rules_with(heat=BANDS, search_every_samples=0))
    run.learn(2, tidy=False)
    changed = run.model.table.changed_rows().handles
    most = -(-changed.size // 3)
    moves = BandMoves(run.model.table, StreamHeat(BANDS, 0), drop_cold=True)

    seen = np.concatenate([moves._some_changed_rows(most).handles for _ in range(3)])
    assert most < changed.size
    assert sorted(seen.tolist()) == sorted(changed.tolist())
    assert moves._some_changed_rows(most).handles.tolist() == changed[:most].tolist()
    assert moves._some_changed_rows(changed.size).handles.size == changed.size - most
    assert moves._some_changed_rows(changed.size).handles.size == changed.size


def test_the_budget_in_bytes_holds_between_plans() -> None:
    limit = 30_000
    rules = rules_with(heat=BANDS, half_life_samples=8 * ROWS, max_bytes=limit, one_shot=True)
    run = Run(rules)
    run.learn(8, ids=100)
    assert run.keeper.searches == 1
    assert run.keeper.fitted
    searches, given_up = run.keeper.searches, 0
    for round_ in range(30):
        batch = run.batch(ids=400)
        batch.ids[ROWS:] += np.uint64(10_000_000) * np.uint64(round_ + 1)
        run.now_s += 1
        run.model.learn(run.model.prepare(batch, run.now_s), run.now_s)
        given_up += run.keeper.needs_quiet
        run.model.tidy(run.now_s)
        assert run.keeper.bytes_planned <= limit
        assert not run.keeper.needs_quiet
    assert given_up > 5
    assert run.keeper.searches == searches
    hot = {id_ for id_ in rows_by_id(run) if id_ < 5000}
    assert {1001, 1002, 1003} <= hot  # looked up all the time


def test_one_band_needs_no_sorting() -> None:
    run = Run(rules_with(search_every_samples=0))
    run.learn(2, tidy=False)
    assert run.model.table.bands == 1
    assert BandMoves(run.model.table, StreamHeat(run.keeper.rules.heat, 0), drop_cold=True).sort(run.now_s, 10) == 0
