"""What is known of rows by handle: slot, band, traffic and last use.

Knows views and state words; not which rows to ask about. Invariant: nothing is changed, arrays are copies.
"""

import numpy as np
from numpy.typing import NDArray

from embedding_table import trained_rows
from embedding_table.row_layout import ROW_BITS, TableViews
from embedding_table.table_rows import LiveRows

__all__ = ["row_statistics"]


def row_statistics(
    views: TableViews, handles: NDArray[np.uint32], bands: int, left_out: NDArray[np.uint32]
) -> LiveRows:
    """Statistics of live rows u32 (n,), those `left_out` u32 aside; each slot has `bands` bands."""
    handles = handles[~np.isin(handles, left_out)]
    homes = views.block_home[views.slab_block[handles >> np.uint32(ROW_BITS)]]
    slots, in_slot = np.divmod(homes, np.int32(bands))
    counts = np.empty(handles.size, np.float32)
    last_seen_s = np.empty(handles.size, np.uint32)
    trained_rows.read_statistics(views, handles, counts, last_seen_s)
    return LiveRows(handles, slots, in_slot, counts, last_seen_s)
