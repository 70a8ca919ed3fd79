"""Time fingerprint + preprocessing of the same data with this project and with nnunetv2, and their peak memory.

python benchmarks/preprocess.py [NNUNET_PYTHON] [--sets ct mr large] [--workers 2]

NNUNET_PYTHON is the python of an environment with nnunetv2. Both sides get as many processes, one thread each.

Each run adds its sets to docs/benchmarks/preprocess.json and draws table (.md) and chart (.png) anew from all of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from common import draw_bars, processor, versions
from umamba.files import write_json

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
SETS = {
    # name: cases, shape (z, y, x), spacings, classes (without background)
    "ct": (4, (90, 256, 256), [(2.5, 1.0, 1.0), (3.0, 0.9, 0.9), (2.0, 0.8, 0.8), (2.5, 1.1, 1.1)], 13),
    "mr": (8, (60, 160, 160), [(1.5, 1.0, 1.0), (1.2, 1.2, 1.2)], 4),
    "large": (2, (500, 512, 512), [(1.0, 0.8, 0.8), (1.2, 0.7, 0.7)], 14),
}

OURS = """
import sys
from umamba.planning.planner import PlannerOptions
from umamba.planning.prepare import prepare
if __name__ == "__main__":
    prepare(sys.argv[1], sys.argv[2], "3d_fullres", PlannerOptions(rule="2.8"), int(sys.argv[3]))
"""
THEIRS = """
import sys
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
if __name__ == "__main__":
    number, workers = int(sys.argv[1]), int(sys.argv[2])
    DatasetFingerprintExtractor(number, workers).run(overwrite_existing=True)
    ExperimentPlanner(number).plan_experiment()
    DefaultPreprocessor(verbose=False).run(number, "3d_fullres", "nnUNetPlans", workers)
"""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One side's run: seconds, and peak memory of all its processes together in GiB."""

    seconds: float
    memory: float


def make_set(folder: Path, name: str, seed: int = 0) -> None:
    """A CT-like data set of smooth blobs, as int16 NIfTI."""
    cases, shape, spacings, classes = SETS[name]
    description = {
        "channel_names": {"0": "MR" if name == "mr" else "CT"},
        "labels": {"background": 0, **{f"organ_{i}": i for i in range(1, classes + 1)}},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(description))
    for i in range(cases):
        random = np.random.default_rng(seed + i)
        coarse = ndimage.zoom(
            random.normal(size=(10, 12, 12)), [n / m for n, m in zip(shape, (10, 12, 12), strict=True)], order=1
        )
        label = np.digitize(coarse, np.linspace(0.2, 2.0, classes)).astype(np.uint8)
        image = (40 * label + random.normal(0, 20, shape) - 50).astype(np.int16)
        for array, path in ((image, f"imagesTr/case_{i}_0000.nii.gz"), (label, f"labelsTr/case_{i}.nii.gz")):
            stored = sitk.GetImageFromArray(array)
            stored.SetSpacing(spacings[i % len(spacings)][::-1])
            sitk.WriteImage(stored, str(folder / path), True)


def measure(command: list[str], environment: dict[str, str]) -> Measurement:
    """Run a command; sample the memory of it and its children meanwhile."""
    start = time.monotonic()
    process = subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak = [0]
    sampler = threading.Thread(target=_sample, args=(process, peak))
    sampler.start()
    _, errors = process.communicate()
    seconds = time.monotonic() - start
    sampler.join()
    if process.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{errors.decode()[-3000:]}")
    return Measurement(seconds=seconds, memory=peak[0] / 2**30)


def _sample(process: subprocess.Popen, peak: list[int]) -> None:
    while process.poll() is None:
        peak[0] = max(peak[0], sum(map(_proportional_size, _family(process.pid))))
        time.sleep(0.05)


