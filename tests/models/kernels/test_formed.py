"""Maps formed again in the backward pass are what would have been kept, bit for bit; on the CPU, with the fused norm's
passes in torch's own operations, so that neither Triton nor a GPU is needed.
"""

from __future__ import annotations

import functools
import sys
import types
import typing

import pytest
import torch
from norm_inputs import channels_last
from torch import nn
from torch.utils.checkpoint import checkpoint

from umamba.models import blocks, layers
from umamba.models.kernels import concatenation, formed
from umamba.models.kernels.selfcheck import reference
from umamba.models.umamba import UMamba
from umamba.models.unet import PlainConvUNet, ResidualEncoderUNet

MODULES = "umamba.models.kernels."
ARGUMENTS = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "features_per_stage": (4, 8, 8)}
TOPOLOGY = ARGUMENTS | {"kernel_sizes": ((1, 3, 3), 3, 3), "strides": (1, (1, 2, 2), 2)}
FLAT = TOPOLOGY | {"spatial_dims": 2, "kernel_sizes": (3, 3, 3), "strides": (1, 2, 2)}
NETWORKS = {
    "nnU-Net": (PlainConvUNet, TOPOLOGY),
    "residual encoder": (ResidualEncoderUNet, TOPOLOGY),
    "control": (UMamba, TOPOLOGY | {"mamba": "none"}),
    "control as in the authors' code": (UMamba, TOPOLOGY | {"mamba": "none", "variant": "repo"}),
    "with a Mamba layer": (UMamba, FLAT | {"mamba": [0], "mixer": "gated_conv"}),
}


class Normed(typing.NamedTuple):
    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    stats: torch.Tensor
    slope: float


def as_map(residual):
    return output(*residual[:4], None, residual.slope) if isinstance(residual, tuple) else residual


def output(x, weight, bias, stats, residual, slope):
    residual = as_map(residual)
    mean, rstd = (t.view(*t.shape, *[1] * (x.dim() - 2)) for t in stats.unbind(1))
    gain, offset = (t.view(-1, *[1] * (x.dim() - 2)) for t in (weight, bias))
    y = (x.float() - mean) * rstd * gain + offset
    return nn.functional.leaky_relu(y if residual is None else y + residual.float(), slope).to(x.dtype)


def forward(x, weight, bias, residual, slope, eps):
    variance, mean = torch.var_mean(x.float(), tuple(range(2, x.dim())), correction=0)
    stats = torch.stack([mean, torch.rsqrt(variance + eps)], 1)
    return output(x, weight, bias, stats, residual, slope), stats


def statistics(x, eps):
    variance, mean = torch.var_mean(x.float(), tuple(range(2, x.dim())), correction=0)
    return torch.stack([mean, torch.rsqrt(variance + eps)], 1)


@torch.enable_grad()
def backward(grad, stats, x, weight, bias, residual, slope):
    residual = as_map(residual)
    leaves = [t.detach().float().requires_grad_() for t in (x, weight, bias, residual) if t is not None]
    y = reference(*leaves[:3], None if residual is None else leaves[3], slope, 1e-5)
    grad_x, *others = torch.autograd.grad(y, leaves, grad.float())
    return grad_x.to(x.dtype), *others[:2], None if residual is None else others[2].to(x.dtype)


@pytest.fixture(autouse=True)
def fused_norm(monkeypatch):
    """On the CPU, of maps of any size."""
    passes = {"forward": forward, "backward": backward, "output": output, "statistics": statistics}
    passes |= {"Normed": Normed, "laid_out": lambda x: x}
    try:
        from umamba.models.kernels import norm_act
    except ImportError:  # no Triton
        module = types.ModuleType(MODULES + "norm_act_launch")
        vars(module).update(passes, FLOAT=torch.float32)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        from umamba.models.kernels import norm_act

        monkeypatch.delitem(sys.modules, norm_act.__name__)
        monkeypatch.delattr(sys.modules["umamba.models.kernels"], "norm_act")
        monkeypatch.setitem(sys.modules, norm_act.__name__, norm_act)
    for name, function in passes.items():
        monkeypatch.setattr(norm_act, name, function)
    for module in (blocks, layers, concatenation):
        monkeypatch.setattr(module, "fused", lambda x: True)
    monkeypatch.setattr(blocks, "SHARED_OUT", 0)
    monkeypatch.setattr(formed, "SMALLEST", 0)
    monkeypatch.setattr(concatenation, "_in_kernels", lambda x, skip: False)


def make(name):
    torch.manual_seed(0)
    network, arguments = NETWORKS[name]
    shape = (1, 1, 4, 9, 8) if arguments["spatial_dims"] == 3 else (2, 1, 10, 12)
    network = network(**arguments)
    with torch.no_grad():
        for parameter in network.parameters():  # no zeros, under which a fault would hide
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network, channels_last(torch.randn(shape))


