"""Every setting of the serving process, with its unit, default and meaning.

Knows no environment: `__main__` and the command hand it over. Invariant: see `model_contract.process_settings`.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from model_contract.process_settings import describe_settings, read_settings, setting

__all__ = ["PREFIX", "ServingSettings"]

PREFIX = "DIMFLOW_SERVING_"


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class ServingSettings:
    """What one server is told at its start."""

    model_file: Path = setting(dataclasses.MISSING, "TOML file with the slots and layers of the model")

    host: str = setting("127.0.0.1", "address to listen on")
    port: int = setting(8000, "port to listen on; 0 takes a free one", minimum=0, maximum=65_535)

    redis: str = setting("redis://127.0.0.1:6379/0", "Redis URL that increments come from")
    redis_password: str = setting("", "password for Redis, where the URL holds none", secret=True)
    redis_timeout_s: float = setting(3.0, "seconds that Redis may take to answer", minimum=0.1, maximum=300)
    poll_ms: int = setting(500, "milliseconds that one read waits for the next increment", minimum=10, maximum=60_000)
    retry_max_s: float = setting(2.0, "longest pause in seconds between two tries of Redis", minimum=0.05, maximum=300)

    memory_bytes: int = setting(4 << 30, "bytes that rows and index of one model may take", minimum=1 << 20)
    max_increment_bytes: int = setting(512 << 20, "bytes of one increment", minimum=1 << 10)
    max_base_bytes: int = setting(16 << 30, "bytes of one base", minimum=1 << 10)

    api_key: str = setting(
        "", "key that /versions, /rollback, /pin and /unpin ask for; without one they are not there", secret=True
    )

    max_body_bytes: int = setting(1 << 20, "bytes of a request's body", minimum=1 << 10, maximum=1 << 30)
    max_buffered_bytes: int = setting(128 << 20, "bytes of all bodies held at one time", minimum=1 << 10)
    max_head_bytes: int = setting(16 << 10, "bytes of a request's line and headers", minimum=1 << 10, maximum=1 << 20)
    max_instances: int = setting(1000, "instances in one request", minimum=1, maximum=1_000_000)
    max_values: int = setting(1000, "values in one slot of an instance", minimum=1, maximum=1_000_000)
    max_connections: int = setting(1000, "connections open at one time", minimum=1, maximum=1_000_000)
    max_requests: int = setting(128, "predictions waiting or in work at one time", minimum=1, maximum=1_000_000)

    receive_timeout_s: float = setting(5.0, "seconds a client may take to send one request", minimum=0.1, maximum=3600)
    send_timeout_s: float = setting(5.0, "seconds a client may leave its answers unread", minimum=0.1, maximum=3600)
    idle_timeout_s: int = setting(30, "seconds a connection may wait for its next request", minimum=1, maximum=3600)
    score_timeout_s: float = setting(2.0, "seconds a prediction may wait for its scores", minimum=0.01, maximum=3600)
    stop_timeout_s: int = setting(10, "seconds that a stop leaves to requests in work", minimum=0, maximum=3600)

    scoring_threads: int = setting(2, "threads that score", minimum=1, maximum=256)
    inline_body_bytes: int = setting(
        16384, "a body up to this many bytes is scored on the event loop, saving the way to a thread", minimum=0
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = setting("INFO", "least severe message logged")

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None) -> Self:
        """Reads `DIMFLOW_SERVING_<FIELD>` variables; `overrides`, by field name, go before them.

        Raises:
            SettingError: a value that does not parse or breaks its limits, a required one that is absent, or a
                variable with the prefix that names no setting.
        """
        return read_settings(cls, environ, PREFIX, overrides)

    def __repr__(self) -> str:
        described = ", ".join(f"{name}={value}" for name, value in describe_settings(self).items())
        return f"ServingSettings({described})"
