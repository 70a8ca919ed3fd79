"""The authors' and nnU-Net's weights give the authors' and nnU-Net's outputs."""

from __future__ import annotations

import functools
import io
import json
import lzma
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from torch import nn

from tests import warm_start
from umamba.inference.members import trained_mirror_axes
from umamba.inference.precision import trained_precision
from umamba.models.checkpoint import load_checkpoint, network_from_checkpoint
from umamba.models.import_weights import convert_state_dict, import_checkpoint, main
from umamba.models.mamba.block import Mamba
from umamba.models.nnunet_checkpoint import read_checkpoint
from umamba.models.nnunet_names import names_of_others, recognize
from umamba.models.umamba import UMamba
from umamba.models.unet import PlainConvUNet, ResidualEncoderUNet

GOLDEN = Path(__file__).parents[1] / "golden"  # networks.md there says what made each file
FILES = ("resenc_a3", "nnunet_a3", "paper_bot_a2", "paper_enc_a3", "repo_bot_a2", "repo_enc_a2", "repo_enc_a3")


def load_golden(name: str) -> dict:
    with lzma.open(GOLDEN / f"{name}.pt.xz") as file:
        return torch.load(io.BytesIO(file.read()), weights_only=True)


def build(golden: dict) -> nn.Module:
    spec = golden["spec"]
    topology = {
        "spatial_dims": spec["dim"],
        "in_channels": spec["ch"],
        "out_channels": spec["nc"],
        "features_per_stage": spec["feats"],
        "kernel_sizes": spec["ks"],
        "strides": spec["st"],
        "patch_size": spec["size"],
    }
    if golden["network"] in ("nnunet", "resenc"):
        return {"nnunet": PlainConvUNet, "resenc": ResidualEncoderUNet}[golden["network"]](**topology)
    variant, mamba = golden["network"].split("_")
    return UMamba(**topology, variant=variant, mamba={"enc": "encoder", "bot": "bottleneck"}[mamba])


