"""How wide a young table is, and which columns are seeded so that grown ones can learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_trainer.column_growth import first_stage, seeded_columns, starting_width

SLOTS, BANDS, DIM = 4, 2, 6


@pytest.mark.parametrize(
    ("asked", "max_bytes", "width"),
    [
        (0, 0, 64),
        (32, 0, 32),
        (100, 0, 64),
        (32, 1 << 30, 32),
        (32, 4096 * (4 + 4 * 3), 3),
        (32, 4096 * (4 + 4 * 3) - 1, 2),
        (32, 1, 1),
        (0, 1, 64),
    ],
)
def test_a_young_table_is_as_wide_as_asked_but_keeps_to_the_budget(asked: int, max_bytes: int, width: int) -> None:
    assert starting_width(asked, 64, max_bytes) == width


def nested(seed: int, share: float) -> np.ndarray:
    generator = np.random.default_rng(seed)
    hot = generator.random((SLOTS, DIM)) < share
    return np.stack([hot & (generator.random((SLOTS, DIM)) < 0.5), hot], axis=1)


@given(st.integers(0, 10_000), st.lists(st.integers(0, 9), min_size=SLOTS, max_size=SLOTS))
def test_every_column_that_is_new_to_all_and_wanted_by_several_is_seeded_in_the_largest(
    seed: int, rows: list[int]
) -> None:
    active, wanted = nested(seed, 0.2), nested(seed + 1, 0.6)
    seeded = seeded_columns(active, wanted, np.array(rows))

    for column in range(DIM):
        takers = [slot for slot in range(SLOTS) if wanted[slot, :, column].any()]
        chosen = [slot for slot in range(SLOTS) if column in seeded[slot]]
        if active[:, :, column].any() or len(takers) < 2:
            assert chosen == []
        else:
            assert len(chosen) == 1
            assert chosen[0] in takers
            assert rows[chosen[0]] == max(rows[slot] for slot in takers)


@given(st.integers(0, 10_000))
def test_in_the_first_stage_only_the_seeded_slot_has_a_seeded_column(seed: int) -> None:
    active, wanted = nested(seed, 0.2), nested(seed + 1, 0.6)
    seeded = seeded_columns(active, wanted, np.arange(SLOTS))
    stage = first_stage(active, wanted, seeded)

    for slot, columns in enumerate(seeded):
        np.testing.assert_array_equal(stage[slot][:, columns], wanted[slot][:, columns])
        others = np.delete(stage, slot, axis=0)
        assert not others[:, :, columns].any()
    everywhere = sorted(column for columns in seeded for column in columns)
    rest = [column for column in range(DIM) if column not in everywhere]
    np.testing.assert_array_equal(stage[:, :, rest], (active & wanted)[:, :, rest])
    assert (stage[:, 0] <= stage[:, 1]).all()  # still nested
