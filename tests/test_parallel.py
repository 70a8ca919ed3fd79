"""Cases in worker processes: what a killed one, a failing case and too little memory come to."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest

from umamba import parallel
from umamba.parallel import fitting_workers, map_cases, track


def _fragile(case: int) -> int:
    marker = Path(os.environ["FRAGILE_MARKER"])
    if case == 2 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if case == 4 and os.environ.get("FRAGILE_ALWAYS"):
        os.kill(os.getpid(), signal.SIGKILL)
    if case == 5 and os.environ.get("FRAGILE_RAISES"):
        raise ZeroDivisionError("odd")
    return case * 10


def test_a_killed_worker_is_tried_again_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAGILE_MARKER", str(tmp_path / "marker"))
    assert list(map_cases(_fragile, range(4), str, workers=2)) == [0, 10, 20, 30]


def test_a_case_that_kills_every_worker_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAGILE_MARKER", str(tmp_path / "marker"))
    (tmp_path / "marker").touch()
    monkeypatch.setenv("FRAGILE_ALWAYS", "1")
    with pytest.raises(RuntimeError, match="case 4 was killed by the system, alone too.*memory"):
        list(map_cases(_fragile, range(3, 5), str, workers=2))


def test_a_failing_case_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAGILE_MARKER", str(tmp_path / "marker"))
    (tmp_path / "marker").touch()
    monkeypatch.setenv("FRAGILE_RAISES", "1")
    with pytest.raises(RuntimeError, match="Case 5 failed: ZeroDivisionError: odd"):
        list(map_cases(_fragile, range(6), str, workers=1))


def test_workers_fit_the_memory(monkeypatch, caplog):
    monkeypatch.setattr(parallel, "usable_cpus", lambda: 16)
    monkeypatch.setattr(parallel, "free_memory", lambda: 10_000_000_000)
    assert fitting_workers(None, 1_000) == 8
    assert fitting_workers(12, 1_000) == 12
    with caplog.at_level(logging.INFO):
        assert fitting_workers(None, 3_000_000_000) == 3
    assert "Using 3 of 8 processes: each may need 3.0 GB of the 10.0 GB that are free" in caplog.text
    assert fitting_workers(12, 99_000_000_000) == 1
    assert fitting_workers(None, 0) == 8


def test_a_file_gets_lines_and_no_bar_even_with_forced_colours(monkeypatch, caplog, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as notebooks and CI set it
    with caplog.at_level(logging.INFO):
        assert list(track(range(3), 3, "Preprocessing")) == [0, 1, 2]
    assert capfd.readouterr().err == "" and "Preprocessing: 3 of 3 cases" in caplog.text
