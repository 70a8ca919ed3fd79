"""Stands in for train.py in tests of the runner: takes its overrides, "trains" in steps of a tenth of a second, goes on
from its checkpoint, ends on SIGTERM with code 143, and leaves the files of a scored run. STUB_TEMPLATES is a folder
with step_<n>.ckpt and tables/.
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

given = dict(argument.split("=", 1) for argument in sys.argv[1:])
run_dir, templates = Path(given["run_dir"].strip("'")), Path(os.environ["STUB_TEMPLATES"])
last, tables = run_dir / "checkpoints" / "last.ckpt", run_dir / "tables"
stored = run_dir / "config.yaml"
told: list[int] = []
signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))

if last.is_file():
    content = json.loads(stored.read_text())
    step = int((run_dir / "step").read_text())
else:
    content, step = {**given, "trainer": {"max_epochs": 1}, "data": {"iterations_per_epoch": 20}}, 0
run_dir.mkdir(parents=True, exist_ok=True)
last.parent.mkdir(exist_ok=True)
stored.write_text(json.dumps(content))
if content.get("model") == "broken":
    sys.exit("data.batch_size is 0; expected at least 1.")
if content.get("model") == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(f"from step {step} on {os.environ['CUDA_VISIBLE_DEVICES']!r}, {given['data.num_workers']} workers", flush=True)
with open(templates / "log", "a") as file:
    file.write(f"{content['model']} {content['seed']} from {step}\n")
while step < 20:
    time.sleep(0.1)
    step += 1
    (run_dir / "metrics.csv").write_text(f"step\n{step - 1}\n")
    if step % 5 == 0 or told:
        (run_dir / "step").write_text(str(step))
        shutil.copy(templates / f"step_{step}.ckpt", last)
    if told:
        sys.exit(128 + told[0])
shutil.copytree(templates / "tables", tables, dirs_exist_ok=True)
run = json.loads((tables / "run.json").read_text())
run["seed"] = run["members"][0]["seed"] = int(content["seed"])
if content.get("plan") == "other":
    run["plan"]["patch_size"] = [9, 9, 9]
(tables / "run.json").write_text(json.dumps(run))
(run_dir / "provenance.json").write_text(json.dumps({"git_revision": "abc", "python": "3", "versions": {"torch": "2"}}))
(run_dir / "cost.json").write_text(json.dumps({"epoch_seconds": [2.0], "peak_vram_gib": 1.5, "device": "a GPU"}))
