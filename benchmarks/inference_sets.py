"""What benchmarks/inference.py predicts: phantoms as image files, and networks that know them a little."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from hydra.utils import instantiate
from torch.nn.functional import cross_entropy

from umamba.models.build import build_network
from umamba.planning.fingerprint import Fingerprint
from umamba.planning.intensities import Intensities
from umamba.planning.options import PlannerOptions
from umamba.planning.plan import Plan
from umamba.planning.planner import plan_dataset
from umamba.raw.description import DatasetDescription
from umamba.raw.pictures import write_picture

STATISTICS = Intensities(
    mean=60.0, median=60.0, std=90.0, min=-1000.0, max=400.0, percentile_00_5=-200.0, percentile_99_5=350.0
)
PRECISIONS = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
CNN = {"_target_": "umamba.models.unet.PlainConvUNet", "_partial_": True}
UMAMBA = {"_target_": "umamba.models.umamba.UMamba", "_partial_": True}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is predicted with what.

    Attributes:
        images: Number, shape (z, y, x) and spacing in mm, and file ending of the images.
        plan: Channel names, spacing and shape that the plan was made for, and its configuration.
        classes: Background included.
        network: Of the checkpoint's config.
    """

    images: tuple[int, tuple[int, int, int], tuple[float, float, float], str]
    plan: tuple[tuple[str, ...], tuple[float, float, float], tuple[int, int, int], str]
    classes: int
    network: dict[str, Any]


CT = (1, (500, 512, 512), (1.0, 0.8, 0.8), ".nii.gz")
LONG_CT = (1, (800, 512, 512), (1.0, 0.8, 0.8), ".nii.gz")
CT_PLAN = (("CT",), (2.5, 0.8, 0.8), (97, 512, 512), "3d_fullres")
ROWS = {
    "ct_cnn": Row(images=CT, plan=CT_PLAN, classes=14, network=CNN),
    "ct_enc": Row(images=CT, plan=CT_PLAN, classes=14, network=UMAMBA | {"mamba": "encoder"}),
    "ct_bot": Row(images=CT, plan=CT_PLAN, classes=14, network=UMAMBA | {"mamba": "bottleneck"}),
    "ct_118": Row(images=CT, plan=CT_PLAN, classes=118, network=CNN),
    "ct_long_118": Row(images=LONG_CT, plan=CT_PLAN, classes=118, network=CNN),
    "hippocampus": Row(
        images=(60, (36, 50, 35), (1.0, 1.0, 1.0), ".nii.gz"),
        plan=(("MR",), (1.0, 1.0, 1.0), (36, 50, 35), "3d_fullres"), classes=3, network=CNN,
    ),
    "pictures": Row(
        images=(250, (1, 512, 512), (999.0, 1.0, 1.0), ".png"),
        plan=(("R", "G", "B"), (999.0, 1.0, 1.0), (1, 512, 512), "2d"), classes=3, network=CNN,
    ),
}  # fmt: skip
PEERS = {  # rows of nnunetv2's predictor -> ours
    f"peer_{name}": name for name, row in ROWS.items() if row.network is CNN and row.images[3] == ".nii.gz"
}


def images_of(name: str) -> str:
    """Folder of a row's images; rows of the same images share it."""
    return next(f"{other}_images" for other, row in ROWS.items() if row.images == ROWS[name].images)


def plan_of(row: Row) -> Plan:
    channels, spacing, shape, _ = row.plan
    description = DatasetDescription(
        name="Phantom",
        channel_names=channels,
        labels={"background": 0} | {f"organ_{k}": k for k in range(1, row.classes)},
        file_ending=row.images[3],
        num_training=200,
    )
    fingerprint = Fingerprint(
        spacings=(spacing,),
        shapes_after_crop=(shape,),
        intensities=(STATISTICS,) * len(channels),
        median_relative_size=1.0,
    )
    return plan_dataset(fingerprint, description, PlannerOptions())


