"""What can be wrong with a search for dimensions."""

from model_contract.errors import DimflowError

__all__ = ["SearchError"]


class SearchError(DimflowError):
    """A setting, a plan or evidence that does not fit: the message names what was found and what was expected."""
