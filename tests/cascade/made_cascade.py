"""A cascade without training: a plan of two stages, checkpoints of untrained networks, and the data set they are of."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import torch

from tests.inference.small import MIRROR, make_plan
from umamba.datamodules.custom import CustomDataModule
from umamba.files import file_hash
from umamba.inference.ensemble import FILE, Group, write_ensemble
from umamba.inference.previous_facts import KEY, PreviousFacts, member_of
from umamba.models.build import build_network
from umamba.models.unet import PlainConvUNet
from umamba.planning.plan import Plan

FULL, LOW, SECOND = "3d_fullres", "3d_lowres", "3d_cascade_fullres"


def two_stages(plan: Plan | None = None, spacing: float = 1.7) -> Plan:
    """A plan of `tests.inference.small`, with a low resolution and a cascade upon it."""
    plan = plan or make_plan(classes=3)
    full = plan.configurations[FULL]
    low = dataclasses.replace(full, name=LOW, spacing=(spacing,) * 3, data_identifier=LOW)
    second = dataclasses.replace(full, name=SECOND, previous_stage=LOW)
    return dataclasses.replace(plan, configurations={FULL: full, LOW: low, SECOND: second})


def save(path: Path, plan: Plan, name: str, *, seed: int = 0, **extra: Any) -> Path:
    """A checkpoint of an untrained network for a configuration of the plan; `extra` goes into it."""
    torch.manual_seed(seed)
    network = build_network(functools.partial(PlainConvUNet), plan, name, False)
    for parameter in network.parameters():  # so that what it segments is not one class
        parameter.data += 0.3 * torch.randn_like(parameter)
    model = {
        "network": {"_target_": "umamba.models.unet.PlainConvUNet", "_partial_": True},
        "deep_supervision": False, "precision": None,
    }  # fmt: skip
    content = {
        "state_dict": {f"network.{key}": tensor for key, tensor in network.state_dict().items()},
        "plan": plan.to_dict(), "configuration": name,
        "config": {"model": model, "data": {"augmentation": {"mirror": MIRROR}}} | extra.pop("config", {}), **extra,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def config_of(raw: Path, fold: int, name: str) -> dict[str, Any]:
    """What a training's checkpoint says of its configuration."""
    data = {
        "_target_": "umamba.datamodules.custom.CustomDataModule", "dataset_dir": str(raw),
        "prepared_dir": str(raw.parent / "prepared"), "fold": fold, "configuration": name,
        "augmentation": {"mirror": MIRROR},
    }  # fmt: skip
    return {"data": data, "fold": fold, "seed": 0, "model_name": "nnunet"}


def make_low(
    raw: Path,
    folder: Path,
    plan: Plan,
    folds: tuple[int, ...] = (0, 1),
    name: str = LOW,
    mirror: bool = False,
    **extra: Any,
) -> dict[int, Path]:
    """The cross-validation of a first stage: fold -> checkpoint, and its ensemble.json."""
    paths = {}
    for fold in folds:
        split = split_of(raw, fold)
        cases = {"trained_on": dict.fromkeys(split["train"], f"mark_{fold}"), "validated_with": split["val"]}
        paths[fold] = save(
            folder / f"fold_{fold}" / "checkpoints" / "last.ckpt", plan, name, seed=fold,
            config=config_of(raw, fold, name), cases=cases, **extra,
        )  # fmt: skip
    facts = {"folds": [{"fold": fold, "cases": split_of(raw, fold)["val"]} for fold in folds]}
    write_ensemble(
        folder / FILE, [Group.of("nnunet", list(paths.values()))], [], mirror=mirror, fitted_on=[], facts=facts
    )
    return paths


def make_cascade(root: Path, plan: Plan, low_seed: int = 0, **changes: Any) -> Path:
    """Two folds of the first stage and a checkpoint of the second, as they lie beside each other."""
    low, second = root / "3d_lowres", root / "3d_cascade_fullres" / "fold_0" / "checkpoints"
    paths = [
        save(low / f"fold_{fold}" / "checkpoints" / "last.ckpt", plan, LOW, seed=low_seed + fold) for fold in (0, 1)
    ]
    write_ensemble(low / FILE, [Group.of("nnunet", paths)], [], mirror=False, fitted_on=[], facts={})
    facts = PreviousFacts(
        configuration=LOW, training="0", mirror=False, trained_on={},
        members=tuple(
            member_of(fold, path, file_hash(path), [f"held_{fold}"], second) for fold, path in enumerate(paths)
        ),
    )  # fmt: skip
    return save(second / "last.ckpt", plan, SECOND, seed=5, **{KEY: {**facts.to_plain(), **changes}})


def split_of(raw: Path, fold: int) -> dict[str, list[str]]:
    """Of the two folds that the data set has."""
    return json.loads((raw / "splits_final.json").read_text())[fold]


def split_in_two(raw: Path) -> None:
    """Give a data set of five cases two folds."""
    names = [f"case_{case}" for case in range(5)]
    folds = [{"train": names[:3], "val": names[3:]}, {"train": names[3:], "val": names[:3]}]
    (raw / "splits_final.json").write_text(json.dumps(folds))


def planned(raw: Path, plan: Plan, configuration: str = SECOND, fold: int = 0, **options: Any) -> CustomDataModule:
    """A data module whose plan is given to it: nothing is planned."""
    prepared = raw.parent / "prepared"
    path = raw.parent / "given_plan.json"
    plan.save(path)
    datamodule = CustomDataModule(
        dataset_dir=raw, prepared_dir=prepared, configuration=configuration, fold=fold,
        planning={"plans": str(path)}, iterations_per_epoch=2, val_iterations=1, **options,
    )  # fmt: skip
    datamodule.make_plan()
    return datamodule
