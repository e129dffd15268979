"""Heat by the stream's own pace: places in the stream, not seconds, whatever the pace."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dimension_search.heat import HeatBands
from stream_trainer.stream_heat import StreamHeat

HALF_LIFE = 1600
BANDS = HeatBands((0.03, 0.5))


def heats(heat: StreamHeat, last_seen_s: list[int], now_s: int) -> np.ndarray:
    n = len(last_seen_s)
    return heat.heat(np.ones(n, np.float32), np.array(last_seen_s, np.uint32), now_s)


def test_without_samples_it_is_heat_by_seconds() -> None:
    heat = StreamHeat(BANDS, 0)
    heat.observe(10**6, 50)

    np.testing.assert_allclose(heats(heat, [0, 3600, 7200], 7200), [0.25, 0.5, 1.0])
    assert heat.bands == 3
    bands = heat.bands_of(np.ones(2, np.float32), np.array([0, 7200], np.uint32), 7200, np.zeros(2, np.int32))
    assert bands.tolist() == [1, 2]


def test_a_steady_stream_halves_every_half_life() -> None:
    heat = StreamHeat(BANDS, HALF_LIFE)
    for now_s in range(1000):
        heat.observe(now_s * 100, now_s)

    found = heats(heat, [999, 999 - 16, 999 - 32], 999)
    np.testing.assert_allclose(found, [1, 0.5, 0.25], rtol=0.05)


def test_a_pause_and_a_backlog_after_it_cool_nothing_more_than_their_samples() -> None:
    heat = StreamHeat(BANDS, HALF_LIFE)
    for now_s in range(100):
        heat.observe(now_s * 100, now_s)
    after = 100_000
    heat.observe(9_900, after)  # a night later
    assert heats(heat, [99], after)[0] > 0.99
    for second in range(1, 3):  # a hundred times as fast as before
        heat.observe(9_900 + second * 800, after + second)

    assert 0.45 < heats(heat, [99], after + 2)[0] < 0.55
    assert 0.22 < heats(heat, [83], after + 2)[0] < 0.3


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 100)), min_size=1, max_size=80),
    st.integers(0, 80),
)
def test_a_restored_one_goes_on_alike_and_no_row_looks_colder_than_it_is(
    steps: list[tuple[int, int]], cut: int
) -> None:
    live, other = StreamHeat(BANDS, HALF_LIFE), StreamHeat(BANDS, HALF_LIFE)
    samples, now_s, seen = 0, 1_000, []
    for number, (more, seconds) in enumerate(steps):
        if number == cut:
            other.restore(live.state())
        samples, now_s = samples + more, now_s + seconds
        live.observe(samples, now_s)
        if number >= cut:
            other.observe(samples, now_s)
        seen.append((samples, now_s))
    last = [second for _, second in seen]
    found = heats(live, last, now_s)
    for (place, _), value in zip(seen, found, strict=True):
        assert value >= 0.5 ** ((samples - place) / HALF_LIFE + 1 / 16) - 1e-12
    if cut < len(steps):
        np.testing.assert_array_equal(heats(other, last, now_s), found)


def test_marks_do_not_grow_without_end() -> None:
    heat = StreamHeat(BANDS, HALF_LIFE)
    for now_s in range(3000):
        heat.observe(now_s * 500, now_s)

    assert len(heat.state()) <= 512
    assert heats(heat, [0], 2999)[0] < 1e-9
