"""Shared by all tests: where real data lies, quiet libraries, no network."""

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real data sets, for tests marked `data`; they skip where it is absent."""
    folder = Path(os.environ.get("UMAMBA_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder} (set UMAMBA_TEST_DATA)")
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Two test processes share two cores: more threads than one each slow both down."""
    torch.set_num_threads(1)
