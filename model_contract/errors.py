"""What can go wrong in the contract, one class for each failure that somebody handles differently.

DimflowError                       every error this project raises on purpose
└── ContractError                  what trainer, server and producers agree on was broken
    ├── SchemaError                a model file or schema that contradicts itself (also a ValueError)
    ├── SampleError                one sample that cannot be used; carries a short reason for the dead-letter topic
    ├── RequestError               a prediction request that cannot be answered (HTTP 422); carries a JSON pointer
    │   └── RequestTooLarge        the same for a body, instances or values beyond the limits (HTTP 413)
    └── IncrementError             bytes that are not an increment this reader may apply; carries a short reason
        ├── BadMagic               the first bytes are not the format's
        ├── UnsupportedVersion     a format version this reader does not know
        ├── HeaderTooLarge         the header claims more bytes than the limit
        ├── Truncated              fewer or more bytes than the header promises
        ├── BadChecksum            the CRC-32 does not match
        ├── BadHeader              the header is not the JSON of an increment
        ├── BadRanges              byte ranges that overlap, leave gaps, or do not fit their shapes
        ├── LimitExceeded          more rows, blocks or tensors than the limits allow
        ├── InvalidContent         arrays that break a rule of the format (ids not ascending, columns out of range)
        └── SchemaMismatch         an increment of another model

Knows nothing of Kafka, Redis or HTTP: who catches an error decides what it means there.
"""

from typing import ClassVar

__all__ = [
    "BadChecksum",
    "BadHeader",
    "BadMagic",
    "BadRanges",
    "ContractError",
    "DimflowError",
    "HeaderTooLarge",
    "IncrementError",
    "InvalidContent",
    "LimitExceeded",
    "RequestError",
    "RequestTooLarge",
    "SampleError",
    "SchemaError",
    "SchemaMismatch",
    "Truncated",
    "UnsupportedVersion",
]


class DimflowError(Exception):
    """Base of every error this project raises on purpose."""


class ContractError(DimflowError):
    """An agreement between trainer, server and producers was broken."""


class SchemaError(ContractError, ValueError):
    """A schema or model file that cannot be used; the message names key, value and what was expected."""


class SampleError(ContractError):
    """A sample that cannot be used.

    Attributes:
        reason: short code such as `wrong_type`, one of `model_contract.samples.Reason`.
        detail: one line for a person: field, value seen, what was expected.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class RequestError(ContractError):
    """A prediction request that cannot be answered.

    Attributes:
        detail: one line for a person.
        pointer: JSON pointer (RFC 6901) to the place in the body, "" for the whole body.
    """

    def __init__(self, detail: str, pointer: str = "") -> None:
        super().__init__(f"{detail} (at {pointer!r})" if pointer else detail)
        self.detail = detail
        self.pointer = pointer


class RequestTooLarge(RequestError):
    """A request beyond the limits of bytes, instances or values."""


class IncrementError(ContractError):
    """Bytes that are not an increment this reader may apply.

    Attributes:
        reason: short code of the kind, fit for a metric label.
    """

    reason: ClassVar[str] = "increment"


class BadMagic(IncrementError):
    """The first bytes are not the format's magic."""

    reason = "bad_magic"


class UnsupportedVersion(IncrementError):
    """A format version this reader does not know."""

    reason = "unsupported_version"


class HeaderTooLarge(IncrementError):
    """The header claims more bytes than the limit allows."""

    reason = "header_too_large"


class Truncated(IncrementError):
    """Fewer or more bytes than the header promises."""

    reason = "truncated"


class BadChecksum(IncrementError):
    """The CRC-32 does not match the bytes."""

    reason = "bad_checksum"


class BadHeader(IncrementError):
    """The header is not the JSON of an increment."""

    reason = "bad_header"


class BadRanges(IncrementError):
    """Byte ranges that overlap, leave a gap, leave the buffer, or do not fit their shapes."""

    reason = "bad_ranges"


class LimitExceeded(IncrementError):
    """More bytes, rows, blocks or tensors than the reader's limits allow."""

    reason = "limit_exceeded"


class InvalidContent(IncrementError):
    """Arrays that break a rule of the format, such as ids that do not ascend."""

    reason = "invalid_content"


class SchemaMismatch(IncrementError):
    """The increment belongs to a model with another schema."""

    reason = "schema_mismatch"
