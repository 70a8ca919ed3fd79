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
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from common import processor, versions
from inference_export import SPACINGS, measure_export
from inference_measure import measure
from inference_peer import INSTALL
from inference_report import write
from inference_sets import PEERS, PRECISIONS, ROWS, images_of, make_checkpoint, write_images
from umamba.inference.devices import choose_device

ROOT = Path(__file__).resolve().parents[1]
PEER = Path(__file__).with_name("inference_peer.py")


def checkpoint_of(name: str, work: Path, precision: str) -> Path:
    return work / f"{name}_{precision}.ckpt"


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
        yield from (child("--measure-export", kind) for kind in SPACINGS)


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
    parser.add_argument("--measure-export", choices=list(SPACINGS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        device = choose_device(options.device)
        path = checkpoint_of(options.train, options.work, options.precision)
        make_checkpoint(ROWS[options.train], path, device, options.steps, options.precision)
        sys.stdout.write("{}\n")
    elif options.measure:
        checkpoint = checkpoint_of(options.measure, options.work, options.precision)
        sys.stdout.write(json.dumps(measure(options.measure, checkpoint, options.work, options.device)) + "\n")
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
