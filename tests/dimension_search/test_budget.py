"""What columns cost and which widths are allowed."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimension_search.budget import DimensionBudget, bytes_taken
from dimension_search.errors import SearchError
from embedding_table.table_rows import BlockUse


def test_a_block_costs_its_columns_and_a_state_for_every_row() -> None:
    rows, widths = np.array([[10, 3]]), np.array([[2, 5]])

    assert DimensionBudget(0, 8).bytes_of(rows, widths).tolist() == [[10 * (8 + 4), 3 * (20 + 4)]]
    assert DimensionBudget(0, 8, row_state_bytes=0).bytes_of(rows, widths).tolist() == [[80, 60]]


def test_rows_without_columns_are_given_up_or_cost_their_state() -> None:
    rows, widths = np.array([7]), np.array([0])

    assert DimensionBudget(0, 8).bytes_of(rows, widths).tolist() == [0]
    assert DimensionBudget(0, 8, drop_cold=False).bytes_of(rows, widths).tolist() == [28]


@given(st.sets(st.integers(1, 64)).map(sorted).map(tuple), st.integers(0, 200), st.integers(0, 64))
def test_an_allowed_width_is_the_widest_step_below(steps: tuple[int, ...], wanted: int, floor: int) -> None:
    floor = min(floor, steps[-1]) if steps else floor
    budget = DimensionBudget(0, 64, floor=floor, steps=steps)
    choice = (0, *steps) if steps else range(65)

    assert budget.allowed(np.array([[wanted]])).tolist() == [[max(width for width in choice if width <= wanted)]]
    assert budget.least == (min(width for width in choice if width >= floor) if floor else 0)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"max_bytes": -1}, "max_bytes is -1"),
        ({"floor": 9}, "floor is 9: expected 0 to 8"),
        ({"floor": -1}, "floor is -1"),
        ({"steps": (4, 4)}, "steps are"),
        ({"steps": (0, 4)}, "steps are"),
        ({"steps": (4, 9)}, "expected ascending widths from 1 to 8"),
        ({"steps": (1, 4), "floor": 5}, "floor is 5: expected at most the widest step, 4"),
    ],
)
def test_what_cannot_be_planned_for_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(SearchError, match=told):
        DimensionBudget(**{"max_bytes": 1, "dim": 8} | wrong)


def test_what_a_table_takes_counts_the_state_of_rows_without_a_column() -> None:
    blocks = [BlockUse(0, 0, 8, 10, 65536), BlockUse(0, 1, 0, 3, 65536)]
    assert bytes_taken(blocks) == 10 * (4 * 8 + 4) + 3 * 4
