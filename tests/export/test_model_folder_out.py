"""A model folder is read in again as the same network, and what nnU-Net has not is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.export.made import save, save_folds
from tests.models.tiny_plan import tiny_plan
from umamba.evaluation.members import Member
from umamba.export.given import read_given
from umamba.export.model_folder import write_model_folder
from umamba.inference.members import members_of
from umamba.inference.model_folder import read_model_folder
from umamba.inference.precision import trained_precision
from umamba.inference.predictor import Predictor
from umamba.models.checkpoint import load_checkpoint, network_from_checkpoint
from umamba.models.import_weights import import_checkpoint
from umamba.models.nnunet_checkpoint import OURS
from umamba.planning.as_nnunet import Built, dataset_json_of, plans_of
from umamba.planning.nnunet_plans import plan_from_nnunet
from umamba.planning.plan import Plan
from umamba.raw.description import DatasetDescription
from umamba.raw.regions import Region

NETWORKS = (
    "model=nnunet", "model=resenc", "model=umamba_bot", "model=umamba_enc",
    "model=umamba_bot model.network.variant=repo", "model=umamba_enc model.network.variant=repo",
)  # fmt: skip


def out(checkpoint: Any, output: Path, **options: Any) -> Path:
    write_model_folder(read_given(checkpoint, **options), output)
    return output


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
@pytest.mark.parametrize("overrides", NETWORKS)
def test_in_again_it_is_the_same_network(overrides: str, configuration: str, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "last.ckpt", *overrides.split(), configuration=configuration, fold=3)
    folder = out(str(checkpoint), tmp_path / f"nnUNetTrainer__nnUNetPlans__{configuration}")
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")) == [
        "dataset.json", "fold_3/checkpoint_final.pth", "plans.json",
    ]  # fmt: skip
    ((_, read),) = read_model_folder(folder).items()
    ours, plan = network_from_checkpoint(torch.load(checkpoint, weights_only=True))
    theirs, back = network_from_checkpoint(read)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
    image = torch.randn(2, 2, *plan.configuration(configuration).patch_size)
    with torch.no_grad():
        assert torch.equal(ours(image), theirs(image))
    assert read["config"]["data"]["fold"] == 3
    for name in (
        "patch_size",
        "spacing",
        "strides",
        "kernel_sizes",
        "normalization",
        "use_mask_for_norm",
        "batch_dice",
    ):
        assert getattr(back.configuration(configuration), name) == getattr(plan.configuration(configuration), name)


@pytest.mark.parametrize("trained", ["32-true", "16-mixed", None])
def test_the_precision_of_the_training_goes_along(trained: str | None, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "last.ckpt", "model=nnunet")
    content = torch.load(checkpoint, weights_only=True)
    content["config"]["trainer"] = {"precision": trained}
    torch.save(content, checkpoint)
    ((path, read),) = read_model_folder(out(str(checkpoint), tmp_path / "folder")).items()
    assert trained_precision(read["config"]) == (trained_precision(content["config"]) or "bf16-mixed")
    stored = torch.load(path, weights_only=True)
    torch.save({name: value for name, value in stored.items() if name != "umamba"}, path)  # as nnU-Net writes it
    ((_, read),) = read_model_folder(tmp_path / "folder").items()
    assert trained_precision(read["config"]) == "16-mixed"
    torch.save(stored | {"umamba": {"precision": 32}}, path)
    with pytest.raises(ValueError, match=r"umamba\.precision must be a name such as bf16-mixed, the checkpoint has 32"):
        read_model_folder(tmp_path / "folder")


def test_folds_predict_as_their_ensemble_does(tmp_path: Path) -> None:
    source = save_folds(tmp_path / "cv", "model=resenc", rules=())
    folder = out(str(source), tmp_path / "out", licence={"identifier": "MIT"})
    image = np.random.default_rng(0).normal(size=(2, 17, 18, 16)).astype(np.float32)
    checkpoints = sorted(source.rglob("last.ckpt"))
    for mirror in (False, True):
        expected = Predictor.from_checkpoint(checkpoints, "cpu", mirror).segment(image, (1, 1, 1))
        found = Predictor.from_model_folder(folder, device="cpu", mirror=mirror).segment(image, (1, 1, 1))
        np.testing.assert_array_equal(found, expected)
    assert json.loads((folder / "dataset.json").read_text())["licence"] == "MIT"


def plans() -> dict[str, Plan]:
    plain = tiny_plan()
    regions = (Region(name="whole", labels=(1, 2), written=1), Region(name="core", labels=(2,), written=2))
    return {
        "plain": plain,
        "regions": dataclasses.replace(plain, labels={"background": 0}, regions=regions),
        "ignore": dataclasses.replace(plain, ignore_label=3),
        "transposed": dataclasses.replace(
            plain, transpose_forward=(1, 2, 0), transpose_backward=(2, 0, 1),
            original_median_spacing=(1.0, 2.0, 3.0), original_median_shape=(5.0, 6.0, 7.0),
        ),
        "pictures": dataclasses.replace(plain, file_ending=".png", original_median_shape=(1.0, 6.0, 7.0)),
    }  # fmt: skip


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("name", plans())
def test_a_plan_goes_out_and_in(name: str, older: bool, tmp_path: Path) -> None:
    plan = plans()[name]
    (tmp_path / "dataset.json").write_text(json.dumps(dataset_json_of(plan)))
    built = Built(residual=False, encoder=(2, 2, 2), decoder=(2, 2), older=older)
    content = json.loads(json.dumps(plans_of(plan, "3d_fullres", built)))
    back = plan_from_nnunet(content, DatasetDescription.read(tmp_path / "dataset.json"))
    same = {"rule", "preset", "memory_gb", "configurations"}  # what nnU-Net's file does not hold
    for field in dataclasses.fields(Plan):
        if field.name not in same:
            assert getattr(back, field.name) == getattr(plan, field.name), field.name
    reasons = {"patch_reason", "batch_reason", "estimate", "reference"}
    ours, theirs = plan.configuration("3d_fullres"), back.configuration("3d_fullres")
    for field in dataclasses.fields(ours):
        if field.name not in reasons:
            assert getattr(theirs, field.name) == getattr(ours, field.name), field.name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("model=segresnet", r"nnU-Net builds no SegResNet"),
        ("model=umamba_none", r"The control without Mamba layers .* has no trainer"),
        ("model=umamba_enc model.network.order=bidirectional", r"read the raster once"),
        ("model=umamba_enc model.network.mixer=ssd", r"this network's have SSD"),
        ("model=umamba_enc model.network.mamba=[1]", r"the network that .* would build is another one"),
    ],
)
def test_what_nnunet_has_not_is_refused(overrides: str, message: str, tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "last.ckpt", *overrides.split())
    with pytest.raises(ValueError, match=message):
        out(str(checkpoint), tmp_path / "out" / "folder")
    assert [path.name for path in (tmp_path / "out").glob("*")] == []


def test_features_that_the_older_plans_cannot_say(tmp_path: Path) -> None:
    plan = tiny_plan()
    entry = dataclasses.replace(plan.configuration("3d_fullres"), features_per_stage=(4, 6, 8))
    plan = dataclasses.replace(plan, configurations={"3d_fullres": entry})
    out(str(save(tmp_path / "cnn.ckpt", "model=nnunet", plan=plan)), tmp_path / "cnn")
    with pytest.raises(ValueError, match=r"features_per_stage is \(4, 6, 8\); U-Mamba's code doubles them"):
        out(str(save(tmp_path / "bot.ckpt", "model=umamba_bot", plan=plan)), tmp_path / "bot")


def test_folds_and_names_that_do_not_fit(tmp_path: Path) -> None:
    one, same = (save(tmp_path / f"{name}.ckpt", "model=nnunet", fold=1) for name in ("one", "same"))
    with pytest.raises(ValueError, match=r"same\.ckpt and one\.ckpt are both of fold 1"):
        out([str(one), str(same)], tmp_path / "out")
    with pytest.raises(ValueError, match=r"third part of a model folder's name is its configuration, here 3d_fullres"):
        out(str(one), tmp_path / "nnUNetTrainer__nnUNetPlans__2d")
    flat = save(tmp_path / "flat.ckpt", "model=nnunet", configuration="2d")
    with pytest.raises(ValueError, match=r"trained with other plans or configurations .*3d_fullres.*2d"):
        out([str(one), str(flat)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["32-true", "16-mixed", None])
def test_precision_and_cases_of_the_training_come_back(
    precision: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = save(tmp_path / "last.ckpt", "model=nnunet")
    content = torch.load(checkpoint, weights_only=True)
    content["config"]["trainer"] = {"precision": precision}
    content["cases"] = {"trained_on": {"case_1": "0123456789abcdef"}, "validated_with": ["case_2"]}
    torch.save(content, checkpoint)
    folder = out(str(checkpoint), tmp_path / "out")
    ((file, read),) = read_model_folder(folder).items()
    assert trained_precision(read["config"]) == (precision or "bf16-mixed")
    assert read["cases"] == content["cases"]
    imported = import_checkpoint(
        folder / "fold_0" / "checkpoint_final.pth", folder / "plans.json", folder / "dataset.json", tmp_path / "in.ckpt"
    )
    assert trained_precision(load_checkpoint(imported)["config"]) == (precision or "bf16-mixed")
    assert Member.read(imported).trained_on == content["cases"]["trained_on"]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    expected = {"32-true": None, "16-mixed": torch.float16, None: torch.bfloat16}[precision]
    (member,), _, _ = members_of([(file, read)], torch.device("cuda"), mirror=False)
    assert member.autocast == expected


@pytest.mark.parametrize("added", [{"precision": 32}, {"cases": ["a"]}])
def test_what_is_added_is_checked(added: Any, tmp_path: Path) -> None:
    folder = out(str(save(tmp_path / "last.ckpt", "model=nnunet")), tmp_path / "out")
    path = folder / "fold_0" / "checkpoint_final.pth"
    torch.save({**torch.load(path, weights_only=True), OURS: added}, path)
    with pytest.raises(ValueError, match=rf"{OURS}\.(precision must be a name|cases must be a dictionary)"):
        read_model_folder(folder)
