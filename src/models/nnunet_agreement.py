"""Whether the plans.json and dataset.json that an nnU-Net checkpoint is read with are those of its training.

nnU-Net keeps one pair for all folds of a folder and writes it anew whenever one of them is trained, so that a fold may
lie beside the plans of another one: spacing, intensities and classes are then not those that its weights know, and no
shape tells. Each checkpoint holds the pair of its own training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from umamba.planning.configuration import PlanError
from umamba.planning.nnunet_plans import plan_of_nnunet
from umamba.planning.plan import Plan
from umamba.raw.description import DatasetDescription

# Strides, kernels and blocks are not among them: the weights would not fit.
_OF_PLAN = ("channel_names", "labels", "regions", "ignore_label", "transpose_forward", "intensities")
_OF_CONFIGURATION = ("spacing", "patch_size", "normalization", "use_mask_for_norm", "previous_stage")


def check_same_training(checkpoint: Path | str, trained_with: Mapping[str, Any], plan: Plan, name: str) -> None:
    """See that a plan is the one that a checkpoint was trained with, as far as the checkpoint says it.

    Args:
        checkpoint: Its file, for the message.
        trained_with: Its init_args.
        plan: What the files beside it say.
        name: The plan's configuration that it is to be of.

    Raises:
        ValueError: They are of another training, naming what differs and both sides; or cannot be read.
    """
    own = trained_with.get("configuration")
    if isinstance(own, str) and own != name:
        raise ValueError(
            f"{checkpoint} was trained as {own}, not as {name}: it lies in another configuration's folder, or the "
            "folder was renamed. Its weights would be given images of another spacing."
        )
    plans, dataset_json = trained_with.get("plans"), trained_with.get("dataset_json")
    if not isinstance(plans, dict) or not isinstance(dataset_json, dict):
        return
    where = Path(f"{checkpoint} (init_args)")
    other = plan_of_nnunet(plans, DatasetDescription.of(dataset_json, where), where)
    if name not in other.configurations:
        raise PlanError(f"{where} has the configurations {', '.join(other.configurations)}, not {name}.")
    sides = [(key, getattr(plan, key), getattr(other, key)) for key in _OF_PLAN]
    here, there = plan.configuration(name), other.configuration(name)
    sides += [(f"{key} of {name}", getattr(here, key), getattr(there, key)) for key in _OF_CONFIGURATION]
    apart = [
        f"{key} is {one!r:.300} there, {known!r:.300} in the training" for key, one, known in sides if one != known
    ]
    if apart:
        raise ValueError(
            f"{checkpoint} was trained with another plan or data set than the plans.json and dataset.json given with "
            f"it: {'; '.join(apart)}. nnU-Net writes both anew with each fold it trains: they are of another training, "
            "or were edited since. Give those of this one; folds of several trainings need a folder each."
        )
