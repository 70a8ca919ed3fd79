"""Training steps on a CPU beside busy processes, by how OpenMP's threads wait.

    python benchmarks/busy_neighbour.py [NUMBER OF BUSY PROCESSES] [REPEATS]

Prints a table for docs/benchmarks/busy_neighbour.md. Each time is that of a fresh process; the ways take turns.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
WAYS = {
    "spinning (OpenMP's default)": {"OMP_WAIT_POLICY": "", "GOMP_SPINCOUNT": ""},
    "passive (this project's default)": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
STEPS = """
import time
import umamba
import torch
from umamba.models.umamba import UMamba
torch.manual_seed(0)
network = UMamba(
    spatial_dims=3, in_channels=1, out_channels=4, features_per_stage=(8, 16, 32), kernel_sizes=(3,) * 3,
    strides=(1, 2, 2), mamba="encoder", deep_supervision=False,
)
image = torch.randn(2, 1, 16, 32, 32)
for step in range(3):
    started = time.perf_counter()
    network(image).mean().backward()
    if step:
        print(time.perf_counter() - started)
"""


def main(neighbours: int, repeats: int) -> None:
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(neighbours)]
    try:
        for _ in range(repeats):
            for way, variables in WAYS.items():
                environment = {key: value for key, value in os.environ.items() if key not in VARIABLES} | variables
                command = [sys.executable, "-c", STEPS]
                done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
                seconds[way] += map(float, done.stdout.split())
    finally:
        for process in busy:
            process.kill()
            process.wait()
    print("| threads | s per step, median | least | most |\n|---|---|---|---|")
    for way, times in seconds.items():
        print(f"| {way} | {statistics.median(times):.2f} | {min(times):.2f} | {max(times):.2f} |")


if __name__ == "__main__":
    main(*(int(value) for value in (sys.argv[1:] + ["1", "3"][len(sys.argv) - 1 :])))
