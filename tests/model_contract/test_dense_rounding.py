"""Dense weights in 16 bits: what they round to, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_contract.dense_rounding import holds, narrowed, widened
from model_contract.errors import InvalidContent

TYPES = ("float32", "float16", "bfloat16")
TORCH = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), st.sampled_from(TYPES))
def test_values_are_rounded_as_torch_rounds_them(values: list[float], dtype: str) -> None:
    array = np.array(values, np.float32)
    expected = torch.from_numpy(array).to(TORCH.get(dtype, torch.float32)).float().numpy()
    assert holds(array, dtype) == np.isfinite(expected).all()
    if holds(array, dtype):
        np.testing.assert_array_equal(widened(narrowed("w", array, dtype), dtype), expected)


def test_halves_between_two_numbers_go_to_the_even_one() -> None:
    between = (np.arange(0x3F00, 0x4100, dtype=np.uint32) << 16 | 0x8000).view(np.float32)
    expected = torch.from_numpy(between).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(widened(narrowed("w", between, "bfloat16"), "bfloat16"), expected)


@given(st.lists(st.floats(-60_000, 60_000, width=32)), st.sampled_from(TYPES))
def test_narrowing_what_was_widened_changes_no_byte(values: list[float], dtype: str) -> None:
    sent = narrowed("w", np.array(values, np.float32), dtype)
    assert narrowed("w", widened(sent, dtype), dtype).tobytes() == sent.tobytes()
    assert sent.itemsize == (4 if dtype == "float32" else 2)


@pytest.mark.parametrize("dtype", TYPES[1:])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4e38])
def test_what_does_not_stay_finite_is_refused_by_name(value: float, dtype: str) -> None:
    with pytest.raises(InvalidContent, match=r"top\.0\.bias"):
        narrowed("top.0.bias", np.array([[1, value]], np.float32), dtype)
    assert not holds(np.array([value], np.float32), dtype)


def test_float32_is_sent_as_it_is() -> None:
    values = np.array([[1, np.inf]], np.float32)
    assert np.shares_memory(narrowed("w", values, "float32"), values)
    assert widened(values, "float32") is values
    assert not holds(values, "float32")


def test_shapes_stay() -> None:
    for shape in ((), (3,), (2, 3), (2, 1, 2)):
        values = np.asfortranarray(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
        for dtype in TYPES:
            np.testing.assert_array_equal(widened(narrowed("w", values, dtype), dtype), values)
