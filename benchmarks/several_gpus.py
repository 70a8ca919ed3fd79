"""Training on one GPU and on several (DDP): a table, a chart and a JSON file. Needs as many CUDA devices.

    python benchmarks/several_gpus.py                     # two GPUs, nnU-Net's CNN and U-Mamba_Enc, the CT plan
    python benchmarks/several_gpus.py --gpus 4

What is timed is Lightning's training as `train.py` has it, with the strategy ddp: forward in bf16, deep-supervision
loss, backward, exchange of gradients, watch for NaN and for signals, clipping and SGD, on one random batch that lies on
the device.
"shared" divides the plan's batch over the GPUs, so that each has less to do than one alone (strong scaling); "each"
gives every GPU the whole of it (weak scaling). `throughput` is samples a second over those of one GPU with the plan's
batch, both replayed from CUDA graphs or both not. Every row is written as soon as it is there.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import json
import logging
import os
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch

from common import draw_bars, versions
from settings import Setting
from training_step import NETWORKS, SETTINGS
from umamba.callbacks.finite_watch import FiniteWatch
from umamba.datamodules.dummy import DummyDataModule
from umamba.files import write_json, write_text
from umamba.models.schedules import poly
from umamba.models.segmentation_module import SegmentationModule
from umamba.planning.fingerprint import Fingerprint
from umamba.planning.intensities import Intensities
from umamba.planning.options import PlannerOptions
from umamba.planning.plan import Plan
from umamba.planning.planner import plan_dataset
from umamba.raw.description import DatasetDescription
from umamba.run.stop_on_signal import StopOnSignal

OUT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
WARM_UP, STEPS = 6, 30
CONFIGURATION = "3d_fullres"
MEASURED = ("network", "gpus", "batch", "graph")
COLUMNS = (*MEASURED, "samples", "step_ms", "samples_s", "throughput", "gib")
EXPLAINED = (
    "`shared`: the plan's batch divided over the GPUs (strong scaling); `each`: as many samples on each GPU as one has "
    "alone (weak scaling). `throughput` is samples a second over those of one GPU."
)
WAYS = {True: "replayed", False: "launched singly"}


class Clock(L.Callback):
    """Times the steps after the first ones, from when the device is done with those until it is done with all."""

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM_UP:
            self._done(trainer)
            torch.cuda.reset_peak_memory_stats()
            self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == WARM_UP + STEPS:
            self._done(trainer)
            self.step_ms = 1e3 * (time.perf_counter() - self.started) / STEPS
            self.gib = torch.cuda.max_memory_reserved() / 2**30

    @staticmethod
    def _done(trainer: L.Trainer) -> None:
        torch.cuda.synchronize()
        trainer.strategy.barrier()


def plan_of(setting: Setting, batch: int) -> Plan:
    """A plan with the setting's patch and topology, for images a little larger than the patch."""
    fingerprint = Fingerprint(
        spacings=((1.0,) * len(setting.patch),) * 5,
        shapes_after_crop=(tuple(2 * size for size in setting.patch),) * 5,
        intensities=(Intensities(mean=0, median=0, std=1, min=-3, max=3, percentile_00_5=-2, percentile_99_5=2),)
        * setting.channels,
        median_relative_size=1.0,
    )
    description = DatasetDescription(
        name="Random",
        channel_names=tuple(f"channel{i}" for i in range(setting.channels)),
        labels={"background": 0} | {f"class{i}": i for i in range(1, setting.labels)},
        file_ending=".nii.gz",
        num_training=5,
    )
    plan = plan_dataset(fingerprint, description, PlannerOptions())
    axes, stages = len(setting.patch), len(setting.topology["strides"])
    kernels = [size if isinstance(size, tuple) else (size,) * axes for size in setting.topology["kernel_sizes"]]
    configuration = dataclasses.replace(
        plan.configuration(CONFIGURATION),
        patch_size=setting.patch,
        batch_size=batch,
        strides=tuple(setting.stage_strides()),
        kernel_sizes=tuple(kernels),
        features_per_stage=setting.topology["features_per_stage"],
        n_conv_per_stage=(2,) * stages,
        n_conv_per_stage_decoder=(2,) * (stages - 1),
        batch_dice=False,
    )
    return dataclasses.replace(plan, configurations=plan.configurations | {CONFIGURATION: configuration})


def measure(setting: Setting, network: str, gpus: int, batch: int, graph: bool) -> dict[str, float]:
    """Time of a step in ms, and what the device held then, of this rank."""
    make, arguments = NETWORKS[network]
    L.seed_everything(0, verbose=False)
    plan = plan_of(setting, batch)
    module = SegmentationModule(
        plan=plan, configuration=CONFIGURATION, network=functools.partial(make, **arguments),
        optimizer=functools.partial(torch.optim.SGD, lr=1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5),
        scheduler=functools.partial(poly, power=0.9), cuda_graph=graph,
    )  # fmt: skip
    steps = WARM_UP + STEPS
    data = DummyDataModule(plan, plan.configuration(CONFIGURATION), iterations_per_epoch=steps, val_iterations=1)
    clock = Clock()
    trainer = L.Trainer(
        accelerator="gpu", devices=gpus, strategy="ddp" if gpus > 1 else "auto", precision="bf16-mixed", max_epochs=1,
        gradient_clip_val=12, benchmark=True, logger=False, limit_val_batches=0,
        callbacks=[FiniteWatch(), StopOnSignal(Path(tempfile.gettempdir()) / "several_gpus.ckpt"), clock],
        num_sanity_val_steps=0, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, data)
    module.let_go_of_graphs()
    return {"step_ms": round(clock.step_ms, 2), "gib": round(clock.gib, 2)}


