"""The benchmark setting of DLRM's own program: 8 tables x 1 M x 64, 512 dense features, wide MLPs, batches of 2048.

Ids are random and hashed already, labels are coins: only time is measured. The limit beside every rate is that of the
two MLPs alone, forward, backward and optimizer, on inputs that need no lookup, by torch and by our kernels.
Where bf16 is emulated (no AMX, no AVX-512 BF16) a batch of 2048 takes half a minute: bf16 is then measured at 64.
Source: Naumov et al. 2019, arXiv 1906.00091, section 4.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch

from benchmarks.overlapped_training import learn_overlapped
from benchmarks.reference_program import ReferenceProgram
from embedding_table.table import EmbeddingTable
from feature_admission.always_admit import AlwaysAdmit
from feature_admission.least_frequent import LeastFrequentEviction
from model_contract.dense_layout import DenseLayout
from model_contract.samples import SampleBatch
from model_contract.schema import DenseFeature, ModelSchema, SparseSlot
from stream_trainer.amx_dense import AmxDenseLearner
from stream_trainer.amx_support import amx_is_usable
from stream_trainer.dense_learner import DenseLearner, DenseSide
from stream_trainer.dense_state import DenseState
from stream_trainer.learner import Learner
from stream_trainer.onednn_guard import guard_onednn
from stream_trainer.process import new_step
from stream_trainer.recipe import Recipe
from stream_trainer.train_step import Precision

__all__ = ["BATCH", "SeedSetting", "bare_mlp_rate", "bf16_batch", "reference_program", "seed_rate"]

BATCH = 2048
SLOTS = 8
_EMULATED_BATCH = 64
_EMULATED_BELOW_PER_S = 1000.0


@dataclass(frozen=True, slots=True)
class SeedSetting:
    """A filled table with what is needed to draw batches from it.

    Attributes:
        table: 8 slots of `rows` rows each.
        ids: u64 (8, rows), the ids of each slot.
    """

    table: EmbeddingTable
    ids: np.ndarray

    @staticmethod
    def filled(rows: int) -> "SeedSetting":
        """Inserts every row."""
        schema = seed_schema()
        table = EmbeddingTable(
            slots=SLOTS,
            dim=schema.dim,
            budget_bytes=int(SLOTS * rows * 400 + (64 << 20)),
            seed=0,
            init_scale=Recipe().init_scale,
            initial_accumulator=Recipe().sparse_initial_accumulator,
            missing_ids=schema.missing_ids,
        )
        ids = np.random.default_rng(0).permutation(SLOTS * rows).astype(np.uint64).reshape(SLOTS, rows)
        ids = ids * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1)  # an odd factor: distinct, and spread as hashes are
        for slot in range(SLOTS):
            table.insert(ids[slot], np.full(rows, slot, np.int32), 0)
        return SeedSetting(table, ids)

    def batches(self, rows: int, lookups: int) -> Iterator[Callable[[], SampleBatch]]:
        """Endless batches of `rows` samples; a few are drawn and come again and again."""
        generator = np.random.default_rng(1)
        drawn = [self._draw(generator, rows, lookups) for _ in range(4)]
        while True:
            for batch in drawn:
                yield partial(_same, batch)

    def _draw(self, generator: np.random.Generator, rows: int, lookups: int) -> SampleBatch:
        places = generator.integers(0, self.ids.shape[1], (rows, SLOTS, lookups))
        ids = np.stack([self.ids[slot][places[:, slot]] for slot in range(SLOTS)], axis=1)
        return SampleBatch(
            labels=generator.integers(0, 2, rows).astype(np.float32),
            weights=np.ones(rows, np.float32),
            ts_ms=np.zeros(rows, np.int64),
            dense=generator.standard_normal((rows, 512), np.float32),
            ids=ids.ravel(),
            offsets=np.arange(rows * SLOTS + 1, dtype=np.int64) * lookups,
        )


def _same(batch: SampleBatch) -> SampleBatch:
    return batch


def seed_schema() -> ModelSchema:
    """512 dense - 512 - 64, top 1024-1024-1024-1."""
    return ModelSchema(
        "seed_setting",
        tuple(SparseSlot(f"c{i}", multi=True) for i in range(SLOTS)),
        tuple(DenseFeature(f"d{i}") for i in range(512)),
        dim=64,
        bottom=(512,),
        top=(1024, 1024, 1024),
    )


def reference_program(rows: int) -> ReferenceProgram:
    """The published program in this setting, with tables of `rows` rows."""
    guard_onednn()
    schema = seed_schema()
    bottom = (len(schema.dense), *schema.bottom, schema.dim)
    return ReferenceProgram(SLOTS, rows, bottom, (*schema.top, 1))


def bf16_batch() -> int:
    """Samples of a bf16 batch: 2048, or few where this machine only emulates bf16."""
    if amx_is_usable():
        return BATCH
    return _EMULATED_BATCH if _torch_rate("bf16", 1, rows=16) < _EMULATED_BELOW_PER_S else BATCH


def seed_rate(setting: SeedSetting, lookups: int, precision: Precision, batches: int, rows: int = BATCH) -> float:
    """Samples per second in batches of `rows`: handles found, rows gathered, everything learned."""
    schema, recipe = seed_schema(), Recipe(batch_size=rows)
    step = new_step(schema, recipe, 0, precision)
    learner = Learner(schema, setting.table, step, AlwaysAdmit, LeastFrequentEviction(), count_half_life_s=86_400.0)
    return learn_overlapped(learner, islice(setting.batches(rows, lookups), batches + 1), warm=1)


def bare_mlp_rate(precision: Precision, batches: int, rows: int = BATCH) -> dict[str, float]:
    """Samples per second of the two MLPs alone in batches of `rows`, by torch and, where they can, by our kernels."""
    rates = {"torch": _torch_rate(precision, batches, rows)}
    if precision == "fp32":
        rates["kernels"] = _kernel_rate(DenseLearner, batches, rows)
    if amx_is_usable():
        rates["amx"] = _kernel_rate(partial(AmxDenseLearner, precision=precision), batches, rows)
    return rates


def _torch_rate(precision: Precision, batches: int, rows: int) -> float:
    guard_onednn()
    torch.manual_seed(0)
    bottom = torch.nn.Sequential(torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 64), torch.nn.ReLU())
    widths = (DenseLayout(seed_schema()).interaction_width, 1024, 1024, 1024)
    layers = [
        part for a, b in zip(widths[:-1], widths[1:], strict=True) for part in (torch.nn.Linear(a, b), torch.nn.ReLU())
    ]
    top = torch.nn.Sequential(*layers, torch.nn.Linear(1024, 1))
    optimizer = torch.optim.Adagrad([*bottom.parameters(), *top.parameters()], lr=0.01, foreach=True)
    dense, joined = torch.randn(rows, 512), torch.randn(rows, widths[0], requires_grad=True)
    labels = torch.randint(0, 2, (rows,)).float()
    begin = 0.0
    for number in range(batches + 1):
        if number == 1:
            begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            vector, logits = bottom(dense), top(joined).squeeze(1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), labels, reduction="sum")
        optimizer.zero_grad()
        (loss + vector.float().sum()).backward()
        optimizer.step()
    return batches * rows / (time.perf_counter() - begin)


def _kernel_rate(maker: Callable[[DenseState, Recipe], DenseSide], batches: int, rows: int) -> float:
    """One slot in place of eight, so that next to nothing but the MLPs is left."""
    full = seed_schema()
    schema = ModelSchema("bare", full.sparse[:1], full.dense, full.dim, full.bottom, full.top)
    recipe = Recipe(batch_size=rows)
    state = DenseState(DenseLayout(schema), recipe, seed=0)
    learner = maker(state, recipe)
    generator = np.random.default_rng(0)
    emb = generator.standard_normal((rows, 1, 64), np.float32)
    dense = generator.standard_normal((rows, 512), np.float32)
    labels = generator.integers(0, 2, rows).astype(np.float32)
    weights, logits, emb_grad = np.ones(rows, np.float32), np.empty(rows, np.float32), np.empty_like(emb)
    begin = 0.0
    for number in range(batches + 1):
        if number == 1:
            begin = time.perf_counter()
        learner.learn(emb, dense, labels, weights, logits, emb_grad)
    return batches * rows / (time.perf_counter() - begin)
