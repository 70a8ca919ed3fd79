"""Optimisers as one kernel: where they are, where not, and from whatever a checkpoint holds."""

from __future__ import annotations

import functools
from copy import deepcopy

import pytest
import torch
from torch import nn

from umamba.models.fused_optimizer import fuse

SGD = functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True)
ADAMW = functools.partial(torch.optim.AdamW, lr=0.1)
each_optimizer = pytest.mark.parametrize("make", [SGD, ADAMW], ids=["sgd", "adamw"])


def network(device: str = "cpu") -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv3d(2, 3, 3).to(device, memory_format=torch.channels_last_3d)


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, count: int = 3) -> None:
    x = torch.randn(1, 2, 5, 5, 5, generator=torch.Generator().manual_seed(1)).to(net.weight.device)
    for _ in range(count):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()


def modes(optimizer: torch.optim.Optimizer) -> list[tuple]:
    return [(group["fused"], group["foreach"]) for group in optimizer.param_groups]


@each_optimizer
@pytest.mark.parametrize("asked", [{}, {"fused": False}, {"fused": True}, {"foreach": True}], ids=str)
def test_on_a_cpu_it_stays_as_it_was_asked_for(make, asked) -> None:
    optimizer = make(network().parameters(), **asked)
    before = modes(optimizer)
    fuse(optimizer)
    assert modes(optimizer) == before


def test_an_optimizer_of_ones_own_is_left_alone() -> None:
    class Own(torch.optim.SGD):
        pass

    optimizer = Own(network().parameters(), lr=0.1, fused=True)
    optimizer.param_groups[0]["fused"] = "own"
    fuse(optimizer)
    fuse(torch.optim.Rprop(network().parameters()))
    assert modes(optimizer) == [("own", None)]


@each_optimizer
def test_a_run_goes_on_with_what_its_device_wants(make) -> None:
    """As after a GPU's checkpoint on a CPU: the choice is in its groups."""
    net = network()
    optimizer, plain = make(net.parameters()), make(net.parameters())
    saved = optimizer.state_dict()
    saved["param_groups"][0]["fused"] = True
    optimizer.load_state_dict(saved)
    assert modes(optimizer) != modes(plain)
    fuse(optimizer)
    assert modes(optimizer) == modes(plain)


@each_optimizer
def test_state_in_another_layout_is_laid_out_like_the_weights(make) -> None:
    """As after a checkpoint of a run whose weights were channels-first."""
    net = network()
    first = make(net.parameters(), fused=True)
    steps(net, first)
    saved = deepcopy(first.state_dict())
    turned = deepcopy(saved)
    for entries in turned["state"].values():
        entries.update({k: v.contiguous() for k, v in entries.items() if v is not None})
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    results = []
    for state in (turned, saved):
        net.load_state_dict(weights)
        optimizer = make(net.parameters(), fused=True)
        optimizer.load_state_dict(state)
        fuse(optimizer)
        assert all(
            value.stride() == parameter.stride()
            for parameter in net.parameters()
            for value in optimizer.state[parameter].values()
            if value.shape == parameter.shape
        )
        steps(net, optimizer)
        results.append([value.clone() for value in net.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_gradients_are_unscaled_before_they_are_clipped() -> None:
    """A gradient scaler leaves unscaling to a fused optimizer unless it is told otherwise."""
    net = network()
    optimizer = SGD(net.parameters(), fused=True)
    fuse(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(net(torch.ones(1, 2, 5, 5, 5)).mean()).backward()
    before = net.weight.detach().clone()
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
    assert 1e-3 < norm < 1024 / 10
    scaler.step(optimizer)
    assert 0 < (net.weight - before).norm() < 1e-3  # lr (1 + momentum) times the clipped norm


@pytest.mark.gpu
class TestOnAGpu:
    @each_optimizer
    def test_it_is_fused_and_gives_the_same(self, make) -> None:
        """For the very same gradients: AdamW makes steps of the same size of gradients that are rounding alone."""
        nets = [network("cuda"), network("cuda")]
        optimizers = [make(net.parameters()) for net in nets]
        fuse(optimizers[0])
        assert modes(optimizers[0]) == [(True, None)] and modes(optimizers[1]) == [(None, None)]
        generator = torch.Generator("cuda").manual_seed(2)
        for _ in range(10):
            for pair in zip(*(net.parameters() for net in nets), strict=True):
                scale = 10.0 ** torch.randint(-12, 2, (), generator=generator, device="cuda")
                grad = torch.randn(pair[0].shape, generator=generator, device="cuda") * scale
                for parameter in pair:
                    parameter.grad = torch.empty_like(parameter).copy_(grad)
            for optimizer in optimizers:
                optimizer.step()
        for pair in zip(*(net.parameters() for net in nets), strict=True):
            torch.testing.assert_close(*pair, rtol=1e-5, atol=1e-6)

    @each_optimizer
    def test_it_goes_on_from_an_old_checkpoint(self, make) -> None:
        """One of a run that was not fused, on a CPU and channels-first."""
        old, net = nn.Conv3d(2, 3, 3), network("cuda")
        optimizer = make(old.parameters())
        steps(old, optimizer)
        net.load_state_dict(old.state_dict())
        resumed = make(net.parameters())
        resumed.load_state_dict(optimizer.state_dict())
        fuse(resumed)
        steps(net, resumed)
        steps(old, optimizer)
        torch.testing.assert_close(net.weight.cpu(), old.weight, rtol=1e-3, atol=1e-4)
