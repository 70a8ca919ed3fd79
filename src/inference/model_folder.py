"""A folder of nnU-Net's or U-Mamba's trainings, fold_0, fold_1, ..., with plans.json and dataset.json beside them."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from umamba.models.import_weights import converted_checkpoint

log = logging.getLogger(__name__)


def read_model_folder(
    folder: Path | str, folds: Sequence[int | str] | None = None, checkpoint: str = "checkpoint_final.pth"
) -> dict[Path, dict[str, Any]]:
    """Convert the checkpoints of a folder such as nnUNetTrainer__nnUNetPlans__3d_fullres; nothing is written.

    Args:
        folder: The folder.
        folds: Numbers, or "all"; None for every numbered fold that has the checkpoint, or fold_all where none has.
        checkpoint: Name of the file in each fold's folder.

    Returns:
        File -> its content as `umamba.models.checkpoint.load_checkpoint` returns one.

    Raises:
        FileNotFoundError: There is no such folder, or plans, dataset.json or a checkpoint are missing.
        ValueError: See `converted_checkpoint`.
    """
    folder = Path(folder)
    plans, dataset_json = folder / "plans.json", folder / "dataset.json"
    missing = [path.name for path in (plans, dataset_json) if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {' and '.join(missing)}. model_folder is nnU-Net's folder of a training, such as "
            "nnUNet_results/Dataset001_X/nnUNetTrainer__nnUNetPlans__3d_fullres."
        )
    if folds is None:
        files = _of_all_folds(folder, checkpoint)
    else:
        files = [folder / f"fold_{fold}" / checkpoint for fold in folds]
        absent = [str(path) for path in files if not path.is_file()]
        if absent or not files:
            found = ", ".join(sorted(path.parent.name for path in folder.glob(f"fold_*/{checkpoint}"))) or "none"
            raise FileNotFoundError(
                f"There is no {', '.join(absent) or 'fold asked for (folds=[])'}; {folder} has {checkpoint} of {found}."
            )
    parts = folder.name.split("__")
    configuration = parts[2] if len(parts) == 3 else None
    return {path: converted_checkpoint(path, plans, dataset_json, configuration) for path in files}


def _of_all_folds(folder: Path, checkpoint: str) -> list[Path]:
    """The checkpoints of the folds, as nnU-Net finds them: fold_all, which saw every case, is none beside others."""
    there = sorted(path for path in folder.glob("fold_*") if path.is_dir())
    found = [path for path in there if (path / checkpoint).is_file()]
    numbered = [path for path in found if re.fullmatch(r"fold_\d+", path.name)]
    taken = numbered or [path for path in found if path.name == "fold_all"]
    if not taken:
        raise FileNotFoundError(f"{folder} has no fold with a {checkpoint} (fold_0/{checkpoint}, ...).")
    if left := [path.name for path in there if path not in taken]:
        log.warning(
            "%s: predicting with %s, not with %s: that has no %s, is beside the folds, or is no name of one.",
            folder, ", ".join(path.name for path in taken), ", ".join(left), checkpoint,
        )  # fmt: skip
    return [path / checkpoint for path in taken]