def step(network, x, backward=lambda loss: loss.backward()):
    """Outputs and gradients, and the bytes kept between forward and backward."""
    network.zero_grad()
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = network(x)
    backward(sum(o.float().square().mean() for o in outputs))
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    size = sum(s.nbytes() for at, s in storages.items() if at not in weights)
    return [*(o.detach() for o in outputs), *(p.grad for p in network.parameters())], size


def equal(results, others):
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(results, others, strict=True))


@pytest.mark.parametrize("half", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_kept_maps(name, half, monkeypatch):
    network, x = make(name)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        got, size = step(network, x)
        monkeypatch.setattr(formed, "SMALLEST", float("inf"))
        expected, size_of_kept = step(network, x)
    assert equal(got, expected)
    assert size < 0.85 * size_of_kept


@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
@pytest.mark.parametrize("name", ["residual encoder", "control"])
def test_activation_checkpointing(name, reentrant, monkeypatch):
    network, x = make(name)
    for layer in network.modules():
        if isinstance(layer, (blocks.ResidualBlock, nn.ConvTranspose3d)):
            call = layer.forward
            layer.forward = lambda x, call=call, **options: checkpoint(
                functools.partial(call, **options), x, use_reentrant=reentrant
            )
    got, _ = step(network, x.requires_grad_())
    monkeypatch.setattr(formed, "SMALLEST", float("inf"))
    assert equal(got, step(network, x)[0])


def test_a_torch_that_does_not_tell_its_hooks_keeps_every_map(monkeypatch):
    network, x = make("control")
    expected, size = step(network, x)
    monkeypatch.setattr(formed, "_top_hooks", None)
    got, size_of_kept = step(network, x)
    assert equal(got, expected) and size < size_of_kept


def test_two_backward_passes_of_one_graph():
    network, x = make("control")
    once, _ = step(network, x)

    def twice(loss):
        loss.backward(retain_graph=True)
        network.zero_grad()
        loss.backward()

    assert equal(step(network, x, twice)[0], once)


def test_a_map_changed_in_place_is_kept_as_it_is():
    network, x = make("control")

    def change(layer, inputs, output):
        output.mul_(2)

    network.stem.register_forward_hook(change)
    got, _ = step(network, x)
    network.stem._forward_hooks.clear()
    network.stem.register_forward_hook(lambda layer, inputs, output: output * 2)
    assert equal(got, step(network, x)[0])


def test_formed_maps_are_let_go(monkeypatch):
    used = []
    form = formed.Recipe.form
    monkeypatch.setattr(formed.Recipe, "form", lambda self, *args, **kw: used.append(self) or form(self, *args, **kw))
    network, x = make("residual encoder")
    step(network, x)
    assert used and all(recipe.formed is None for recipe in used)


def test_a_map_is_let_go_before_its_last_convolution_forms_the_gradient(monkeypatch):
    """Which is as large; every use is counted, so that none is left waiting."""
    recipes = []
    use = formed.Recipe.use

    def recorded(recipe, tensors):
        recipes.append((recipe, recipe.uses))
        return use(recipe, tensors)

    monkeypatch.setattr(formed.Recipe, "use", recorded)
    network, x = make("control")
    step(network, x)
    last = [recipe for recipe, uses in recipes if uses == 1]
    assert last and len(last) == len({id(recipe) for recipe, _ in recipes})
    assert all(recipe.uses == 0 for recipe in last)


def test_the_last_map_is_kept_as_the_backward_pass_begins_with_it(monkeypatch):
    network, x = make("nnU-Net")
    labels = []
    for head in network.heads:
        head.register_forward_pre_hook(lambda _, inputs: labels.append(getattr(inputs[0], "formed_by", None)))
    network(x)
    assert [label is None for label in labels] == [False, True]


def test_a_second_derivative_is_refused():
    network, x = make("nnU-Net")
    loss = network(x)[0].square().mean()
    with pytest.raises(RuntimeError, match="no second derivative, which create_graph=True asks for"):
        torch.autograd.grad(loss, list(network.parameters()), create_graph=True, allow_unused=True)


@pytest.mark.parametrize("spatial", [(3, 4, 5), (4, 5)])
@pytest.mark.parametrize("lay_out", [channels_last, torch.clone], ids=["channels-last", "channels-first"])
def test_maps_are_joined_as_they_lie(lay_out, spatial):
    x, skip = (lay_out(torch.randn(2, channels, *spatial)).requires_grad_() for channels in (3, 2))
    joined = concatenation.concatenate(x, skip)
    assert torch.equal(joined, torch.cat((x, skip), dim=1))
    assert joined.stride() == lay_out(joined.detach()).stride()
    grad = torch.randn_like(joined)
    assert all(map(torch.equal, torch.autograd.grad(joined, (x, skip), grad), grad.split((3, 2), dim=1)))
