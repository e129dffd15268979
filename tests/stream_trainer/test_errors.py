"""The error tree: drawn as it is, every kind an error of the project."""

import inspect

from model_contract.errors import DimflowError
from stream_trainer import errors


def test_the_tree_at_the_top_names_every_class_and_nothing_else() -> None:
    classes = {
        name for name, kind in vars(errors).items() if inspect.isclass(kind) and kind.__module__ == errors.__name__
    }
    drawn = {line.split()[1] for line in (errors.__doc__ or "").splitlines() if "── " in line}

    assert classes == set(errors.__all__)
    assert drawn == classes


def test_every_kind_can_be_caught_as_the_projects_own() -> None:
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), DimflowError)
