"""Prediction from file to file: seconds, cases a second, peak memory, and where the time goes.

    python benchmarks/inference.py                                # all rows; a GPU, some minutes
    python benchmarks/inference.py --rows ct_cnn hippocampus      # some of them
    python benchmarks/inference.py --rows export                  # the way back alone, on the CPU
    python benchmarks/inference.py --rows ct_cnn peer_ct_cnn      # beside nnunetv2's predictor, where it is installed
    python benchmarks/inference.py --scale 0.2 --device cpu       # a rehearsal without a GPU

Images are phantoms: ellipsoids of different intensities in a body, with noise. The networks are trained on them for a
minute at most, so that label maps have organs and not noise, which would be slower to write. Each row is a process of
its own, which predicts the folder twice: `first` includes what a first use builds, `seconds` is the second time.
Phases are timed one after the other in a third pass. Main memory is the largest resident size of the process, its
libraries included (of nnunetv2: of the process and its largest worker); device memory is that of tensors. Each run
replaces the rows that it measured in inference.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from common import draw_bars, processor, versions
from inference_peer import INSTALL
from inference_sets import CNN, PRECISIONS, ROWS, images_of, make_checkpoint, phantom, plan_of, write_images
from umamba.files import write_json, write_text
from umamba.inference.devices import choose_device
from umamba.inference.export import Export
from umamba.inference.folders import cases_in_folder
from umamba.inference.predictor import Predictor
from umamba.planning.preprocess import CaseProperties, spacing_of, target_of
from umamba.planning.resampling import nearest_index, separate_axis
from umamba.planning.splines import spline_weights
from umamba.raw.readers import Geometry, write_label

ROOT = Path(__file__).resolve().parents[1]
PEER = Path(__file__).with_name("inference_peer.py")
PEERS = {f"peer_{name}": name for name, row in ROWS.items() if row.network is CNN and row.images[3] == ".nii.gz"}
EXPORT = ((128, 256, 256), {"thick": ((2.5, 0.8, 0.8), (1.0, 0.8, 0.8)), "isotropic": ((1.5,) * 3, (1.0, 0.8, 0.8))})


def checkpoint_of(name: str, work: Path, precision: str) -> Path:
    return work / f"{name}_{precision}.ckpt"


def measure(name: str, work: Path, device: str, precision: str) -> dict[str, Any]:
    """In a process of its own: predict the folder twice, then phase by phase."""
    begun = time.perf_counter()
    predictor = Predictor.from_checkpoint(checkpoint_of(name, work, precision), device)
    started = time.perf_counter() - begun
    cuda = predictor.device.type == "cuda"
    images = work / images_of(name)
    cases = cases_in_folder(images, ROWS[name].images[3], len(predictor.plan.channel_names))
    seconds = []
    for repeat in range(2):
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        predictor.predict_cases(cases, work / f"{name}_{repeat}")
        seconds.append(time.perf_counter() - begun)
    row = {
        "row": name,
        "cases": len(cases),
        "load_s": started,
        "first_s": seconds[0],
        "seconds": seconds[1],
        "cases_per_s": len(cases) / seconds[1],
        "main_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "device_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
    }
    return row | {"phases": phases(predictor, cases[:5], work)}


def phases(predictor: Predictor, cases: list, work: Path) -> dict[str, float]:
    """Seconds per case of reading, preprocessing, the network with its sums, the way back, and writing."""
    spent: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        if predictor.device.type == "cuda":
            torch.cuda.synchronize()
        spent[name] = spent.get(name, 0) + (time.perf_counter() - begun) / len(cases)

    for case in cases:
        with timed("read"):
            image, geometry = predictor._read(case.images)
        with timed("preprocess"):
            data, properties = predictor._preprocess(image, geometry)
        with timed("network"):
            for _ in predictor._logits(data):
                pass
        with timed("segment"):
            done = predictor._segment(data, properties)
        with timed("write"):
            write_label(done.label, work / f"phase{predictor.plan.file_ending}", geometry)
    spent["export"] = max(0.0, spent.pop("segment") - spent["network"])
    return spent


def measure_export(kind: str) -> dict[str, Any]:
    """The way back of 14 classes on the CPU, and the plain one: every class resampled, the best kept so far."""
    shape, (target, spacing) = EXPORT[0], EXPORT[1][kind]
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
    for name, function in (("ours", ours), ("plain", plain)):
        times = []
        with sampled_memory() as grown:
            for _ in range(3):
                begun = time.perf_counter()
                results[name] = function()
                times.append(time.perf_counter() - begun)
        row |= {f"{name}_s": min(times), f"{name}_gib": grown[0] / 2**30}
    row["voxels_that_differ"] = int((results["ours"] != results["plain"]).sum())
    return row


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


def child(*arguments: str, script: Path | str = __file__) -> dict[str, Any]:
    """This script in a process of its own; what it measured, and its seconds from start to end."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, script, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]) | {"process_s": time.perf_counter() - begun}


