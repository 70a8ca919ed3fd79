"""The trust suite's miniatures, made once for all test processes, its marker and its summary."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest

HERE = Path(__file__).resolve().parent


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.trust)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the tests recorded, such as how many kills hit which stage, and the seed that repeats it."""
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])]
    lines = [f"{r.nodeid}: {name} {value}" for r in reports for name, value in getattr(r, "user_properties", [])]
    if lines:
        terminalreporter.section("trust")
        for line in dict.fromkeys(lines):
            terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _seed_is_said() -> None:
    print(f"UMAMBA_TRUST_SEED={harness.SEED} repeats the random choices")  # pytest shows it with a failure


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all test processes of this session share."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trust"


@pytest.fixture(scope="session")
def prepared(shared: Path) -> Path:
    """UMAMBA_ROOT with the phantom's raw data, plan and store."""
    return harness.once(
        shared / "prepared",
        lambda folder: harness.run(*harness.train_line(folder / "nothing", "train=false", "test=false"), folder=folder),
    )


@pytest.fixture(scope="session")
def trained(shared: Path, prepared: Path) -> Path:
    """Folder of a finished miniature run on the prepared data; not to be changed."""
    folder = harness.once(
        shared / "trained",
        lambda folder: harness.run(*harness.train_line(folder / "run"), folder=folder, root=prepared),
    )
    return folder / "run"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own with 8 MiB (tmpfs); skips where mounting is not allowed."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command here")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "trust", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
