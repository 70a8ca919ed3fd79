"""Predict a folder with nnunetv2's own predictor; by an interpreter that has it, for benchmarks/inference.py.

    python benchmarks/inference_peer.py make CHECKPOINT FOLDER   # a checkpoint as nnU-Net's folder of a training
    python benchmarks/inference_peer.py measure FOLDER IMAGES OUTPUT DEVICE
    python benchmarks/inference_peer.py predict_float32 FOLDER IMAGES OUTPUT DEVICE
    python benchmarks/inference_peer.py compare FOLDER IMAGES OUTPUT DEVICE OURS

`measure` predicts one patch first, which takes what a first use costs out of the seconds; mirroring is off and the
numbers of workers are nnunetv2's own. `predict_float32` lets nnunetv2 sum logits in float32 instead of float16.
`compare` holds the label maps of both against ours. Nothing is imported at the top: nnunetv2's workers import this file
anew.
"""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RELEASE = "2.8.1"
INSTALL = (
    f"The rows peer_... need nnunetv2 beside this project: pip install nnunetv2=={RELEASE} (and "
    "batchgenerators==0.25.5 where pip cannot build a newer one)."
)
CONFIGURATION_KEYS = (
    "data_identifier", "batch_size", "patch_size", "spacing", "use_mask_for_norm", "batch_dice",
)  # fmt: skip
RESAMPLING = {"data": 3, "seg": 1, "probabilities": 1}