def all_rows(options: argparse.Namespace, work: Path) -> Iterator[dict[str, Any]]:
    wanted = list(dict.fromkeys(PEERS.get(name, name) for name in options.rows if name != "export"))
    chosen = ("--work", str(work), "--device", options.device, "--precision", options.precision)
    with ProcessPoolExecutor(2) as pool:  # images are written while networks are trained
        writing = {
            images_of(name): pool.submit(write_images, ROWS[name], work / images_of(name), options.scale)
            for name in {images_of(name): name for name in wanted}.values()
            if not (work / images_of(name)).exists()
        }
        missing = [name for name in wanted if not checkpoint_of(name, work, options.precision).exists()]
        with ThreadPoolExecutor(4 if choose_device(options.device).type == "cuda" else 1) as side_by_side:
            list(side_by_side.map(lambda name: child("--train", name, "--steps", str(options.steps), *chosen), missing))
        for task in writing.values():
            task.result()
    for name in wanted:
        if name in options.rows or not (work / f"{name}_1").exists():
            yield child("--measure", name, *chosen)
        if f"peer_{name}" in options.rows:
            yield measure_peer(name, work, options)
    if "export" in options.rows:
        yield from (child("--measure-export", kind) for kind in EXPORT[1])


def measure_peer(name: str, work: Path, options: argparse.Namespace) -> dict[str, Any]:
    """nnunetv2's predictor on the images and the weights of a row that was measured."""
    device = str(choose_device(options.device))
    folder, output = (work / f"{name}_{options.precision}_{what}" for what in ("folder", "peer"))
    files = (str(folder), str(work / images_of(name)), str(output), device)
    child("make", str(checkpoint_of(name, work, options.precision)), str(folder), script=PEER)
    row = {"row": f"peer_{name}"} | child("measure", *files, script=PEER)
    if options.float32_sums:
        child("predict_float32", *files, script=PEER)
    return row | {"agreement": child("compare", *files, str(work / f"{name}_1"), script=PEER)}


def report(rows: list[dict[str, Any]]) -> str:
    """The tables."""
    lines = [
        "# Prediction, timed",
        "",
        "`python benchmarks/inference.py`, from image files to label maps; the head of the script says how. "
        " Volumes of 512 x 512 x 500 (`ct_long`: 800) voxels of 0.8 x 0.8 x 1 mm, planned at "
        "0.8 x 0.8 x 2.5 mm; 118 in a name: classes, else 14.",
        "",
        "| row | cases | load, s | first, s | seconds | cases a second | main memory, GiB | device memory, GiB | "
        "read | preprocess | network | export | write |",
        "|" + "---|" * 13,
    ]
    for row in rows:
        if "phases" in row:
            numbers = [row[key] for key in ("load_s", "first_s", "seconds", "cases_per_s", "main_gib", "device_gib")]
            numbers += [row["phases"][name] for name in ("read", "preprocess", "network", "export", "write")]
            cells = [row["row"], str(row["cases"]), *("-" if n is None else f"{n:.3g}" for n in numbers)]
            lines.append("| " + " | ".join(cells) + " |")
    lines += peer_table(rows)
    exports = [row for row in rows if "ours_s" in row]
    if exports:
        lines += [
            "",
            "The way back alone, 14 classes to 128 x 256 x 256 voxels on the CPU: every class resampled and compared "
            "(plain), and as it is done (ours); memory beyond the logits.",
            "",
            "| from | plain, s | ours, s | plain, GiB | ours, GiB | voxels that differ |",
            "|" + "---|" * 6,
        ]
        for row in exports:
            numbers = [row[key] for key in ("plain_s", "ours_s", "plain_gib", "ours_gib")]
            cells = [row["row"], *(f"{n:.3g}" for n in numbers), str(row["voxels_that_differ"])]
            lines.append("| " + " | ".join(cells) + " |")
    for about in dict.fromkeys(row["about"] for row in rows):
        lines += ["", f"{', '.join(row['row'] for row in rows if row['about'] == about)}: {about}."]
    return "\n".join([*lines, "", "![Prediction, timed](inference.png)"]) + "\n"


