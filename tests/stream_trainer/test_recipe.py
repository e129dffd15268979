"""Numbers that cannot train are refused by name."""

import pytest

from stream_trainer.errors import RecipeError
from stream_trainer.recipe import Recipe


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("sparse_rate", -0.1),
        ("dense_rate", float("nan")),
        ("init_scale", float("inf")),
        ("sparse_eps", 0.0),
        ("sparse_decay", 0.0),
        ("sparse_decay", 1.01),
        ("dense_eps", 0.0),
    ],
)
def test_refuses(name: str, value: float) -> None:
    with pytest.raises(RecipeError, match=name):
        Recipe(**{name: value})  # type: ignore[arg-type]


def test_defaults_stand() -> None:
    assert Recipe() == Recipe()