def make(checkpoint: Path, folder: Path) -> None:
    """Write plans.json, dataset.json and fold_0 of a checkpoint of nnU-Net's CNN; the network is built by nnunetv2."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from umamba.models.checkpoint import load_checkpoint, network_from_checkpoint
    from umamba.models.import_weights import convert_state_dict
    from umamba.models.unet import UNet
    from umamba.planning.plan import Plan

    content = load_checkpoint(checkpoint)
    plan, name = Plan.from_dict(content["plan"]), content["configuration"]
    plans = PlansManager(nnunet_plans(plan.to_dict(), name))
    theirs = nnUNetTrainer.build_network_architecture(
        plans, plans.get_configuration(name), len(plan.channel_names), plan.num_classes, enable_deep_supervision=False
    )
    weights = theirs.state_dict()
    network, _ = network_from_checkpoint(content)
    if not isinstance(network, UNet):
        raise TypeError(f"{checkpoint} holds a {type(network).__name__}; expected nnU-Net's CNN.")
    ours = network.state_dict()
    for own_name, tensor in convert_state_dict(weights, network).items():  # views of their weights
        tensor.copy_(ours[own_name])
    fold = folder / "fold_0"
    fold.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans.plans))
    dataset = {
        "channel_names": {str(i): channel for i, channel in enumerate(plan.channel_names)},
        "labels": plan.labels,
        "numTraining": plan.num_training,
        "file_ending": plan.file_ending,
    }
    (folder / "dataset.json").write_text(json.dumps(dataset))
    trained = {
        "network_weights": weights,
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": name, "fold": 0},
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(trained, fold / "checkpoint_final.pth")


def nnunet_plans(plan: dict[str, Any], name: str) -> dict[str, Any]:
    """The content of an nnUNetPlans.json for one configuration of a plan of ours, both as plain data."""
    own = plan["configurations"][name]
    dims = len(own["patch_size"])
    module = f"torch.nn.modules.{{}}{dims}d"
    arguments = {
        "n_stages": len(own["strides"]),
        "features_per_stage": own["features_per_stage"],
        "conv_op": module.format("conv.Conv"),
        "kernel_sizes": own["kernel_sizes"],
        "strides": own["strides"],
        "n_conv_per_stage": own["n_conv_per_stage"],
        "n_conv_per_stage_decoder": own["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": module.format("instancenorm.InstanceNorm"),
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    configuration = {key: own[key] for key in CONFIGURATION_KEYS} | {
        "preprocessor_name": "DefaultPreprocessor",
        "median_image_size_in_voxels": own["median_shape"],
        "normalization_schemes": own["normalization"],
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": arguments,
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    for what, order in RESAMPLING.items():
        kwargs = {"is_seg": what == "seg", "order": order, "order_z": 0, "force_separate_z": None}
        configuration |= {
            f"resampling_fn_{what}": "resample_data_or_seg_to_shape",
            f"resampling_fn_{what}_kwargs": kwargs,
        }
    forward = plan["transpose_forward"]
    return {
        "dataset_name": plan["dataset_name"],
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [plan["original_median_spacing"][axis] for axis in forward],
        "original_median_shape_after_transp": [plan["original_median_shape"][axis] for axis in forward],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": forward,
        "transpose_backward": plan["transpose_backward"],
        "configurations": {name: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): s for i, s in enumerate(plan["intensities"])},
    }


def predictor_of(folder: Path, device: str) -> Any:
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device(device), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), (0,))
    return predictor


def measure(folder: Path, images: Path, output: Path, device: str) -> dict[str, Any]:
    """nnUNetPredictor.predict_from_files on a folder: seconds and memory."""
    import torch

    begun = time.perf_counter()
    predictor = predictor_of(folder, device)
    loaded = time.perf_counter() - begun
    small = output.with_name(f"{output.name}_small")
    write_small(images, small / "images", predictor.dataset_json["file_ending"])
    seconds = {}
    for what, source, target in (("small", small / "images", small / "labels"), ("whole", images, output)):
        shutil.rmtree(target, ignore_errors=True)
        begun = time.perf_counter()
        predictor.predict_from_files(str(source), str(target))
        seconds[what] = time.perf_counter() - begun
    kilobytes = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "load_s": loaded,
        "seconds": seconds["whole"],
        "main_gib": sum(kilobytes) / 2**20,
        "device_gib": torch.cuda.max_memory_allocated() / 2**30 if device.startswith("cuda") else None,
    }


def write_small(images: Path, folder: Path, ending: str) -> None:
    """The middle of the first image, a few voxels wide, as an image of its own: one patch."""
    import SimpleITK as sitk

    folder.mkdir(parents=True, exist_ok=True)
    image = sitk.ReadImage(str(sorted(images.glob(f"*{ending}"))[0]))
    size = [min(n, 32) for n in image.GetSize()]
    start = [(n - m) // 2 for n, m in zip(image.GetSize(), size, strict=True)]
    sitk.WriteImage(sitk.RegionOfInterest(image, size, start), str(folder / f"small_0000{ending}"))


def predict_float32(folder: Path, images: Path, output: Path, device: str) -> None:
    """The same, but weights, sums and logits of the windows are float32, as they are here."""
    from agreement_peer import float32_sums

    predictor = predictor_of(folder, device)
    target = float32_of(output)
    shutil.rmtree(target, ignore_errors=True)
    with float32_sums(predictor):
        predictor.predict_from_files(str(images), str(target))


def float32_of(output: Path) -> Path:
    return output.with_name(f"{output.name}_float32")


def compare(folder: Path, images: Path, output: Path, device: str, ours: Path) -> dict[str, Any]:
    """Voxels that differ, in all cases, and the lowest Dice score of a class in a case.

    Returns:
        "as_is": Of our label maps in `ours`. "float16": Of `folder` predicted here in float16, in which nnunetv2 runs
        every network on a GPU. "float32_sums": Of the latter and `predict_float32`, where that was run.
    """
    import torch

    from umamba.inference.predictor import Predictor

    predictor = Predictor.from_model_folder(folder, [0], device=device)
    if predictor.device.type == "cuda":
        for member in predictor.members:
            object.__setattr__(member, "autocast", torch.float16)
    alike = output.with_name(f"{output.name}_float16")
    predictor.segment_files(images, alike)
    found = {"as_is": agreement(output, ours), "float16": agreement(output, alike)}
    if float32_of(output).exists():
        found["float32_sums"] = agreement(float32_of(output), alike)
    return found


def agreement(theirs: Path, ours: Path) -> dict[str, Any]:
    import numpy as np

    from umamba.raw.readers import read_label

    differ = voxels = 0
    lowest = 1.0
    for path in sorted(theirs.glob("*.nii.gz")):
        one, other = (read_label(where / path.name)[0].ravel() for where in (theirs, ours))
        classes = int(max(one.max(), other.max())) + 1
        pairs = np.bincount(one.astype(np.int64) * classes + other, minlength=classes**2).reshape(classes, classes)
        sizes, both = pairs.sum(0) + pairs.sum(1), np.diagonal(pairs)
        lowest = min(lowest, float((2 * both[sizes > 0] / sizes[sizes > 0]).min()))
        differ += int(one.size - both.sum())
        voxels += one.size
    if not voxels:
        raise FileNotFoundError(f"{theirs} holds no label map of nnunetv2.")
    return {"voxels_that_differ": differ, "voxels": voxels, "lowest_dice": lowest}


def main() -> None:
    what, *arguments = sys.argv[1:]
    with contextlib.redirect_stdout(sys.stderr):  # nnunetv2 prints
        paths: list[Any] = [argument if i == 3 else Path(argument) for i, argument in enumerate(arguments)]
        functions: dict[str, Callable[..., Any]] = {
            "make": make, "measure": measure, "predict_float32": predict_float32, "compare": compare,
        }  # fmt: skip
        found = functions[what](*paths)
    sys.stdout.write(json.dumps(found or {}) + "\n")


if __name__ == "__main__":
    main()
