"""The CPUs a process may use: affinity, container quota, and systems that tell neither."""

from pathlib import Path

import pytest

from src import machine
from src.resolvers import register_resolvers


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
