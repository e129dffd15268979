"""The error of a search; that it is raised is shown next to what raises it."""

from dimension_search import errors
from model_contract.errors import DimflowError


def test_a_search_error_is_one_of_dimflows() -> None:
    assert errors.__all__ == ["SearchError"]
    assert issubclass(errors.SearchError, DimflowError)