def _family(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:  # it has ended
            continue
        for child in children:
            found += _family(int(child))
    return found


def _proportional_size(pid: int) -> int:
    """Resident bytes of a process, shared pages counted once among those that share them."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:  # it has ended
        pass
    return 0


def compare(name: str, workers: int, nnunet_python: str | None) -> tuple[Measurement, Measurement | None]:
    """This project's and nnunetv2's measurement on one generated set; this project's alone without nnunet_python."""
    single = dict.fromkeys((*THREAD_VARIABLES, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        raw = root / "raw" / "Dataset900_Benchmark"
        make_set(raw, name)
        (root / "ours.py").write_text(OURS)
        (root / "theirs.py").write_text(THEIRS)
        project = str(Path(__file__).resolve().parent.parent)
        command = [sys.executable, str(root / "ours.py"), str(raw), str(root / "out"), str(workers)]
        ours = measure(command, single | {"PYTHONPATH": project})
        if nnunet_python is None:
            return ours, None
        folders = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "pre", "nnUNet_results": "res"}
        environment = single | {key: str(root / value) for key, value in folders.items()}
        return ours, measure([nnunet_python, str(root / "theirs.py"), "900", str(workers)], environment)


HEAD = """# Fingerprint and preprocessing, timed

`python benchmarks/preprocess.py <python with nnunetv2>`: from raw files to fingerprint, plan and preprocessed
3d_fullres of generated int16 NIfTI volumes, imports included. Both sides get the same number of processes, one thread
each, and run one after the other. Memory: largest sum over all processes of a side (proportional set size, sampled
every 50 ms), interpreters included. `large` shows what one worker needs for a large CT.

| set | cases | shape | classes | processes | this project, s | nnunetv2, s | this project, GiB | nnunetv2, GiB |
|---|---|---|---|---|---|---|---|---|"""


def report(rows: list[dict[str, Any]]) -> str:
    """The table."""
    lines = [HEAD]
    for row in rows:
        cases, shape, _, classes = SETS[row["set"]]
        theirs = row["nnunetv2"]
        numbers = [
            row["ours"]["seconds"],
            theirs and theirs["seconds"],
            row["ours"]["memory"],
            theirs and theirs["memory"],
        ]
        cells = [row["set"], cases, " x ".join(map(str, shape)), classes, row["processes"]]
        cells += ["not run" if number is None else f"{number:.2f}" for number in numbers]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines.append("")
    for about in dict.fromkeys(row["about"] for row in rows):
        lines.append(f"{', '.join(row['set'] for row in rows if row['about'] == about)}: {about}.")
    return "\n".join([*lines, "", "![Fingerprint and preprocessing, timed](preprocess.png)"]) + "\n"


def write(rows: list[dict[str, Any]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(rows, folder / "preprocess.json")
    (folder / "preprocess.md").write_text(report(rows))
    parties = {"this project": "ours", "nnunetv2": "nnunetv2"}
    charts = {
        title: {party: [row[key] and row[key][what] for row in rows] for party, key in parties.items()}
        for title, what in (("seconds", "seconds"), ("peak memory, GiB", "memory"))
    }
    draw_bars(folder / "preprocess.png", [row["set"] for row in rows], charts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "nnunet_python",
        nargs="?",
        help="python of an environment with nnunetv2; without it this project is timed alone",
    )
    parser.add_argument("--sets", nargs="+", choices=sorted(SETS), default=["ct", "mr"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("docs/benchmarks"), help="folder of the results")
    options = parser.parse_args()
    about = {"processor": processor(), **versions("numpy")}
    if options.nnunet_python:
        query = "from importlib.metadata import version; print(version('nnunetv2'))"
        about["nnunetv2"] = subprocess.check_output([options.nnunet_python, "-c", query], text=True).strip()
    path = options.output / "preprocess.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    for name in options.sets:
        ours, theirs = compare(name, options.workers, options.nnunet_python)
        row = {
            "set": name,
            "processes": options.workers,
            "ours": asdict(ours),
            "nnunetv2": theirs and asdict(theirs),
            "about": ", ".join(f"{key} {value}" for key, value in about.items()),
        }
        rows = [*(other for other in rows if other["set"] != name), row]
        rows.sort(key=lambda row: list(SETS).index(row["set"]))
        write(rows, options.output)
        sys.stdout.write(f"{json.dumps(row)}\n")


if __name__ == "__main__":
    main()
