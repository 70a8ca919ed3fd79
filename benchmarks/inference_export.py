"""The way back from logits to a label map alone, on the CPU: as it is done, plainly, and by nnunetv2 if it is there."""

from __future__ import annotations

import importlib.util
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from inference_peer import nnunet_plans
from inference_sets import ROWS, phantom, plan_of
from umamba.inference.export import Export
from umamba.machine import usable_cpus
from umamba.planning.plan import Plan
from umamba.planning.preprocess import CaseProperties, spacing_of, target_of
from umamba.planning.resampling import nearest_index, separate_axis
from umamba.planning.splines import spline_weights
from umamba.raw.readers import Geometry

SHAPE = (128, 256, 256)
SPACINGS = {  # in mm: of the plan, and of the image
    "thick": ((2.5, 0.8, 0.8), (1.0, 0.8, 0.8)),
    "isotropic": ((1.5,) * 3, (1.0, 0.8, 0.8)),
}


def measure_export(kind: str) -> dict[str, Any]:
    """The way back of 14 classes on the CPU; plainly, every class resampled and the best kept so far; by nnunetv2."""
    shape, (target, spacing) = SHAPE, SPACINGS[kind]
    plan = plan_of(ROWS["ct_cnn"])
    configuration = plan.configuration("3d_fullres")
    object.__setattr__(configuration, "spacing", target)
    depth, height, width = (round(n * new / old) for n, new, old in zip(shape, spacing, target, strict=True))
    source = (depth, height, width)
    geometry = Geometry(
        spacing=spacing, origin=(0.0,) * 3, direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0), shape=shape,
        dimension=3,
    )  # fmt: skip
    properties = CaseProperties(
        geometry=geometry, shape_before_crop=shape, box=tuple((0, n) for n in shape), shape=source
    )
    _, label = phantom(source, 14, 0)
    logits = np.stack([ndimage.uniform_filter((label == k).astype(np.float32), 3) for k in range(14)])
    logits = logits.astype(np.float16).astype(np.float32)  # nnunetv2 has them in float16

    def ours() -> np.ndarray:
        export = Export(properties, plan, configuration)
        for planes in torch.from_numpy(logits).split(8, dim=1):
            export.add(planes)
        return export.label

    def plain() -> np.ndarray:
        current = target_of(configuration, spacing_of(geometry, plan))
        result = np.zeros(shape, np.uint8)
        best = linearly(logits[0], shape, current, spacing)
        for k in range(1, 14):
            score = linearly(logits[k], shape, current, spacing)
            better = score > best
            result[better] = k
            np.copyto(best, score, where=better)
        return result

    row: dict[str, Any] = {"row": f"export_{kind}"}
    results = {}
    functions: dict[str, Callable[[], np.ndarray]] = {"ours": ours, "plain": plain}
    if importlib.util.find_spec("nnunetv2") is not None:
        functions["peer"] = export_of_peer(plan, configuration.name, logits, spacing)
    for name, function in functions.items():
        times = []
        with sampled_memory() as grown:
            for _ in range(3):
                begun = time.perf_counter()
                results[name] = function()
                times.append(time.perf_counter() - begun)
        row |= {f"{name}_s": min(times), f"{name}_gib": grown[0] / 2**30}
    row["voxels_that_differ"] = int((results["ours"] != results["plain"]).sum())
    if "peer" in results:
        row["voxels_that_differ_from_peer"] = int((results["ours"] != results["peer"]).sum())
    return row


def export_of_peer(plan: Plan, name: str, logits: np.ndarray, spacing: Sequence[float]) -> Callable[[], np.ndarray]:
    """nnunetv2's own function from logits to a label map; it takes them in float16, as its predictor gives them."""
    from nnunetv2.inference import export_prediction as module
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(nnunet_plans(plan.to_dict(), name))
    labels = plans.get_label_manager({"labels": plan.labels})
    half = torch.from_numpy(logits).half()
    properties = {
        "spacing": list(spacing),
        "shape_before_cropping": SHAPE,
        "shape_after_cropping_and_before_resampling": SHAPE,
        "bbox_used_for_cropping": [[0, n] for n in SHAPE],
    }
    arguments = (plans, plans.get_configuration(name), labels, properties)
    export = module.convert_predicted_logits_to_segmentation_with_correct_shape
    return lambda: export(half, *arguments, num_threads_torch=usable_cpus())


def linearly(volume: np.ndarray, shape: Sequence[int], current: Sequence[float], new: Sequence[float]) -> np.ndarray:
    """Resample a class's logits (Z, Y, X), across thick slices by the nearest one."""
    for axis in (2, 1, 0):
        size = volume.shape[axis]
        if axis == separate_axis(current, new):
            volume = np.take(volume, nearest_index(size, shape[axis]), axis)
        elif size != shape[axis]:
            weights = spline_weights(size, shape[axis], 1).astype(np.float32)
            volume = np.moveaxis(np.tensordot(weights, volume, (1, axis)), 0, axis)
    return np.array(volume, order="C")


@contextmanager
def sampled_memory() -> Iterator[list[int]]:
    """The largest growth of this process' resident bytes within the block, looked at every two milliseconds."""
    before, grown, ended = _resident(), [0], threading.Event()

    def sample() -> None:
        while not ended.wait(0.002):
            grown[0] = max(grown[0], _resident() - before)

    sampler = threading.Thread(target=sample)
    sampler.start()
    yield grown
    ended.set()
    sampler.join()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