def phantom(shape: tuple[int, ...], classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An int16 image like a CT and its label (Z, Y, X): ellipsoids in an elliptic cylinder, in air, with noise."""
    random = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape), indexing="ij", sparse=True)
    body = np.broadcast_to(axes[1] ** 2 / 0.7**2 + axes[2] ** 2 / 0.9**2 < 1, shape)
    label = np.zeros(shape, np.uint8)
    for value in range(1, classes):
        centre, radii = random.uniform(-0.55, 0.55, 3), random.uniform(0.08, 0.3, 3) * (14 / max(classes, 14)) ** 0.3
        place = [np.abs(axis.ravel() - c) < r for axis, c, r in zip(axes, centre, radii, strict=True)]
        if all(inside.any() for inside in place):
            box = tuple(slice(int(np.argmax(inside)), len(inside) - int(np.argmax(inside[::-1]))) for inside in place)
            parts = [axis[_within(axis.shape, box)] for axis in axes]
            distance = sum(((part - c) / r) ** 2 for part, c, r in zip(parts, centre, radii, strict=True))
            label[box][distance < 1] = value
    image = np.where(body, np.int16(0), np.int16(-1000))
    image += (300.0 / classes * label).astype(np.int16)
    image += random.integers(-25, 26, shape, dtype=np.int16)
    return image, label


def _within(shape: tuple[int, ...], box: tuple[slice, ...]) -> tuple[slice, ...]:
    return tuple(slice(None) if n == 1 else part for n, part in zip(shape, box, strict=True))


def write_images(row: Row, folder: Path, scale: float) -> None:
    """The images of a row, several processes at a time."""
    number, full, spacing, ending = row.images
    shape = tuple(max(round(n * scale), min(n, 32)) for n in full)
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        tasks = [
            pool.submit(_write_image, folder / f"case_{seed:03d}", shape, spacing, ending, row.classes, seed)
            for seed in range(max(1, round(number * min(1, 4 * scale))))
        ]
    for task in tasks:
        task.result()


def _write_image(
    path: Path, shape: tuple[int, ...], spacing: tuple[float, ...], ending: str, classes: int, seed: int
) -> None:
    image, _ = phantom(shape, min(classes, 14), seed)
    if ending == ".png":
        grey = np.clip(image[0] // 4 + 120, 0, 255).astype(np.uint8)
        write_picture(np.stack([grey, grey // 2, 255 - grey], -1), path.with_name(f"{path.name}.png"))
        return
    volume = sitk.GetImageFromArray(image)
    volume.SetSpacing([float(s) for s in spacing[::-1]])
    sitk.WriteImage(volume, f"{path}_0000{ending}", True)


def make_checkpoint(row: Row, path: Path, device: torch.device, steps: int, precision: str) -> None:
    """Train the row's network a little, on phantoms of a part of its patch.

    Args:
        precision: of training and therefore of prediction, a key of PRECISIONS. On a CPU both take float32.
    """
    plan = plan_of(row)
    configuration = plan.configuration(row.plan[3])
    torch.manual_seed(0)
    network = build_network(instantiate(row.network), plan, configuration.name, deep_supervision=False).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "16-mixed" and device.type == "cuda")
    crop = configuration.patch_size  # in 2D; part of it in 3D
    if len(crop) == 3:
        crop = tuple(map(min, crop, (40, 96, 96)))
    shape = crop if len(crop) == 3 else (1, *crop)
    for step in range(steps):
        image, label = phantom(shape, row.classes, 1000 + step)
        data = torch.from_numpy(image).to(device, torch.float32)
        data = (data.clamp(-200, 350) - 60) / 90 if len(crop) == 3 else (data - data.mean()) / data.std()
        data = data.expand(len(plan.channel_names), *shape)[None]
        target = torch.from_numpy(label).to(device, torch.int64)[None]
        if len(crop) == 2:
            data, target = data[:, :, 0], target[:, 0]
        with torch.autocast(device.type, PRECISIONS[precision], enabled=device.type == "cuda"):
            loss = cross_entropy(network(data).float(), target)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    content = {
        "state_dict": {f"network.{name}": tensor.cpu() for name, tensor in network.state_dict().items()},
        "plan": plan.to_dict(),
        "configuration": configuration.name,
        "config": {
            "model": {"network": row.network, "deep_supervision": False, "precision": None},
            "data": {},
            "trainer": {"precision": precision},
        },
    }
    torch.save(content, path)
