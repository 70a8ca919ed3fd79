"""A command that is forked is one of its own, as if Python had started it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import warm_start

COMMAND = """
import logging, os, sys
import lightning
print(os.getcwd(), os.environ.get("MINE"), sys.argv[1:], __name__, hasattr(lightning, "changed"))
lightning.changed = True
logging.warning("said")
sys.exit(int(sys.argv[1]))
"""


def test_commands_share_nothing(tmp_path: Path) -> None:
    (tmp_path / "command.py").write_text(COMMAND)
    for code in (3, 0):
        ended = warm_start.run("-m", "command", code, cwd=tmp_path, env={**os.environ, "MINE": "x"})
        assert (ended.returncode, ended.stderr) == (code, "WARNING:root:said\n")
        assert ended.stdout == f"{tmp_path} x ['{code}'] __main__ False\n"


def test_an_error_and_a_signal_end_it_as_they_end_python(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("1 / 0")
    (tmp_path / "killed.py").write_text("import os\nos.kill(os.getpid(), 9)")
    failed = warm_start.run("-m", "fails", cwd=tmp_path)
    assert failed.returncode == 1 and failed.stderr.endswith("ZeroDivisionError: division by zero\n")
    assert warm_start.run("-m", "killed", cwd=tmp_path).returncode == -9


def test_a_late_command_is_killed(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)")
    with pytest.raises(subprocess.TimeoutExpired) as late:
        warm_start.run("-m", "late", cwd=tmp_path, timeout=3)
    assert not late.value.stdout or not Path(f"/proc/{int(late.value.stdout)}").exists()
