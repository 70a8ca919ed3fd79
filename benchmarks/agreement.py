"""How far label maps of a trained network agree with those of nnunetv2's predictor, and which are nearer to float32.

    python benchmarks/agreement.py CHECKPOINT IMAGES --name ct        # a GPU, about a minute; needs nnunetv2 2.8.1
    python benchmarks/agreement.py CHECKPOINT IMAGES --device cpu --jobs 1 --odd

CHECKPOINT is one of nnU-Net's CNN or residual encoder. It is exported (`umamba export format=nnunet`), and the cases of
IMAGES (nnU-Net's names) that the training validated with are predicted by both, with and without mirroring: of the axes
that the training mirrored, or of all if it mirrored none. nnunetv2 is run as it is, and with its network, its sums or
both in float32; ours in float16, bfloat16 and float32, all with sums in float32. Nothing is computed in TensorFloat-32.
--odd: of one of these cases alone, thin, thick, small, long, turned, padded and hollow volumes that are made of it.
References are taken from --labels (labelsTr beside imagesTr). Each run replaces its row in agreement.json.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from agreement_odd import write_odd
from agreement_report import write
from common import processor, versions
from umamba.evaluation.overlap import Overlap, count_overlap
from umamba.inference.devices import choose_device
from umamba.inference.folders import cases_in_folder
from umamba.inference.members import trained_mirror_axes
from umamba.inference.predictor import Predictor
from umamba.models.checkpoint import load_checkpoint
from umamba.planning.plan import Plan
from umamba.raw.readers import read_label

ROOT = Path(__file__).resolve().parents[1]
PEER = Path(__file__).with_name("agreement_peer.py")
THEIRS = {  # what of nnunetv2 is in float32 -> options of agreement_peer.py
    "nnunetv2": (),
    "nnunetv2, network float32": ("--network", "float32"),
    "nnunetv2, sums float32": ("--sums", "float32"),
    "nnunetv2, all float32": ("--network", "float32", "--sums", "float32"),
}
OURS = {"ours, float16": torch.float16, "ours, bfloat16": torch.bfloat16, "ours, float32": None}
PAIRS = (  # what is compared with what
    ("nnunetv2, all float32", "ours, float32"),
    ("nnunetv2", "ours, float16"),
    ("nnunetv2", "ours, bfloat16"),
    ("nnunetv2, sums float32", "ours, float16"),
    ("nnunetv2", "ours, float32"),
    ("nnunetv2, network float32", "ours, float32"),
    ("nnunetv2, sums float32", "ours, float32"),
    ("ours, float16", "ours, float32"),
    ("ours, bfloat16", "ours, float32"),
)


def held_out(checkpoint: dict[str, Any], images: Path, plan: Plan, folder: Path, *, odd: bool) -> list[str]:
    """Put the cases that a training validated with, or odd volumes made of one, into a folder; their names."""
    cases = {case.identifier: case for case in cases_in_folder(images, plan.file_ending, len(plan.channel_names))}
    names = [name for name in checkpoint["cases"]["validated_with"] if name in cases]
    if not names:
        raise FileNotFoundError(f"{images} holds none of the cases that the training validated with.")
    shutil.rmtree(folder, ignore_errors=True)
    if odd:
        return write_odd(cases[names[0]].images, folder, plan.file_ending)
    folder.mkdir(parents=True)
    for path in (path for name in names for path in cases[name].images):
        (folder / path.name).symlink_to(path.resolve())
    return names


def labels_of(work: Path, party: str, mirror: bool) -> Path:
    return work / f"{party.replace(', ', '_').replace(' ', '_')}{'_mirrored' if mirror else ''}"


def commands_of_theirs(work: Path, device: torch.device, axes: Sequence[int]) -> Iterator[list[str]]:
    for party, chosen in THEIRS.items():
        if device.type == "cpu" and "--network" in chosen:
            continue  # is float32 there as it is
        folders = (work / "model", work / "images", labels_of(work, party, bool(axes)))
        yield [sys.executable, *map(str, (PEER, *folders, device)), *chosen, "--mirror", *map(str, axes)]


def predict_ours(checkpoint: Path, work: Path, device: torch.device, axes: Sequence[int]) -> None:
    predictor = Predictor.from_checkpoint(checkpoint, device)
    for party, dtype in OURS.items():
        if device.type == "cpu" and dtype is not None:
            continue
        predictor.members = [replace(one, autocast=dtype, mirror_axes=tuple(axes)) for one in predictor.members]
        keep = ["probabilities"] if dtype is None and not axes else []
        predictor.segment_files(work / "images", labels_of(work, party, bool(axes)), keep=keep)


def overlap_of(one: Path, other: Path, files: list[str], classes: int) -> list[Overlap]:
    """Case by case."""
    found = []
    for name in files:
        first, second = (read_label(where / name)[0] for where in (one, other))
        found.append(count_overlap(first, second, classes))
    return found


def pooled(overlaps: list[Overlap]) -> Overlap:
    return Overlap(table=np.sum([one.table for one in overlaps], axis=0))


def compare(work: Path, names: list[str], plan: Plan, labels: Path, mirror: bool) -> dict[str, Any]:
    """What the parties' label maps have in common with each other and with the references."""
    files = [f"{name}{plan.file_ending}" for name in names]
    parties = [party for party in (*THEIRS, *OURS) if labels_of(work, party, mirror).is_dir()]
    count = max(plan.labels.values()) + 1
    pairs = []
    for one, other in PAIRS:
        if one in parties and other in parties:
            cases = overlap_of(labels_of(work, one, mirror), labels_of(work, other, mirror), files, count)
            whole = pooled(cases)
            dice = {name: whole.dice(value) for name, value in plan.labels.items() if value}
            in_a_case = [case.dice(value) for case in cases for value in plan.labels.values() if value]
            pairs.append({
                "of": [one, other],
                "voxels": int(whole.table.sum()),
                "differ": int(whole.table.sum() - np.trace(whole.table)),
                "dice": {name: value for name, value in dice.items() if not math.isnan(value)},
                "lowest_in_a_case": min((value for value in in_a_case if not math.isnan(value)), default=1.0),
            })  # fmt: skip
    references = {}
    if all((labels / name).is_file() for name in files) and not plan.regions:
        for party in parties:
            cases = overlap_of(labels, labels_of(work, party, mirror), files, count)
            scores = {
                name: [case.dice(value) for case in cases if case.reference(value)]
                for name, value in plan.labels.items()
                if value
            }
            references[party] = {name: mean(values) for name, values in scores.items() if values}
    return {"mirror": mirror, "pairs": pairs, "references": references}


