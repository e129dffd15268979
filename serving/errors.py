"""What can go wrong in serving, one class for each failure that somebody handles differently.

model_contract.errors.DimflowError
└── ServingError
    ├── IncrementRefused       an increment or base that must not touch this replica; carries a short reason
    ├── ModelNotLoaded         no base has been loaded yet, so there is nothing to answer from (HTTP 503)
    ├── ReplicaBusy            a version is being exchanged this very moment and the caller chose not to wait
    ├── VersionRefused         a version that cannot be pinned; the message lists those that can (HTTP 422)
    ├── VersionsUnavailable    Redis does not answer, or holds nothing of the model (HTTP 503)
    ├── ClientGone             the client went away before its request was whole; nobody is left to answer
    └── HttpProblem            a request that is answered with a problem document; carries its status

Knows nothing of FastAPI or Redis: who catches an error decides what it means there.
"""

from enum import StrEnum

from model_contract.errors import DimflowError

__all__ = [
    "ClientGone",
    "HttpProblem",
    "IncrementRefused",
    "ModelNotLoaded",
    "RefusalReason",
    "ReplicaBusy",
    "ServingError",
    "VersionRefused",
    "VersionsUnavailable",
]


class RefusalReason(StrEnum):
    """Why an increment, base or head was refused, beside the reasons of `model_contract.errors.IncrementError`."""

    BAD_HEAD = "bad_head"  # the head's fields make no sense
    SCHEMA_MISMATCH = "schema_mismatch"  # the head names another schema
    NO_DATA = "no_data"  # a stream entry without bytes
    NO_BASE = "no_base"  # an increment before any base
    BASE_INCOMPLETE = "base_incomplete"  # a chunk is absent or of another length
    LIMIT_EXCEEDED = "limit_exceeded"
    NOT_AN_INCREMENT = "not_an_increment"
    NOT_A_BASE = "not_a_base"
    WRONG_BASE = "wrong_base"  # not the sequence that the head names
    FOREIGN_LINEAGE = "foreign_lineage"
    STALE_EPOCH = "stale_epoch"  # written by a trainer that has a successor
    REWRITTEN = "rewritten"  # a sequence came again with other content
    GAP = "gap"
    UNKNOWN_SLOT = "unknown_slot"
    UNKNOWN_PRECISION = "unknown_precision"
    NOT_FINITE = "not_finite"
    INVALID_CONTENT = "invalid_content"
    NO_MISSING_ROW = "no_missing_row"
    BAD_DENSE = "bad_dense"
    NO_ROOM = "no_room"  # the memory budget does not hold it


class ServingError(DimflowError):
    """Anything that serving reports."""


class IncrementRefused(ServingError):
    """An increment or base was refused; the replica answers as before.

    Attributes:
        reason: short code, fit for a metric label.
        detail: one line for a person: what was seen, what was expected.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ModelNotLoaded(ServingError):
    """No base has been loaded yet."""


class ReplicaBusy(ServingError):
    """A version is being exchanged and the caller chose not to wait for it."""


class VersionRefused(ServingError):
    """A version that cannot be pinned: not stored, or not whole; the message lists those that can be."""


class VersionsUnavailable(ServingError):
    """Redis does not answer, or holds nothing of the model, so that nothing can be pinned or listed."""


class ClientGone(ServingError):
    """The client went away before its request was whole."""


class HttpProblem(ServingError):
    """A request that cannot be answered with a result.

    Attributes:
        status: HTTP status.
        kind: short code, the last part of the problem document's `type`.
        detail: one line for a person.
        pointer: JSON pointer into the request body, None where it does not apply.
        retry_after_s: whole seconds after which another try makes sense, None where none does.
        allow: the methods that the path takes, for status 405.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        pointer: str | None = None,
        retry_after_s: int | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(f"{status} {kind}: {detail}")
        self.status = status
        self.kind = kind
        self.detail = detail
        self.pointer = pointer
        self.retry_after_s = retry_after_s
        self.allow = allow