def rank(index: int, port: int, arguments: argparse.Namespace) -> None:
    """One process for each GPU; the first one measures alone while the others wait for it, and writes the rows."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("umamba").setLevel(logging.INFO)
    setting, gpus = SETTINGS[arguments.setting], arguments.gpus
    ways = (True,) if arguments.graphs_only else (False, True)
    alone = [(network, 1, "plan's", setting.batch, graph) for graph in ways for network in arguments.networks]
    shares = {"shared": setting.batch, "each": setting.batch * gpus}
    together = [
        (network, gpus, batch, samples, graph)
        for graph in ways
        for network in arguments.networks
        for batch, samples in shares.items()
    ]
    if index == 0:
        for row in alone:
            measure_row(*row, arguments)
    os.environ |= {"LOCAL_RANK": str(index), "NODE_RANK": "0", "WORLD_SIZE": str(gpus)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for row in together:
        measure_row(*row, arguments, write=index == 0)


def measure_row(
    network: str, gpus: int, batch: str, samples: int, graph: bool, arguments: argparse.Namespace, write: bool = True
) -> None:
    """Measure, and write what came of it."""
    gc.collect()  # of what was measured before
    torch.cuda.empty_cache()
    found = measure(SETTINGS[arguments.setting], network, gpus, samples, graph)
    if write:
        row = {"network": network, "gpus": gpus, "batch": batch, "graph": graph, "samples": samples}
        row["samples_s"] = round(1e3 * samples / found["step_ms"], 1)
        add(arguments.output, row | found, arguments.setting)


def add(folder: Path, row: dict[str, Any], setting: str) -> None:
    """A row to those of this machine and commit, and all of them against one GPU."""
    path = folder / "several_gpus.json"
    about = {"device": torch.cuda.get_device_name(), "setting": setting, **versions("torch", "lightning", "triton")}
    about["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    found = json.loads(path.read_text()) if path.exists() else {"rows": []}
    rows = found["rows"] if all(found.get(key) == value for key, value in about.items()) else []
    rows = [r for r in rows if any(r[key] != row[key] for key in MEASURED)] + [row]
    for each in rows:
        alone = [r for r in rows if r["gpus"] == 1 and all(r[key] == each[key] for key in ("network", "graph"))]
        if alone:
            each["throughput"] = round(each["samples_s"] / alone[0]["samples_s"], 2)
    write_json({**about, "date": time.strftime("%Y-%m-%d"), "rows": rows}, path)
    lines = ["# Training on several GPUs", "", "`python benchmarks/several_gpus.py`, whose head says what is measured."]
    lines += ["", EXPLAINED]
    lines += ["", ", ".join(f"{key} {value}" for key, value in about.items()) + ".", ""]
    lines += ["| " + " | ".join(key.replace("_", " ") for key in COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(str(_shown(each, key)) for key in COLUMNS) + " |" for each in rows]
    lines += ["", "![throughput](several_gpus.png)", ""]
    write_text("\n".join(lines), folder / "several_gpus.md")
    _draw(rows, folder / "several_gpus.png")


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Throughput of each network and batch on several GPUs."""
    found = {(r["network"], r["gpus"], r["batch"], r["graph"]): r["throughput"] for r in rows if "throughput" in r}
    groups = [group for group in dict.fromkeys(key[:3] for key in found) if group[1] > 1]
    if not groups:
        return
    names = [f"{network}, {gpus} GPUs, batch {batch}" for network, gpus, batch in groups]
    chart = {way: [found.get((*group, graph)) for group in groups] for graph, way in WAYS.items()}
    draw_bars(path, names, {"samples a second over those of one GPU": chart})


def _shown(row: dict[str, Any], key: str) -> Any:
    return WAYS[row["graph"]] if key == "graph" else row.get(key, "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=2)
    volumes = [name for name, setting in SETTINGS.items() if len(setting.patch) == 3]
    parser.add_argument("--setting", default="ct_3d", choices=volumes)
    parser.add_argument("--networks", nargs="+", default=["nnU-Net CNN", "U-Mamba_Enc"], choices=list(NETWORKS))
    parser.add_argument("--graphs-only", action="store_true", help="not what is launched singly")
    parser.add_argument("--output", type=Path, default=OUT)
    arguments = parser.parse_args()
    if torch.cuda.device_count() < arguments.gpus:
        parser.error(f"there are {torch.cuda.device_count()} CUDA devices.")
    arguments.output.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(rank, (port, arguments), nprocs=arguments.gpus)


if __name__ == "__main__":
    main()