def gaps(work: Path, names: list[str], plan: Plan) -> list[dict[str, Any]]:
    """How far apart the two largest probabilities are, in float32, where label maps without mirroring differ."""
    found = []
    for one, other in PAIRS:
        folders = [labels_of(work, party, False) for party in (one, other)]
        if not all(folder.is_dir() for folder in folders):
            continue
        values = []
        for name in names:
            first, second = (read_label(folder / f"{name}{plan.file_ending}")[0] for folder in folders)
            with np.load(labels_of(work, "ours, float32", False) / f"{name}.npz") as kept:
                there = kept["probabilities"][:, first != second].astype(np.float32)
            if there.size:
                largest = np.sort(there, axis=0)
                values.append(largest[-1] - largest[-2])
        if values:
            together = np.concatenate(values)
            found.append({"of": [one, other], "median": float(np.median(together)), "largest": float(together.max())})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--labels", type=Path, help="folder of the references")
    parser.add_argument("--name", help="of the row; that of the data set unless it is given")
    parser.add_argument("--odd", action="store_true", help="odd volumes of one case instead of the cases")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--jobs", type=int, default=8, help="predictions of nnunetv2 at a time")
    parser.add_argument("--work", type=Path, help="folder that keeps the label maps")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks")
    options = parser.parse_args()
    # The same arithmetic as of nnunetv2's float32, and no rounding where a network is said to be float32.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    with tempfile.TemporaryDirectory() as scratch:
        run(options, options.work or Path(scratch))


def run(options: argparse.Namespace, work: Path) -> None:
    device = choose_device(options.device)
    content = load_checkpoint(options.checkpoint)
    predictor = Predictor.of_contents([(options.checkpoint, content)], torch.device("cpu"), False)
    plan = predictor.plan
    names = held_out(content, options.images, plan, work / "images", odd=options.odd)
    export = ["export", f"checkpoint={options.checkpoint}", f"output={work / 'model'}", "format=nnunet"]
    subprocess.run([sys.executable, "-m", "umamba", *export, "overwrite=true"], check=True)
    dims = predictor.configuration.spatial_dims
    trained = trained_mirror_axes(content["config"], dims)
    flips: list[tuple[int, ...]] = [(), trained or tuple(range(dims))]
    commands = [command for axes in flips for command in commands_of_theirs(work, device, axes)]
    with ThreadPoolExecutor(options.jobs) as pool:
        running = [pool.submit(subprocess.run, command, check=True, stdout=subprocess.DEVNULL) for command in commands]
        for axes in flips:
            predict_ours(options.checkpoint, work, device, axes)
        for one in running:
            one.result()
    labels = options.labels or options.images.with_name(options.images.name.replace("images", "labels"))
    about = {"processor": processor(), **versions("torch", "numpy", "nnunetv2")}
    about |= {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"}
    row = {
        "row": options.name or f"{plan.dataset_name}{', odd volumes' * options.odd}",
        "network": type(predictor.networks[0]).__name__,
        "steps": content.get("global_step"),
        "cases": len(names),
        "trained_with_mirroring": bool(trained),
        "runs": [compare(work, names, plan, labels, bool(axes)) for axes in flips],
        "gaps": gaps(work, names, plan),
        "about": ", ".join(f"{key} {value}" for key, value in about.items()),
    }
    path = options.output / "agreement.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    write([*(other for other in rows if other["row"] != row["row"]), row], options.output)


if __name__ == "__main__":
    main()
