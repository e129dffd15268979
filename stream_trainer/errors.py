"""What can go wrong in the trainer, by who has to do something about it.

DimflowError
└── TrainerError
    ├── CheckpointError      a state file is missing, cut short or damaged
    ├── StateError           a state does not fit: another schema, another lineage, a gap, another shape
    ├── RecipeError          a number of the recipe cannot train
    ├── StateFolderInUse     another trainer holds the state folder
    ├── Fenced               Redis belongs to a later trainer; this one must stop
    ├── RedisUnavailable     no answer from Redis; training goes on, publishing is tried again
    ├── PoisonLimitPassed    too much of what was read cannot be learned; somebody must look at the topic
    └── TransportError       Kafka: topics cannot be made or read
"""

from model_contract.errors import DimflowError

__all__ = [
    "CheckpointError",
    "Fenced",
    "PoisonLimitPassed",
    "RecipeError",
    "RedisUnavailable",
    "StateError",
    "StateFolderInUse",
    "TrainerError",
    "TransportError",
]


class TrainerError(DimflowError):
    """Anything the trainer reports."""


class CheckpointError(TrainerError):
    """A state file is missing, cut short or damaged; an older one may do."""


class StateError(TrainerError):
    """A state is sound but not this trainer's: another schema, lineage, sequence or shape."""


class RecipeError(TrainerError, ValueError):
    """A number of the recipe cannot train; the message names it and what was expected."""


class StateFolderInUse(TrainerError):
    """Another trainer holds the lock of the state folder."""


class Fenced(TrainerError):
    """A later trainer has taken over the model in Redis; this one must publish nothing more."""


class RedisUnavailable(TrainerError):
    """Redis gives no answer; what was to be published is on the disk and goes out later."""


class PoisonLimitPassed(TrainerError):
    """Too much of what was read cannot be learned; all of it is learned or dead-lettered, and durable."""


class TransportError(TrainerError):
    """The topics cannot be created, read or written."""
