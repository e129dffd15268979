"""Which blocks of an arena hold the rows of a (slot, band): one that takes new rows, and older ones that drain.

Knows blocks and columns, not rows. A (slot, band) is a home, numbered slot by slot and band by band inside. When its
columns change, a new block, a generation, takes its place; the old one is retired once its rows have moved.

Invariant: every home has exactly one newest generation; every block of the arena is the newest of its home or drains.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embedding_table.errors import BadRows, ResizeUnderway
from embedding_table.row_arena import RowArena, checked_columns

__all__ = ["GENERATIONS", "NO_COLUMNS", "BlockGenerations"]

NO_COLUMNS = np.empty(0, np.uint16)
GENERATIONS = 4  # blocks that an arena needs room for, for each home


class BlockGenerations:
    """The blocks of all homes of one table.

    Args:
        arena: with no block yet, and room for GENERATIONS of each home.
        slots: F.
        bands: of each slot.
        columns: u16 (d,) of each home.

    Raises:
        BadRows: columns out of order or range, or not those of every home.
    """

    def __init__(self, arena: RowArena, slots: int, bands: int, columns: Sequence[NDArray[np.uint16]]) -> None:
        self.bands = bands
        self.homes = slots * bands
        self._arena = arena
        self._newest = [arena.define_block(wanted, home) for home, wanted in enumerate(self.checked(columns))]
        self._draining: dict[int, list[int]] = {}  # by home, oldest first
        self._seeded: dict[int, NDArray[np.uint16]] = {}  # by home, of the newest

    def newest(self, home: int) -> int:
        """The block that takes a home's new rows."""
        return self._newest[home]

    def of(self, home: int) -> list[int]:
        """All blocks of a home, oldest first."""
        return [*self._draining.get(home, ()), self._newest[home]]

    def in_order(self) -> list[int]:
        """All blocks, home by home, oldest first."""
        return [block for home in range(self.homes) for block in self.of(home)]

    def draining(self) -> list[tuple[int, int]]:
        """(old block, its home) of all that drain."""
        return [(block, home) for home, blocks in self._draining.items() for block in blocks]

    def seeded(self, home: int) -> NDArray[np.uint16]:
        """Columns u16 (k,) that do not begin at zero for the rows that drain into a home's newest generation."""
        return self._seeded.get(home, NO_COLUMNS)

    def rows_draining(self) -> int:
        """Live rows of all that drain."""
        return sum(self._arena.block_rows(block) for block, _ in self.draining())

    def checked(self, columns: Sequence[NDArray[np.uint16]]) -> list[NDArray[np.uint16]]:
        """Columns u16 of every home.

        Raises:
            BadRows: out of order or range, or not those of every home.
        """
        if len(columns) != self.homes:
            message = f"columns of {len(columns)} blocks: expected {self.homes}, those of every slot and band"
            raise BadRows(message)
        return [checked_columns(wanted, self._arena.dim, f"block {home}") for home, wanted in enumerate(columns)]

    def changed_homes(self, columns: Sequence[NDArray[np.uint16]]) -> list[int]:
        """Homes whose columns are not these."""
        return [
            home
            for home, wanted in enumerate(columns)
            if not np.array_equal(wanted, self._arena.columns(self._newest[home]))
        ]

    def check_room(self, homes: Sequence[int]) -> None:
        """Asks whether these homes may all begin a new generation.

        Raises:
            ResizeUnderway: too many generations still drain.
        """
        if len(homes) > self._arena.free_block_count:
            message = (
                f"{len(homes)} blocks to resize, {len(self.draining())} older ones with {self.rows_draining()} rows "
                f"still drain: expected {self._arena.free_block_count} at most"
            )
            raise ResizeUnderway(message)

    def begin(self, home: int, columns: NDArray[np.uint16], seeded: NDArray[np.uint16] = NO_COLUMNS) -> None:
        """A newest generation with these columns for a home, see `seeded`; one that drains and has them becomes it."""
        blocks = self.of(home)
        again = [block for block in blocks if np.array_equal(self._arena.columns(block), columns)]
        newest = again[0] if again else self._arena.define_block(columns, home)
        self._newest[home] = newest
        self._draining[home] = [block for block in blocks if block != newest]
        self._seeded[home] = seeded

    def retire_empty(self) -> None:
        """Retires old generations that have no slab left."""
        for home, blocks in list(self._draining.items()):
            empty = [block for block in blocks if self._arena.slab_count(block) == 0]
            for block in empty:
                self._arena.retire_block(block)
            self._draining[home] = [block for block in blocks if block not in empty]
            if not self._draining[home]:
                del self._draining[home]
