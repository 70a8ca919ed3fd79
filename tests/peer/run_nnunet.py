"""Let nnunetv2 fingerprint, plan, preprocess and export the raw data sets; runs in an environment that has nnunetv2.

nnUNet_raw=RAW nnUNet_preprocessed=OUT nnUNet_results=OUT python tests/peer/run_nnunet.py
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import multiprocessing
import multiprocessing.pool
import os
import pickle
import sys
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

# Threads instead of spawned processes: the same functions in the same order, without a torch import per pool.
_context = multiprocessing.get_context


def _with_threads(method: str | None = None) -> Any:
    context: Any = _context(method)
    context.Pool = multiprocessing.pool.ThreadPool
    return context


multiprocessing.get_context = _with_threads

PACKAGE = "nnunetv2.experiment_planning"
extractor = importlib.import_module(f"{PACKAGE}.dataset_fingerprint.fingerprint_extractor")
default = importlib.import_module(f"{PACKAGE}.experiment_planners.default_experiment_planner")
preprocessor = importlib.import_module("nnunetv2.preprocessing.preprocessors.default_preprocessor")


def planners() -> dict[str, type]:
    found = {"nnUNetPlans": default.ExperimentPlanner}
    with contextlib.suppress(ImportError):  # 2.1 has none
        module = importlib.import_module(f"{PACKAGE}.experiment_planners.residual_unets.residual_encoder_unet_planners")
        found["nnUNetResEncUNetMPlans"] = module.nnUNetPlannerResEncM
        found["nnUNetResEncUNetLPlans"] = module.nnUNetPlannerResEncL
        found["nnUNetResEncUNetXLPlans"] = module.nnUNetPlannerResEncXL
    return found


def export(folder: Path, plans: dict, dataset: str, dataset_json: dict) -> None:
    """Bring made-up logits of every configuration's first case back to the original grid."""
    from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    labels = manager.get_label_manager(dataset_json)
    for name in plans["configurations"]:
        if name == "3d_cascade_fullres":
            continue
        cases = folder / plans["configurations"][name]["data_identifier"]
        first = sorted(cases.glob("*.pkl"))[0]
        properties = pickle.loads(first.read_bytes())
        shape = json.loads((folder / "shapes.json").read_text())[name]
        logits = np.random.default_rng(5).normal(size=(labels.num_segmentation_heads, *shape)).astype(np.float32)
        label = convert_predicted_logits_to_segmentation_with_correct_shape(
            logits, manager, manager.get_configuration(name), labels, properties
        )
        np.save(folder / f"export_{name}.npy", np.asarray(label))


def run(dataset: str, raw: Path, out: Path) -> None:
    number = int(dataset[7:10])
    dataset_json = json.loads((raw / dataset / "dataset.json").read_text())
    (out / dataset).mkdir(parents=True, exist_ok=True)
    (out / dataset / "dataset.json").write_text(json.dumps(dataset_json))
    extractor.DatasetFingerprintExtractor(number, 1).run(overwrite_existing=True)
    for name, planner in planners().items():
        planner(number, plans_name=name).plan_experiment()
    plans = json.loads((out / dataset / "nnUNetPlans.json").read_text())
    shapes = {}
    for name in plans["configurations"]:
        if name == "3d_cascade_fullres":
            continue
        preprocessor.DefaultPreprocessor(verbose=False).run(number, name, "nnUNetPlans", 1)
        folder = out / dataset / plans["configurations"][name]["data_identifier"]
        first = sorted(folder.glob("*.pkl"))[0].with_suffix("")
        if first.with_suffix(".npz").exists():
            shapes[name] = list(np.load(first.with_suffix(".npz"))["seg"].shape[1:])
        else:
            import blosc2

            shapes[name] = list(blosc2.open(str(first) + "_seg.b2nd").shape[1:])
    (out / dataset / "shapes.json").write_text(json.dumps(shapes))
    with contextlib.suppress(ImportError):
        export(out / dataset, plans, dataset, dataset_json)


if __name__ == "__main__":
    raw, out = Path(os.environ["nnUNet_raw"]), Path(os.environ["nnUNet_preprocessed"])
    out.mkdir(parents=True, exist_ok=True)
    (out / "version.txt").write_text(version("nnunetv2"))
    failed = False
    for dataset in sorted(entry.name for entry in raw.iterdir() if entry.name.startswith("Dataset")):
        if len(sys.argv) > 1 and dataset not in sys.argv[1:]:
            continue
        log = io.StringIO()
        try:
            with contextlib.redirect_stdout(log):
                run(dataset, raw, out)
            sys.stdout.write(f"{dataset} done\n")
        except Exception:
            failed = True
            sys.stdout.write(f"{dataset} FAILED\n{log.getvalue()[-2000:]}\n{traceback.format_exc()}\n")
        sys.stdout.flush()
    sys.exit(failed)
