"""What can go wrong in a table, one class per failure that somebody handles differently.

model_contract.errors.DimflowError
└── TableError
    ├── BudgetTooSmall     the byte budget cannot hold even the rows that every table has
    ├── BadLookups         arrays handed to the table disagree in shape, dtype or range
    ├── PinnedRow          a slot's missing row was to be erased
    ├── BadRows            rows to restore, or columns to resize to, do not fit this table's blocks
    ├── ResizeUnderway     earlier resizes have left too many old blocks for one more
    ├── BadPacking         packed rows, or what they share, are not what their codec makes
    └── UnfitValues        a row holds NaN, infinity or values that a codec cannot hold; it names the id
"""

from model_contract.errors import DimflowError

__all__ = [
    "BadLookups",
    "BadPacking",
    "BadRows",
    "BudgetTooSmall",
    "PinnedRow",
    "ResizeUnderway",
    "TableError",
    "UnfitValues",
]


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


class BadPacking(TableError):
    """Packed bytes, or the scales they share, have another shape or range than their codec makes."""


class UnfitValues(TableError):
    """A row that a codec cannot hold.

    Attributes:
        row_id: of the first such row, its number in the block where no ids were given.
    """

    def __init__(self, row_id: int, codec: str, reason: str) -> None:
        super().__init__(f"the row of id {row_id} does not fit codec {codec}: {reason}")
        self.row_id = row_id
