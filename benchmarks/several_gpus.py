"""Training steps on one GPU and on several (DDP), as CUDA graphs and launched singly; a table and a JSON file.

    python benchmarks/several_gpus.py                     # two GPUs, nnU-Net's CNN and U-Mamba_Enc on the CT plan
    python benchmarks/several_gpus.py --gpus 4

A step is forward under bf16 autocast, deep-supervision loss, backward, the exchange of gradients, clipping and SGD, on
batches that lie on the devices. "plan's batch" shares the plan's batch over the GPUs, "a batch each" gives every GPU as
many samples as one has alone. `throughput` is samples a second over those of one GPU with the plan's batch.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from common import versions
from training_step import NETWORKS, SETTINGS
from umamba.files import write_json, write_text
from umamba.models.device_memory import use_expandable_segments
from umamba.models.fused_optimizer import fuse
from umamba.models.losses import DeepSupervision, DiceCELoss
from umamba.models.step_graph import GraphedLoss

OUT = Path(__file__).resolve().parents[1] / "docs" / "benchmarks"
WARM_UP, STEPS = 4, 20
COLUMNS = ("network", "gpus", "samples", "graph", "step_ms", "throughput")


class Step(nn.Module):
    """A network and its loss, which DDP wraps as Lightning has it wrap a training step."""

    def __init__(self, network: nn.Module, graph: bool) -> None:
        super().__init__()
        self.network = network
        self.loss = DeepSupervision(DiceCELoss(batch_dice=False))
        self.step = GraphedLoss(self.single, network.parameters(), required=True) if graph else self.single

    def single(self, image: Tensor, label: Tensor) -> Tensor:
        return self.loss(self.network(image), label)

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        return self.step(image, label)


def seconds_per_step(setting: str, name: str, samples: int, graph: bool, device: torch.device) -> float:
    """Of `samples` on this rank, by the clock of the slowest rank."""
    plan = SETTINGS[setting]
    make, arguments = NETWORKS[name]
    torch.manual_seed(0)
    topology = plan.topology | {"in_channels": plan.channels, "out_channels": plan.labels}
    module = Step(make(spatial_dims=len(plan.patch), **topology, **arguments).to(device), graph)
    wrapped = DistributedDataParallel(module) if distributed.get_world_size() > 1 else module
    parameters = list(module.network.parameters())
    optimizer = torch.optim.SGD(parameters, 1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5)
    fuse(optimizer)
    image = torch.randn(samples, plan.channels, *plan.patch, device=device)
    label = torch.randint(plan.labels, (samples, *plan.patch), device=device, dtype=torch.int16)
    for index in range(WARM_UP + STEPS):
        if index == WARM_UP:
            torch.cuda.synchronize()
            distributed.barrier()
            started = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            loss = wrapped(image, label)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 12)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    torch.cuda.synchronize()
    taken = torch.tensor((time.perf_counter() - started) / STEPS, device=device)
    distributed.all_reduce(taken, distributed.ReduceOp.MAX)
    return taken.item()


def rank(index: int, gpus: int, settings: argparse.Namespace, folder: str) -> None:
    """One process; the first one writes the rows."""
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = True
    use_expandable_segments(device)
    meet = f"file://{folder}/meet_{gpus}"
    distributed.init_process_group("nccl", init_method=meet, rank=index, world_size=gpus, device_id=device)
    batch = SETTINGS[settings.setting].batch
    shares = {batch: batch} if gpus == 1 else {batch: batch // gpus, batch * gpus: batch}
    for network in settings.networks:
        for samples, own in shares.items():
            for graph in (True, False):
                seconds = seconds_per_step(settings.setting, network, own, graph, device)
                torch.cuda.empty_cache()
                if index == 0:
                    row = {"network": network, "gpus": gpus, "samples": samples, "graph": graph}
                    add(settings.output, row | {"step_ms": round(1000 * seconds, 2)}, settings)
    distributed.destroy_process_group()


def add(folder: Path, row: dict[str, Any], settings: argparse.Namespace) -> None:
    """A row to those that are there; throughput against one GPU with graphs or without, as the row."""
    path = folder / "several_gpus.json"
    found = json.loads(path.read_text()) if path.exists() else {"rows": []}
    rows = [r for r in found["rows"] if any(r[key] != row[key] for key in COLUMNS[:4])] + [row]
    for each in rows:
        alone = [r for r in rows if r["gpus"] == 1 and all(r[key] == each[key] for key in ("network", "graph"))]
        if alone:
            per_second = each["samples"] / each["step_ms"]
            each["throughput"] = round(per_second / (alone[0]["samples"] / alone[0]["step_ms"]), 2)
    about = {"device": torch.cuda.get_device_name(), "setting": settings.setting, **versions("torch")}
    write_json({**about, "rows": rows}, path)
    lines = ["# Training on several GPUs", "", "`python benchmarks/several_gpus.py`, whose head says what is measured."]
    lines += ["", ", ".join(f"{key} {value}" for key, value in about.items()) + ".", ""]
    lines += ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(str(each.get(key, "")) for key in COLUMNS) + " |" for each in rows]
    write_text(folder / "several_gpus.md", "\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--setting", default="ct_3d", choices=list(SETTINGS))
    parser.add_argument("--networks", nargs="+", default=["nnU-Net CNN", "U-Mamba_Enc"], choices=list(NETWORKS))
    parser.add_argument("--output", type=Path, default=OUT)
    settings = parser.parse_args()
    if torch.cuda.device_count() < settings.gpus:
        parser.error(f"there are {torch.cuda.device_count()} CUDA devices.")
    settings.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for gpus in (1, settings.gpus):
            torch.multiprocessing.spawn(rank, (gpus, settings, folder), nprocs=gpus)


if __name__ == "__main__":
    main()
