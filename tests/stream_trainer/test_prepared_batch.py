"""A prepared batch knows its length."""

import pytest

from tests.stream_trainer.train_cases import make_case, schema


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_rows(rows: int) -> None:
    batch = make_case(schema()).batch(rows, seed=1)
    assert batch.rows == rows
    assert len(batch.offsets) == rows * 3 + 1
