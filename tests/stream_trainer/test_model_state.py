"""Merging a base with deltas, against a plain dictionary that replays the same history."""

import msgspec
import numpy as np
import pytest

from embedding_table.table import RowsOfBlock, TableChanges
from stream_trainer.errors import StateError
from stream_trainer.model_state import Manifest, ModelState, merge_states

MANIFEST = Manifest(lineage="a", epoch=1, sequence=0, fingerprint="f", created_ms=1)


def rows_of(block: tuple[int, int], columns: list[int], rows: dict[int, tuple[np.ndarray, float]]) -> RowsOfBlock:
    ids = np.array(sorted(rows), np.uint64)
    values = np.array([rows[int(i)][0] for i in ids], np.float32).reshape(len(ids), len(columns))
    counts = np.array([rows[int(i)][1] for i in ids], np.float32)
    return RowsOfBlock(
        slot=block[0],
        band=block[1],
        columns=np.array(columns, np.uint16),
        ids=ids,
        values=values,
        accumulators=values.sum(1) if len(ids) else np.empty(0, np.float32),
        counts=counts,
        last_seen_s=ids.astype(np.uint32),
    )


def state(sequence: int, blocks: list[RowsOfBlock], erased: list[int], **manifest: object) -> ModelState:
    changes = TableChanges(blocks=tuple(blocks), erased_ids=np.array(erased, np.uint64))
    return ModelState(
        manifest=msgspec.structs.replace(MANIFEST, sequence=sequence, **manifest),
        rows=changes,
        arrays={"x": np.array([sequence])},
    )


def as_dictionary(merged: ModelState) -> dict[int, tuple[tuple[int, int], list[float], float]]:
    found = {}
    for block in merged.rows.blocks:
        for i, row_id in enumerate(block.ids.tolist()):
            assert row_id not in found
            full = np.zeros(4, np.float32)
            full[block.columns] = block.values[i]
            found[row_id] = ((block.slot, block.band), full.tolist(), float(block.counts[i]))
    return found


@pytest.mark.parametrize("seed", range(20))
def test_last_writer_wins_over_random_histories(seed: int) -> None:
    generator = np.random.default_rng(seed)
    columns = {(0, 0): [0, 1, 2, 3], (0, 1): [1, 3], (1, 0): [2]}
    expected: dict[int, tuple[tuple[int, int], list[float], float]] = {}
    states = []
    for sequence in range(6):
        factors = [0.5] * int(generator.integers(0, 3)) if sequence else []
        for row_id, (place, values, count) in expected.items():
            expected[row_id] = (place, values, count * 0.5 ** len(factors))
        erased = [i for i in expected if generator.random() < 0.3]
        for row_id in erased:
            del expected[row_id]
        written: dict[tuple[int, int], dict[int, tuple[np.ndarray, float]]] = {place: {} for place in columns}
        for row_id in generator.choice(40, 12, replace=False).tolist():
            place = list(columns)[int(generator.integers(0, 3))]
            values = generator.integers(1, 9, len(columns[place])).astype(np.float32)
            count = float(generator.integers(1, 9))
            written[place][row_id] = (values, count)
            full = np.zeros(4, np.float32)
            full[columns[place]] = values
            expected[row_id] = (place, full.tolist(), count)
        blocks = [rows_of(place, columns[place], written[place]) for place in columns if written[place]]
        states.append(state(sequence, blocks, erased, count_decays=tuple(factors)))

    merged = merge_states(states[0], states[1:], {})

    assert as_dictionary(merged) == expected, f"seed {seed}"
    assert merged.manifest.sequence == 5
    assert merged.manifest.count_decays == ()
    assert merged.arrays["x"].tolist() == [5]
    for block in merged.rows.blocks:
        assert np.all(np.diff(block.ids.astype(object)) > 0)


def test_rows_of_old_and_new_columns_lose_nothing() -> None:
    base = state(0, [rows_of((0, 0), [0, 2], {7: (np.array([1, 2]), 1), 9: (np.array([6, 7]), 1)})], [])
    delta = state(1, [rows_of((0, 0), [1, 2, 3], {8: (np.array([3, 4, 5]), 1), 9: (np.array([0, 7, 8]), 1)})], [])

    merged = as_dictionary(merge_states(base, [delta], {}))

    assert merged[7][1] == [1, 0, 2, 0]  # not moved yet
    assert merged[8][1] == [0, 3, 4, 5]
    assert merged[9][1] == [0, 0, 7, 8]  # moved: column 0 is gone


@pytest.mark.parametrize(
    "changed", [{"sequence": 2}, {"lineage": "b"}, {"fingerprint": "g"}], ids=["gap", "lineage", "schema"]
)
def test_a_state_that_does_not_follow_is_refused(changed: dict[str, object]) -> None:
    delta = state(1, [], [])
    foreign = ModelState(msgspec.structs.replace(delta.manifest, **changed), delta.rows, delta.arrays)

    with pytest.raises(StateError, match="does not follow"):
        merge_states(state(0, [], []), [foreign], {})
