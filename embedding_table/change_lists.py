"""What has changed since changes were last taken: rows born or trained, and ids erased.

Knows handles and ids, not what changed in a row. Two lists name changed rows, so that two threads may write at the
same time: training appends to the views' list, births are noted here.

Invariant: a handle is in a list exactly while the dirty bit of its position is set, so in one place at most. A row that
is erased stays listed, and its place may be reused meanwhile; whether it lives is asked when changes are taken.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table.row_layout import TableViews
from embedding_table.slab_kernels import drop_empty_slabs
from embedding_table.trained_rows import keep_live, take_marks, unmark_dead

__all__ = ["ChangeLists"]


class ChangeLists:
    """Lists of changed rows and erased ids of one table.

    Args:
        views: of the table's arena, which has room for the list that training writes.
    """

    def __init__(self, views: TableViews) -> None:
        self._views = views
        self._born: list[NDArray[np.uint32]] = []
        self._erased: list[NDArray[np.uint64]] = []
        self._bytes_used = 0

    @property
    def bytes_used(self) -> int:
        """Bytes of the lists that grow, the one in the views aside."""
        return self._bytes_used

    def born(self, handles: NDArray[np.uint32]) -> None:
        """Notes rows that were marked dirty outside training, u32 (n,)."""
        self._born.append(handles)
        self._bytes_used += handles.nbytes

    def erased(self, ids: NDArray[np.uint64]) -> None:
        """Notes ids u64 (n,) whose rows are gone."""
        self._erased.append(ids)
        self._bytes_used += ids.nbytes

    def take(self) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        """Live changed rows u32 and ids erased since, u64 ascending, each once; nothing is marked or listed after."""
        listed = self._listed()
        listed = listed[: int(take_marks(self._views, listed))]
        erased = np.unique(np.concatenate([np.empty(0, np.uint64), *self._erased]))
        self._erased.clear()
        self._bytes_used = 0
        return listed, erased

    @property
    def length(self) -> int:
        """How many handles are listed, those of rows erased since among them."""
        return int(self._views.dirty_length[0]) + sum(handles.size for handles in self._born)

    def take_some(self, count: int) -> NDArray[np.uint32]:
        """The live rows u32 among the `count` listed first, marked and listed no more; no update may be under way."""
        for handles in self._born:
            begin = int(self._views.dirty_length[0])
            self._views.dirty[begin : begin + handles.size] = handles
            self._views.dirty_length[0] += handles.size
        self._bytes_used -= sum(handles.nbytes for handles in self._born)
        self._born.clear()
        length = int(self._views.dirty_length[0])
        some = self._views.dirty[: min(count, length)].copy()
        self._views.dirty[: length - some.size] = self._views.dirty[some.size : length]
        self._views.dirty_length[0] = length - some.size
        return some[: int(take_marks(self._views, some))]

    def live_handles(self) -> NDArray[np.uint32]:
        """Live changed rows; dead ones are dropped from the lists. `replace` has to follow."""
        listed = self._listed()
        return listed[: int(unmark_dead(self._views, listed))]

    def changed(self) -> NDArray[np.uint32]:
        """Live changed rows u32; marks and lists stay as they are."""
        listed = np.concatenate([self._views.dirty[: self._views.dirty_length[0]], *self._born])
        return listed[: int(keep_live(self._views, listed))]

    def forget_empty_slabs(self, live_by_slab: NDArray[np.int32]) -> None:
        """Drops rows of slabs that have no live one, i32 (slabs,) says which; the slabs are to be released."""
        length = int(self._views.dirty_length[0])
        self._views.dirty_length[0] = drop_empty_slabs(self._views.dirty[:length], live_by_slab)
        kept = [handles[: int(drop_empty_slabs(handles, live_by_slab))] for handles in self._born]
        self._bytes_used -= sum(old.nbytes - new.nbytes for old, new in zip(self._born, kept, strict=True))
        self._born = kept

    def replace(self, handles: NDArray[np.uint32]) -> None:
        """Lists these marked rows in place of all that were listed."""
        self._views.dirty[: handles.size] = handles
        self._views.dirty_length[0] = handles.size

    def _listed(self) -> NDArray[np.uint32]:
        """All that is listed, copied; the lists are empty after."""
        trained = self._views.dirty[: self._views.dirty_length[0]]
        listed = np.concatenate([trained, *self._born])
        self._views.dirty_length[0] = 0
        self._bytes_used -= sum(handles.nbytes for handles in self._born)
        self._born.clear()
        return listed
