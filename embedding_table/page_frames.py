"""Pieces of one memory, from a page of 4 KiB to a frame of 64 KiB: taken, given back, put together again.

Knows bytes' places, nothing of what lies there. A frame is one piece, or cut into pieces of one power of two of pages.
Invariant: no two pieces overlap; a frame whose pieces are all given back is whole again.
"""

__all__ = ["FRAME_BYTES", "FRAME_PAGES", "PAGE_BYTES", "PageFrames"]

PAGE_BYTES = 4096
FRAME_PAGES = 16
FRAME_BYTES = FRAME_PAGES * PAGE_BYTES


class PageFrames:
    """Which pieces of a memory are free.

    Args:
        frames: frames that the memory has.
    """

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self._fresh = 0  # frames from here on were never taken
        self._free: list[int] = []
        self._cut: dict[int, dict[int, list[int]]] = {}  # pages of a piece -> frame -> free pieces in it

    def take(self, pages: int) -> int | None:
        """The first byte of a free piece of `pages` pages, a power of two up to 16; None where there is none."""
        cut = self._cut.setdefault(pages, {})
        if not cut:
            frame = self._whole_frame()
            if frame is None:
                return None
            cut[frame] = list(range(frame * FRAME_PAGES, (frame + 1) * FRAME_PAGES, pages))[::-1]
        frame, pieces = next(iter(cut.items()))
        page = pieces.pop()
        if not pieces:
            del cut[frame]
        return page * PAGE_BYTES

    def give_back(self, first_byte: int, pages: int) -> None:
        """Frees a piece that `take` gave."""
        page = first_byte // PAGE_BYTES
        frame = page // FRAME_PAGES
        pieces = self._cut[pages].setdefault(frame, [])
        pieces.append(page)
        if len(pieces) * pages == FRAME_PAGES:
            del self._cut[pages][frame]
            self._free.append(frame)

    @property
    def free_frames(self) -> int:
        """Frames that are whole and free."""
        return len(self._free) + self._frames - self._fresh

    def _whole_frame(self) -> int | None:
        if self._free:
            return self._free.pop()
        if self._fresh == self._frames:
            return None
        self._fresh += 1
        return self._fresh - 1
