"""The kernels against autograd, through the real table: logits, parameters, accumulators and rows."""

import numpy as np
import pytest

import stream_trainer.dense_learner
import stream_trainer.fused_step
from model_contract.schema import Align
from stream_trainer.autograd_step import AutogradStep
from stream_trainer.fused_step import FusedStep
from stream_trainer.recipe import Recipe
from tests.stream_trainer.train_cases import NOW_S, Case, make_case, schema

RECIPE = Recipe(batch_size=32, init_scale=0.4, dense_eps=1e-6)


def trained(
    step_type: type[FusedStep] | type[AutogradStep], case: Case, batches: int = 3, seen: int = 0
) -> list[np.ndarray]:
    step = step_type(case.model, RECIPE, 7)
    if step.layout.align:
        step.parameters[step.layout.align.batches] = seen
    logits = [step.train(case.table, case.batch(75, seed), NOW_S) for seed in range(batches)]
    changes = case.table.take_changes()
    order = [np.argsort(block.ids) for block in changes.blocks]
    blocks = list(zip(changes.blocks, order, strict=True))
    return [
        np.concatenate(logits),
        step.parameters,
        np.asarray(step.state()["accumulators"]),
        np.concatenate([block.values[by] for block, by in blocks]),
        np.concatenate([block.accumulators[by] for block, by in blocks]),
        np.concatenate([block.counts[by] for block, by in blocks]),
    ]


@pytest.mark.parametrize("dense", [0, 4])
@pytest.mark.parametrize(("dim", "top"), [(6, (12, 5)), (16, (8,)), (3, ())])
def test_equals_autograd(dim: int, top: tuple[int, ...], dense: int) -> None:
    model = schema(dense=dense, dim=dim, top=top)
    fused, plain = trained(FusedStep, make_case(model)), trained(AutogradStep, make_case(model))
    for found, expected in zip(fused, plain, strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("seen", [0, 999])
@pytest.mark.parametrize("dense", [0, 4])
def test_a_linear_alignment_learns_as_autograd_s(dense: int, seen: int) -> None:
    """Before its statistics are settled, and across that border."""
    found = [
        trained(way, make_case(schema(dense=dense, align="linear")), seen=seen) for way in (FusedStep, AutogradStep)
    ]
    for fused, plain in zip(*found, strict=True):
        np.testing.assert_allclose(fused, plain, rtol=2e-4, atol=2e-5)


def test_wide_batches_through_the_table_s_own_calls_learn_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = schema(dense=3)
    inside = trained(FusedStep, make_case(model))
    monkeypatch.setattr(stream_trainer.fused_step, "_WIDE_FLOATS", 0)
    wide = trained(FusedStep, make_case(model))
    for found, expected in zip(wide, inside, strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("wide", [False, True])
def test_wide_rows_learn_slower_above_the_reference_width(monkeypatch: pytest.MonkeyPatch, wide: bool) -> None:
    """As autograd's step does it, and not as without."""
    if wide:
        monkeypatch.setattr(stream_trainer.fused_step, "_WIDE_FLOATS", 0)
    recipe = Recipe(batch_size=32, init_scale=0.4, sparse_reference_width=2.0)
    cases = [make_case(schema()) for _ in range(3)]
    steps = (
        FusedStep(cases[0].model, recipe, 7),
        AutogradStep(cases[1].model, recipe, 7),
        FusedStep(cases[2].model, RECIPE, 7),
    )
    for step, case in zip(steps, cases, strict=True):
        step.train(case.table, case.batch(75, 0), NOW_S)
    np.testing.assert_allclose(cases[0].values(), cases[1].values(), rtol=2e-4, atol=2e-5)
    assert np.abs(cases[0].values() - cases[2].values()).max() > 0.01


def test_saliency_is_gathered_by_every_way_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = []
    for way in (FusedStep, AutogradStep, FusedStep):
        if sums:
            monkeypatch.setattr(stream_trainer.fused_step, "_WIDE_FLOATS", 0)
        case = make_case(schema())
        way(case.model, RECIPE, 7).train(case.table, case.batch(75, 0), NOW_S)
        sums.append(case.table.saliency())
    assert sums[0].updates == pytest.approx(1 + 0.9995 + 0.9995**2)
    for other in sums[1:]:
        np.testing.assert_allclose(other.first, sums[0].first, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(other.squared, sums[0].squared, rtol=1e-3, atol=1e-5)
    assert (sums[0].first > 0).all()


@pytest.mark.parametrize("align", ["zero_pad", "linear"])
@pytest.mark.parametrize("threads", [2, 3])
def test_samples_shared_among_threads_learn_the_same(
    monkeypatch: pytest.MonkeyPatch, threads: int, align: Align
) -> None:
    model = schema(dense=3, align=align)
    alone = trained(FusedStep, make_case(model))
    monkeypatch.setattr(stream_trainer.dense_learner, "_WIDE_PRODUCTS", 0)
    monkeypatch.setattr(stream_trainer.dense_learner, "available_threads", lambda: threads)
    shared, again = trained(FusedStep, make_case(model)), trained(FusedStep, make_case(model))
    for found, twice, expected in zip(shared, again, alone, strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)
        assert np.array_equal(found, twice)


def test_more_threads_than_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    case, plain = make_case(schema()), make_case(schema())
    monkeypatch.setattr(stream_trainer.dense_learner, "_WIDE_PRODUCTS", 0)
    fused, autograd = FusedStep(case.model, RECIPE, 1, threads=3), AutogradStep(case.model, RECIPE, 1)
    for rows in (2, 1):
        batch = case.batch(rows, seed=rows)
        np.testing.assert_allclose(
            fused.train(case.table, batch, NOW_S), autograd.train(plain.table, batch, NOW_S), rtol=1e-4, atol=1e-5
        )
    np.testing.assert_allclose(fused.parameters, autograd.parameters, rtol=2e-4, atol=2e-5)


def test_bags_longer_than_ever_before_find_room() -> None:
    case, plain = make_case(schema()), make_case(schema())
    fused, autograd = FusedStep(case.model, RECIPE, 1), AutogradStep(case.model, RECIPE, 1)
    short = case.batch(5, seed=1)
    long = case.batch(70, seed=2)
    for batch in (short, long):
        np.testing.assert_allclose(
            fused.train(case.table, batch, NOW_S), autograd.train(plain.table, batch, NOW_S), rtol=1e-4, atol=1e-5
        )


def test_what_a_sample_teaches_does_not_depend_on_its_batch() -> None:
    """Gradients are sums: the same samples, each alone or all at once, move fresh parameters about as far."""
    moved = []
    for batch_size in (1, 64):
        case = make_case(schema(dense=2))
        recipe = Recipe(batch_size=batch_size, init_scale=0.4, dense_initial_accumulator=1e4)
        step = FusedStep(case.model, recipe, 3)
        before = step.parameters.copy()
        step.train(case.table, case.batch(64, seed=8), NOW_S)
        moved.append(step.parameters - before)
    assert np.corrcoef(*moved)[0, 1] > 0.9
    assert np.linalg.norm(moved[0]) == pytest.approx(np.linalg.norm(moved[1]), rel=0.3)
