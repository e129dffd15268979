"""One trainer process, put together from its settings and run until it is told to stop.

Knows every part and none of their work. Invariant: when this returns 0 everything that was read is in the newest state
on the disk and, where Redis answers, published.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from dimension_search.plan import DimensionPlan
from dimension_search.plan_history import PlanHistory, PrecisionHistory
from dimension_search.precision_plan import PrecisionPlan
from dimension_search.search_request import take
from embedding_table.table import EmbeddingTable
from feature_admission.admission import AdmissionPolicy
from feature_admission.age import AgeEviction
from feature_admission.always_admit import AlwaysAdmit
from feature_admission.count_min import CountMinAdmission
from feature_admission.eviction import EvictionPolicy
from feature_admission.least_frequent import LeastFrequentEviction
from model_contract.dense_layout import DenseLayout
from model_contract.increment import DenseType
from model_contract.process_settings import SettingError, describe_settings
from model_contract.sample_decoding import SampleDecoder
from model_contract.schema import ModelSchema
from stream_trainer.alignment_switch import aligned_state
from stream_trainer.amx_dense import pays_in_fp32
from stream_trainer.amx_step import AmxStep
from stream_trainer.amx_support import amx_is_usable
from stream_trainer.app import EXIT_CLEAN, run_app
from stream_trainer.checkpoint_store import CheckpointStore
from stream_trainer.delivery import Delivery
from stream_trainer.dimension_keeper import DimensionKeeper
from stream_trainer.dimension_rules import DimensionRules, dimension_rules
from stream_trainer.errors import RedisUnavailable
from stream_trainer.fused_step import FusedStep
from stream_trainer.leadership import LeaderLease, stop_signals, wait_for_folder
from stream_trainer.learner import Learner
from stream_trainer.model_state import ModelState
from stream_trainer.precision_keeper import PrecisionKeeper, PrecisionRules
from stream_trainer.precision_rules import hurried_precision, precision_rules
from stream_trainer.publisher import Publisher
from stream_trainer.quality_gate import GateRules, QualityGate
from stream_trainer.recipe import Recipe
from stream_trainer.settings import PREFIX, TrainerSettings
from stream_trainer.state_chain import StoredState
from stream_trainer.stream_settings import StreamSettings
from stream_trainer.telemetry import TrainerPage
from stream_trainer.tiers_of_cut import TiersOfCut
from stream_trainer.train_step import Precision, TrainStep
from stream_trainer.trainer import Trainer, now_ms
from stream_trainer.turned_columns import turned_state
from stream_trainer.warm_up import warm_up

__all__ = ["make_learner", "new_step", "read_schema", "run_trainer"]

logger = logging.getLogger(__name__)

_MODEL_FILE = f"{PREFIX}MODEL_FILE"
_MEMORY_BYTES = f"{PREFIX}MEMORY_BYTES"
_DENSE_TYPES: dict[str, DenseType] = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_SCRATCH_BYTES = 16 << 20
_SMALLEST_TABLE_BYTES = 1 << 19
_BLAS_THREADS = 1  # one thread trains and one prepares: a second BLAS thread would fight the latter for its core


def read_schema(path: Path) -> ModelSchema:
    """Reads the model file.

    Raises:
        SettingError: the file cannot be read.
        SchemaError: its content is wrong.
    """
    try:
        return ModelSchema.parse_toml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        expected = f"a readable TOML file ({error})"
        raise SettingError(_MODEL_FILE, str(path), expected) from error


def make_learner(
    schema: ModelSchema,
    settings: TrainerSettings,
    recipe: Recipe | None = None,
    rules: DimensionRules | None = None,
    on_plan: Callable[[DimensionPlan], None] = lambda plan: None,
    requested: Callable[[], str | None] = lambda: None,
    precision: PrecisionRules | None = None,
    on_precision: Callable[[PrecisionPlan], None] = lambda plan: None,
) -> Learner:
    """A fresh learner as the settings ask for it.

    Args:
        schema: of the model.
        settings: of the process.
        recipe: None for the default.
        rules: of the search for dimensions, None for full width throughout.
        on_plan: receives every plan with its verdict.
        requested: tells of searches that somebody asks for; see `DimensionKeeper`.
        precision: of how rows are served, None for fp32.
        on_precision: receives every plan of precision with its verdict.

    Raises:
        SettingError: the memory does not hold the sketch and a table.
    """
    recipe = recipe or Recipe()
    new_admission = _admission_factory(settings)
    budget_bytes = settings.memory_bytes - new_admission().memory_bytes
    if budget_bytes < _SMALLEST_TABLE_BYTES:
        expected = f"at least {_SMALLEST_TABLE_BYTES} more than ADMISSION_BYTES, {settings.admission_bytes}"
        raise SettingError(_MEMORY_BYTES, settings.memory_bytes, expected)
    table = EmbeddingTable(
        slots=len(schema.sparse),
        dim=schema.dim,
        budget_bytes=budget_bytes,
        seed=settings.seed,
        init_scale=recipe.init_scale,
        initial_accumulator=recipe.sparse_initial_accumulator,
        missing_ids=schema.missing_ids,
        bands=rules.heat.bands if rules else 1,
    )
    step = new_step(schema, recipe, settings.seed, settings.precision)
    return Learner(
        schema,
        table,
        step,
        new_admission,
        _eviction(settings),
        count_half_life_s=settings.count_half_life_s,
        dimensions=DimensionKeeper(schema, table, step, rules, on_plan, requested) if rules else None,
        precision=PrecisionKeeper(schema, table, step, precision, on_precision) if precision else None,
    )


def new_step(schema: ModelSchema, recipe: Recipe, seed: int, precision: Precision) -> TrainStep:
    """The fastest train step of a precision that this machine can run.

    Where the processor multiplies bfloat16 in tiles, those do bf16, and fp32 where there is much to multiply; elsewhere
    torch's autocast does bf16.

    Raises:
        SettingError: bf16 for a model with a linear alignment.
    """
    if precision == "bf16" and schema.align == "linear":
        raise SettingError(PREFIX + "PRECISION", precision, "fp32, as the model file has align = 'linear'")
    if (precision == "bf16" or pays_in_fp32(recipe.batch_size, DenseLayout(schema))) and amx_is_usable():
        return AmxStep(schema, recipe, seed, precision)
    if precision == "fp32":
        return FusedStep(schema, recipe, seed=seed)
    from stream_trainer.autograd_step import AutogradStep  # noqa: PLC0415  torch: 300 MB that the others do without

    logger.info("no AMX for bf16 here: torch's autocast does the products")
    return AutogradStep(schema, recipe, seed=seed, precision="bf16")


def run_trainer(settings: TrainerSettings, at_step: Callable[[str], None] = lambda _: None) -> int:
    """Restores or begins, trains until SIGTERM or SIGINT, and leaves everything durable.

    Args:
        settings: of this process.
        at_step: called at the named steps of checkpoint and publication, for fault tests.

    Returns:
        exit code of the process: 0 after a clean stop, `EXIT_POISONED` where too much could not be learned.
    """
    logger.info("settings: %s", describe_settings(settings))
    schema = read_schema(settings.model_file)
    decoder = SampleDecoder(schema)
    scratch = replace(settings, memory_bytes=settings.admission_bytes + _SCRATCH_BYTES)
    rules = dimension_rules(settings, schema.dim)
    precision = precision_rules(settings)
    hurried = hurried_precision(precision)
    warm_up(schema, decoder, lambda: make_learner(schema, scratch, rules=_hurried(rules), precision=hurried))
    history = PlanHistory(settings.state_dir)
    learner = make_learner(
        schema,
        settings,
        rules=rules,
        on_plan=history.append,
        requested=partial(_requested, settings.state_dir),
        precision=precision,
        on_precision=PrecisionHistory(settings.state_dir).append,
    )
    page = TrainerPage()

    def show_page() -> None:
        if settings.metrics_port:
            page.start(settings.metrics_host, settings.metrics_port)

    try:
        with _leading(settings, learner, show_page, at_step) as led:
            return EXIT_CLEAN if led is None else _run(settings, learner, decoder, led, (page, show_page), at_step)
    finally:
        page.stop()


@contextmanager
def _leading(
    settings: TrainerSettings, learner: Learner, on_wait: Callable[[], None], at_step: Callable[[str], None]
) -> Iterator[tuple[CheckpointStore, LeaderLease] | None]:
    """The state folder and the lease, as soon as no other trainer has them; None where this one is stopped before."""

    def open_store() -> CheckpointStore:
        return CheckpointStore(settings.state_dir, learner.merge_admission, settings.kept_bases, at_step)

    with stop_signals() as stopping:
        store = wait_for_folder(open_store, stopping, on_wait)
        if store is None:
            yield None
            return
        lease = LeaderLease(partial(_publisher, settings, learner), store.home, settings.lease_s)
        leads = lease.wait(stopping, on_wait)
    try:
        yield (store, lease) if leads else None
    finally:
        lease.close()
        store.close()


def _publisher(settings: TrainerSettings, learner: Learner, trainer: str) -> Publisher:
    return Publisher(
        settings.redis,
        learner.schema.name,
        kept_bases=settings.kept_bases,
        stream_increments=settings.stream_increments,
        trainer=trainer,
    )


def _run(
    settings: TrainerSettings,
    learner: Learner,
    decoder: SampleDecoder,
    led: tuple[CheckpointStore, LeaderLease],
    shown: tuple[TrainerPage, Callable[[], None]],
    at_step: Callable[[str], None],
) -> int:
    (store, lease), (page, show_page) = led, shown
    publisher = _publisher(settings, learner, lease.name)
    stored = _stored(settings, store, publisher, learner.schema.fingerprint)
    state = _restored(learner, store, stored)
    delivery = Delivery(
        store,
        publisher,
        learner.step.layout,
        compact_ratio=settings.compact_ratio,
        compact_increments=settings.stream_increments // 2,
        tiers_of=TiersOfCut(learner.schema.slot_names),
        dense_dtype=_DENSE_TYPES[settings.dense_precision],
        at_step=at_step,
        gate=QualityGate(_gate_rules(settings), learner.step.layout, learner.schema.slot_names),
    )
    state = delivery.start(state, behind=stored is not None and stored.behind)
    page.trainer = trainer = Trainer(settings, learner, decoder, delivery, state)
    lease.on_lost = trainer.fail
    show_page()
    try:
        with threadpool_limits(_BLAS_THREADS, user_api="blas"):
            return run_app(_stream_settings(settings), trainer)
    finally:
        publisher.close()


def _stored(
    settings: TrainerSettings, store: CheckpointStore, publisher: Publisher, fingerprint: str
) -> StoredState | None:
    """The newest state to go on from, in this trainer's folder or in that of the one it stands by for."""
    if not settings.standby_of:
        return store.load(fingerprint)
    try:
        head = publisher.head()
    except RedisUnavailable:
        head = None
    return store.load_newest(Path(settings.standby_of), head.lineage if head else "", fingerprint)


