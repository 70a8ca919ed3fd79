"""One rank of trainings as CUDA graphs, a process of its own: what plain DDP and graphs come to, into a file.

python tests/models/rank_graphs.py RANK FOLDER again     # no GPU: graphs that run their passes again
python tests/models/rank_graphs.py RANK FOLDER fault     # the same, but rank 1 can make none
python tests/models/rank_graphs.py RANK FOLDER unlike    # the same, but rank 1 has changed a weight: what is said
python tests/models/rank_graphs.py RANK FOLDER double    # two GPUs, torch's own kernels
python tests/models/rank_graphs.py RANK FOLDER half      # two GPUs, bf16, the project's kernels
"""

from __future__ import annotations

import copy
import logging
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from small_topology import TOPOLOGY
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from umamba.models import gradient_exchange, rank_step_graph
from umamba.models.gradient_exchange import GradientExchange
from umamba.models.losses import DeepSupervision, DiceCELoss
from umamba.models.rank_step_graph import RankCaptured, RankGraphedLoss
from umamba.models.umamba import UMamba
from umamba.models.unet import PlainConvUNet

WORLD = 2
SIZES = (3, 3, 4, 2, 3, 3)  # samples of a batch: of three, one rank has two; with two, its graph does not fit
NOT_FINITE, ADDED_UP = 4, 0  # batches: one with a NaN on one rank, one whose gradients wait for the next one's
OPTIONS = [(True, None), (False, None), (False, 2), (True, 2)]  # batch Dice, ignore label


def cast_at_once() -> None:
    """Weights are cast at once without graphs too.

    Cast one by one, as where DDP exchanges gradients as they come, they lie otherwise in memory, and cuDNN's kernels
    for such weights round in another way.
    """
    gradient_exchange._at_the_end.set(True)


class Again:
    """In place of a graph: a replay runs the pass again."""

    def __init__(self, run: Callable[[], None]) -> None:
        self.replay = run


class AgainCaptured(RankCaptured):
    """In place of a capture, where there is no GPU."""

    def warm_up(self) -> None:
        for _ in range(2):
            self.run_back(self.run())

    def record(self) -> None:
        kept: list[Any] = []
        with torch.no_grad():
            self.keep(self.run())

        def forward() -> None:
            with torch.enable_grad():
                kept[:] = [self.run()]
            torch._foreach_copy_(self.outputs, [output.detach() for output in kept[0]])

        def backward() -> None:
            self.run_back(kept.pop())

        self.forward, self.backward = Again(forward), Again(backward)  # type: ignore[assignment]


class NoCapture(AgainCaptured):
    """Works on rank 0, fails on rank 1."""

    def record(self) -> None:
        super().record()
        if distributed.get_rank() == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")


class GraphedNetwork(nn.Module):
    """A network and its loss as Lightning wraps them: the wrapper's forward pass is that of the training step."""

    def __init__(self, network: nn.Module, loss: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.step: Callable[[Tensor, Tensor], Tensor] = self.single

    def single(self, image: Tensor, label: Tensor) -> Tensor:
        return self.loss(self.network(image), label)

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        return self.step(image, label)


def batches(device: torch.device, dtype: torch.dtype, rank: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(2)
    found = []
    for number, size in enumerate(SIZES):
        image = torch.randn(size, 1, 8, 16, 16, generator=generator).to(dtype)
        label = torch.randint(3, (size, 8, 16, 16), generator=generator, dtype=torch.int16)
        if number == NOT_FINITE:
            image[1] = float("nan")
        found.append((image[rank::WORLD].to(device), label[rank::WORLD].to(device)))
    return found


def train(
    network: nn.Module, options: tuple[bool, int | None], graphed: bool, rank: int, half: bool
) -> dict[str, list[Any]]:
    """Losses of the steps, gradients of each, the weights at the end."""
    parameters = list(network.parameters())
    module = GraphedNetwork(network, DeepSupervision(DiceCELoss(*options)))
    wrapped = DistributedDataParallel(module)
    if graphed:
        module.step = RankGraphedLoss(
            network, module.loss, lambda: GradientExchange(network, lambda: wrapped.require_backward_grad_sync)
        )
    optimizer = torch.optim.SGD(parameters, 1e-2, momentum=0.9, nesterov=True)
    found: dict[str, list[Any]] = {"losses": [], "gradients": []}
    for number, (image, label) in enumerate(batches(parameters[0].device, parameters[0].dtype, rank)):
        with wrapped.no_sync() if number == ADDED_UP else nullcontext():
            with torch.autocast(image.device.type, torch.bfloat16, enabled=half):
                loss = wrapped(image, label)
            loss.backward()
        found["losses"].append(loss.detach())
        if number == ADDED_UP:
            continue
        gradients = [parameter.grad.cpu().clone() for parameter in parameters if parameter.grad is not None]
        found["gradients"].append(gradients)
        if all(gradient.isfinite().all() for gradient in gradients):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    found["losses"] = [loss.item() for loss in found["losses"]]  # only now: a replay must not change an earlier one
    return found | {"weights": [parameter.detach().cpu().clone() for parameter in parameters]}


def train_with_unlike_weights(rank: int, folder: Path) -> None:
    network = PlainConvUNet(**TOPOLOGY)
    module = GraphedNetwork(network, DeepSupervision(DiceCELoss(*OPTIONS[0])))
    wrapped = DistributedDataParallel(module)  # which gives all the first one's weights
    with torch.no_grad():
        next(network.parameters())[0].add_(rank)
    module.step = RankGraphedLoss(network, module.loss, lambda: GradientExchange(network, bool))
    try:
        wrapped(*batches(torch.device("cpu"), torch.float32, rank)[0])
    except RuntimeError as error:
        (folder / f"log_{rank}.txt").write_text(str(error))


def main(rank: int, folder: Path, kind: str) -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s", filename=folder / f"log_{rank}.txt")
    on_gpu = kind in ("double", "half")
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
        torch.backends.cudnn.deterministic = True
        cast_at_once()
    else:
        rank_step_graph.RankCaptured = NoCapture if kind == "fault" else AgainCaptured  # type: ignore[misc]
    distributed.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD,
        timeout=timedelta(seconds=600),
    )  # fmt: skip
    if kind == "unlike":
        train_with_unlike_weights(rank, folder)
        return
    results = {}
    for options in OPTIONS[:1] if kind == "fault" else OPTIONS:
        torch.manual_seed(0)
        with_mamba = kind == "again" and options == OPTIONS[0]  # slow on a CPU, and slow to build on a GPU
        network: nn.Module = UMamba(mamba="encoder", **TOPOLOGY) if with_mamba else PlainConvUNet(**TOPOLOGY)
        network.to(device, torch.float32 if kind == "half" else torch.float64)
        for graphed in (False, True):
            results[(*options, graphed)] = train(copy.deepcopy(network), options, graphed, rank, kind == "half")
    torch.save(results, folder / f"rank_{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
