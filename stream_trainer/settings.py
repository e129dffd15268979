"""Every setting of the trainer process, with its unit, default and meaning.

Knows no environment: `__main__` and the command hand it over. Invariant: see `model_contract.process_settings`.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from model_contract.process_settings import setting

__all__ = ["PREFIX", "TrainerSettings"]

PREFIX = "DIMFLOW_TRAINER_"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """What one trainer is told at its start."""

    model_file: Path = setting(dataclasses.MISSING, "TOML file with the slots and layers of the model")
    state_dir: Path = setting(
        dataclasses.MISSING, "folder of the checkpoints; a second trainer on it waits as a standby"
    )
    standby_of: str = setting(
        "", "state folder of the trainer that this one stands by for: read when it takes over, never written"
    )
    lease_s: float = setting(
        6.0, "seconds without a sign of life after which a standby with a folder of its own takes over", minimum=0.5
    )
    seed: int = setting(0, "seed of all initial values", minimum=0, maximum=2**31 - 1)

    brokers: str = setting("127.0.0.1:9092", "Kafka bootstrap servers, comma-separated")
    topic: str = setting("samples", "topic to read; dead letters go to <topic>.dlq")
    group: str = setting("dimflow", "consumer group shown to lag tools; offsets come from the checkpoint")
    partitions: int = setting(4, "partitions of the topic where the trainer creates it", minimum=1, maximum=10_000)
    start: Literal["earliest", "latest"] = setting("earliest", "where a partition begins that the state does not know")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = setting(
        "PLAINTEXT", "how to speak to the brokers"
    )
    kafka_sasl_username: str = setting("", "SASL/PLAIN user name")
    kafka_sasl_password: str = setting("", "SASL/PLAIN password", secret=True)

    redis: str = setting("redis://127.0.0.1:6379/0", "Redis URL that increments go to", secret=False)
    publish_interval_s: float = setting(1.0, "seconds between two increments", minimum=0.05, maximum=3600)
    stream_increments: int = setting(600, "increments kept in the Redis stream behind the base", minimum=10)
    kept_bases: int = setting(2, "base snapshots kept, on disk and in Redis", minimum=1, maximum=100)
    compact_ratio: float = setting(
        2.0, "a new base is written when the increments since the last one outgrow it this many times", minimum=0.1
    )

    gate_loss_rise: float = setting(
        0.25,
        "relative rise of the recent log-loss over its level that stops publishing; 0 for no such limit",
        minimum=0,
    )
    gate_recent_samples: int = setting(10_000, "samples that the recent log-loss looks back on", minimum=100)
    gate_level_samples: int = setting(200_000, "samples that its level looks back on", minimum=100)
    gate_least_samples: int = setting(50_000, "samples after which the log-loss is judged at all", minimum=0)
    poison_limit: float = setting(
        0.5, "share of records that cannot be learned past which the trainer stops; 1 for never", minimum=0, maximum=1
    )
    poison_window: int = setting(5000, "records that this share is taken of, the newest ones", minimum=100)

    chunk_rows: int = setting(4096, "samples prepared together ahead of the step", minimum=1, maximum=1_000_000)
    chunk_age_ms: int = setting(50, "milliseconds a sample may wait for its chunk to fill", minimum=1, maximum=60_000)
    queue_bytes: int = setting(64 << 20, "bytes of records that may wait before fetching pauses", minimum=1 << 16)
    precision: Literal["fp32", "bf16"] = setting("fp32", "arithmetic of the dense layers")
    dense_precision: Literal["fp32", "fp16", "bf16"] = setting("fp32", "dense weights as servers get them")

    memory_bytes: int = setting(1 << 30, "bytes for rows, optimizer state, index and sketch together", minimum=1 << 20)
    admission: Literal["always", "count_min"] = setting("count_min", "who may have a row")
    admission_threshold: int = setting(2, "times an id must be seen before it gets a row", minimum=1, maximum=1 << 19)
    admission_bytes: int = setting(8 << 20, "bytes of the counting sketch", minimum=1 << 10)
    admission_half_life_s: float = setting(86_400.0, "seconds after which an unseen id's count has halved", minimum=1)
    eviction: Literal["age", "least_frequent"] = setting("least_frequent", "which rows go when memory is short")
    max_age_s: int = setting(14 * 86_400, "seconds without a sample after which `age` removes a row", minimum=1)
    count_half_life_s: float = setting(86_400.0, "seconds after which a row's traffic count has halved", minimum=1)

    dimensions: Literal["fixed", "search"] = setting(
        "fixed", "whether every row has all columns or searches find how many it deserves"
    )
    dimension_planner: Literal["principal", "sseds", "squared", "magnitude", "mde", "steps", "uniform"] = setting(
        "principal", "how widths are chosen"
    )
    dimension_saliency: Literal["single_shot", "running"] = setting(
        "single_shot", "where scores of columns come from: a window before it is learned, or the mean over training"
    )
    dimension_bytes: int = setting(
        0, "bytes that all rows' columns and optimizer state may take; 0 for no such limit", minimum=0
    )
    dimension_share: float = setting(
        0.5, "what they may take as a share of the most rows there have been at full width", minimum=0.001, maximum=1
    )
    dimension_floor: int = setting(1, "columns that every slot keeps; 0 lets a search drop slots", minimum=0)
    dimension_start_width: int = setting(
        32, "columns of a fresh model's rows until the first search, where one is due; 0 for all", minimum=0
    )
    dimension_bands: str = setting(
        "0.03,0.5", "heats between the popularity bands of a slot, ascending, comma-separated; empty for one band"
    )
    band_half_life_samples: int = setting(
        20_000, "samples of the stream in whose time the heat of a row that is not seen halves", minimum=1
    )
    drop_cold_rows: bool = setting(True, "whether a search may give up the rows of a cold band")
    search_every_samples: int = setting(
        200_000, "samples between two searches; 0 for searches by command only", minimum=0
    )
    search_every_s: float = setting(
        0.0, "seconds after which there is a search however few samples came; 0 for samples alone", minimum=0
    )
    search_window_samples: int = setting(8192, "samples that a search looks at", minimum=128)
    search_judge_samples: int = setting(4096, "held-back samples that a plan is judged on", minimum=128)
    search_memory: float = setting(
        0.5, "weight of what earlier searches found; 0 follows a stream that turns fastest", minimum=0, maximum=0.99
    )
    search_tolerance: float = setting(
        0.05, "relative rise of the log-loss on them up to which a plan is applied", minimum=0, maximum=10
    )
    after_resize: Literal["keep", "cold_first_layer"] = setting(
        "keep", "whether the first layer that reads the rows starts anew when columns change"
    )

    row_precision: Literal["fp32", "fp16", "int8", "int4", "search"] = setting(
        "fp32", "how precisely servers get rows: all alike, or as searches find that each deserves"
    )
    row_precision_policy: Literal["importance", "per_slot", "uniform"] = setting(
        "importance", "what a search may tell apart: rows by their importance, slots, or nothing"
    )
    row_precision_tolerance: float = setting(
        0.0001, "relative rise of the log-loss that the precision of rows may cause", minimum=0, maximum=1
    )
    row_precision_bytes: int = setting(
        0, "bytes that all rows may take in a server, without ids; 0 for as few as the tolerance allows", minimum=0
    )
    row_precision_every_samples: int = setting(
        200_000, "samples between two searches for precision; one follows changes of widths as well", minimum=1
    )

    metrics_host: str = setting("127.0.0.1", "address of the Prometheus page")
    metrics_port: int = setting(9108, "port of the Prometheus page; 0 turns it off", minimum=0, maximum=65_535)
    watchdog_s: float = setting(20.0, "seconds of standing still under lag after which the process exits", minimum=1)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = setting("INFO", "least severe message logged")
