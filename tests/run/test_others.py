"""A run of several processes ends with the code of the one that ended, and says why; by Lightning it was 137."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="codes of signals")

FIRST = """
import logging, subprocess, sys, time
from lightning.pytorch.strategies.launchers import subprocess_script
from umamba.run.errors import explained
from umamba.run.others import ending_together

logging.getLogger().addHandler(logging.FileHandler("train.log"))
with explained(), ending_together():
    other = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
    subprocess_script._launch_process_observer([other])
    time.sleep(250)
"""
REFUSES = """
import os, sys
assert 'HYDRA_FULL_ERROR' not in os.environ
open(os.environ['UMAMBA_REASON'], 'x').write('The GPU is gone.')
sys.exit(3)
"""


@pytest.mark.parametrize(
    ("other", "code", "message"),
    [
        (REFUSES, 3, "Process 1 of this run ended with code 3, and this one with it: The GPU is gone."),
        ("import os; os.kill(os.getpid(), 9)", 137, "Process 1 of this run ended with code 137, and this one with it."),
    ],
)
def test_a_run_ends_as_the_process_that_ended(tmp_path: Path, other: str, code: int, message: str) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    program = subprocess.run(
        [sys.executable, "-c", FIRST, other], cwd=tmp_path, env={**os.environ, "TMPDIR": str(temporary)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert program.returncode == code, program.stderr
    assert message in (tmp_path / "train.log").read_text()
    assert not any(temporary.glob("umamba-*"))
