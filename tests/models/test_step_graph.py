"""Steps replayed from CUDA graphs are the steps that the network takes without them."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from small_topology import TOPOLOGY
from torch import Tensor, nn

from umamba.models.baselines import segresnet
from umamba.models.losses import DeepSupervision, DiceCELoss
from umamba.models.step_graph import GraphedLoss, obstacle_to_graphs
from umamba.models.umamba import UMamba
from umamba.models.unet import PlainConvUNet


class Counting(nn.Module):
    """A layer of the user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("mamba", ["none", "bottleneck", "encoder"])
def test_the_projects_networks_can_be_graphed(mamba):
    assert obstacle_to_graphs(UMamba(mamba=mamba, **TOPOLOGY)) is None


def test_layers_from_elsewhere_are_named():
    network = PlainConvUNet(**TOPOLOGY)
    network.stem = Counting()
    assert "layer 'stem' is a Counting" in obstacle_to_graphs(network)
    assert "monai" in obstacle_to_graphs(segresnet(init_filters=8, **TOPOLOGY | {"deep_supervision": False}))


def test_running_statistics_are_named():
    network = PlainConvUNet(**TOPOLOGY)
    network.stem = nn.BatchNorm3d(1)
    assert "running statistics" in obstacle_to_graphs(network)


def batches(number: int, size: tuple[int, ...] = (8, 16, 16)) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (
            torch.randn(2, 1, *size, generator=generator).cuda(),
            torch.randint(3, (2, *size), generator=generator, dtype=torch.int16).cuda(),
        )
        for _ in range(number)
    ]


@pytest.fixture
def cuda(monkeypatch) -> None:
    """Two passes are to be equal: in float32 cuDNN has weight gradients that are not (1e-3 with TF32)."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device to replay graphs on")


def pair(mamba: str) -> list[tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]]:
    """Twice the same network with its loss: launched singly and as a graph."""
    torch.manual_seed(0)
    network = UMamba(mamba=mamba, **TOPOLOGY).cuda()
    networks = [network, copy.deepcopy(network)]
    loss = DeepSupervision(DiceCELoss(False, None))

    def of(network: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda image, label: loss(network(image), label)

    plain, graphed = networks
    return [(plain, of(plain)), (graphed, GraphedLoss(of(graphed), graphed.parameters()))]


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("mamba", ["none", "encoder"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_training_is_the_same(mamba, dtype):
    losses, weights = [], []
    for network, step in pair(mamba):
        optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.9, nesterov=True)
        scaler = torch.amp.GradScaler("cuda", enabled=dtype == torch.float16)
        seen = []
        for image, label in batches(5):
            with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None):
                loss = step(image, label)
            seen.append(loss)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)
        losses.append([value.item() for value in seen])  # only now: a replay must not change an earlier loss
        weights.append([p.detach().clone() for p in network.parameters()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert len(set(losses[1])) == 5
    for plain, graphed in zip(*weights, strict=True):
        torch.testing.assert_close(graphed, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_gradients_of_several_batches_add_up():
    sums = []
    for network, step in pair("none"):
        for image, label in batches(3):
            step(image, label).backward()
        sums.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert len(sums[0]) == len(sums[1])
    for plain, graphed in zip(*sums, strict=True):
        torch.testing.assert_close(graphed, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_what_a_graph_was_not_made_for_goes_without():
    (plain, plain_step), (graphed, step) = pair("none")
    graphed_loss = step(*batches(1)[0])
    other = batches(1, (16, 16, 32))[0]
    assert step(*other).item() == pytest.approx(plain_step(*other).item(), rel=1e-5)
    graphed.eval()
    with torch.no_grad():
        torch.testing.assert_close(graphed(other[0])[0], plain(other[0])[0])
    assert graphed_loss.item() == pytest.approx(plain_step(*batches(1)[0]).item(), rel=1e-5)


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_a_step_that_is_not_finite_is_seen_and_leaves_the_graph_usable():
    _, (graphed, step) = pair("none")
    image, label = batches(1)[0]
    good = step(image, label).item()
    bad = step(image * float("nan"), label)
    bad.backward()
    assert bad.isnan()
    assert any(p.grad.isnan().any() for p in graphed.parameters() if p.grad is not None)
    graphed.zero_grad()
    again = step(image, label)
    again.backward()
    assert again.item() == good
    assert all(p.grad.isfinite().all() for p in graphed.parameters() if p.grad is not None)
