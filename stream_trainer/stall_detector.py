"""Tells a consumer that stands still from one that has nothing to do.

Knows no Kafka: it is shown positions and ends, and the time. Invariant: it speaks up only after a partition was seen to
stand still, with records waiting, through the whole patience; the patience begins anew when a position moves, a
partition comes or goes, or an end is not known.

Consumers of both Faust and aiokafka have been seen to stop while their process looked alive (faust issues 175 and 629,
aiokafka issues 625 and 1037), which is why somebody has to look from the outside.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from stream_trainer.records import TopicPartition

__all__ = ["Stall", "StallDetector"]


@dataclass(frozen=True, slots=True)
class Stall:
    """A partition that stood still for `still_s` seconds at `position`, while its end was at `end`.

    `end` below `position` means that the topic was cut or made anew while it was read.
    """

    partition: TopicPartition
    position: int
    end: int
    still_s: float


class StallDetector:
    """Watches the partitions of one process.

    Args:
        patience_s: how long a partition may stand still while records wait.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since: dict[TopicPartition, tuple[int, float]] = {}

    def observe(
        self, positions: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int], now_s: float
    ) -> Stall | None:
        """Takes one look.

        Args:
            positions: offset that comes next, for each partition that is assigned now; taken before `ends`.
            ends: offset behind the last record, where it is known.
            now_s: monotonic seconds.

        Returns:
            the partition that has stood still for longest, if longer than the patience.
        """
        kept: dict[TopicPartition, tuple[int, float]] = {}
        stalls: list[Stall] = []
        for partition, position in positions.items():
            end = ends.get(partition, position)
            if end == position:
                continue
            before = self._since.get(partition)
            if before is None or before[0] != position:
                kept[partition] = (position, now_s)
                continue
            kept[partition] = before
            still_s = now_s - before[1]
            if still_s >= self._patience_s:
                stalls.append(Stall(partition, position, end, still_s))
        self._since = kept
        return max(stalls, key=lambda stall: stall.still_s, default=None)
