"""Whether the fast path trains as torch's own operations do: runs with and without it, from some seeds. Needs CUDA.

    python benchmarks/fast_path.py --seeds 4 data=hippocampus model=umamba_enc data.dataset_dir=<folder>

The overrides are train.py's. A run takes 6 epochs of 50 steps. Without the fast path norms, layouts, loss and Mamba
layers are torch's own and no step is a CUDA graph; the scan stays, which has tests of its own. Runs are processes of
their own, all at a time after the first, shared out among the GPUs and CPUs that there are, so their seconds say
nothing: eight take about two minutes on one H200 with 16 CPUs. Writes fast_path.json and .md.
"""

from __future__ import annotations

import argparse
import csv
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
EPOCHS, STEPS = 6, 50
WAYS = ("fast", "plain")
SWITCHES = (
    "umamba.models.kernels.choice._usable",
    "umamba.models.kernels.choice._loss_usable",
    "umamba.models.mamba.scan.choice._half_choice",
)
FIXED = [
    f"trainer.max_epochs={EPOCHS}", f"trainer.limit_train_batches={STEPS}", "trainer.limit_val_batches=10",
    "trainer.accelerator=gpu", "test=false", "logger=csv",
]  # fmt: skip


def train_plainly(overrides: list[str]) -> None:
    """train.py in this process, with everything that the fast path replaces switched off."""
    sys.argv = [str(ROOT / "train.py"), *overrides, "cuda_graph=false"]
    for switch in SWITCHES:
        mock.patch(switch, lambda *device: False).start()
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


def losses(folder: Path) -> list[float]:
    """Training loss of each epoch."""
    with (folder / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row.get("train/loss")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4, help="runs of each way, at least two")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks")
    args, overrides = parser.parse_known_args()
    if args.seeds < 2:
        parser.error("one run of each way says nothing of how far runs lie apart.")
    import torch  # here, so that the processes that train need not wait for it

    from umamba.machine import usable_cpus

    keys = [(way, seed) for seed in range(args.seeds) for way in WAYS]
    gpus = torch.cuda.device_count()
    shared = [*FIXED, f"data.num_workers={max(1, usable_cpus() // len(keys))}"]
    with tempfile.TemporaryDirectory() as scratch:
        runs: dict[tuple[str, int], subprocess.Popen] = {}
        for number, (way, seed) in enumerate(keys):
            call = [*shared, *overrides, f"seed={seed}", f"run_dir={Path(scratch) / f'{way}_{seed}'}"]
            start = [str(ROOT / "train.py")] if way == "fast" else [__file__, "--plain"]
            environment = os.environ | {"CUDA_VISIBLE_DEVICES": str(number % gpus), "OMP_NUM_THREADS": "1"}
            runs[way, seed] = subprocess.Popen([sys.executable, *start, *call], env=environment)
            if number == 0:
                runs[way, seed].wait()  # it prepares the data and builds the kernels
        failed = [key for key, process in runs.items() if process.wait()]
        if failed:
            raise SystemExit(f"These runs failed, with the messages above: {failed}.")
        found = {(way, seed): losses(Path(scratch) / f"{way}_{seed}") for way, seed in keys}
    report(overrides, found, args.output)


def compared(found: dict[tuple[str, int], list[float]]) -> list[dict[str, float]]:
    """For each epoch the mean of each way, their difference, and the standard error of that by the spread of seeds."""
    rows = []
    for epoch in range(EPOCHS):
        values = {way: [losses[epoch] for (w, _), losses in found.items() if w == way] for way in WAYS}
        error = sum(statistics.variance(v) / len(v) for v in values.values()) ** 0.5
        means = {way: statistics.fmean(v) for way, v in values.items()}
        rows.append({**means, "difference": means["fast"] - means["plain"], "standard_error": error})
    return rows


def report(overrides: list[str], found: dict[tuple[str, int], list[float]], folder: Path) -> None:
    import torch

    from common import versions
    from umamba.files import write_json, write_text

    shown = [override for override in overrides if "=/" not in override]  # without the machine's own folders
    about = {"device": torch.cuda.get_device_name(), **versions("torch", "triton"), "overrides": shown}
    rows: list[dict[str, Any]] = [
        {"way": way, "seed": seed, "train_loss": values} for (way, seed), values in sorted(found.items())
    ]
    epochs = compared(found)
    folder.mkdir(parents=True, exist_ok=True)
    write_json({**about, "epochs": epochs, "runs": rows}, folder / "fast_path.json")
    head = " | ".join(f"epoch {i}" for i in range(EPOCHS))
    seeds = len(rows) // len(WAYS)
    lines = [
        "# Training with and without the fast path", "",
        f"`python benchmarks/fast_path.py --seeds {seeds} {' '.join(shown)}`: training loss of {EPOCHS} epochs of "
        f"{STEPS} steps, on {about['device']}, torch {about['torch']}, commit {about['commit']}.", "",
        f"| way | seed | {head} |", "|" + "---|" * (EPOCHS + 2),
        *(f"| {r['way']} | {r['seed']} | " + " | ".join(f"{v:.4f}" for v in r["train_loss"]) + " |" for r in rows),
        *(f"| {key.replace('_', ' ')} | | " + " | ".join(f"{e[key]:.4f}" for e in epochs) + " |" for key in epochs[0]),
        "", "The last rows are means over the seeds, fast less plain, and the standard error of that difference.", "",
    ]  # fmt: skip
    write_text("\n".join(lines), folder / "fast_path.md")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    if sys.argv[1:2] == ["--plain"]:
        train_plainly(sys.argv[2:])
    else:
        main()
