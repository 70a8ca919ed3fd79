"""One rank of trainings through Lightning, as graphs and without, a process of its own: their ends, into a file.

python tests/models/rank_trainings.py RANK PORT FOLDER cpu    # graphs that run their passes again
python tests/models/rank_trainings.py RANK PORT FOLDER gpu
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rank_graphs import WORLD, AgainCaptured, cast_at_once
from tiny_plan import tiny_plan
from torch.utils.data import DataLoader

from umamba.callbacks.finite_watch import FiniteWatch
from umamba.models import rank_step_graph, segmentation_module
from umamba.models.schedules import poly
from umamba.models.segmentation_module import SegmentationModule
from umamba.models.unet import PlainConvUNet
from umamba.run.stop_on_signal import StopOnSignal

log = logging.getLogger(__name__)
SHARES = ((2, 1), (2, 1), (1, 1), (2, 1), (1, 2))  # samples of each rank: no graph fits the last for either
NOT_FINITE = 1  # batch
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"accumulate_grad_batches": 2},  # the last batch makes a step of its own
    "resumed": {},
    "half": {"precision": "bf16-mixed"},
    "scaled": {"precision": "16-mixed"},
}


def batches(rank: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    found = []
    for number, shares in enumerate(SHARES):
        image = torch.randn(sum(shares), 2, 16, 16, 16, generator=generator)
        label = torch.randint(3, (sum(shares), 16, 16, 16), generator=generator, dtype=torch.int16)
        if number == NOT_FINITE:
            image[0, 0, 0, 0, 0] = float("nan")  # on the first rank
        mine = slice(0, shares[0]) if rank == 0 else slice(shares[0], None)
        found.append({"image": image[mine], "label": label[mine], "case": ["a"] * shares[rank]})
    return found


def obstacle(self: SegmentationModule) -> str | None:
    """In place of the module's own, which wants a CUDA device."""
    return None if self.cuda_graph else "cuda_graph=false"


def train(rank: int, accelerator: str, folder: Path, name: str, graphed: bool, epochs: int, resume: bool) -> L.Trainer:
    torch.manual_seed(0)
    module = SegmentationModule(
        plan=tiny_plan(), configuration="3d_fullres", network=PlainConvUNet, cuda_graph=graphed,
        optimizer=functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9, nesterov=True),
        scheduler=lambda optimizer, max_epochs: poly(optimizer, max_epochs=4, power=0.9),
    )  # fmt: skip
    loader: Any = functools.partial(DataLoader, batch_size=None)
    trainer = L.Trainer(
        accelerator=accelerator, devices=WORLD, strategy="ddp", logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, gradient_clip_val=12,
        callbacks=[FiniteWatch(), StopOnSignal(folder / "stopped.ckpt")], num_sanity_val_steps=0, max_epochs=epochs,
        use_distributed_sampler=False, **OPTIONS[name],
    )  # fmt: skip
    last = folder / f"{name}_{graphed}.ckpt"
    trainer.fit(
        module, loader(batches(rank)), loader(batches(rank)[:1]), ckpt_path=last if resume else None, weights_only=True
    )
    trainer.save_checkpoint(last)
    return trainer


def main(rank: int, port: int, folder: Path, accelerator: str) -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO, format="%(message)s", filename=folder / f"log_{rank}.txt")
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.backends.cudnn.deterministic = True
    cast_at_once()
    if accelerator == "cpu":
        rank_step_graph.RankCaptured = AgainCaptured  # type: ignore[misc]
        segmentation_module.SegmentationModule._obstacle_to_graphs = obstacle  # type: ignore[method-assign]
    ends = {}
    for name in OPTIONS if accelerator == "gpu" else ("plain", "accumulated", "resumed"):
        for graphed in (False, True):
            log.info("%s, cuda_graph=%s", name, graphed)
            trainer = train(rank, accelerator, folder, name, graphed, 1 if name == "resumed" else 2, False)
            if name == "resumed":
                trainer = train(rank, accelerator, folder, name, graphed, 2, True)
            weights = {key: value.cpu().clone() for key, value in trainer.lightning_module.state_dict().items()}
            ends[name, graphed] = weights, {key: float(value) for key, value in trainer.callback_metrics.items()}
    torch.save(ends, folder / f"rank_{rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
