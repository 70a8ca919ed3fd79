"""A manifest with a stub in place of train.py, and the runner on it in a process of its own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.evaluation import scored_runs
from umamba.evaluation.record import digest_of
from umamba.evidence.entry import Entry, Finding, entries_of, survey
from umamba.evidence.job import Place
from umamba.evidence.limits import Rules
from umamba.evidence.manifest import read_manifest
from umamba.evidence.sitting import run_all
from umamba.run.devices import Device
from umamba.run.sweep import quoted

HERE = Path(__file__).parent
CODE = "c0de"
MANIFEST = """\
overrides: [logger=csv]
datasets:
  phantom:
    title: Phantom, CT-like, 3D
    overrides: [data=phantom]
    seconds: 3
networks:
  nnunet: {overrides: [model=nnunet], seeds: [1, 2]}
  umamba_enc: {overrides: [model=umamba_enc], seeds: [1, 2], cost: 2}
"""


class Stub:
    """A folder with manifest, state and records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest, self.state, self.templates = folder / "list.yaml", folder / "state", folder / "templates"
        self.records = self.state / "records"
        self.manifest.write_text(MANIFEST)
        scored_runs.make_run(self.templates / "tables", dataset="phantom", scored="validation")
        cases = {"trained_on": {"a": "1", "b": "2"}, "validated_with": ["c"]}
        for step in range(1, 21):
            torch.save({"global_step": step, "cases": cases}, self.templates / f"step_{step}.ckpt")
        path = self.templates / "tables" / "run.json"
        run = json.loads(path.read_text()) | {"checkpoints_sha256": [digest_of(self.templates / "step_20.ckpt")]}
        path.write_text(json.dumps(run))

    @property
    def entries(self) -> list[Entry]:
        return entries_of(read_manifest(self.manifest), self.state, self.records)

    def sit(
        self,
        only: str = "*",
        code: str = CODE,
        workers: int = 1,
        unchanged: Callable[[], bool] = lambda: True,
        limit: float = math.inf,
        device: str = "cpu",
        **rules: Any,
    ) -> dict[str, Finding]:
        """A sitting in this process; how all runs stand after it."""
        place = Place(script=HERE / "stub_train.py", workers=workers, threads=1, code=code, revision=None,
                      unchanged=unchanged)  # fmt: skip
        chosen = [entry.wanted.key for entry in self.entries if fnmatch(entry.wanted.key, only)]
        run_all(
            self.entries,
            dict.fromkeys(chosen, 0),
            [Device(device)],
            place,
            Rules(until=time.monotonic() + limit, **rules),
        )
        return self.look(code)

    def look(self, code: str = CODE) -> dict[str, Finding]:
        return {finding.entry.wanted.key: finding for finding in survey(self.entries, code)}

    def start(self, *arguments: str) -> subprocess.Popen:
        """The command in a process of its own."""
        command = [sys.executable, "-m", "umamba.evidence", *arguments, f"manifest={quoted(str(self.manifest))}",
                   f"state={quoted(str(self.state))}", f"script={HERE / 'stub_train.py'}", "gpus=cpu"]  # fmt: skip
        return subprocess.Popen(command, cwd=self.folder, env={**os.environ, "COLUMNS": "200"}, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip

    def record(self, key: str) -> dict:
        return json.loads((self.records / f"{key}.json").read_text())

    @property
    def log(self) -> list[str]:
        """What was started, in order."""
        path = self.templates / "log"
        return path.read_text().splitlines() if path.is_file() else []


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    folder = tmp_path / "Größe (1) [a=b]"
    folder.mkdir()
    monkeypatch.setenv("STUB_TEMPLATES", str(folder / "templates"))
    return Stub(folder)


@pytest.fixture
def wait_for() -> Callable[[Callable[[], bool]], None]:
    def wait(true: Callable[[], bool]) -> None:
        until = time.monotonic() + 300
        while not true():
            assert time.monotonic() < until, "waited for five minutes"
            time.sleep(0.05)

    return wait
