"""What this process may use of the machine it runs on."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_MEMORY = Path("/proc/meminfo")
_PROCESSORS = Path("/proc/cpuinfo")


def usable_cpus() -> int:
    """CPUs that this process may use, at least 1: its affinity, and no more than its container's CPU quota.

    Only Linux tells either; elsewhere it is the number of CPUs.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS and Windows
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(cpus, _cpu_quota())))


def processor_name() -> str:
    """What the processor is called."""
    try:
        lines = _PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), platform.processor())


def free_memory() -> int:
    """Bytes of main memory that this process may still take without swapping, within its container's limit.

    Only Linux tells; elsewhere it is more than anything needs.
    """
    try:
        lines = _MEMORY.read_text(encoding="ascii").splitlines()
    except OSError:
        return 1 << 50
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return max(0, min(free, *(_room_in(group) for group in _own_groups("memory")), 1 << 50))


def require_memory(needed: int, what: str) -> None:
    """Refuse with a MemoryError what cannot fit before any of it is taken.

    Args:
        needed: Bytes.
        what: What does not fit and what to do, for the message.
    """
    free = free_memory()
    if needed > free:
        raise MemoryError(f"{what} ({needed / 2**30:.1f} GiB needed, {free / 2**30:.1f} GiB free)")


def _cpu_quota() -> float:
    """CPUs' worth of time that the control groups of this process allow; infinite if unlimited."""
    return min((_quota_of(group) for group in _own_groups("cpu")), default=math.inf)


def _own_groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups of this process (cgroup v2, else v1): its own, and those that hold it."""
    try:
        lines = _OWN_CGROUP.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = _CGROUPS / controllers if controllers else _CGROUPS
        own = root / name.lstrip("/")
        for folder in (own, *own.parents):  # a group's limit holds for those below it; a container sees its own as root
            yield folder
            if folder == root:
                break


def _room_in(folder: Path) -> int:
    """Bytes that a memory group may still take; files that it only caches are given up for it."""
    for limit, usage, prefix in (
        ("memory.max", "memory.current", ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        try:
            allowed, used = (int((folder / name).read_text(encoding="ascii")) for name in (limit, usage))
            statistics = (folder / "memory.stat").read_text(encoding="ascii").split()
        except (OSError, ValueError):  # no such limit, or "max"
            continue
        counts = dict(zip(statistics[::2], map(int, statistics[1::2]), strict=True))
        return allowed - used + sum(counts.get(f"{prefix}{kind}_file", 0) for kind in ("inactive", "active"))
    return 1 << 50


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
