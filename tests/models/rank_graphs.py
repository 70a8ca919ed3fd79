"""One rank of a training as CUDA graphs, a process of its own: losses and weights, graphed and not, into a file.

python tests/models/rank_graphs.py RANK FOLDER cuda
python tests/models/rank_graphs.py RANK FOLDER cpu     # a capture that fails on rank 1
"""

from __future__ import annotations

import copy
import logging
import sys
from datetime import timedelta
from pathlib import Path

import torch
from small_topology import TOPOLOGY
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from umamba.models import step_graph
from umamba.models.losses import DeepSupervision, DiceCELoss
from umamba.models.step_graph import GraphedLoss
from umamba.models.umamba import UMamba

WORLD = 2
SIZE = 3  # samples of a batch: two and one
OPTIONS = [(True, None), (False, None), (False, 2)]  # batch Dice, ignore label


class NoCapture:
    """In place of a capture: works on rank 0, fails on rank 1."""

    def __init__(self, *_: object) -> None: ...

    def warm_up(self) -> None: ...

    def record(self) -> None:
        if distributed.get_rank() == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")


class GraphedNetwork(nn.Module):
    """A network and its loss as Lightning wraps them: the wrapper's forward pass is that of the training step."""

    def __init__(self, network: nn.Module, loss: nn.Module, graphed: bool) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.step = GraphedLoss(self.single, network.parameters()) if graphed else self.single

    def single(self, image: Tensor, label: Tensor) -> Tensor:
        return self.loss(self.network(image), label)

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        return self.step(image, label)


def batches(device: torch.device, rank: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    whole = [
        (
            torch.randn(SIZE, 1, 8, 16, 16, generator=generator),
            torch.randint(3, (SIZE, 8, 16, 16), generator=generator, dtype=torch.int16),
        )
        for _ in range(5)
    ]
    return [(image[rank::WORLD].to(device), label[rank::WORLD].to(device)) for image, label in whole]


def train(network: nn.Module, options: tuple[bool, int | None], graphed: bool, rank: int) -> tuple[list, list]:
    """Losses of five steps, the weights after them."""
    device = next(network.parameters()).device
    module = GraphedNetwork(network, DeepSupervision(DiceCELoss(*options)), graphed)
    wrapped = DistributedDataParallel(module)
    optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.9, nesterov=True)
    losses = []
    for image, label in batches(device, rank):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = wrapped(image, label)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
    return [loss.item() for loss in losses], [p.detach().cpu().clone() for p in network.parameters()]


def main(rank: int, folder: Path, device_type: str) -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s", filename=folder / f"log_{rank}.txt")
    device = torch.device(device_type, rank if device_type == "cuda" else 0)
    if device_type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.deterministic = True
    else:
        step_graph._Captured = NoCapture  # type: ignore[assignment, misc]
    distributed.init_process_group(
        "nccl" if device_type == "cuda" else "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD,
        timeout=timedelta(seconds=60),
    )  # fmt: skip
    results = {}
    for options in OPTIONS:
        torch.manual_seed(0)
        network = UMamba(mamba="encoder", **TOPOLOGY).to(device)
        for graphed in (False, True):
            results[(*options, graphed)] = train(copy.deepcopy(network), options, graphed, rank)
    torch.save(results, folder / f"rank_{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