def _hurried(rules: DimensionRules | None) -> DimensionRules | None:
    """Rules that search and apply within a few samples, so that warming up goes through all of it."""
    if rules is None:
        return None
    return replace(
        rules, first_search_samples=0, search_every_samples=1, window_samples=1, judge_samples=1, tolerance=np.inf
    )


def _requested(state_dir: Path) -> str | None:
    request = take(state_dir)
    return request.mode if request else None


def _restored(learner: Learner, store: CheckpointStore, stored: StoredState | None) -> ModelState:
    if stored is None:
        state = learner.fresh_state(now_ms())
        logger.info("new lineage %s in %s", state.manifest.lineage, store.folder)
        return state
    state = aligned_state(stored.state, learner.schema, Recipe())
    if state is not stored.state:
        logger.info("%s goes over to a linear alignment as %s", stored.state.manifest.lineage, state.manifest.lineage)
        if learner.dimensions is not None:  # columns will be cut: then what rows say should lie in few of them
            state = turned_state(state, learner.step.layout)
    learner.restore(state)
    manifest = state.manifest
    logger.info(
        "restored lineage %s at sequence %d: %d samples, %d rows",
        manifest.lineage,
        manifest.sequence,
        manifest.samples_trained,
        learner.table.rows,
    )
    return state


def _gate_rules(settings: TrainerSettings) -> GateRules:
    return GateRules(
        loss_rise=settings.gate_loss_rise,
        recent_samples=settings.gate_recent_samples,
        level_samples=settings.gate_level_samples,
        least_samples=settings.gate_least_samples,
    )


def _admission_factory(settings: TrainerSettings) -> Callable[[], AdmissionPolicy]:
    if settings.admission == "always":
        return AlwaysAdmit
    return lambda: CountMinAdmission(
        settings.admission_threshold,
        settings.admission_bytes,
        half_life_s=settings.admission_half_life_s,
        seed=settings.seed,
    )


def _eviction(settings: TrainerSettings) -> EvictionPolicy:
    return AgeEviction(settings.max_age_s) if settings.eviction == "age" else LeastFrequentEviction()


def _stream_settings(settings: TrainerSettings) -> StreamSettings:
    return StreamSettings(
        brokers=settings.brokers,
        topic=settings.topic,
        group=settings.group,
        partitions=settings.partitions,
        start=settings.start,
        security_protocol=settings.kafka_security_protocol,
        sasl_username=settings.kafka_sasl_username,
        sasl_password=settings.kafka_sasl_password,
        watchdog_s=settings.watchdog_s,
    )
