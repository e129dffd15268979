"""The model in memory: cuts that add up to the live state, restores that go on as if nothing had happened."""

import msgspec
import numpy as np
import pytest

import stream_trainer.learner
from stream_trainer.errors import StateError
from stream_trainer.learner import Learner
from stream_trainer.model_state import ModelState, merge_states, settle_rows
from tests.stream_trainer.samples import SCHEMA, learner, samples
from tests.stream_trainer.states import assert_equal_arrays


def teach(model: Learner, generator: np.random.Generator, batches: int, now_s: int = 10) -> None:
    for _ in range(batches):
        model.learn(model.prepare(samples(generator, 97), now_s), now_s)


def complete(model: Learner, like: ModelState) -> dict[str, np.ndarray]:
    """Everything that a model holds, by name; rows by id."""
    found = {f"arrays/{name}": values for name, values in model._arrays().items()}
    found |= {f"admission/{name}": values for name, values in model.admission.state().items()}
    for block in model.table.all_rows().blocks:
        order = np.argsort(block.ids)
        for name in ("columns", "ids", "values", "accumulators", "counts", "last_seen_s"):
            values = getattr(block, name)
            found[f"rows/{block.slot}/{name}"] = values if name == "columns" else values[order]
    return found


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    assert left.keys() == right.keys()
    for name, values in left.items():
        assert_equal_arrays(values, right[name])


@pytest.mark.parametrize("seed", range(3))
def test_base_and_deltas_restore_bit_equal_and_go_on_alike(seed: int) -> None:
    generator = np.random.default_rng(seed)
    # a budget that overflows and a short half-life: rows are evicted and counts decay between the cuts
    options = {"memory_bytes": 1 << 20, "count_half_life_s": 64.0, "admission_threshold": 1, "seed": seed}
    live = learner(**options)
    base = live.fresh_state(10_000)
    deltas = []
    for cut in range(4):
        now_s = 10 + 20 * cut
        teach(live, generator, 5, now_s)
        live.table.erase(live.table.live_rows().handles[::7])
        live.make_room(now_s)
        sequence = cut + 1
        manifest = type(base.manifest)(
            lineage=base.manifest.lineage,
            epoch=0,
            sequence=sequence,
            fingerprint=SCHEMA.fingerprint,
            created_ms=sequence,
        )
        deltas.append(live.take_cut(manifest))
    assert any(delta.manifest.count_decays for delta in deltas)
    assert any(delta.rows.erased_ids.size for delta in deltas)

    admission = live.merge_admission(base.admission, [delta.admission_pages for delta in deltas])
    restored = learner(**options)
    restored.restore(merge_states(base, deltas, admission))

    assert_same(complete(restored, base), complete(live, base))
    assert restored.counts == live.counts
    again = np.random.default_rng(seed + 100)
    teach(live, again, 5, 100)
    again = np.random.default_rng(seed + 100)
    teach(restored, again, 5, 100)
    assert_same(complete(restored, base), complete(live, base))


def test_a_cut_holds_what_changed_since_the_last_and_nothing_else() -> None:
    model = learner(admission="always")
    base = model.fresh_state(0)
    generator = np.random.default_rng(0)
    teach(model, generator, 3)
    first = model.take_cut(base.manifest)
    quiet = model.take_cut(base.manifest)
    teach(model, generator, 1)
    second = model.take_cut(base.manifest)

    assert first.rows.rows == model.table.rows or first.rows.rows > second.rows.rows > 0
    assert quiet.rows.rows == 0
    assert first.manifest.samples_trained == 3 * 97
    assert second.manifest.samples_trained == 4 * 97
    assert np.isfinite(list(second.manifest.metrics.values())).all()


def test_it_learns_what_there_is_to_learn() -> None:
    model = learner(admission="always")
    generator = np.random.default_rng(0)
    teach(model, generator, 150)

    assert model.metrics.summary()["window_auc"] > 0.85


def test_the_budget_holds_while_new_ids_keep_coming() -> None:
    model = learner(admission="always", memory_bytes=1 << 20)
    generator = np.random.default_rng(0)
    evicted = 0
    for round_ in range(60):
        batch = samples(generator, 500)
        batch.ids[:] = batch.ids + np.uint64(10_000_000) * np.uint64(round_)
        model.learn(model.prepare(batch, round_), round_)
        if model.needs_quiet:
            evicted += model.make_room(round_)
        assert model.table.bytes_used <= model.table.budget_bytes
    assert evicted > 0
    assert model.counts.evicted_rows == evicted


