"""Shared by all tests: where real data lies, quiet libraries, no network."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests import warm_server

# A program that a shell starts in the background ignores Ctrl-C, and so does all that it starts; tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

settings.register_profile("any machine", deadline=None)  # a busy one takes longer than Hypothesis allows an example
settings.load_profile("any machine")

warm_server.draw_fewer_intensities()
warm_server.remember_configs()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real data sets, for tests marked `data`; they skip where it is absent."""
    folder = Path(os.environ.get("UMAMBA_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set UMAMBA_TEST_DATA)")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 64 KiB; skips where mounting is not allowed."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if not mounted or mounted.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip() if mounted else 'no mount command'}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # lazy: torch keeps a file it could not write open


@pytest.fixture(autouse=True)
def needs_gpu(request: pytest.FixtureRequest) -> None:
    """Tests marked `gpu` skip where there is none."""
    if request.node.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(autouse=True)
def _no_first_process() -> None:
    """A training in the tests' own process says so to its children: commands of later tests are none of these."""
    os.environ.pop("UMAMBA_FIRST_PROCESS", None)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Two test processes share two cores: more threads than one each slow both down."""
    torch.set_num_threads(1)
