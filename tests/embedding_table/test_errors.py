"""Every failure is one of the project's."""

from embedding_table import errors
from model_contract.errors import DimflowError


def test_all_derive_from_the_root_and_stand_in_the_tree() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, DimflowError)
        assert name in (errors.__doc__ or "")