@pytest.mark.parametrize("name", FILES)
def test_original_outputs(name: str) -> None:
    golden = load_golden(name)
    network = build(golden)
    network.load_state_dict(convert_state_dict(golden["network_weights"], network))
    with torch.no_grad():
        outputs = network(golden["input"])
    assert len(outputs) == len(golden["outputs"])
    for ours, theirs in zip(outputs, golden["outputs"], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", FILES)
def test_names_go_out_as_they_came_in(name: str) -> None:
    golden = load_golden(name)
    network = build(golden)
    ours = convert_state_dict(golden["network_weights"], network)
    out = {there: ours[here] for here, names in names_of_others(network).items() for there in names}
    twice = {f"decoder.{k}": v for k, v in golden["network_weights"].items() if k.startswith("encoder.")}
    theirs = golden["network_weights"] | twice  # the golden files leave the second copy of the encoder out
    assert out.keys() == theirs.keys()
    assert all(torch.equal(out[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": "bidirectional"}, r"read the raster once \(order=raster\)"),
        ({"mixer": "gated_conv"}, r"this network's have GatedConv"),
        ({"mixer": functools.partial(Mamba, d_state=8)}, r"this network's have Mamba with d_state, d_conv \(8, 4\)"),
    ],
)
def test_layers_that_the_authors_have_not_get_no_names(changes: dict, message: str) -> None:
    spec = load_golden("paper_enc_a3")["spec"]
    network = UMamba(
        spatial_dims=spec["dim"], in_channels=spec["ch"], out_channels=spec["nc"], features_per_stage=spec["feats"],
        kernel_sizes=spec["ks"], strides=spec["st"], mamba="encoder", **changes,
    )  # fmt: skip
    with pytest.raises(ValueError, match=message):
        names_of_others(network)


def test_copies_and_wrappers_change_nothing() -> None:
    golden = load_golden("repo_enc_a2")
    network = build(golden)
    weights = golden["network_weights"]
    plain = convert_state_dict(weights, network)
    stored_twice = weights | {f"decoder.{k}": v for k, v in weights.items() if k.startswith("encoder.")}
    wrapped = {f"module._orig_mod.{k}": v for k, v in stored_twice.items()}
    converted = convert_state_dict(wrapped, network)
    assert converted.keys() == plain.keys() == network.state_dict().keys()
    assert all(converted[name] is plain[name] for name in plain)


def test_weights_of_another_network_are_refused_by_name() -> None:
    golden = load_golden("paper_enc_a3")
    network = build(golden | {"network": "paper_bot"})
    with pytest.raises(
        ValueError, match=r"left over: encoder_stages\.0\.mamba\.norm\.weight \[encoder\.mamba_layers\.0\.norm"
    ):
        convert_state_dict(golden["network_weights"], network)
    weights = dict(golden["network_weights"])
    del weights["decoder.seg_layers.0.bias"]
    weights["decoder.seg_layers.1.bias"] = torch.zeros(9)
    with pytest.raises(
        ValueError,
        match=r"(?s)2 differences.*missing: heads\.0\.bias \(4,\).*shape \(9,\) instead of \(4,\): heads\.1\.bias",
    ):
        convert_state_dict(weights, build(golden))


PLANS = {  # what nnU-Net writes for a 2D data set, reduced to five stages of the golden networks
    "dataset_name": "Dataset001_Tiny",
    "plans_name": "nnUNetPlans",
    "original_median_spacing_after_transp": [999.0, 1.0, 1.0],
    "original_median_shape_after_transp": [1, 64, 48],
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "foreground_intensity_properties_per_channel": {
        str(channel): dict.fromkeys(("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 1.0)
        for channel in range(3)
    },
    "configurations": {
        "2d": {
            "data_identifier": "nnUNetPlans_2d",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2,
            "patch_size": [64, 48],
            "median_image_size_in_voxels": [64.0, 48.0],
            "spacing": [1.0, 1.0],
            "normalization_schemes": ["ZScoreNormalization"] * 3,
            "use_mask_for_norm": [False] * 3,
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": 8,
            "n_conv_per_stage_encoder": [2] * 5,
            "n_conv_per_stage_decoder": [2] * 4,
            "num_pool_per_axis": [4, 4],
            "pool_op_kernel_sizes": [[1, 1]] + [[2, 2]] * 4,
            "conv_kernel_sizes": [[3, 3]] * 5,
            "unet_max_num_features": 32,
            "batch_dice": True,
        }
    },
}
DATASET = {
    "channel_names": {"0": "R", "1": "G", "2": "B"},
    "labels": {"background": 0, "interior": 1, "boundary": 2},
    "numTraining": 4,
    "file_ending": ".png",
}


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with nnU-Net's three files for U-Mamba Bot, paper variant, trained in 2D: what the authors share."""
    torch.manual_seed(0)
    network = UMamba(
        spatial_dims=2,
        in_channels=3,
        out_channels=3,
        features_per_stage=(8, 16, 32, 32, 32),
        kernel_sizes=(3,) * 5,
        strides=(1, 2, 2, 2, 2),
        mamba="bottleneck",
    )
    theirs = {theirs_name(name): tensor for name, tensor in network.state_dict().items()}
    checkpoint = {
        "network_weights": theirs | {f"decoder.{k}": v for k, v in theirs.items() if k.startswith("encoder.")},
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"ema_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(0.1)], "mean_fg_dice": []},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": {"configuration": "2d", "fold": "all", "device": torch.device("cuda")},
        "trainer_name": "nnUNetTrainerUMambaBot",
        "inference_allowed_mirroring_axes": (0, 1),
    }
    torch.save(checkpoint, tmp_path / "checkpoint_final.pth")
    torch.save(network.state_dict(), tmp_path / "expected.pt")
    (tmp_path / "plans.json").write_text(json.dumps(PLANS))
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET))
    return tmp_path


def theirs_name(name: str) -> str:
    """The January 2024 Bot's name of a weight of ours, written down independently of the importer."""
    name = name.replace("encoder_stages.4.mamba.norm.", "ln.").replace("encoder_stages.4.mamba.mixers.0.", "mamba.")
    name = name.replace(".shortcut.projection.", ".skip.1." if name.startswith("encoder_stages") else ".skip.0.")
    for ours, original in (("encoder_stages", "encoder.stages"), ("decoder_stages", "decoder.stages")):
        if name.startswith(ours):
            stage, rest = name.removeprefix(f"{ours}.").split(".", 1)
            return f"{original}.{stage}.blocks.{rest}"
    for ours, original in (("stem", "encoder.stem.convs.0"), ("upsamples", "decoder.transpconvs")):
        if name.startswith(f"{ours}."):
            return original + name.removeprefix(ours)
    return name.replace("heads.", "decoder.seg_layers.")


def arguments_for(folder: Path, **changes: str) -> list[str]:
    arguments = {
        "checkpoint": str(folder / "checkpoint_final.pth"),
        "plans": str(folder / "plans.json"),
        "dataset_json": str(folder / "dataset.json"),
        "output": str(folder / "imported" / "bot.ckpt"),
    } | changes
    return [f"{name}={value}" for name, value in arguments.items() if value]


def test_command_writes_a_checkpoint_that_gives_the_same_network(trained: Path) -> None:
    ended = warm_start.run("-m", "umamba.models.import_weights", *arguments_for(trained))
    assert ended.returncode == 0, ended.stderr
    assert [path.name for path in (trained / "imported").iterdir()] == ["bot.ckpt"]
    checkpoint = load_checkpoint(trained / "imported" / "bot.ckpt")
    assert (checkpoint["configuration"], checkpoint["config"]["data"]["fold"]) == ("2d", "all")
    assert trained_precision(checkpoint["config"]) is None  # U-Mamba's; see test_model_folder_out for nnU-Net's
    datamodule = instantiate(checkpoint["config"]["data"])  # what eval.py scores on
    assert (datamodule.dataset_dir, datamodule.prepared_dir) == (trained, trained / "imported" / "prepared")
    network, plan = network_from_checkpoint(checkpoint)
    assert (plan.num_classes, plan.configuration("2d").patch_size) == (3, (64, 48))
    expected = torch.load(trained / "expected.pt", weights_only=True)
    state = network.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert network(torch.zeros(1, 3, 64, 48)).shape == (1, 3, 64, 48)


@pytest.mark.parametrize(("recorded", "axes"), [((0, 1), (0, 1)), ((1,), (1,)), (None, ()), ((), ()), ("absent", ())])
def test_prediction_may_mirror_what_the_training_mirrored(trained: Path, recorded: object, axes: tuple) -> None:
    files = [trained / name for name in ("checkpoint_final.pth", "plans.json", "dataset.json", "bot.ckpt")]
    content = torch.load(files[0], weights_only=False)
    content["inference_allowed_mirroring_axes"] = recorded
    if recorded == "absent":
        del content["inference_allowed_mirroring_axes"]
    torch.save(content, files[0])
    assert trained_mirror_axes(load_checkpoint(import_checkpoint(*files))["config"], 2) == axes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init_args": {"configuration": "2d", "fold": "${oc.env:HOME}"}}, r"init_args\.fold must be .*oc\.env"),
        ({"init_args": {"configuration": "2d", "fold": "../../x"}}, r"init_args\.fold must be"),
        ({"init_args": {"configuration": "2d", "fold": {"a": 1}}}, r"init_args\.fold must be"),
        ({"init_args": {"configuration": "2d", "fold": True}}, r"init_args\.fold must be"),
        ({"init_args": {"configuration": ["2d"], "fold": 0}}, r"configuration is \['2d'\]"),
        ({"init_args": ["2d", 0]}, r"init_args must be a dictionary"),
        ({"current_epoch": [1]}, r"current_epoch a whole number"),
        ({"network_weights": [torch.zeros(1)]}, r"network_weights must be tensors by name"),
        ({"network_weights": {"a": 1}}, r"network_weights must be tensors by name"),
        ({"inference_allowed_mirroring_axes": ([0],)}, r"inference_allowed_mirroring_axes must be among"),
    ],
)
def test_what_a_checkpoint_says_is_checked(trained: Path, changes: dict, message: str) -> None:
    files = [trained / one for one in ("checkpoint_final.pth", "plans.json", "dataset.json")]
    torch.save(torch.load(files[0], weights_only=False) | changes, files[0])
    with pytest.raises(ValueError, match=message):
        import_checkpoint(*files, trained / "bot.ckpt")
    assert not (trained / "bot.ckpt").exists()


