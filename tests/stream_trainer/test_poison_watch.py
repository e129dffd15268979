"""The share of poison among the newest records: exact over whole chunks, silent until there are enough."""

from hypothesis import given
from hypothesis import strategies as st

from stream_trainer.poison_watch import PoisonWatch

CHUNKS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda p: (max(p), min(p))), max_size=60)


@given(CHUNKS, st.integers(1, 100), st.floats(0, 1))
def test_it_counts_the_fewest_newest_chunks_that_fill_the_window(
    chunks: list[tuple[int, int]], window: int, limit: float
) -> None:
    watch, passed = PoisonWatch(limit, window), False
    for number, chunk in enumerate(chunks):
        watch.note(*chunk)
        kept: list[tuple[int, int]] = []
        for records, refused in reversed(chunks[: number + 1]):
            if sum(r for r, _ in kept) >= window:
                break
            kept.append((records, refused))
        seen, bad = sum(r for r, _ in kept), sum(b for _, b in kept)
        assert watch.share == (bad / seen if seen else 0.0)
        passed = passed or (seen >= window and bad / seen > limit)
        assert bool(watch.passed) == passed


def test_a_limit_of_one_is_never_passed() -> None:
    watch = PoisonWatch(1.0, 10)
    watch.note(1000, 1000)
    assert watch.share == 1.0
    assert not watch.passed


def test_it_says_what_it_saw_and_what_it_expected() -> None:
    watch = PoisonWatch(0.5, 100)
    watch.note(99, 99)
    assert not watch.passed
    watch.note(101, 51)
    watch.note(100, 0)
    assert watch.share == 0, "what follows changes nothing"
    assert watch.passed == "51 of the last 101 records could not be learned (50.5%): expected at most 50.0%"
