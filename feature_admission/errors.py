"""What can go wrong in admission and eviction.

DimflowError
└── AdmissionError             anything of this package
    ├── PolicySettingError     a policy was asked for with values that cannot work (also a ValueError)
    ├── ObservationError       ids or counts of the wrong shape or dtype (also a ValueError)
    ├── ClockError             a policy that forgets by seconds was not told the time (also a ValueError)
    └── StateMismatchError     a saved state belongs to a policy of another kind or size
"""

from model_contract.errors import DimflowError

__all__ = ["AdmissionError", "ClockError", "ObservationError", "PolicySettingError", "StateMismatchError"]


class AdmissionError(DimflowError):
    """Anything that a policy of this package refuses."""


class PolicySettingError(AdmissionError, ValueError):
    """A policy was asked for with values that cannot work; the message names the setting and its range."""


class ObservationError(AdmissionError, ValueError):
    """Ids or counts have the wrong shape or dtype."""


class ClockError(AdmissionError, ValueError):
    """A policy that forgets by seconds was given observations without a time."""


class StateMismatchError(AdmissionError):
    """A saved state belongs to a policy of another kind, size, seed or half-life; start a fresh policy instead."""
