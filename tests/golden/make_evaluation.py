"""Make evaluation.json and evaluation.npz: scores by other programs, for tests/evaluation/test_peers.py.

    python make_evaluation.py mesh      with pymeshmetrics 1.4.1
    python make_evaluation.py stardist  with stardist 0.9.2
    python make_evaluation.py nuclei DATA   with stardist 0.9.2, DATA holding nuclei_dsb2018
    python make_evaluation.py nnunet DATA   with nnunetv2 2.8, DATA holding Dataset004_Hippocampus

Each command needs that package only and adds its part. Generated masks are stored beside the scores; those of real data
are made again by the test from the same data set.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]
HERE = Path(__file__).resolve().parent
SPACINGS = {"blobs3d": (2.5, 0.8, 0.9), "spheres3d": (1.0, 1.0, 1.0), "blobs2d": (0.7, 1.2), "discs2d": (1.0, 1.0)}
TOLERANCES = (0.5, 1.0, 2.0, 3.0)
NUCLEI = 3  # images of the set, the first by name
HIPPOCAMPUS = ("hippocampus_001", "hippocampus_003", "hippocampus_004")


def masks(name: str) -> Pair:
    """Reference and prediction, bool: smoothed noise, or balls that differ by 2.5 steps in place and 1 in radius."""
    rng = np.random.default_rng(len(name))
    if name.startswith("blobs"):
        shape = (24, 40, 36) if name.endswith("3d") else (72, 60)
        both = []
        for _ in range(2):
            noise = rng.standard_normal(shape)
            for axis in range(noise.ndim):
                noise = np.asarray(sum(np.roll(noise, shift, axis) for shift in range(-4, 5)))
            both.append(noise)
        mixed = 0.9 * both[0] + 0.35 * both[1]
        return both[0] > np.quantile(both[0], 0.7), mixed > np.quantile(mixed, 0.72)
    dims = int(name[-2])
    grid = np.indices((48,) * dims) - 24.0
    return (grid**2).sum(0) < 15**2, ((grid - 2.5) ** 2).sum(0) < 14**2


def instance_maps(seed: int) -> Pair:
    """Two instance maps of about 40 overlapping discs, the second moved, resized, thinned out and added to."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:200, :200]
    first, second = np.zeros((200, 200), np.int32), np.zeros((200, 200), np.int32)
    for index in range(1, 41):
        (cy, cx), radius = rng.uniform(5, 195, 2), rng.uniform(4, 14)
        first[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = 3 * index
        if rng.random() < 0.85:
            cy, cx, radius = cy + rng.normal(0, 1.5), cx + rng.normal(0, 1.5), radius * rng.uniform(0.8, 1.2)
            second[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = index
    second[180:190, 180:190] = 77
    return first, second


def ties() -> Pair:
    """Rows of squares in which predictions cover exactly half: IoU 0.5 with two candidates each."""
    first, second = np.zeros((20, 60), np.int32), np.zeros((20, 60), np.int32)
    for index in range(5):
        first[2:12, 10 * index : 10 * index + 10] = index + 1
        second[2:12, 10 * index : 10 * index + 5] = 2 * index + 1
        second[2:12, 10 * index + 5 : 10 * index + 10] = 2 * index + 2
    return first, second


def altered(label: np.ndarray) -> np.ndarray:
    """A prediction made of a real label map: moved by a voxel and with the first class's last slice gone."""
    moved = np.roll(label, 1, axis=1)
    last = np.flatnonzero((moved == 1).any(axis=(1, 2)))[-1]
    moved[last][moved[last] == 1] = 0
    return moved


def altered_instances(label: np.ndarray) -> np.ndarray:
    """Predicted instances made of real ones: moved by two pixels, every fifth one missing, the fourth ones halved."""
    moved = np.roll(label, (1, 2), axis=(0, 1))
    moved[moved % 5 == 0] = 0
    for value in np.unique(moved[moved % 4 == 0])[1:]:
        rows = np.flatnonzero((moved == value).any(axis=1))
        moved[: rows.mean().astype(int)][moved[: rows.mean().astype(int)] == value] = 0
    return moved


def mesh() -> dict[str, Any]:
    from meshmetrics import DistanceMetrics

    scores: dict[str, Any] = {}
    for name, spacing in SPACINGS.items():
        metrics = DistanceMetrics(verbose=False)
        metrics.set_input(*masks(name), spacing=spacing)
        scores[name] = {"nsd": [float(metrics.nsd(tau)) for tau in TOLERANCES], "hd95": float(metrics.hd(95))}
        scores[name] |= {"dsc": float(metrics.dsc()), "spacing": spacing, "tolerances": TOLERANCES}
    return scores


def match_all(pairs: dict[str, Pair]) -> dict[str, Any]:
    from stardist.matching import matching

    keys = ("tp", "fp", "fn", "precision", "recall", "f1", "panoptic_quality")
    thresholds = [float(t) for t in np.arange(50, 100, 5) / 100] + [0.2]
    return {
        name: {str(t): {k: float(getattr(matching(*maps, thresh=t), k)) for k in keys} for t in thresholds}
        for name, maps in pairs.items()
    }


def stardist() -> dict[str, Any]:
    return match_all({f"discs{seed}": instance_maps(seed) for seed in range(4)} | {"ties": ties()})


def nuclei(data: str) -> dict[str, Any]:
    from skimage import io

    paths = sorted((Path(data) / "nuclei_dsb2018" / "instances").glob("*.png"))[:NUCLEI]
    labels = {path.name: io.imread(path).astype(np.int32) for path in paths}
    return match_all({name: (label, altered_instances(label)) for name, label in labels.items()})


def nnunet(data: str) -> dict[str, Any]:
    import SimpleITK as sitk
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    scores = {}
    for case in HIPPOCAMPUS:
        path = Path(data) / "Dataset004_Hippocampus" / "labelsTr" / f"{case}.nii.gz"
        image = sitk.ReadImage(str(path))
        prediction = sitk.GetImageFromArray(altered(sitk.GetArrayFromImage(image)))
        prediction.CopyInformation(image)
        with tempfile.NamedTemporaryFile(suffix=".nii.gz") as file:
            sitk.WriteImage(prediction, file.name)
            metrics = compute_metrics(str(path), file.name, SimpleITKIO(), [1, 2])["metrics"]
        scores[case] = {str(label): float(values["Dice"]) for label, values in metrics.items()}
    return scores


if __name__ == "__main__":
    part, *arguments = sys.argv[1:]
    parts: dict[str, Callable[..., dict[str, Any]]] = {
        "mesh": mesh, "stardist": stardist, "nuclei": nuclei, "nnunet": nnunet,
    }  # fmt: skip
    results = parts[part](*arguments)
    path = HERE / "evaluation.json"
    content = json.loads(path.read_text()) if path.is_file() else {}
    content[part] = results
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    arrays = {name: np.stack(masks(name)) for name in SPACINGS}
    arrays |= {f"discs{seed}": np.stack(instance_maps(seed)) for seed in range(4)} | {"ties": np.stack(ties())}
    np.savez_compressed(HERE / "evaluation.npz", **arrays)  # type: ignore[arg-type]
