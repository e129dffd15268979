"""The tree of errors; that each class is raised is shown next to what raises it."""

import pytest

from dimflow import errors
from model_contract.errors import DimflowError


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_a_command_error_and_stands_in_the_tree(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, errors.CommandError)
    assert issubclass(kind, DimflowError)
    assert name in (errors.__doc__ or "")


@pytest.mark.parametrize("kind", [errors.ServerProgramMissing, errors.ServerNotReady, errors.ServerOrderRefused])
def test_servers_of_our_own_have_one_base(kind: type[Exception]) -> None:
    assert issubclass(kind, errors.LocalServerError)