def test_rows_past_their_age_go_though_there_is_room() -> None:
    model = learner(admission="always", eviction="age", max_age_s=100)
    generator = np.random.default_rng(0)
    teach(model, generator, 3, now_s=1000)
    rows = model.table.rows

    assert model.make_room(1050) == 0
    assert model.make_room(1101 + 60) == rows - len(SCHEMA.sparse)
    assert model.table.rows == len(SCHEMA.sparse)


def test_the_sketch_is_part_of_the_budget() -> None:
    model = learner(memory_bytes=4 << 20, admission_bytes=1 << 20)

    assert model.table.budget_bytes + model.admission.memory_bytes == 4 << 20


def test_a_state_of_another_model_is_refused_with_both_fingerprints() -> None:
    model = learner()
    state = model.fresh_state(0)
    other = type(SCHEMA)(SCHEMA.name, SCHEMA.sparse, SCHEMA.dense, dim=8, bottom=(6,), top=(8,))

    with pytest.raises(StateError, match=f"{SCHEMA.fingerprint}.*{other.fingerprint}"):
        learner(other).restore(state)


def cuts_of(live: Learner, base: ModelState, generator: np.random.Generator, count: int) -> list[ModelState]:
    deltas = []
    for sequence in range(1, count + 1):
        teach(live, generator, 4, 10 * sequence)
        while live.copy_ahead():
            teach(live, generator, 1, 10 * sequence + 1)
            live.make_room(10 * sequence + 5)  # counts decay between two slices
        deltas.append(live.take_cut(msgspec.structs.replace(base.manifest, sequence=sequence)))
    return deltas


@pytest.mark.parametrize("seed", range(3))
def test_a_cut_copied_in_slices_restores_bit_equal(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_trainer.learner, "COPIED_AT_ONCE_ROWS", 30)
    options = {"admission": "always", "count_half_life_s": 64.0, "seed": seed}
    live = learner(**options)
    base = live.fresh_state(10_000)
    deltas = cuts_of(live, base, np.random.default_rng(seed), 4)
    assert all(delta.early for delta in deltas)
    assert any(delta.manifest.count_decays for delta in deltas)

    whole = [settle_rows(delta) for delta in deltas]
    restored = learner(**options)
    admission = live.merge_admission(base.admission, [delta.admission_pages for delta in whole])
    restored.restore(merge_states(base, whole, admission))
    assert_same(complete(restored, base), complete(live, base))


def test_copying_ahead_gives_up_on_a_stream_that_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_trainer.learner, "COPIED_AT_ONCE_ROWS", 5)
    model = learner(admission="always")
    model.fresh_state(0)
    generator = np.random.default_rng(0)
    slices = 0
    teach(model, generator, 1)
    while model.copy_ahead():
        teach(model, generator, 1)  # changes far more than five rows
        slices += 1
    assert 1 < slices <= 2 * model.table.rows / 5 + 2
    assert not model.copy_ahead()
    model.take_cut(model.fresh_state(0).manifest)
    teach(model, generator, 1)
    assert model.copy_ahead()


@pytest.mark.parametrize("eviction", ["least_frequent", "age"])
def test_among_equals_the_restored_evicts_the_same_rows(eviction: str) -> None:
    options = {"admission": "always", "memory_bytes": 1 << 20, "eviction": eviction, "max_age_s": 50}
    live = learner(**options)
    base = live.fresh_state(0)
    generator = np.random.default_rng(0)

    for number in range(1, 90):
        now_s = number // 6  # ids of several batches, in no order of their own, are of one second
        batch = samples(generator, 500)
        batch.ids[:] = batch.ids * np.uint64(0x9E3779B97F4A7C15 * number % (1 << 64))
        live.learn(live.prepare(batch, now_s), now_s)
        live.make_room(now_s)
    delta = live.take_cut(msgspec.structs.replace(base.manifest, sequence=1))
    restored = learner(**options)
    restored.restore(merge_states(base, [delta], live.merge_admission(base.admission, [delta.admission_pages])))
    assert live.counts.evicted_rows > 0
    for needed in (1, 100, 1000):  # how many are needed follows memory, which the index's growth is part of
        gone = []
        for model in (live, restored):
            rows = model.table.live_rows()
            gone.append(np.sort(model.table.erase(model.eviction.select(rows, needed, 60))).tolist())
        assert gone[0] == gone[1]
        assert len(gone[0]) >= needed
    assert_same(complete(restored, base), complete(live, base))