def test_weights_that_are_not_finite_are_not_imported(trained: Path) -> None:
    files = [trained / one for one in ("checkpoint_final.pth", "plans.json", "dataset.json")]
    content = torch.load(files[0], weights_only=False)
    name = next(iter(content["network_weights"]))
    content["network_weights"][name].flatten()[0] = float("nan")
    torch.save(content, files[0])
    with pytest.raises(ValueError, match=r"holds NaN or infinite weights"):
        import_checkpoint(*files, trained / "bot.ckpt")


def test_a_folder_is_not_taken_for_an_interpolation(trained: Path) -> None:
    folder = trained / "${oc.env:HOME}"
    folder.mkdir()
    files = [folder / one for one in ("checkpoint_final.pth", "plans.json", "dataset.json")]
    for path in files:
        shutil.copy(trained / path.name, path)
    config = torch.load(import_checkpoint(*files, folder / "bot.ckpt"), weights_only=True)["config"]
    assert config["data"]["dataset_dir"] == str(folder)


@pytest.mark.parametrize("name", ["checkpoint_final.pth", "plans.json", "dataset.json", "link.ckpt", "."])
def test_an_input_is_not_replaced(trained: Path, name: str) -> None:
    files = [trained / one for one in ("checkpoint_final.pth", "plans.json", "dataset.json")]
    (trained / "link.ckpt").unlink(missing_ok=True)
    (trained / "link.ckpt").symlink_to(files[0])
    before = [path.read_bytes() for path in files]
    with pytest.raises(ValueError, match=r"would replace|is a folder; expected the name of a file"):
        import_checkpoint(*files, trained / name)
    assert [path.read_bytes() for path in files] == before
    (trained / "link.ckpt").unlink()


