"""Whether two runs ended the same, and whether what lies in a folder is whole."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch

from umamba.files import UNFINISHED


def same_run(found: Path, expected: Path) -> None:
    """Weights, optimiser, history, predictions and scores of two run folders are equal in every bit; costs are not."""
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = load(found / "checkpoints" / name), load(expected / "checkpoints" / name)
        assert (ours["epoch"], ours["global_step"]) == (theirs["epoch"], theirs["global_step"]), name
        for key in ("state_dict", "optimizer_states", "lr_schedulers"):
            same(ours[key], theirs[key], f"{name}: {key}")
    same_history(found / "metrics.csv", expected / "metrics.csv")
    epochs = [json.loads((run / "cost.json").read_text())["epoch_seconds"] for run in (found, expected)]
    assert len(epochs[0]) == len(epochs[1]), f"cost.json: seconds of {len(epochs[0])} epochs, not {len(epochs[1])}"
    same_labels(found / "predictions", expected / "predictions")
    for name in ("scores.csv", "summary.csv"):
        pd.testing.assert_frame_equal(*(pd.read_csv(run / "tables" / name) for run in (found, expected)))


def same_history(found: Path, expected: Path) -> None:
    """metrics.csv holds the same rows in the same order, seconds aside: no gap, nothing twice."""
    frames = []
    for path in (found, expected):
        frame = pd.read_csv(path)
        values = [name for name in frame if not name.startswith("cost/")]
        facts = [name for name in values if name not in ("epoch", "step")]
        frames.append(frame[sorted(values)].dropna(subset=facts, how="all").reset_index(drop=True))
    pd.testing.assert_frame_equal(*frames, obj="metrics.csv")


def same_labels(found: Path, expected: Path) -> None:
    """Two folders hold the same label maps."""
    names = [sorted(path.name for path in folder.glob("*.nii.gz")) for folder in (found, expected)]
    assert names[0] == names[1]
    for name in names[0]:
        np.testing.assert_array_equal(read(found / name), read(expected / name), err_msg=name)


def same(found: Any, expected: Any, where: str) -> None:
    """Nested plain data with tensors are equal in every bit."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found.nan_to_num(123.0), expected.nan_to_num(123.0)), f"{where} differs"
    elif isinstance(expected, dict):
        assert list(found) == list(expected), f"{where} has other keys"
        for key in expected:
            same(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), f"{where} has another length"
        for index, (a, b) in enumerate(zip(found, expected, strict=True)):
            same(a, b, f"{where}[{index}]")
    else:
        assert found == expected, f"{where}: {found!r}, not {expected!r}"


def load(path: Path) -> dict[str, Any]:
    """A checkpoint as plain data."""
    return torch.load(path, weights_only=True, map_location="cpu")


def read(path: Path) -> np.ndarray:
    """(Z, Y, X) of a volume."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def all_whole(folder: Path) -> None:
    """Every file under a folder that has its final name can be read to its end."""
    for path in folder.rglob("*"):
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.name.endswith(".nii.gz"):
            gzip.decompress(path.read_bytes())
            read(path)
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".ckpt":
            load(path)
        elif path.suffix == ".b2nd":
            blosc2.open(str(path), mode="r")[...]
        elif path.suffix == ".csv":
            assert pd.read_csv(path).shape[0], path
        elif path.suffix == ".png":
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82"), f"{path} is cut off"


def nothing_unfinished(folder: Path) -> None:
    """No writer left the beginning of a file or of a stored case behind."""
    left = [str(path.relative_to(folder)) for path in folder.rglob(f"{UNFINISHED}*")]
    left += [str(path.relative_to(folder)) for path in folder.rglob("*.partial")]
    assert not left, f"unfinished files stay behind: {left}"