def peer_table(rows: list[dict[str, Any]]) -> list[str]:
    named = {row["row"]: row for row in rows}
    pairs = [(named[own], named[peer]) for peer, own in PEERS.items() if peer in named and own in named]
    if not pairs:
        return []
    lines = [
        "",
        "Beside `nnUNetPredictor.predict_from_files` of nnunetv2, the same images and weights, without mirroring, each "
        "after a first prediction. Voxels that differ of a million, and the lowest DSC of a class between both label "
        "maps: of nnunetv2 as it is, whose networks run in float16 on a GPU and whose logits are summed in float16; "
        "with our network in float16 too; and with its sums in float32 besides.",
        "",
        "| row | nnunetv2, s | ours, s | times faster | nnunetv2, main and device GiB | ours | as it is | "
        "both in float16 | both with float32 sums |",
        "|" + "---|" * 9,
    ]
    for own, peer in pairs:
        memory = (
            " and ".join(
                "-" if row[f"{kind}_gib"] is None else f"{row[f'{kind}_gib']:.3g}" for kind in ("main", "device")
            )
            for row in (peer, own)
        )
        found = (peer["agreement"].get(kind) for kind in ("as_is", "float16", "float32_sums"))
        cells = [own["row"], f"{peer['seconds']:.3g}", f"{own['seconds']:.3g}"]
        cells += [f"{peer['seconds'] / own['seconds']:.3g}", *memory]
        cells += [
            f"{1e6 * one['voxels_that_differ'] / one['voxels']:.3g}, {one['lowest_dice']:.6f}" if one else "not run"
            for one in found
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def write(rows: list[dict[str, Any]], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(rows, folder / "inference.json")
    write_text(folder / "inference.md", report(rows))
    timed = [row for row in rows if "phases" in row]
    if timed:
        names = ("read", "preprocess", "network", "export", "write")
        charts = {"seconds per case": {name: [row["phases"][name] for row in timed] for name in names}}
        charts["peak memory, GiB"] = {key: [row[f"{key}_gib"] for row in timed] for key in ("main", "device")}
        draw_bars(folder / "inference.png", [row["row"] for row in timed], charts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, *PEERS, "export"], default=[*ROWS, "export"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--scale", type=float, default=1.0, help="of the volumes' edges")
    parser.add_argument("--steps", type=int, default=60, help="of training")
    parser.add_argument(
        "--precision", choices=list(PRECISIONS), default="bf16-mixed", help="of training and prediction"
    )
    parser.add_argument(
        "--float32-sums", action="store_true", help="let nnunetv2 predict once more, summing in float32"
    )
    parser.add_argument("--work", type=Path, help="folder that keeps images and checkpoints for the next run")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks")
    parser.add_argument("--train", choices=list(ROWS), help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=list(ROWS), help=argparse.SUPPRESS)
    parser.add_argument("--measure-export", choices=list(EXPORT[1]), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        device = choose_device(options.device)
        path = checkpoint_of(options.train, options.work, options.precision)
        make_checkpoint(ROWS[options.train], path, device, options.steps, options.precision)
        sys.stdout.write("{}\n")
    elif options.measure:
        sys.stdout.write(json.dumps(measure(options.measure, options.work, options.device, options.precision)) + "\n")
    elif options.measure_export:
        sys.stdout.write(json.dumps(measure_export(options.measure_export)) + "\n")
    elif set(options.rows) & PEERS.keys() and importlib.util.find_spec("nnunetv2") is None:
        parser.error(INSTALL)
    else:
        run(options)


def run(options: argparse.Namespace) -> None:
    about = {"processor": processor(), **versions("torch", "numpy", "SimpleITK", "nnunetv2")}
    if torch.cuda.is_available():
        about["device"] = torch.cuda.get_device_name()
    path = options.output / "inference.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        for row in all_rows(options, work):
            how = {"precision": options.precision} if "seconds" in row and "device" in about else {}
            row["about"] = ", ".join(f"{key} {value}" for key, value in {**about, **how}.items())
            rows = [*(other for other in rows if other["row"] != row["row"]), row]
            write(rows, options.output)  # after every row: a benchmark cut short keeps what it has
            sys.stdout.write(f"{json.dumps(row)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
