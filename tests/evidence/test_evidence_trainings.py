"""The runner with the real train.py, on generated volumes: two networks, two seeds, killed in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")]
MANIFEST = """\
overrides: [experiment=demo, trainer=cpu, trainer.max_epochs=4, data.iterations_per_epoch=3, data.val_iterations=1,
            data.planning.base_features=2, "data.patch_size=[8,32,32]", callbacks.progress=null, callbacks.best=null]
datasets:
  phantom: {title: Phantom, overrides: [data=phantom], seconds: 60}
networks:
  nnunet: {overrides: [model=nnunet], seeds: [1, 2]}
  umamba_none: {overrides: [model=umamba_none], seeds: [1, 2]}
"""


def runner(folder: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "umamba.evidence", *arguments, "manifest=list.yaml", "state=state", "gpus=cpu",
               "raw=raw", "prepared=prepared", "workers=1", "per_gpu=2"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)  # fmt: skip


def test_a_killed_sweep_of_real_trainings_is_finished_by_the_same_command(tmp_path):
    (tmp_path / "list.yaml").write_text(MANIFEST)
    first = runner(tmp_path)
    until = time.monotonic() + 300
    while not list(tmp_path.glob("state/*/*/run/checkpoints/last.ckpt")):
        assert first.poll() is None and time.monotonic() < until, first.communicate()[0]
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 143, output
    second = runner(tmp_path)
    output, _ = second.communicate(timeout=600)
    assert second.returncode == 0 and "4 finished" in output, output
    records = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("state/records/*/*.json"))]
    assert len(records) == 4
    assert any(len(record["attempts"]) == 2 for record in records)
    for record in records:
        assert record["attempts"][-1]["step"] == record["cost"]["steps"] == 12
        assert record["cost"]["parameters"] > 0 and record["cost"]["gflops"] > 0
        assert record["run"]["configuration"] == "3d_fullres" and len(record["run"]["cases"]) == 4
        assert record["trained_cases"] and record["code"] and record["versions"]["torch"]
        assert {"case", "class", "dsc", "nsd", "hd95"} <= set(record["scores"]["columns"])
        assert str(tmp_path) not in json.dumps(record)
    assert len({record["plan_hash"] for record in records}) == len({record["data_hash"] for record in records}) == 1
    assert len({record["config_hash"] for record in records}) == 2
