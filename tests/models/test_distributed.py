"""DistributedDataParallel finds a gradient for every parameter it waits for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_compile import NETWORKS, TOPOLOGY
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from umamba.models.losses import DeepSupervision, DiceCELoss
from umamba.models.umamba import UMamba


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """A group of one process: DDP's rule about missing gradients is the same as with many."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def train_two_steps(network: torch.nn.Module, patch_size: tuple[int, ...]) -> None:
    wrapped = DistributedDataParallel(network)
    loss_function = DeepSupervision(DiceCELoss(False, None))
    image, label = torch.randn(1, 1, *patch_size), torch.randint(3, (1, *patch_size))
    for _ in range(2):  # a parameter without a gradient is reported at the next forward pass
        loss_function(wrapped(image), label).backward()


@pytest.mark.parametrize("name", NETWORKS)
def test_two_steps(name: str, one_process: None) -> None:
    make, changes = NETWORKS[name]
    arguments = TOPOLOGY | changes
    train_two_steps(make(**arguments), arguments["patch_size"])


def test_without_deep_supervision(one_process: None) -> None:
    train_two_steps(UMamba(**TOPOLOGY, deep_supervision=False), TOPOLOGY["patch_size"])


def test_a_head_without_gradient_would_be_noticed(one_process: None) -> None:
    network = UMamba(**TOPOLOGY, deep_supervision=False).requires_grad_(True)
    with pytest.raises(RuntimeError, match="Expected to have finished reduction"):
        train_two_steps(network, TOPOLOGY["patch_size"])
