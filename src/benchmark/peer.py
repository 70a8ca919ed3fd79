"""nnU-Net's own benchmark of nnunetv2, run on the same data by an interpreter that has it."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from umamba.files import load_json, write_text

log = logging.getLogger(__name__)

_TRAINERS = {"real": "nnUNetTrainerBenchmark_5epochs", "dummy": "nnUNetTrainerBenchmark_5epochs_noDataLoading"}
_PLANS = "nnUNetPlans"
_ASK = (
    "import json, torch, importlib.metadata as m; from nnunetv2.utilities.default_n_proc_DA import "
    "get_allowed_n_proc_DA as n; print(json.dumps([m.version('nnunetv2'), torch.cuda.is_available(), n()]))"
)
_PREPARE = (
    "from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import plan_and_preprocess_entry as main; main()"
)
_TRAIN = "from nnunetv2.run.run_training import run_training_entry as main; main()"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """nnunetv2 in some interpreter.

    Attributes:
        python: The interpreter.
        version: Of nnunetv2.
        workers: That nnU-Net takes on this machine, or nnUNet_n_proc_DA says.
        dataset_dir: The raw data set, in nnU-Net's layout and with its name.
    """

    python: str
    version: str
    workers: int
    dataset_dir: Path

    def measure(self, feed: str, data: str, configuration: str, folder: Path) -> dict[str, Any]:
        """Run its benchmark, with its own plan, and give what it says as a row.

        Args:
            feed: "real" or "dummy".
            data: What the data set is called in the table.
            configuration: Of the plan.
            folder: For what it preprocesses and writes; what was preprocessed before is used again.

        Raises:
            RuntimeError: nnU-Net failed.
        """
        folder = folder.resolve()
        prepared = folder / "preprocessed" / self.dataset_dir.name
        done = prepared / f"prepared_{configuration}_{self.version}"
        if not done.is_file():
            log.info("nnunetv2 %s plans and preprocesses %s.", self.version, self.dataset_dir.name)
            self._run(folder, _PREPARE, "-d", self._number, "-c", configuration)
            write_text("", done)
        trainer = _TRAINERS[feed]
        log.info("nnunetv2 %s runs %s.", self.version, trainer)
        name = f"{trainer}__{_PLANS}__{configuration}"
        result = folder / "results" / self.dataset_dir.name / name / "fold_0" / "benchmark_result.json"
        result.unlink(missing_ok=True)
        self._run(folder, _TRAIN, self._number, configuration, "0", "-tr", trainer)
        (found,) = load_json(result).values()
        if not isinstance(found["fastest_epoch"], float):
            raise RuntimeError(f"nnU-Net says: {found['fastest_epoch']} See {folder / 'log.txt'}.")
        plan = load_json(prepared / f"{_PLANS}.json")["configurations"][configuration]
        return {
            "data": data,
            "configuration": configuration,
            "model": f"nnunetv2 {self.version}",
            "feed": feed,
            "workers": self.workers if feed == "real" else None,
            "patch_size": plan["patch_size"],
            "batch_size": plan["batch_size"],
            "iterations": [250, 50],
            "machine": found["gpu_name"],
            "devices": found.get("world_size", 1),
            "torch": found["torch_version"],
            "cudnn": found["cudnn_version"],
            "compile": os.environ.get("nnUNet_compile"),  # noqa: SIM112  # None: as nnU-Net chooses
            "date": time.strftime("%Y-%m-%d"),
            "epoch_s": found["fastest_epoch"],
            **dict.fromkeys(("step_ms", "loader_ms", "host_ms", "device_ms", "peak_gib", "bound")),
        }

    @property
    def _number(self) -> str:
        return str(int(self.dataset_dir.name[len("Dataset") :].split("_")[0]))

    def _run(self, folder: Path, code: str, *arguments: str) -> None:
        places = {
            "nnUNet_raw": self.dataset_dir.parent,
            "nnUNet_preprocessed": folder / "preprocessed",
            "nnUNet_results": folder / "results",
        }
        environment = {**os.environ, **{key: str(path) for key, path in places.items()}}
        path = folder / "log.txt"
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as output:
            command = [self.python, "-c", code, *arguments]
            code_of_end = subprocess.run(command, stdout=output, stderr=output, env=environment, check=False).returncode
        if code_of_end:
            last = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(f"nnU-Net ended with code {code_of_end}: {' '.join(last)} All it said is in {path}.")


def find_peer(python: str | bool, dataset_dir: Path) -> Peer:
    """The nnunetv2 of an interpreter, if it can be run on a data set.

    Args:
        python: An interpreter; True for the one that runs this.
        dataset_dir: Raw data set.

    Raises:
        ValueError: there is no such interpreter, no nnunetv2 or no GPU, or the folder has no name of nnU-Net's.
    """
    command = sys.executable if python is True else str(python)
    if not re.fullmatch(r"Dataset\d{3}_.+", dataset_dir.name):
        raise ValueError(
            f"peer={python}: nnU-Net takes raw data sets in folders such as Dataset123_Name only; data.dataset_dir is "
            f"{dataset_dir}. Rename the folder, or make a link to it with such a name."
        )
    try:
        answer = subprocess.run([command, "-c", _ASK], capture_output=True, text=True, check=True)
        version, on_gpu, workers = json.loads(answer.stdout.splitlines()[-1])
    except (OSError, subprocess.CalledProcessError, ValueError, IndexError) as error:
        said = error.stderr.strip().splitlines()[-1:] if isinstance(error, subprocess.CalledProcessError) else [error]
        raise ValueError(
            f"peer={python}: {command} cannot run nnunetv2 ({' '.join(map(str, said))}). Install it into an "
            "environment of its own (python -m venv NNUNET, NNUNET/bin/pip install nnunetv2) and give "
            "peer=NNUNET/bin/python."
        ) from error
    if not on_gpu:
        raise ValueError(f"peer={python}: nnU-Net's benchmark runs on a GPU only; the torch of {command} sees none.")
    return Peer(python=command, version=version, workers=workers, dataset_dir=dataset_dir.resolve())
