"""How much of the stream cannot be learned: the share of refused records among the newest ones.

Knows no Kafka and no reason of a refusal. Invariant: it says nothing before it has seen a whole window of records, and
then looks at the newest ones only: as many whole chunks as the window needs. It counts from the process' start, and a
limit that was passed once stays passed.
"""

from collections import deque

__all__ = ["PoisonWatch"]


class PoisonWatch:
    """Fed chunk by chunk; one thread writes.

    Args:
        limit: share of refused records, 0 to 1, that may not be passed; 1 can not be.
        window: records looked at.

    Attributes:
        passed: what was seen and what was expected when the limit was passed, "" until then.
    """

    def __init__(self, limit: float = 1.0, window: int = 5000) -> None:
        self.limit = limit
        self.window = window
        self.passed = ""
        self._chunks: deque[tuple[int, int]] = deque()
        self._records = 0
        self._refused = 0

    def note(self, records: int, refused: int) -> None:
        """Counts a chunk: all its records, and those of them that were refused."""
        self._chunks.append((records, refused))
        self._records += records
        self._refused += refused
        while self._records - self._chunks[0][0] >= self.window:
            oldest, bad = self._chunks.popleft()
            self._records -= oldest
            self._refused -= bad
        if not self.passed and self._records >= self.window and self.share > self.limit:
            self.passed = (
                f"{self._refused} of the last {self._records} records could not be learned ({self.share:.1%}): "
                f"expected at most {self.limit:.1%}"
            )

    @property
    def share(self) -> float:
        """Refused among the records looked at, 0 where there are none."""
        return self._refused / self._records if self._records else 0.0
