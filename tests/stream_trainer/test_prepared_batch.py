"""A prepared batch knows its length."""

import numpy as np
import pytest

from tests.stream_trainer.train_cases import make_case, schema


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_rows(rows: int) -> None:
    batch = make_case(schema()).batch(rows, seed=1)
    assert batch.rows == rows
    assert len(batch.offsets) == rows * 3 + 1


@pytest.mark.parametrize("rows", [0, 1, 4, 9, 12])
def test_the_first_samples_are_a_batch_of_their_own(rows: int) -> None:
    batch = make_case(schema()).batch(9, seed=1)
    head = batch.first(rows)

    assert head.rows == min(rows, 9)
    assert len(head.offsets) == head.rows * 3 + 1
    assert len(head.handles) == head.offsets[-1]
    np.testing.assert_array_equal(head.handles, batch.handles[: len(head.handles)])
    for name in ("dense", "labels", "weights"):
        np.testing.assert_array_equal(getattr(head, name), getattr(batch, name)[:rows])
