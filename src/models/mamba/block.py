"""The Mamba-1 block of Gu & Dao (arXiv 2312.00752, figure 3) on channels-last sequences.

Parameter names are mamba-ssm's, so weights interchange.
"""

from __future__ import annotations

import functools
import math
from typing import cast

import torch
from torch import Tensor, nn

from umamba.models.mamba.scan.choice import check_backend_name, choose_backend, half_usable
from umamba.models.mamba.scan.reference import Weights, reference_block
from umamba.models.mamba.scan.selective_scan import selective_scan

# Step sizes are initialised log-uniformly in this range and never below the floor (Mamba's paper, section 3.6).
DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4


class Mamba(nn.Module):
    """in_proj -> causal convolution and SiLU -> selective scan, gated by SiLU(z) -> out_proj.

    Computes in the dtype of its weights (float32) whatever autocast says: half precision loses the small step sizes.
    The fused kernels also take half-precision sequences (see `takes_half`): maps and products are then in half
    precision, step sizes, states and sums in float32 all the same.

    Args:
        d_model: channels of the sequence.
        d_state: states per channel, 1 to 64.
        d_conv: width of the causal convolution.
        expand: d_inner / d_model.
        backend: see `scan.choice.BACKENDS`.
    """

    def __init__(
        self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2, backend: str = "auto"
    ) -> None:
        super().__init__()
        check_backend_name(backend)  # a wrong name fails here, not in the first step
        self.backend = backend
        self.d_state = d_state
        self.dt_rank = math.ceil(d_model / 16)
        d_inner = expand * d_model
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1, dtype=torch.float32).log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        self._init_step_size()

    @torch.no_grad()
    def _init_step_size(self) -> None:
        bound = self.dt_rank**-0.5
        self.dt_proj.weight.uniform_(-bound, bound)
        dt = torch.empty_like(self.dt_proj.bias).uniform_(math.log(DT_MIN), math.log(DT_MAX)).exp().clamp(min=DT_FLOOR)
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # inverse of softplus

    def forward(self, x: Tensor) -> Tensor:
        """(batch, L, d_model) in any floating dtype -> (batch, L, d_model).

        The result has the dtype of the weights, or that of x where `takes_half` says so.
        """
        weight = self.in_proj.weight
        with torch.autocast(device_type=x.device.type, enabled=False):
            if self.takes_half(x):
                return self._fused(x)
            x = x.to(weight.dtype)
            double = weight.dtype == torch.float64
            if choose_backend(self.backend, x.device.type, x.device.index, double) == "triton":
                return self._fused(x)
            return reference_block(x, self.weights(), functools.partial(selective_scan, backend=self.backend))

    def takes_half(self, x: Tensor) -> bool:
        """Whether x is in half precision and stays so: where the fused kernels run and passed their check in it."""
        if x.dtype not in (torch.float16, torch.bfloat16) or self.in_proj.weight.dtype != torch.float32:
            return False
        device = x.device.type, x.device.index
        return choose_backend(self.backend, *device, False) == "triton" and half_usable(*device, x.dtype)

    def _fused(self, x: Tensor) -> Tensor:
        # Imports Triton, which a CPU installation need not have
        from umamba.models.mamba.kernels.block_op import mamba_block

        return mamba_block(x.contiguous(), *self.weights())

    def weights(self) -> Weights:
        """All parameters, as the functions of the block take them."""
        return Weights(
            in_proj=self.in_proj.weight,
            conv=self.conv1d.weight,
            conv_bias=cast("Tensor", self.conv1d.bias),
            x_proj=self.x_proj.weight,
            dt_proj=self.dt_proj.weight,
            dt_bias=self.dt_proj.bias,
            A_log=self.A_log,
            D=self.D,
            out_proj=self.out_proj.weight,
        )
