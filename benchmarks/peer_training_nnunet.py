"""Train nnunetv2's CNN for a budget and predict the held-out cases; for `peer_training.py`.

    nnUNet_raw=RAW nnUNet_preprocessed=PREPARED nnUNet_results=RESULTS python benchmarks/peer_training_nnunet.py ASKED

Runs in an environment that has nnunetv2, and imports nothing of this project. ASKED is a JSON file with `action`
(prepare or train), `dataset` (number), `configuration`, `device` and `processes`; to train also `splits`, `epochs`,
`iterations` and `val_iterations` (batches an epoch), `images` (case -> files) and `output` (folder for label maps).
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def prepare(asked: dict[str, Any]) -> None:
    """Fingerprint, plan and preprocess, as nnUNetv2_plan_and_preprocess does."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    number, processes = asked["dataset"], asked["processes"]
    api.extract_fingerprints([number], num_processes=processes)
    api.plan_experiments([number])
    api.preprocess([number], configurations=(asked["configuration"],), num_processes=(processes,))


def train(asked: dict[str, Any]) -> dict[str, Any]:
    """Train, with nnUNetTrainer's own settings but for the budget, and predict; what the run took."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.paths import nnUNet_preprocessed
    from nnunetv2.run.run_training import get_trainer_from_args
    from nnunetv2.utilities.dataset_name_id_conversion import convert_id_to_dataset_name

    folder = Path(str(nnUNet_preprocessed)) / convert_id_to_dataset_name(asked["dataset"])
    splits = folder / "splits_final.json"
    if not splits.exists() or json.loads(splits.read_text()) != asked["splits"]:
        splits.write_text(json.dumps(asked["splits"]))
    device = torch.device(asked["device"])
    torch.backends.cudnn.benchmark = device.type == "cuda"
    trainer = get_trainer_from_args(
        str(asked["dataset"]), asked["configuration"], 0, "nnUNetTrainer", "nnUNetPlans", False, device=device
    )
    trainer.num_epochs, trainer.num_iterations_per_epoch = asked["epochs"], asked["iterations"]
    trainer.num_val_iterations_per_epoch = asked["val_iterations"]
    start = time.perf_counter()
    trainer.run_training()
    seconds = time.perf_counter() - start

    predictor = nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,), "checkpoint_final.pth")
    output = Path(asked["output"])
    output.mkdir(parents=True, exist_ok=True)
    cases = asked["images"]
    predictor.predict_from_files_sequential(list(cases.values()), [str(output / case) for case in cases], False, True)
    plan = json.loads((folder / "nnUNetPlans.json").read_text())["configurations"][asked["configuration"]]
    return {
        "nnunetv2": version("nnunetv2"),
        "torch": torch.__version__,
        "machine": torch.cuda.get_device_name(0) if device.type == "cuda" else "CPU",
        "compiled": trainer._do_i_compile(),
        "seconds": round(seconds, 1),
        "plan": {key: plan[key] for key in ("patch_size", "batch_size", "spacing")},
        "seed": None,  # nnunetv2 has none
    }


if __name__ == "__main__":
    wanted = json.loads(Path(sys.argv[1]).read_text())
    os.environ["nnUNet_n_proc_DA"] = str(wanted["processes"])  # noqa: SIM112  # nnU-Net's own name
    torch.set_num_threads(1)
    if wanted["action"] == "prepare":
        prepare(wanted)
    else:
        Path(sys.argv[1]).with_name("result.json").write_text(json.dumps(train(wanted)))
