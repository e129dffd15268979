"""The tree of errors; that each class is raised is shown next to what raises it."""

import pytest

from feature_admission import errors
from model_contract.errors import DimflowError


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_an_admission_error(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, errors.AdmissionError)
    assert issubclass(kind, DimflowError)
    assert name in (errors.__doc__ or "")


@pytest.mark.parametrize("kind", [errors.PolicySettingError, errors.ObservationError, errors.ClockError])
def test_bad_arguments_are_value_errors_too(kind: type[Exception]) -> None:
    assert issubclass(kind, ValueError)
