"""The CPUs a process may use: affinity, container quota, and systems that tell neither."""

from pathlib import Path

import pytest

from umamba import machine
from umamba.resolvers import register_resolvers


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch) -> Path:
    """A machine of 16 CPUs whose control groups are files below the folder returned; no limit so far."""
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_OWN_CGROUP", tmp_path / "own")
    (tmp_path / "own").write_text("0::/user/job\n")
    (tmp_path / "cgroup" / "user" / "job").mkdir(parents=True)
    return tmp_path / "cgroup"


def test_without_a_quota_all_cpus_of_the_affinity_are_used(cgroups: Path) -> None:
    (cgroups / "user" / "job" / "cpu.max").write_text("max 100000\n")
    assert machine.usable_cpus() == 16


@pytest.mark.parametrize(("quota", "cpus"), [(200_000, 2), (250_000, 3), (50_000, 1), (9_900_000, 16)])
@pytest.mark.parametrize("folder", ["user/job", "user", "."])
def test_a_quota_of_the_group_or_of_one_above_limits(cgroups: Path, folder: str, quota: int, cpus: int) -> None:
    (cgroups / folder / "cpu.max").write_text(f"{quota} 100000\n")
    assert machine.usable_cpus() == cpus


@pytest.mark.parametrize(("quota", "cpus"), [(300_000, 3), (-1, 16)])
def test_version_1_of_the_control_groups_is_read_too(cgroups: Path, quota: int, cpus: int) -> None:
    (cgroups.parent / "own").write_text("5:memory:/\n4:cpu,cpuacct:/\n")
    folder = cgroups / "cpu,cpuacct"
    folder.mkdir()
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.usable_cpus() == cpus


def test_configs_compose_where_the_system_has_no_affinity(cgroups: Path, monkeypatch) -> None:
    from omegaconf import OmegaConf

    monkeypatch.delattr(machine.os, "sched_getaffinity")
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 6)
    (cgroups.parent / "own").unlink()  # nor /proc
    register_resolvers()
    assert OmegaConf.create({"workers": "${cpu_count:4}"}).workers == 4
    assert OmegaConf.create({"workers": "${cpu_count:16}"}).workers == 6


def test_nothing_else_asks_for_what_only_linux_has() -> None:
    """`usable_cpus` is the one place: a bare call elsewhere stops the program on macOS and Windows."""
    source = Path(machine.__file__).parent
    files = [*source.rglob("*.py"), *source.parent.glob("*.py")]
    assert [str(file) for file in files if "sched_getaffinity" in file.read_text(encoding="utf-8")] == [
        machine.__file__
    ]


@pytest.fixture
def memory(cgroups: Path, monkeypatch) -> Path:
    """A machine with 8 GiB free; no limit so far."""
    monkeypatch.setattr(machine, "_MEMORY", cgroups.parent / "meminfo")
    (cgroups.parent / "meminfo").write_text(f"MemTotal: {16 << 20} kB\nMemAvailable: {8 << 20} kB\n")
    return cgroups


def limit(folder: Path, allowed: object, used: int, cached: int = 0) -> None:
    (folder / "memory.max").write_text(f"{allowed}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used - cached}\ninactive_file {cached}\nactive_file 0\n")


def test_without_a_limit_the_machine_decides(memory: Path) -> None:
    limit(memory / "user" / "job", "max", 1 << 30)
    assert machine.free_memory() == 8 << 30


@pytest.mark.parametrize("folder", ["user/job", "user", "."])
def test_a_limit_of_the_group_or_of_one_above_counts_but_not_cached_files(memory: Path, folder: str) -> None:
    limit(memory / folder, 4 << 30, 3 << 30, cached=1 << 30)
    assert machine.free_memory() == 2 << 30


def test_a_group_over_its_limit_has_nothing_left(memory: Path) -> None:
    limit(memory / "user", 1 << 30, 2 << 30)
    assert machine.free_memory() == 0


@pytest.mark.parametrize(("allowed", "free"), [(3 << 30, 2 << 30), (9223372036854771712, 8 << 30)])
def test_version_1_limits_memory_too(memory: Path, allowed: int, free: int) -> None:
    (memory.parent / "own").write_text("5:memory:/job\n4:cpu,cpuacct:/\n")
    folder = memory / "memory" / "job"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text(f"{allowed}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{2 << 30}\n")
    (folder / "memory.stat").write_text(f"cache {1 << 30}\ntotal_inactive_file {1 << 30}\ntotal_active_file 0\n")
    assert machine.free_memory() == free


def test_a_system_that_does_not_tell_has_enough(memory: Path, monkeypatch) -> None:
    monkeypatch.setattr(machine, "_MEMORY", memory / "absent")
    assert machine.free_memory() > 1 << 49


def test_what_does_not_fit_is_refused_with_the_numbers(memory: Path) -> None:
    machine.require_memory(8 << 30, "It does not fit")
    with pytest.raises(MemoryError, match=r"It does not fit \(9.0 GiB needed, 8.0 GiB free\)"):
        machine.require_memory(9 << 30, "It does not fit")
