"""Faults of the disk at the named steps of checkpoint and publication, by a seed: deaths, torn files, lost renames.

Works through `at_step`, the one seam that production has for it. A death raises `Killed`, which nothing catches; what
lies in the folder afterwards is what a start after it would find. The steps: after_write, after_fsync, after_rename,
after_folder_fsync (`state_file`), before_publish, after_commit, after_publish (`delivery`).
"""

import errno
import time
from pathlib import Path
from typing import Literal, TypeAlias

from tests.faults.fault_seed import fault_random

__all__ = ["DISK_STEPS", "DiskFault", "DiskFaults", "Killed"]

DISK_STEPS = ("after_write", "after_fsync", "after_rename", "after_folder_fsync")

DiskFault: TypeAlias = Literal["death", "torn", "lost_rename", "full", "slow", "none"]


class Killed(BaseException):
    """Stands for SIGKILL or a loss of power: nothing after it runs."""


class DiskFaults:
    """One fault at the n-th step, both drawn from the seed; give its `at_step` to a store or a delivery.

    - death: SIGKILL at the step.
    - torn: a loss of power before the fsync is through: the unfinished file keeps a random part of its bytes.
    - lost_rename: a loss of power before the folder's fsync: the new name is not there, the old file may be.
    - full: the disk is full; the step raises OSError, and the process may live.
    - slow: the step takes half a second.

    Attributes:
        fault: which one it is.
        happened: at which step, "" before.
    """

    def __init__(self, seed: int, folder: Path, steps: int = 12) -> None:
        chance = fault_random(seed, "disk")
        self.fault: DiskFault = chance.choice(["death", "death", "torn", "lost_rename", "full", "slow", "none"])
        self.happened = ""
        self._chance = chance
        self._folder = folder
        self._countdown = chance.randrange(1, steps + 1)

    def at_step(self, step: str) -> None:
        """What production calls."""
        self._countdown -= 1
        if self._countdown > 0 or self.happened or self.fault == "none":
            return
        if self.fault == "torn" and step != "after_write":
            return
        if self.fault == "lost_rename" and step != "after_rename":
            return
        if self.fault == "full" and step not in {"after_write", "after_fsync"}:
            return
        self.happened = step
        if self.fault == "slow":
            time.sleep(0.5)
            return
        if self.fault == "full":
            raise OSError(errno.ENOSPC, "no space left on device")
        if self.fault == "torn":
            for path in self._folder.glob("*.unfinished"):
                content = path.read_bytes()
                path.write_bytes(content[: self._chance.randrange(len(content) + 1)])
        if self.fault == "lost_rename":
            newest = max(self._folder.glob("*.npz"), key=lambda path: path.stat().st_mtime_ns)
            newest.unlink()
        raise Killed
