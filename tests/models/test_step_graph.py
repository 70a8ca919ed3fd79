"""Steps replayed from CUDA graphs are the steps that the network takes without them."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from small_topology import TOPOLOGY
from torch import Tensor, nn

from umamba.models import step_graph
from umamba.models.baselines import segresnet
from umamba.models.graph_obstacles import obstacle_of_layers
from umamba.models.losses import DeepSupervision, DiceCELoss
from umamba.models.step_graph import GraphedLoss
from umamba.models.umamba import UMamba
from umamba.models.unet import PlainConvUNet


class Counting(nn.Module):
    """A layer of the user's own."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("mamba", ["none", "bottleneck", "encoder"])
def test_the_projects_networks_can_be_graphed(mamba):
    assert obstacle_of_layers(UMamba(mamba=mamba, **TOPOLOGY)) is None


def test_layers_from_elsewhere_are_named():
    network = PlainConvUNet(**TOPOLOGY)
    network.stem = Counting()
    assert "layer 'stem' is a Counting" in obstacle_of_layers(network)
    assert "monai" in obstacle_of_layers(segresnet(init_filters=8, **TOPOLOGY | {"deep_supervision": False}))


def test_running_statistics_are_named():
    network = PlainConvUNet(**TOPOLOGY)
    network.stem = nn.BatchNorm3d(1)
    assert "running statistics" in obstacle_of_layers(network)


def test_a_loss_from_elsewhere_is_named():
    loss = DeepSupervision(Counting())
    assert "layer 'loss' is a Counting" in obstacle_of_layers(PlainConvUNet(**TOPOLOGY), loss)


class NoCapture:
    """In place of a capture: what happens where there is a GPU and too little of it."""

    def __init__(self, *_: object) -> None:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines")
        finally:  # as where torch ends the capture that was broken off
            raise RuntimeError("The capture is invalid")


def test_a_capture_that_fails_leaves_single_launches_and_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(step_graph, "Captured", NoCapture)
    weight = nn.Parameter(torch.ones(()))
    step = GraphedLoss(lambda image, label: (weight * image - label).sum(), [weight])
    with caplog.at_level(logging.INFO):
        losses = [step(torch.full((2,), value), torch.ones(2)) for value in (1.0, 3.0)]
    assert [loss.item() for loss in losses] == [0, 4]
    losses[1].backward()
    assert weight.grad == 6
    (record,) = caplog.records
    assert "singly" in record.getMessage() and "CUDA out of memory. Tried to allocate 2.00 GiB." in record.getMessage()
    assert "More lines" not in record.getMessage()


def test_a_capture_that_is_required_and_fails_is_an_error(monkeypatch):
    monkeypatch.setattr(step_graph, "Captured", NoCapture)
    step = GraphedLoss(lambda image, label: image.sum(), [], required=True)
    with pytest.raises(RuntimeError, match="The capture is invalid"):
        step(torch.ones(1), torch.ones(1))


class Recorded:
    """In place of a capture that works."""

    made: ClassVar[list[Recorded]] = []

    def __init__(self, function, parameters, image, label) -> None:
        self.function = function
        self.parameters = [p for p in parameters if p.requires_grad]
        self.made.append(self)

    def warm_up(self) -> None: ...

    def record(self) -> None: ...

    def __call__(self, image, label) -> torch.Tensor:
        return self.function(image, label)


def test_weights_that_were_moved_or_frozen_are_captured_anew(monkeypatch):
    monkeypatch.setattr(step_graph, "Captured", Recorded)
    monkeypatch.setattr(Recorded, "made", [])
    layer = nn.Linear(2, 2)
    step = GraphedLoss(lambda image, label: layer(image).sum(), layer.parameters())
    image = torch.ones(1, 2)
    for _ in range(2):
        step(image, image)
    layer.load_state_dict({key: value + 1 for key, value in layer.state_dict().items()})  # in place
    step(image, image)
    assert len(Recorded.made) == 1
    layer.bias.requires_grad_(False)
    step(image, image)
    layer.weight.data = layer.weight.data.clone()
    step(image, image)
    step(image, image)
    assert [len(captured.parameters) for captured in Recorded.made] == [2, 1, 1]


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


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_too_little_memory_for_the_graphs_leaves_none_held(caplog):
    """As where the step fits and its graphs do not: they would have to keep what single launches share."""
    (_, plain), (network, step) = pair("none")
    image, label = batches(1, (16, 64, 64))[0]
    expected = plain(image, label).item()
    function, passes = step.function, []

    def short_of_memory(image: Tensor, label: Tensor) -> Tensor:
        passes.append(torch.cuda.is_current_stream_capturing())
        if passes[-1]:
            torch.empty(2**45, dtype=torch.uint8, device="cuda")
        return function(image, label)

    step.function = short_of_memory
    gc.collect()
    torch.cuda.empty_cache()
    held, stream = torch.cuda.memory_reserved(), torch.cuda.current_stream()
    with caplog.at_level(logging.WARNING):
        loss = step(image, label)
    assert loss.item() == pytest.approx(expected, rel=1e-5) and passes == [False] * 3 + [True, False]
    assert "out of memory" in caplog.text and "singly" in caplog.text
    loss.backward()
    del loss
    network.zero_grad()
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= held + 2**26  # cuBLAS keeps its workspace
    assert torch.cuda.current_stream() == stream
    caplog.clear()
    step(image, label).backward()
    assert not caplog.records


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_what_waits_for_the_device_is_launched_singly_and_leaves_the_device_usable(caplog):
    """Waiting is forbidden in a capture, which is invalid from then on."""
    (_, plain), (_, step) = pair("none")
    function = step.function

    def waiting(image: Tensor, label: Tensor) -> Tensor:
        loss = function(image, label)
        return loss * (1 if loss.item() > -100 else 0)

    step.function = waiting
    image, label = batches(1)[0]
    stream = torch.cuda.current_stream()
    with caplog.at_level(logging.WARNING):
        loss = step(image, label)
    assert loss.item() == pytest.approx(plain(image, label).item(), rel=1e-5)
    assert "singly" in caplog.text and torch.cuda.current_stream() == stream
    (_, other), (_, fresh) = pair("none")
    with caplog.at_level(logging.INFO):
        caplog.clear()
        assert fresh(image, label).item() == pytest.approx(other(image, label).item(), rel=1e-5)
    assert "are replayed from CUDA graphs" in caplog.text


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_weights_of_a_checkpoint_and_frozen_ones_are_those_of_the_next_step():
    (plain, plain_step), (graphed, step) = pair("none")
    image, label = batches(1)[0]
    step(image, label)
    for network in (plain, graphed):
        network.load_state_dict({key: 1.5 * value for key, value in network.state_dict().items()})
        network.encoder_stages[0].requires_grad_(False)
    losses = [plain_step(image, label), step(image, label)]
    for loss in losses:
        loss.backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5)
    for own, other in zip(graphed.parameters(), plain.parameters(), strict=True):
        assert (own.grad is None) == (other.grad is None)
        if own.grad is not None:
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-4, atol=1e-6)
