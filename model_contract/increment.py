"""An increment or base as bytes, and back."""

from model_contract.increment_content import (
    DenseTensor,
    Increment,
    IncrementHeader,
    IncrementKind,
    IncrementLimits,
    RowBlock,
)

__all__ = ["DenseTensor", "Increment", "IncrementHeader", "IncrementKind", "IncrementLimits", "RowBlock"]
