"""The Mamba block: parameters, precision, causality."""

from __future__ import annotations

import pytest
import torch

from umamba.models.mamba.block import Mamba


def test_parameters_are_named_and_shaped_as_in_mamba_ssm():
    shapes = {name: tuple(value.shape) for name, value in Mamba(d_model=40).state_dict().items()}
    assert shapes == {
        "A_log": (80, 16),
        "D": (80,),
        "in_proj.weight": (160, 40),
        "conv1d.weight": (80, 1, 4),
        "conv1d.bias": (80,),
        "x_proj.weight": (3 + 32, 80),
        "dt_proj.weight": (80, 3),
        "dt_proj.bias": (80,),
        "out_proj.weight": (40, 80),
    }


def test_initial_step_sizes_lie_in_mambas_range():
    block = Mamba(d_model=64)
    steps = torch.nn.functional.softplus(block.dt_proj.bias)
    assert steps.min() >= 1e-4 and steps.max() <= 0.1001 and steps.min() < 5e-3 and steps.max() > 2e-2
    assert torch.allclose(block.A_log.exp(), torch.arange(1.0, 17.0).expand(128, 16))


@pytest.mark.parametrize("length", [1, 3, 100])
def test_torch_backend_equals_the_recurrence_under_autocast(length):
    torch.manual_seed(0)
    block, x = Mamba(d_model=8, backend="torch"), torch.randn(2, length, 8)
    with torch.autocast("cpu", torch.bfloat16):
        out = block(x)
    block.backend = "reference"
    expected = block.double()(x.double())
    assert out.dtype == torch.float32
    assert torch.allclose(out.double(), expected, rtol=1e-5, atol=1e-6)


def test_output_depends_on_no_later_token():
    torch.manual_seed(0)
    block, x = Mamba(d_model=4).double(), torch.randn(1, 50, 4, dtype=torch.float64)
    changed = x.clone()
    changed[:, 30:] += 1
    difference = (block(changed) - block(x)).abs().amax((0, 2))
    assert difference[:30].max() == 0 and (difference[30:] > 0).all()


def test_unknown_backend_is_named():
    with pytest.raises(ValueError, match="Unknown scan backend 'cuda'.*auto"):
        Mamba(d_model=4, backend="cuda")
