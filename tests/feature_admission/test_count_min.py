"""The sketch against exact decayed counts in a dictionary, and its stated bounds. The laws are in test_admission."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from feature_admission.count_min import COUNT_CAP, CountMinAdmission
from feature_admission.errors import ClockError, PolicySettingError, StateMismatchError
from feature_admission.state_pages import whole_array


def stream(seed: int, n: int, distinct: int) -> NDArray[np.uint64]:
    """Zipf ids over a fixed set."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, distinct + 1)
    keys = rng.integers(0, 1 << 63, distinct).astype(np.uint64)
    return keys[rng.choice(distinct, n, p=weights / weights.sum())]


def exact_counts(ids: NDArray[np.uint64], half_life: int | None) -> dict[int, float]:
    """Decayed by the definition: an observation of age a weighs 2^(-a / half_life), ages cut into 1024ths of it."""
    n = len(ids)
    totals: dict[int, float] = {}
    for place, id_ in enumerate(ids.tolist()):
        age = 0.0 if half_life is None else (n * 1024 // half_life - place * 1024 // half_life) / 1024
        totals[id_] = totals.get(id_, 0.0) + 2.0**-age
    return totals


@pytest.mark.parametrize("conservative", [True, False])
@pytest.mark.parametrize("half_life", [None, 1_000, 20_000])
@pytest.mark.parametrize("seed", [3, 4])
def test_error_bound(half_life: int | None, conservative: bool, seed: int) -> None:
    ids = stream(seed, 60_000, 20_000)
    sketch = CountMinAdmission(
        2, 40_000, half_life_observations=half_life, depth=3, conservative=conservative, seed=seed
    )
    sketch.observe(ids)
    truth = exact_counts(ids, half_life)
    keys = np.fromiter(truth, np.uint64)
    true = np.fromiter(truth.values(), np.float64)
    estimate = sketch.estimate(keys).astype(np.float64)
    assert sketch.observed == pytest.approx(true.sum(), rel=1e-9)
    assert (estimate >= true * (1 - 1e-4) - 1e-6).all(), "an estimate is never below the true count"
    bound = sketch.error_bound
    assert bound.excess == pytest.approx(math.e * true.sum() / sketch.width, rel=1e-9)
    assert bound.failure_share == pytest.approx(math.exp(-3))
    beyond = (estimate > true + bound.excess).mean()
    assert beyond <= bound.failure_share
    if half_life is not None:
        assert sketch.observed <= half_life / math.log(2) + 1.5
    assert (estimate > true + 1e-3).any(), "a sketch this small must err, or the test shows nothing"


@pytest.mark.parametrize("half_life", [None, 1_000])
def test_without_collisions_it_is_exact(half_life: int | None) -> None:
    ids = stream(5, 5_000, 50)
    sketch = CountMinAdmission(2, 1 << 20, half_life_observations=half_life)
    sketch.observe(ids)
    truth = exact_counts(ids, half_life)
    estimate = sketch.estimate(np.fromiter(truth, np.uint64))
    assert np.allclose(estimate, list(truth.values()), rtol=1e-4, atol=1e-9)


def test_conservative_never_estimates_above_plain() -> None:
    ids = stream(6, 50_000, 30_000)
    estimates = []
    for conservative in (True, False):
        sketch = CountMinAdmission(2, 30_000, half_life_observations=9_000, conservative=conservative, seed=1)
        sketch.observe(ids)
        estimates.append(sketch.estimate(np.unique(ids)))
    assert (estimates[0] <= estimates[1] * (1 + 1e-5)).all()
    assert estimates[0].mean() < 0.9 * estimates[1].mean()


def test_plain_update_is_linear() -> None:
    left, right, both = (CountMinAdmission(2, 8_192, conservative=False, seed=9) for _ in range(3))
    left.observe(stream(1, 3_000, 900))
    right.observe(stream(2, 3_000, 900))
    both.observe(np.concatenate((stream(1, 3_000, 900), stream(2, 3_000, 900))))
    assert np.array_equal(left.state()["cells"] + right.state()["cells"], both.state()["cells"])


@pytest.mark.parametrize("half_life", [1, 3, 777, 5_000])
def test_cutting_the_stream_into_other_batches_changes_no_byte(half_life: int) -> None:
    ids = stream(7, 4_000, 300)
    whole = CountMinAdmission(2, 8_192, half_life_observations=half_life)
    parts = CountMinAdmission(2, 8_192, half_life_observations=half_life)
    whole.observe(ids)
    rng = np.random.default_rng(7)
    for part in np.split(ids, np.sort(rng.integers(0, len(ids), 60))):
        parts.observe(part)
    assert {k: v.tobytes() for k, v in whole.state().items()} == {k: v.tobytes() for k, v in parts.state().items()}


def test_counts_stand_for_repetitions() -> None:
    ids = stream(8, 500, 100)
    counts = np.random.default_rng(8).integers(0, 9, len(ids)).astype(np.uint32)
    counted, repeated = CountMinAdmission(2, 8_192), CountMinAdmission(2, 8_192)
    counted.observe(ids, counts)
    repeated.observe(np.repeat(ids, counts))
    assert np.array_equal(counted.estimate(ids), repeated.estimate(ids))


@pytest.mark.parametrize("threshold", [1, 2, 15, 16, 17, 300, 70_000])
def test_threshold_means_that_many_observations(threshold: int) -> None:
    sketch = CountMinAdmission(threshold, 1 << 14)
    one = np.array([42], np.uint64)
    sketch.observe(one, np.array([threshold - 1], np.uint32))
    assert not sketch.admitted(one)[0]
    sketch.observe(one)
    assert sketch.admitted(one)[0]


def test_two_sightings_within_a_half_life_count_as_two() -> None:
    one, filler = np.array([42], np.uint64), np.arange(1_000, 1_001, dtype=np.uint64)
    for gap, expected in ((900, True), (1_100, False)):
        sketch = CountMinAdmission(2, 1 << 16, half_life_observations=1_000)
        sketch.observe(one)
        sketch.observe(filler, np.array([gap], np.uint32))
        sketch.observe(one)
        assert bool(sketch.admitted(one)[0]) is expected


def test_forgets_by_seconds_and_never_goes_back() -> None:
    one = np.array([42], np.uint64)
    sketch = CountMinAdmission(2, 1 << 14, half_life_s=60)
    sketch.observe(one, np.array([8], np.uint32), now_s=1_700_000_000)
    assert sketch.estimate(one)[0] == pytest.approx(8)
    sketch.observe(np.array([7], np.uint64), now_s=1_700_000_060)
    assert sketch.estimate(one)[0] == pytest.approx(4)
    sketch.observe(one, now_s=1_699_999_000)
    assert sketch.estimate(one)[0] == pytest.approx(5)
    sketch.observe(np.array([7], np.uint64), now_s=1_700_000_180)
    assert sketch.estimate(one)[0] == pytest.approx(5 / 4)


@pytest.mark.parametrize("silence_s", [3_900, 60 * 70, 60 * 200, 10_000_000, 1_000_000_000])
def test_long_silence_forgets_all_and_goes_on(silence_s: int) -> None:
    one, other = np.array([42], np.uint64), np.array([7], np.uint64)
    sketch = CountMinAdmission(2, 1 << 14, half_life_s=60)
    sketch.observe(one, np.array([100], np.uint32), now_s=1_000_000)
    sketch.observe(other, np.array([3], np.uint32), now_s=1_000_000 + silence_s)
    assert sketch.estimate(other)[0] == pytest.approx(3)
    assert sketch.estimate(one)[0] < 1e-6
    assert sketch.observed == pytest.approx(3, abs=1e-6)
    assert np.isfinite(sketch.state()["cells"]).all()


def test_scaling_back_is_exact() -> None:
    """A stream of 200 half-lives scales back three times; the estimates are those of the definition throughout."""
    ids = stream(11, 10_000, 20)
    sketch = CountMinAdmission(2, 1 << 16, half_life_observations=50)
    for end in range(100, 10_001, 100):
        sketch.observe(ids[end - 100 : end])
        if end % 1_900 == 0:
            truth = exact_counts(ids[:end], 50)
            estimate = sketch.estimate(np.fromiter(truth, np.uint64))
            assert np.allclose(estimate, list(truth.values()), rtol=1e-5, atol=1e-8)


def test_counts_saturate() -> None:
    one = np.array([42], np.uint64)
    for conservative in (True, False):
        sketch = CountMinAdmission(COUNT_CAP // 2, 1 << 14, half_life_observations=1 << 32, conservative=conservative)
        for _ in range(3):
            sketch.observe(one, np.array([COUNT_CAP], np.uint32))
        assert sketch.estimate(one)[0] == pytest.approx(COUNT_CAP, rel=1e-6)
        assert sketch.admitted(one)[0]


def test_seeds_hash_differently() -> None:
    ids = stream(12, 2_000, 500)
    first, second = CountMinAdmission(2, 8_192, seed=1), CountMinAdmission(2, 8_192, seed=2)
    first.observe(ids)
    second.observe(ids)
    assert not np.array_equal(first.state()["cells"], second.state()["cells"])


@pytest.mark.parametrize("memory_bytes", [1_024, 4_096, 100_000, 1 << 20])
@pytest.mark.parametrize("depth", [1, 4, 16])
def test_memory_stays_below_what_was_asked(memory_bytes: int, depth: int) -> None:
    sketch = CountMinAdmission(2, memory_bytes, depth=depth)
    assert memory_bytes - 1_024 < sketch.memory_bytes <= memory_bytes
    assert sketch.width * sketch.depth * 4 > sketch.memory_bytes * 256 / 257 - 1_024


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("threshold", {"threshold": 0}),
        ("threshold", {"threshold": COUNT_CAP}),
        ("memory_bytes", {"memory_bytes": 1_000}),
        ("depth", {"depth": 0}),
        ("depth", {"depth": 17}),
        ("seed", {"seed": -1}),
        ("half_life_observations", {"half_life_observations": 0}),
        ("half_life_s", {"half_life_s": 0.5}),
        ("half_life_s", {"half_life_s": 5, "half_life_observations": 5}),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, int]) -> None:
    with pytest.raises(PolicySettingError, match=name):
        CountMinAdmission(**{"threshold": 2, "memory_bytes": 4_096, **settings})


def test_seconds_need_a_time() -> None:
    with pytest.raises(ClockError, match="now_s"):
        CountMinAdmission(2, 4_096, half_life_s=5).observe(np.zeros(1, np.uint64))


def test_pages_of_unknown_arrays_are_refused() -> None:
    with pytest.raises(StateMismatchError, match="'rows'"):
        CountMinAdmission(2, 4_096).apply_pages([whole_array("rows", np.zeros(1))])
