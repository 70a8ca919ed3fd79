"""What this process may use of the machine it runs on."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def usable_cpus() -> int:
    """CPUs that this process may use, at least 1: its affinity, and no more than its container's CPU quota.

    Only Linux tells either; elsewhere it is the number of CPUs.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS and Windows
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(cpus, _cpu_quota())))


def _cpu_quota() -> float:
    """CPUs' worth of time that the control groups of this process allow (cgroup v2, else v1); infinite if unlimited."""
    try:
        lines = _OWN_CGROUP.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return math.inf
    quota = math.inf
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _CGROUPS / controllers if controllers else _CGROUPS
        own = root / name.lstrip("/")
        for folder in (own, *own.parents):  # a group's limit holds for those below it; a container sees its own as root
            quota = min(quota, _quota_of(folder))
            if folder == root:
                break
    return quota


def _quota_of(folder: Path) -> float:
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            values = " ".join((folder / name).read_text(encoding="ascii") for name in names).split()
            allowed, period = float(values[0]), float(values[1])
        except (OSError, ValueError, IndexError):  # no such limit, or "max"
            continue
        if allowed > 0 and period > 0:  # version 1 writes -1 for no limit
            return allowed / period
    return math.inf