def test_scored_as_a_named_data_set(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMAMBA_ROOT", str(trained))
    files = [trained / name for name in ("checkpoint_final.pth", "plans.json", "dataset.json", "cells.ckpt")]
    config = load_checkpoint(import_checkpoint(*files, data="phantom_cells"))["config"]
    datamodule = instantiate(config["data"])
    assert (datamodule.task, datamodule.configuration, datamodule.fold) == ("instances", "2d", "all")
    assert datamodule.dataset_dir == trained / "data" / "raw" / "Dataset901_PhantomCells"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plans": ""}, r"Missing: \['plans'\], unknown: \[\]\.\nUsage: .*checkpoint=\.\.\."),
        ({"plan": "x"}, r"unknown: \['plan'\]"),
        ({"checkpoint": "nowhere.pth"}, r"No checkpoint at nowhere\.pth"),
        ({"data": "flair"}, r"data is 'flair'; configs/data has .*flare"),
        ({"configuration": "3d_fullres"}, r"configuration is '3d_fullres'; .* has 2d\."),
    ],
)
def test_command_says_what_is_wrong(
    trained: Path, changes: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["import_weights", *arguments_for(trained, **changes)])
    with pytest.raises(SystemExit) as exit_info:
        main()
    assert re.search(message, str(exit_info.value))


def test_checkpoints_that_are_none(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "lightning.ckpt")
    with pytest.raises(ValueError, match=r"expected the key 'network_weights', got state_dict"):
        read_checkpoint(tmp_path / "lightning.ckpt")
    torch.save({"network_weights": {}, "logging": Path("code")}, tmp_path / "objects.pth")
    with pytest.raises(ValueError, match=r"cannot be read as plain data"):
        read_checkpoint(tmp_path / "objects.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "objects.pth").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cannot be read as plain data"):
        read_checkpoint(tmp_path / "cut.pth")


def test_training_log_pickled_by_numpy_1_is_read(tmp_path: Path) -> None:
    """NumPy 2 calls the module numpy._core; the authors' files were written by NumPy 1, which called it numpy.core."""
    buffer = io.BytesIO()
    torch.save({"network_weights": {}, "_best_ema": np.float64(0.25)}, buffer, _use_new_zipfile_serialization=False)
    old = buffer.getvalue()
    assert b"numpy._core.multiarray" in old
    old = old.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    (tmp_path / "old.pth").write_bytes(old)
    assert read_checkpoint(tmp_path / "old.pth")["_best_ema"] == 0.25


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nnunet_a3", ["model=nnunet"]),
        ("resenc_a3", ["model=resenc"]),
        ("paper_bot_a2", ["model=umamba_bot", "model.network.variant=paper"]),
        ("paper_enc_a3", ["model=umamba_enc", "model.network.variant=paper"]),
        ("repo_bot_a2", ["model=umamba_bot", "model.network.variant=repo"]),
        ("repo_enc_a2", ["model=umamba_enc", "model.network.variant=repo"]),
    ],
)
def test_networks_are_recognised_by_their_weights(name: str, expected: list[str]) -> None:
    assert recognize(load_golden(name)["network_weights"]) == expected


def test_unknown_weights_are_not_recognised() -> None:
    with pytest.raises(ValueError, match=r"none of the networks that can be imported.*first names are conv\.weight"):
        recognize({"conv.weight": torch.zeros(1)})
    control = {k: v for k, v in load_golden("repo_bot_a2")["network_weights"].items() if "mamba" not in k}
    assert recognize(control) == ["model=umamba_none", "model.network.variant=repo"]
