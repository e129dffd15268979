"""What the Kafka side of the trainer has to be told.

Knows no environment and no model. Invariant: `dead_letter_topic` is never the topic that is read.
"""

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["StreamSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """Addresses, names and patience.

    Attributes:
        brokers: bootstrap servers, `host:port`, comma-separated.
        topic: read by this process.
        group: consumer group; its members share the partitions.
        partitions, replication: of the topics, where they have to be created.
        create_topics: create the topic and its dead-letter topic where they are absent; otherwise absence is an error.
        start: where a partition begins that no checkpoint knows.
        security_protocol, sasl_username, sasl_password: SASL means the mechanism PLAIN; SSL uses the system's trust.
        fetch_bytes: most that is fetched ahead from one partition; so memory is bounded by partitions x fetch_bytes.
        largest_letter_bytes: largest dead letter; raised on the dead-letter topic where it is created.
        session_timeout_s: silence after which the group gives this member's partitions away.
        connect_timeout_s: how long to wait for the brokers at the start.
        watchdog_s: how long a partition may stand still while records wait, before the process ends.
        drain_timeout_s: how long a clean stop may train and write before it is given up.
    """

    brokers: str
    topic: str
    group: str = "dimflow"
    partitions: int = 4
    replication: int = 1
    create_topics: bool = True
    start: Literal["earliest", "latest"] = "earliest"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_username: str = ""
    sasl_password: str = field(default="", repr=False)
    fetch_bytes: int = 1 << 20
    largest_letter_bytes: int = 16 << 20
    session_timeout_s: float = 6.0
    connect_timeout_s: float = 60.0
    watchdog_s: float = 20.0
    drain_timeout_s: float = 120.0

    @property
    def dead_letter_topic(self) -> str:
        """Where records go that cannot be trained on."""
        return f"{self.topic}.dlq"
