"""Pieces against a plain set of pages."""

import numpy as np
import pytest

from embedding_table.page_frames import FRAME_BYTES, FRAME_PAGES, PAGE_BYTES, PageFrames


@pytest.mark.parametrize("seed", range(5))
def test_random_takes_and_returns_never_overlap_and_lose_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frames = PageFrames(6)
    held: dict[int, int] = {}
    for _ in range(2000):
        if held and rng.random() < 0.5:
            first = list(held)[int(rng.integers(len(held)))]
            frames.give_back(first, held.pop(first))
            continue
        pages = 1 << int(rng.integers(5))
        first_byte = frames.take(pages)
        if first_byte is None:
            assert frames.free_frames == 0
            continue
        assert first_byte % (pages * PAGE_BYTES) == 0
        held[first_byte] = pages
        covered = [
            page for first, count in held.items() for page in range(first // PAGE_BYTES, first // PAGE_BYTES + count)
        ]
        assert len(covered) == len(set(covered))
        assert max(covered) < 6 * FRAME_PAGES
    for first_byte, pages in held.items():
        frames.give_back(first_byte, pages)
    assert frames.free_frames == 6
    assert sorted(frames.take(FRAME_PAGES) or 0 for _ in range(6)) == [k * FRAME_BYTES for k in range(6)]
    assert frames.take(1) is None


def test_small_pieces_fill_one_frame_before_the_next() -> None:
    frames = PageFrames(2)
    pieces = [frames.take(4) for _ in range(4)]
    assert frames.free_frames == 1
    assert frames.take(16) == FRAME_BYTES
    assert frames.take(1) is None
    for piece in pieces:
        assert piece is not None
        frames.give_back(piece, 4)
    assert frames.take(16) == 0
