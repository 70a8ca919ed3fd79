"""A run of several processes ends with the code of the one that ended, and says why; by Lightning it was 137."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
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


OTHER = "import time; from umamba.run.ranks import follow_if_started; follow_if_started(); print(1, flush=True)"
STARTS = f"""
import os, subprocess, sys, time
os.environ["UMAMBA_FIRST_PROCESS"] = sys.argv[1] if sys.argv[1:] else str(os.getpid())
other = subprocess.Popen([sys.executable, "-c", {OTHER + "; time.sleep(60)"!r}], stdout=subprocess.PIPE)
other.stdout.readline()
print(other.pid, flush=True)
time.sleep(60)
"""


def is_there(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.parametrize("first", [[], ["1"]], ids=["its own", "another's"])
def test_a_process_that_has_just_begun_ends_with_the_first_one(first: list[str]) -> None:
    """It is in its imports for seconds before it opens the run."""
    with subprocess.Popen([sys.executable, "-c", STARTS, *first], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        other = int(program.stdout.readline())
        program.kill()
    limit = time.monotonic() + (15 if not first else 3)
    while is_there(other) and time.monotonic() < limit:
        time.sleep(0.05)
    assert is_there(other) == bool(first)
    if first:
        os.kill(other, signal.SIGKILL)
