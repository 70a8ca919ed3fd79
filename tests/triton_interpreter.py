"""Tests of Triton kernels that need no GPU: a file of them in a process of its own, where Triton interprets kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version


def run_interpreted(tests: Path) -> None:
    """Run a file of tests, of which none may fail or be skipped; skips where this Triton cannot interpret."""
    pytest.importorskip("triton", reason="Triton, which CUDA builds of torch bring, is not installed")
    if Version(version("numpy")) >= Version("2.4") and Version(version("triton")) < Version("3.9"):
        pytest.skip("the interpreter of this Triton turns arrays of one element to numbers, which NumPy 2.4 refuses")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    run = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0 and "skipped" not in run.stdout, run.stdout
