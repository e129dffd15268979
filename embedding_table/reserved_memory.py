"""Memory reserved for rows: asked for at once, given by the system page by page when it is touched.

Knows bytes alone. Invariant: the memory never moves and reads as zeros until it is written.
"""

import mmap

__all__ = ["reserved_memory"]

_HUGE_PAGE_BYTES = 2 << 20


def reserved_memory(size_bytes: int) -> mmap.mmap:
    """At least `size_bytes`, on huge pages where the system has them: a random row then costs a TLB entry per 2 MiB."""
    whole = -(-max(size_bytes, 1) // _HUGE_PAGE_BYTES) * _HUGE_PAGE_BYTES
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    memory = mmap.mmap(-1, whole, flags=flags)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
