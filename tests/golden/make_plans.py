"""Let nnunetv2 plan made-up fingerprints; runs in an environment that has it.

python tests/golden/make_plans.py tests/golden/plans.json.xz      # once with 2.8.1, once with 2.1.2

Adds what the installed release planned to the file, in place of what is there of that release. No image is read: a plan
follows from the fingerprint and dataset.json. `plans.md` says what made the file that is there.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import lzma
import os
import random
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

NUMBER, NAME = 900, "Dataset900_MadeUp"
KINDS = ("isotropic", "thick slices", "pictures", "coarse in plane", "mixed")
CHANNELS = (["CT"], ["MR"], ["MR", "ct"], ["a", "b", "noNorm", "rescale_to_0_1"])
MEMORY = {"default": 8, "resenc_m": 8, "resenc_l": 24, "resenc_xl": 40}  # GB, where none is given
STATISTICS = {"mean": 1.0, "median": 1.0, "std": 1.0, "min": 0.0, "max": 2.0} | {
    "percentile_00_5": 0.1,
    "percentile_99_5": 1.9,
}


def made_up(draw: random.Random) -> tuple[dict[str, Any], dict[str, Any]]:
    """A fingerprint of one to seven cases, and a dataset.json that may declare more."""
    kind = draw.choice(KINDS)
    spacing = [round(draw.uniform(0.3, 2), 4) for _ in range(3)]
    if kind in ("thick slices", "mixed"):
        spacing[0] = round(spacing[0] * draw.uniform(2, 9), 4)
    if kind == "coarse in plane":
        spacing[draw.choice((1, 2))] *= draw.choice((2.5, 3.5, 5.0))
    if kind == "pictures":
        spacing[0] = draw.choice((999.0, 999 * max(spacing[1:])))
    shape = [draw.choice((5, 14, 30, 64, 97, 200, 400)), *(draw.choice((20, 64, 130, 256, 512, 900)) for _ in "yx")]
    if kind == "pictures":
        shape[0] = 1
    factors = (1, 0.5, 2, 0.3) if kind == "mixed" else (1, 1, 1.1)
    cases = draw.choice((1, 2, 3, 4, 5, 7))
    channels = draw.choice(CHANNELS)
    fingerprint = {
        "spacings": [[edge * draw.choice(factors) for edge in spacing] for _ in range(cases)],
        "shapes_after_crop": [[max(1, int(n * draw.choice((1, 1, 0.8, 1.3)))) for n in shape] for _ in range(cases)],
        "foreground_intensity_properties_per_channel": {str(i): STATISTICS for i in range(len(channels))},
        "median_relative_size_after_cropping": draw.choice((1.0, 0.75, 0.7499, 0.3)),
    }
    classes = draw.choice((1, 2, 3, 13, 60))
    labels = {"background": 0} | {f"class_{value}": value for value in range(1, classes + 1)}
    dataset = {
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": labels | ({"ignore": classes + 1} if draw.random() < 0.3 else {}),
        "numTraining": draw.choice((cases, 12, 50, 300)),
        "file_ending": ".mha",
    }
    return fingerprint, dataset


def planners() -> dict[str, Any]:
    """By preset."""
    package = "nnunetv2.experiment_planning.experiment_planners"
    default = importlib.import_module(f"{package}.default_experiment_planner").ExperimentPlanner
    try:
        residual = importlib.import_module(f"{package}.residual_unets.residual_encoder_unet_planners")
    except ImportError:  # 2.1 has none
        return {"default": default}
    sizes = {f"resenc_{size.lower()}": getattr(residual, f"nnUNetPlannerResEnc{size}") for size in ("M", "L", "XL")}
    return {"default": default} | sizes


def plan(folder: Path, fingerprint: dict[str, Any], dataset: dict[str, Any], planner: Any, memory: float) -> Any:
    """What nnunetv2 plans; None where it fails."""
    raw, prepared = folder / "raw" / NAME, folder / "prepared" / NAME
    (raw / "dataset.json").write_text(json.dumps(dataset))
    (prepared / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
    (prepared / "P.json").unlink(missing_ok=True)  # what is there would be added to
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            planner(NUMBER, gpu_memory_target_in_gb=memory, plans_name="P").plan_experiment()
        except Exception:  # such as of pictures of one voxel
            return None
    return json.loads((prepared / "P.json").read_text())


def main() -> None:
    target, release = Path(sys.argv[1]), version("nnunetv2")
    kept = json.loads(lzma.decompress(target.read_bytes())) if target.is_file() else []
    kept = [entry for entry in kept if entry["release"] != release]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for part in ("raw", "prepared"):
            (folder / part / NAME).mkdir(parents=True)
        for part in ("imagesTr", "labelsTr"):
            (folder / "raw" / NAME / part).mkdir()
        places = {"raw": "raw", "preprocessed": "prepared", "results": "results"}
        os.environ |= {f"nnUNet_{key}": str(folder / name) for key, name in places.items()}
        import SimpleITK as sitk
        import torch

        sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkUInt8), str(folder / "raw" / NAME / "imagesTr" / "x_0000.mha"))
        torch.set_default_device("meta")  # networks are only asked for the size of their feature maps
        known, draw = planners(), random.Random(7)
        for number in range(20 * len(known)):
            preset = list(known)[number % len(known)]
            memory = draw.choice((MEMORY[preset], MEMORY[preset], 4, 11, 16, 48))
            fingerprint, dataset = made_up(draw)
            planned = plan(folder, fingerprint, dataset, known[preset], memory)
            if planned is not None:
                kept.append(
                    {"release": release, "preset": preset, "memory_gb": memory, "fingerprint": fingerprint}
                    | {"dataset": dataset, "plans": planned}
                )
    target.write_bytes(lzma.compress(json.dumps(sorted(kept, key=lambda entry: entry["release"])).encode(), preset=9))
    sys.stdout.write(f"{len(kept)} plans\n")


if __name__ == "__main__":
    main()
