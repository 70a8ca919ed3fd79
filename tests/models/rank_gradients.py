"""One rank of a distributed step, a process of its own: losses and gradients of every kind of loss, into a file.

python tests/models/rank_gradients.py RANK WORLD FOLDER
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from umamba.datamodules.sampling import share_of
from umamba.models.loss_terms import Terms
from umamba.models.losses import DeepSupervision, DiceCELoss
from umamba.models.regions import DiceBCELoss
from umamba.models.unet import PlainConvUNet

SIZES = {2: (7, 4), 3: (4,)}  # ranks -> batches
IGNORED = 3
REGIONS = ((1, 2), (2,), (1,))  # as many as the network has outputs
# Each rank's hardest voxels are its own, so the whole batch's loss is another one
TERMS = {
    "nnunet": Terms(),
    "other": Terms(dice=0.5, gamma=2.0, class_weights=(0.2, 1.0, 3.0), false_positives=0.3, false_negatives=0.7),
    "weighted": Terms(class_weights=(0.2, 1.0, 3.0)),
    "focal": Terms(dice=0.0, gamma=2.0),
}
OPTIONS = [
    (batch_dice, ignored, regions, terms)
    for terms in TERMS
    for batch_dice in ((True, False) if terms in ("nnunet", "other") else (True,))  # of Dice alone, which these share
    for ignored in (None, IGNORED)
    for regions in ((), REGIONS)
]


def whole_batch(size: int, ignore_label: int | None) -> tuple[Tensor, Tensor]:
    """Samples with unlike labels: some without one class, some (with an ignore label) hardly annotated."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(size, 1, 16, 12, generator=generator, dtype=torch.float64)
    label = torch.randint(3, (size, 16, 12), generator=generator)
    label[::3][label[::3] == 2] = 0
    if ignore_label is not None:
        label[1::2, 1:] = ignore_label
    return image, label


def make(
    batch_dice: bool, ignore_label: int | None, regions: tuple[tuple[int, ...], ...] = (), terms: str = "nnunet"
) -> tuple[nn.Module, DeepSupervision]:
    torch.manual_seed(1)
    topology = {"kernel_sizes": (3, 3, 3), "strides": (1, 2, 2), "features_per_stage": (4, 6, 8)}
    network = PlainConvUNet(spatial_dims=2, in_channels=1, out_channels=3, deep_supervision=True, **topology)
    of_one = functools.partial(DiceBCELoss, regions) if regions else DiceCELoss
    return network.double(), DeepSupervision(of_one(batch_dice, ignore_label, TERMS[terms]))


def gradients(network: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


def step(rank: int, world: int, size: int, options: tuple) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Loss of training, loss of validation, and gradients."""
    network, loss_function = make(*options)
    wrapped = DistributedDataParallel(network)
    image, label = whole_batch(size, options[1])
    mine = slice(rank, size, world)
    assert len(label[mine]) == share_of(size, rank, world)
    loss = loss_function(wrapped(image[mine]), label[mine])
    loss.backward()
    with torch.no_grad():  # as in validation
        again = loss_function(network(image[mine]), label[mine])
    return loss.detach(), again, gradients(network)


def main(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    results = {(size, *options): step(rank, world, size, options) for size in SIZES[world] for options in OPTIONS}
    torch.save(results, folder / f"rank_{rank}.pt")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
