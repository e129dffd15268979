"""What can go wrong in a table, one class per failure that somebody handles differently.

model_contract.errors.DimflowError
└── TableError
    ├── BudgetTooSmall     the byte budget cannot hold even the rows that every table has
    ├── BadLookups         arrays handed to the table disagree in shape, dtype or range
    ├── PinnedRow          a slot's missing row was to be erased
    ├── BadRows            rows to restore, or columns to resize to, do not fit this table's blocks
    └── ResizeUnderway     earlier resizes have left too many old blocks for one more
"""

from model_contract.errors import DimflowError

__all__ = ["BadLookups", "BadRows", "BudgetTooSmall", "PinnedRow", "ResizeUnderway", "TableError"]


class TableError(DimflowError):
    """Any failure of the embedding table."""


class BudgetTooSmall(TableError):
    """The budget in bytes cannot hold the missing rows of all slots."""


class BadLookups(TableError):
    """Ids, handles, offsets or gradients disagree with each other or with the table."""


class PinnedRow(TableError):
    """The missing row of a slot is never erased."""


class BadRows(TableError):
    """Rows or columns name a slot, band or column that this table does not have."""


class ResizeUnderway(TableError):
    """Rows of earlier resizes have to move first."""
