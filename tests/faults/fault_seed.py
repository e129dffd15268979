"""One seed for all faults of a test: printed (so shown where the test fails), and given back by DIMFLOW_FAULT_SEED."""

import os
import random
import zlib

__all__ = ["fault_random", "fault_seed"]

VARIABLE = "DIMFLOW_FAULT_SEED"


def fault_seed() -> int:
    """The seed that the environment names, or a new one; printed either way."""
    seed = int(os.environ.get(VARIABLE, random.SystemRandom().randrange(1 << 31)))
    print(f"faults: replay with {VARIABLE}={seed}")  # noqa: T201
    return seed


def fault_random(seed: int, part: str) -> random.Random:
    """A generator for one part (a connection, a file), the same whatever the others draw meanwhile."""
    return random.Random(zlib.crc32(f"{seed} {part}".encode()))
