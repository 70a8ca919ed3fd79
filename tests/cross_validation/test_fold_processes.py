"""Folds as processes: at the same time, one failing alone, stopped together, and on the devices that are theirs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from umamba.cross_validation.processes import Slot, run_folds

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")


def script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_a_fold_that_fails_stops_no_other_and_is_named_with_its_last_words(tmp_path: Path) -> None:
    commands = {
        0: script(f"open({str(tmp_path / 'zero')!r}, 'w')"),
        1: script("import sys; print('it began'); sys.exit('data.batch_size is 0')"),
        2: script(f"open({str(tmp_path / 'two')!r}, 'w')"),
    }
    failed = run_folds(commands, tmp_path, [Slot(name="a"), Slot(name="b")])
    assert failed == {1: "ended with code 1: it began / data.batch_size is 0"}
    assert (tmp_path / "zero").exists() and (tmp_path / "two").exists()
    assert run_folds({3: script("raise SystemExit(7)")}, tmp_path, [Slot(name="a")]) == {3: "ended with code 7"}


def test_as_many_run_at_a_time_as_there_are_places_each_with_its_own_device(tmp_path: Path) -> None:
    text = (  # mkdir fails if two are on a device
        "import os, time, pathlib; f = pathlib.Path({folder!r}); d = os.environ['DEVICE']; own = f / ('on_' + d)\n"
        "own.mkdir(); time.sleep(0.5); own.rmdir(); (f / 'done').open('a').write(d + '\\n')"
    )
    commands = {fold: script(text.format(folder=str(tmp_path))) for fold in range(4)}
    slots = [Slot(name=name, environment={"DEVICE": name}) for name in ("a", "b")]
    assert run_folds(commands, tmp_path, slots) == {}
    assert sorted((tmp_path / "done").read_text().split()) == ["a", "a", "b", "b"]


DRIVER = """
import sys
from pathlib import Path
from umamba.cross_validation.processes import Slot, run_folds
from umamba.run.stop import ends_on_signals
text = '''
import signal, sys, time, pathlib
path = pathlib.Path(sys.argv[1])
def stop(number, frame):
    path.with_suffix(".stopped").touch(); sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
path.touch()
time.sleep(60)
'''
folder = Path(sys.argv[1])
commands = {fold: [sys.executable, "-c", text, str(folder / f"fold{fold}")] for fold in range(3)}
with ends_on_signals():
    run_folds(commands, folder, [Slot(name="a"), Slot(name="b")])
"""


def test_a_signal_ends_those_that_run_and_starts_no_other(tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)])
    end = time.monotonic() + 60
    while not ((tmp_path / "fold0").exists() and (tmp_path / "fold1").exists()):
        assert time.monotonic() < end and driver.poll() is None
        time.sleep(0.05)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(timeout=30) == 128 + signal.SIGTERM
    assert (tmp_path / "fold0.stopped").exists() and (tmp_path / "fold1.stopped").exists()
    assert not (tmp_path / "fold2").exists()


def test_what_a_scheduler_says_and_our_own_switches_are_not_passed_on(tmp_path: Path, monkeypatch) -> None:
    from umamba.run.errors import explained

    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    names = script("import os; print([n for n in os.environ if n.startswith('SLURM') or 'FULL_ERROR' in n]); 1 / 0")
    with explained():
        failed = run_folds({0: names}, tmp_path, [Slot(name="a"), Slot(name="b")])
    assert "[]" in (tmp_path / "fold_0.log").read_text() and 0 in failed
