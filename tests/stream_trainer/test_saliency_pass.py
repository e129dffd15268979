"""The single-shot pass against autograd through an explicit mask, and against a table that is really resized."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dimension_search.evidence import WindowSums
from dimension_search.heat import HeatBands
from embedding_table.table import EmbeddingTable
from model_contract.dlrm import Dlrm
from model_contract.schema import Align, ModelSchema
from stream_trainer.fused_step import FusedStep
from stream_trainer.prepared_batch import PreparedBatch
from stream_trainer.recipe import Recipe
from stream_trainer.saliency_pass import SaliencyPass
from stream_trainer.stream_heat import StreamHeat
from tests.stream_trainer.train_cases import NOW_S, Case, schema

BANDS = 2
HEAT = StreamHeat(HeatBands((12.0,)), 0)


@dataclass
class Banded:
    """A trained model whose rows are in the bands of their heat, and samples that it has not seen."""

    model: ModelSchema
    table: EmbeddingTable
    step: FusedStep
    batch: PreparedBatch
    saliency: SaliencyPass


def banded(
    seed: int,
    *,
    multi: bool = True,
    dense: int = 0,
    rows: int = 300,
    train: bool = True,
    align: Align = "zero_pad",
) -> Banded:
    model = schema(dense=dense, multi=multi, align=align)
    slots = len(model.sparse)
    table = EmbeddingTable(
        slots=slots,
        dim=model.dim,
        budget_bytes=8 << 20,
        seed=seed,
        init_scale=0.4,
        initial_accumulator=0.1,
        missing_ids=model.missing_ids,
        bands=BANDS,
    )
    table.move_rows(table.missing_handles, np.full(slots, BANDS - 1, np.int32))
    per_slot = 30
    ids = np.arange(1, slots * per_slot + 1, dtype=np.uint64)
    of_slot = np.repeat(np.arange(slots, dtype=np.int32), per_slot)
    handles = table.insert(ids, of_slot, NOW_S)
    few = [handles[of_slot == slot][: 6 + seed % 5] for slot in range(slots)]  # these become hot
    step = FusedStep(model, Recipe(batch_size=32, init_scale=0.4), seed)
    if step.layout.align:  # settled, and no identity any more
        step.parameters[step.layout.align.batches] = 1000
        tail = step.parameters[step.layout.align.weight : step.layout.learned]
        tail += 0.2 * np.random.default_rng(seed).standard_normal(tail.size, np.float32)
    if train:
        step.train(table, Case(model, table, few).batch(120, seed), NOW_S)
    found = table.live_rows()
    bands = HEAT.bands_of(found.counts, found.last_seen_s, NOW_S, found.bands)
    table.move_rows(found.handles, bands)
    handles = table.find(ids)
    rows_by_slot = [np.append(handles[of_slot == slot], table.missing_handles[slot]) for slot in range(slots)]
    batch = Case(model, table, rows_by_slot).batch(rows, seed + 1000)
    return Banded(model, table, step, batch, SaliencyPass(model, step.layout))


@pytest.mark.parametrize(
    ("multi", "dense", "align"),
    [(True, 0, "zero_pad"), (True, 3, "zero_pad"), (False, 0, "zero_pad"), (True, 3, "linear")],
)
@pytest.mark.parametrize("seed", range(2))
def test_equals_autograd_through_an_explicit_mask(seed: int, multi: bool, dense: int, align: Align) -> None:
    """Under a linear alignment too the mask is on the looked-up rows, before the map."""
    case = banded(seed, multi=multi, dense=dense, align=align)
    slots, dim = len(case.model.sparse), case.model.dim
    looked_up = case.saliency.look_up(case.table, case.batch, HEAT, NOW_S)
    sums = WindowSums(slots, BANDS, dim)
    case.saliency.observe(case.step.parameters, case.batch, looked_up, sums)
    active = np.ones((slots, BANDS, dim), bool)
    found = sums.evidence(active, np.ones((slots, BANDS), np.int64), np.ones((slots, BANDS)))

    # The same by the module, with a mask of ones on every (slot, band) and column, in double precision.
    mask = torch.ones(slots * BANDS, dim, dtype=torch.float64, requires_grad=True)
    values = torch.from_numpy(looked_up.values).double().requires_grad_()
    masked = values * mask[torch.from_numpy(looked_up.blocks).long()]
    members = np.diff(case.batch.offsets)
    bags = torch.from_numpy(np.repeat(np.arange(members.size), members))
    pooled = torch.zeros(members.size, dim, dtype=torch.float64).index_add(0, bags, masked)
    mean = np.tile([slot.pooling == "mean" for slot in case.model.sparse], case.batch.rows)
    pooled = pooled / torch.from_numpy(np.where(mean, members, 1)).double()[:, None]
    network = Dlrm(case.model)
    network.load_flat(case.step.parameters)
    network.double()
    logits = network(pooled.reshape(-1, slots, dim), torch.from_numpy(case.batch.dense).double())
    torch.nn.functional.binary_cross_entropy_with_logits(
        logits,
        torch.from_numpy(case.batch.labels).double(),
        torch.from_numpy(case.batch.weights).double(),
        reduction="sum",
    ).backward()

    assert set(np.unique(looked_up.blocks)) == set(range(slots * BANDS))
    assert mask.grad is not None
    assert values.grad is not None
    first = mask.grad.abs().numpy().reshape(slots, BANDS, dim)
    np.testing.assert_allclose(found.first, first, rtol=1e-3, atol=1e-4 * first.max())
    effects = (values * values.grad).detach().numpy()
    squared = np.zeros((slots * BANDS, dim))
    np.add.at(squared, looked_up.blocks, np.square(effects))
    np.testing.assert_allclose(found.squared.reshape(-1, dim), squared, rtol=1e-3, atol=1e-6 * squared.max())
    np.testing.assert_array_equal(found.lookups.ravel(), np.bincount(looked_up.blocks, minlength=slots * BANDS))


def test_values_read_are_the_rows_and_missing_rows_are_hot() -> None:
    case = banded(3)
    looked_up = case.saliency.look_up(case.table, case.batch, HEAT, NOW_S)
    slots, dim = len(case.model.sparse), case.model.dim

    pooled = np.empty((case.batch.rows, slots, dim), np.float32)
    case.table.gather(case.batch.handles, case.batch.offsets, case.model.pooling_codes, pooled)
    bags = case.batch.rows * slots
    np.testing.assert_allclose(
        looked_up.pooled(looked_up.values, bags), pooled.reshape(bags, dim), rtol=1e-6, atol=1e-7
    )
    missing = np.isin(case.batch.handles, case.table.missing_handles)
    assert missing.any()
    assert np.all(looked_up.blocks[missing] % BANDS == BANDS - 1)
    np.testing.assert_array_equal(looked_up.blocks // BANDS, looked_up.bags % slots)


def test_the_log_loss_is_that_of_the_predictions_before_learning() -> None:
    case = banded(4, rows=32)  # one micro-batch
    looked_up = case.saliency.look_up(case.table, case.batch, HEAT, NOW_S)
    loss = case.saliency.log_loss(case.step.parameters, case.batch, looked_up)

    logits = case.step.train(case.table, case.batch, NOW_S).astype(np.float64)
    chances = 1 / (1 + np.exp(-np.where(case.batch.labels > 0, logits, -logits)))
    assert loss == pytest.approx(float(-(case.batch.weights * np.log(chances)).sum()), rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), drop_cold=st.booleans(), align=st.sampled_from(["zero_pad", "linear"]))
def test_the_log_loss_under_a_mask_is_that_of_a_table_really_resized(seed: int, drop_cold: bool, align: Align) -> None:
    case = banded(seed, rows=80, align=align)
    slots, dim = len(case.model.sparse), case.model.dim
    generator = np.random.default_rng(seed)
    hot = generator.random((slots, dim)) < 0.7
    hot[:, 0] = True
    cold = hot & (generator.random((slots, dim)) < 0.5)
    cold[generator.random(slots) < 0.5] = False  # these bands are given up
    wanted = np.stack([cold, hot], axis=1).reshape(-1, dim)
    looked_up = case.saliency.look_up(case.table, case.batch, HEAT, NOW_S)
    missing = case.saliency.missing_rows(case.table) if drop_cold else None
    masked = case.saliency.log_loss(case.step.parameters, case.batch, looked_up, wanted, missing)

    ids = np.concatenate([block.ids for block in case.table.all_rows().blocks])
    places = {int(handle): int(id_) for handle, id_ in zip(case.table.find(ids), ids, strict=True)}
    read = np.array([places[int(handle)] for handle in case.batch.handles], np.uint64)
    case.table.begin_resize([np.flatnonzero(columns).astype(np.uint16) for columns in wanted])
    while case.table.resizing:
        case.table.resize_some(7)
    handles = case.table.find(read)
    if drop_cold:
        gone = ~wanted.any(axis=1)[looked_up.blocks]
        handles[gone] = case.table.missing_handles[looked_up.bags[gone] % slots]
    resized = replace(case.batch, handles=handles)
    again = case.saliency.look_up(case.table, resized, HEAT, NOW_S)
    assert masked == pytest.approx(case.saliency.log_loss(case.step.parameters, resized, again), rel=1e-6)


def test_nothing_changes_in_table_or_network() -> None:
    case = banded(5)
    case.table.take_changes()
    before = [block.values.tobytes() for block in case.table.all_rows().blocks]
    counts = case.table.live_rows().counts.copy()
    parameters = case.step.parameters.copy()
    running = case.table.saliency().first.copy()

    looked_up = case.saliency.look_up(case.table, case.batch, HEAT, NOW_S + 5)
    sums = WindowSums(len(case.model.sparse), BANDS, case.model.dim)
    case.saliency.observe(case.step.parameters, case.batch, looked_up, sums)
    wanted = np.zeros((len(case.model.sparse) * BANDS, case.model.dim), bool)
    case.saliency.log_loss(case.step.parameters, case.batch, looked_up, wanted, case.saliency.missing_rows(case.table))

    assert sums.samples == case.batch.rows
    assert [block.values.tobytes() for block in case.table.all_rows().blocks] == before
    np.testing.assert_array_equal(case.table.live_rows().counts, counts)
    np.testing.assert_array_equal(case.step.parameters, parameters)
    np.testing.assert_array_equal(case.table.saliency().first, running)
    assert case.table.take_changes().rows == 0
