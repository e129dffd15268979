"""Streams against their definitions, written out a second time."""

import math
import time
from importlib import resources

import numpy as np
import pytest

from dimflow.errors import StreamSettingError
from dimflow.hidden_values import unit_variance
from dimflow.synthetic_streams import DriftingTeacher, RandomStream, SyntheticStream, TeacherSlot, best_auc
from model_contract.schema import ModelSchema


def teacher(seed: int = 1, **settings: object) -> DriftingTeacher:
    slots = (
        TeacherSlot("user", 500, 0.8, 40_000, importance=0.7),
        TeacherSlot("item", 50, 1.0, 10_000, importance=1.3, importance_after=0.0),
        TeacherSlot("noise", 20, importance=0.0, importance_after=1.0),
    )
    return DriftingTeacher(slots, seed=seed, **settings)  # type: ignore[arg-type]


STREAMS = {
    "teacher": teacher,
    "changing": lambda seed: teacher(seed, change_at=10_000),
    "random": lambda seed: RandomStream([1_000, 20], 3, seed=seed),
    "bags": lambda seed: RandomStream([1_000, 20], 0, 5, fixed=False, distribution="gaussian", seed=seed),
}


@pytest.fixture(params=sorted(STREAMS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def drawn(stream: SyntheticStream, rows: int, batch_rows: int = 4_096, start: int = 0):
    parts = list(stream.batches(rows, batch_rows, start))
    rows_as_dicts = [row for part in parts for row in part.samples.to_pylist()]
    return rows_as_dicts, np.concatenate([part.true_logits for part in parts])


def test_batches_are_cuts_of_one_stream(kind: str) -> None:
    whole, logits = drawn(STREAMS[kind](3), 20_000)
    for batch_rows, start, rows in ((1_000, 0, 20_000), (20_000, 0, 20_000), (777, 7_500, 9_001), (1, 8_190, 5)):
        part, part_logits = drawn(STREAMS[kind](3), rows, batch_rows, start)
        assert part == whole[start : start + rows]
        assert np.array_equal(part_logits, logits[start : start + rows])


def test_batch_sizes(kind: str) -> None:
    sizes = [batch.samples.num_rows for batch in STREAMS[kind](1).batches(10_000, 3_000)]
    assert sizes == [3_000, 3_000, 3_000, 1_000]
    endless = STREAMS[kind](1).batches(None, 5_000)
    assert [next(endless).samples.num_rows for _ in range(4)] == [5_000] * 4
    assert list(STREAMS[kind](1).batches(0, 5)) == []


def test_seeds(kind: str) -> None:
    assert drawn(STREAMS[kind](3), 2_000)[0] == drawn(STREAMS[kind](3), 2_000)[0]
    assert drawn(STREAMS[kind](3), 2_000)[0] != drawn(STREAMS[kind](4), 2_000)[0]


def test_columns_are_those_of_the_schema(kind: str) -> None:
    stream = STREAMS[kind](3)
    batch = next(stream.batches(100, 100)).samples
    assert batch.schema.names == ["label", "ts_ms", *stream.schema.slot_names, *stream.schema.dense_names]
    assert batch.column("ts_ms").to_pylist() == [1_700_000_000_000 + i for i in range(100)]


def test_labels_follow_the_true_logits(kind: str) -> None:
    rows, logits = drawn(STREAMS[kind](5), 60_000)
    labels = np.array([row["label"] for row in rows])
    chances = 1 / (1 + np.exp(-logits))
    edges = np.quantile(chances, np.linspace(0, 1, 11))
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (chances >= low) & (chances <= high)
        sigma = math.sqrt((chances[inside] * (1 - chances[inside])).sum())
        assert abs(labels[inside].sum() - chances[inside].sum()) < 5 * sigma


@pytest.mark.parametrize("change_at", [None, 5_000])
def test_true_logit_by_its_formula(change_at: int | None) -> None:
    stream = teacher(2, width=3, dense=2, signal=1.5, bias=-0.5, change_at=change_at)
    rows, logits = drawn(stream, 10_000)
    weights = stream._dense_weights
    for number in (0, 17, 4_999, 5_000, 9_999):
        changed = change_at is not None and number >= change_at
        importance = (0.7, 0.0, 1.0) if changed else (0.7, 1.3, 0.0)
        row = rows[number]
        hidden = [
            unit_variance(np.array([row[name]]), stream._salt(f), 4)[0]
            for f, name in enumerate(("user", "item", "noise"))
        ]
        first = sum(a * h[0] for a, h in zip(importance, hidden, strict=True))
        first += sum(row[f"x{i}"] * weights[i] for i in range(2))
        pairs = variance = 0.0
        for f in range(3):
            variance += importance[f] ** 2
            for g in range(f + 1, 3):
                pairs += importance[f] * importance[g] * float(hidden[f][1:] @ hidden[g][1:]) / math.sqrt(3)
                variance += (importance[f] * importance[g]) ** 2
        variance += float((weights**2).sum())
        assert logits[number] == pytest.approx(-0.5 + 1.5 / math.sqrt(variance) * (first + pairs), rel=1e-6)


def test_signal_is_the_deviation_over_many_ids() -> None:
    slots = tuple(TeacherSlot(name, 100_000, 0.0) for name in "abcd")
    logits = drawn(DriftingTeacher(slots, signal=1.7, bias=0.3, seed=4), 50_000)[1]
    assert logits.std() == pytest.approx(1.7, rel=0.03)
    assert logits.mean() == pytest.approx(0.3, abs=0.05)


def test_popularity_is_zipf() -> None:
    stream = DriftingTeacher((TeacherSlot("a", 100, 1.2),), dense=0, seed=1)
    rows = drawn(stream, 100_000)[0]
    found = np.bincount([row["a"] for row in rows], minlength=100)
    expected = np.arange(1, 101) ** -1.2
    expected *= 100_000 / expected.sum()
    assert len(found) == 100
    assert (abs(found - expected) < 6 * np.sqrt(expected) + 1).all()


def test_ids_are_born_and_die() -> None:
    """Each rank holds one id at a time, each id lives for one stretch of its lifetime, deaths are spread over time."""
    lifetime, live = 10_000, 50
    rows = drawn(teacher(6), 50_000)[0]
    items = np.array([row["item"] for row in rows])
    seen: dict[int, list[int]] = {}
    for number, item in enumerate(items.tolist()):
        seen.setdefault(item, []).append(number)
    assert len(seen) > 4 * live
    spans = {item: (numbers[0], numbers[-1]) for item, numbers in seen.items()}
    assert max(last - first for first, last in spans.values()) < lifetime
    for rank in range(live):
        lives = sorted(spans[item] for item in spans if item % live == rank)
        assert all(before[1] < after[0] for before, after in zip(lives, lives[1:], strict=False))
    births = np.array([first for item, (first, _) in spans.items() if first > lifetime and item % live < 10])
    assert len(births) >= 30
    assert np.histogram(births % lifetime, bins=4, range=(0, lifetime))[0].max() < 0.6 * len(births)


def test_the_default_teacher_is_the_packaged_model() -> None:
    text = (resources.files("dimflow") / "models" / "teacher.toml").read_text(encoding="utf-8")
    packaged, own = ModelSchema.parse_toml(text), DriftingTeacher().schema
    assert packaged.slot_names == own.slot_names
    assert packaged.dense_names == own.dense_names


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_best_auc_by_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(0, 2, 200), 1)  # with ties
    p = 1 / (1 + np.exp(-logits))
    ordered = pairs = 0.0
    for i in range(200):
        for j in range(200):
            if i != j:
                weight = p[i] * (1 - p[j])
                pairs += weight
                ordered += weight * (1.0 if logits[i] > logits[j] else 0.5 if logits[i] == logits[j] else 0.0)
    assert best_auc(logits) == pytest.approx(ordered / pairs, rel=1e-12)


def test_best_auc_is_what_scoring_by_the_true_logit_reaches() -> None:
    rows, logits = drawn(teacher(9), 100_000)
    labels = np.array([row["label"] for row in rows], bool)
    ranks = np.empty(len(logits))
    ranks[np.argsort(logits, kind="stable")] = np.arange(1, len(logits) + 1)
    positives = labels.sum()
    reached = (ranks[labels].sum() - positives * (positives + 1) / 2) / (positives * (len(labels) - positives))
    assert best_auc(logits) == pytest.approx(reached, abs=0.006)
    assert 0.8 < best_auc(logits) < 0.95


def test_best_auc_at_its_ends() -> None:
    assert best_auc(np.zeros(10)) == pytest.approx(0.5)
    assert best_auc(np.array([-40.0, 40.0])) == pytest.approx(1.0)
    assert math.isnan(best_auc(np.empty(0)))
    assert math.isnan(best_auc(np.array([1.0])))


def test_random_ids_uniform_and_fixed() -> None:
    rows = drawn(RandomStream([10, 1_000_000], 2, 4, seed=2), 20_000)[0]
    assert {len(row["c0"]) for row in rows} == {4}
    counts = np.bincount(np.concatenate([row["c0"] for row in rows]), minlength=10)
    assert (abs(counts - 8_000) < 6 * np.sqrt(8_000)).all()
    assert np.concatenate([row["c1"] for row in rows]).max() > 990_000


def test_random_ids_gaussian_and_varied() -> None:
    rows = drawn(RandomStream([8_001], 0, 6, fixed=False, distribution="gaussian", seed=2), 20_000)[0]
    lengths = np.bincount([len(row["c0"]) for row in rows], minlength=7)
    assert lengths[0] == 0
    assert (lengths[1:] > 1_000).all()
    ids = np.concatenate([row["c0"] for row in rows])
    assert ids.mean() == pytest.approx(4_000, rel=0.01)
    assert ids.std() == pytest.approx(1_000, rel=0.02)
    assert ids.min() >= 0
    assert ids.max() <= 8_000


def test_random_dense_is_standard_normal() -> None:
    rows, logits = drawn(RandomStream([5], 2, seed=1), 20_000)
    dense = np.array([[row["d0"], row["d1"]] for row in rows])
    assert dense.mean(axis=0) == pytest.approx([0, 0], abs=0.05)
    assert dense.std(axis=0) == pytest.approx([1, 1], rel=0.05)
    assert not logits.any()


def test_quick() -> None:
    started = time.process_time()
    for _ in DriftingTeacher().batches(50_000, 4_096):
        pass
    assert time.process_time() - started < 1.0  # 50,000 samples a second would already be a Python loop


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("table_rows", lambda: RandomStream([])),
        ("table_rows", lambda: RandomStream([5, 0])),
        ("lookups", lambda: RandomStream([5], lookups=0)),
        ("distribution", lambda: RandomStream([5], distribution="zipf")),  # type: ignore[arg-type]
        ("samples_per_s", lambda: RandomStream([5], samples_per_s=0)),
        ("seed", lambda: DriftingTeacher(seed=-1)),
        ("live_ids", lambda: DriftingTeacher((TeacherSlot("a", 0),))),
        ("lifetime_samples", lambda: DriftingTeacher((TeacherSlot("a", 1, 1.0, 0),))),
        ("width", lambda: DriftingTeacher(width=0)),
        ("signal", lambda: DriftingTeacher(signal=-1)),
        ("batch_rows", lambda: next(DriftingTeacher().batches(5, 0))),
    ],
)
def test_settings_that_cannot_work(name: str, make) -> None:
    with pytest.raises(StreamSettingError, match=name):
        make()
