"""Errors of the command.

DimflowError                      (model_contract.errors)
└── CommandError                  anything the command itself raises
    ├── StreamSettingError        a synthetic stream was asked for with values that cannot work (also a ValueError)
    ├── SampleFileError           a file of samples that cannot be read as the model's samples
    ├── ProduceError              samples that Kafka did not take
    ├── DeadLetterError           dead letters that cannot be read, or were not all sent again
    ├── PlotError                 plans that cannot be drawn, or a picture that cannot be written
    ├── SearchUnanswered          a search was asked for and no plan came in time
    ├── DemoFailed                the demo's trainer or server ended, or its loop did not come to its end
    └── LocalServerError          a server that dimflow started itself
        ├── ServerProgramMissing  the program of a server cannot be found or fetched
        ├── ServerNotReady        a server was started and did not come up
        └── ServerOrderRefused    an order to a server that makes no sense in its state
"""

from model_contract.errors import DimflowError

__all__ = [
    "CommandError",
    "DeadLetterError",
    "DemoFailed",
    "LocalServerError",
    "PlotError",
    "ProduceError",
    "SampleFileError",
    "SearchUnanswered",
    "ServerNotReady",
    "ServerOrderRefused",
    "ServerProgramMissing",
    "StreamSettingError",
]


class CommandError(DimflowError):
    """Base of what the command raises."""


class StreamSettingError(CommandError, ValueError):
    """A synthetic stream was asked for with values that cannot work; the message names the setting and its range."""


class SampleFileError(CommandError):
    """A file of samples that cannot be read: not there, no such column, or a column that cannot hold what it should."""


class DemoFailed(CommandError):
    """The demo's trainer or server ended, or the loop did not come to its end in time."""


class ProduceError(CommandError):
    """Samples that Kafka did not take; the message says how many were acknowledged before."""


class DeadLetterError(CommandError):
    """Dead letters that cannot be read, or were not all sent again; the message says how many were."""


class PlotError(CommandError):
    """Plans that cannot be drawn, or a picture that cannot be written."""


class SearchUnanswered(CommandError):
    """A search was asked for and no plan came in time; the message says whether the request was taken."""


class LocalServerError(CommandError):
    """A server that dimflow started itself failed."""


class ServerProgramMissing(LocalServerError):
    """The program of a server (Java, Kafka's jars, Valkey) cannot be found, fetched or run."""


class ServerNotReady(LocalServerError):
    """A server was started and ended, or did not answer in time; the message holds the end of its log."""


class ServerOrderRefused(LocalServerError):
    """A server was told something that makes no sense in its state, such as to thaw before it was started."""
