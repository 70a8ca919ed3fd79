"""Time the selective scan against mamba-ssm on a GPU and against the plain recurrence and mambapy on the CPU.

    python benchmarks/selective_scan.py gpu     # needs a CUDA device; mamba-ssm and causal-conv1d if installed
    python benchmarks/selective_scan.py cpu     # mambapy if installed

Each part adds to docs/benchmarks/selective_scan.json and draws the table (.md) and chart (.png) anew from all of it.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from scan.cpu import PARTIES, cpu_part, cpu_run
from scan.gpu import gpu_part
from scan.report import write_report
from umamba.files import write_json

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("gpu", "cpu", "cpu-run", "report"))
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks", help="folder of the results")
    parser.add_argument("--party", choices=PARTIES, default="torch", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if arguments.part == "cpu-run":
        cpu_run(arguments.party, arguments.threads)
        return
    path = arguments.output / "selective_scan.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    if arguments.part != "report":
        results[arguments.part] = {"gpu": gpu_part, "cpu": cpu_part}[arguments.part]()
    write_json(results, path)
    write_report(results, arguments.output)


if __name__ == "__main__":
    main()
