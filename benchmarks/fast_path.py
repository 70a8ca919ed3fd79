"""Whether the fast path trains as torch's own operations do: one run with and without it, from two seeds. Needs CUDA.

    python benchmarks/fast_path.py data=hippocampus model=umamba_enc data.dataset_dir=<folder>

The overrides are train.py's. A run takes 6 epochs of 50 steps. Without the fast path norms, layouts, loss and Mamba
layers are torch's own and no step is a CUDA graph; the scan stays, which has tests of its own. Runs are processes of
their own, all at a time after the first, so their seconds say nothing. Writes docs/benchmarks/fast_path.json and .md.
"""

from __future__ import annotations

import csv
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
EPOCHS, STEPS = 6, 50
SEEDS = (0, 1)
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


def main(overrides: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        runs = {}
        for way in ("fast", "plain"):
            for seed in SEEDS:
                folder = Path(scratch) / f"{way}_{seed}"
                call = [*overrides, *FIXED, f"seed={seed}", f"run_dir={folder}"]
                start = [str(ROOT / "train.py")] if way == "fast" else [__file__, "--plain"]
                runs[way, seed] = folder, subprocess.Popen([sys.executable, *start, *call])
                if len(runs) == 1:
                    runs[way, seed][1].wait()  # it prepares the data and builds the kernels
        failed = [key for key, (_, process) in runs.items() if process.wait()]
        if failed:
            raise SystemExit(f"These runs failed, with the messages above: {failed}.")
        found = {key: losses(folder) for key, (folder, _) in runs.items()}
    report(overrides, found)


def report(overrides: list[str], found: dict[tuple[str, int], list[float]]) -> None:
    import torch

    from common import versions
    from umamba.files import write_json, write_text

    between_ways = [abs(f - p) for s in SEEDS for f, p in zip(found["fast", s], found["plain", s], strict=True)]
    between_seeds = [
        abs(a - b) for way in ("fast", "plain") for a, b in zip(*(found[way, s] for s in SEEDS), strict=True)
    ]
    shown = [override for override in overrides if "=/" not in override]  # without the machine's own folders
    about = {"device": torch.cuda.get_device_name(), **versions("torch", "triton"), "overrides": shown}
    rows: list[dict[str, Any]] = [
        {"way": way, "seed": seed, "train_loss": values} for (way, seed), values in found.items()
    ]
    folder = ROOT / "docs" / "benchmarks"
    summary = {
        "mean_difference_of_ways": sum(between_ways) / len(between_ways),
        "mean_difference_of_seeds": sum(between_seeds) / len(between_seeds),
    }
    write_json({**about, **summary, "runs": rows}, folder / "fast_path.json")
    head = "| way | seed | " + " | ".join(f"epoch {i}" for i in range(EPOCHS)) + " |"
    lines = [
        "# Training with and without the fast path", "",
        f"`python benchmarks/fast_path.py {' '.join(shown)}`: training loss of {EPOCHS} epochs of {STEPS} steps, on "
        f"{about['device']}, torch {about['torch']}, commit {about['commit']}.", "",
        head, "|" + "---|" * (EPOCHS + 2),
        *(f"| {r['way']} | {r['seed']} | " + " | ".join(f"{v:.4f}" for v in r["train_loss"]) + " |" for r in rows), "",
        f"Mean difference between the two ways at one seed: {summary['mean_difference_of_ways']:.4f}; between the two "
        f"seeds: {summary['mean_difference_of_seeds']:.4f}.", "",
    ]  # fmt: skip
    write_text(folder / "fast_path.md", "\n".join(lines))
    print(json.dumps(summary))


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    if sys.argv[1:2] == ["--plain"]:
        train_plainly(sys.argv[2:])
    else:
        main(sys.argv[1:])
