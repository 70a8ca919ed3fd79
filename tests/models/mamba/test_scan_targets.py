"""The kernels of scan, block and layer norm compile for the GPUs that users have and fit there; no GPU is needed."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("triton", reason="Triton, which CUDA builds of torch bring, is not installed")

from kernel_targets import REGISTERS, SHARED_MEMORY, built_for

# Tokens and channels of U-Mamba_Enc's maps on the CT plan: step sizes projected in the scan (from 2 numbers, and 4) or
# outside, many chunks or few, two channels a lane or one
STAGES = ((1720320, 32), (430080, 64), (53760, 128), (840, 320))
MAPS = {torch.float32: STAGES, torch.bfloat16: STAGES, torch.float16: STAGES[::3]}
KERNELS = {
    "chunks.replay", "chunks.adjoint_ends", "gradients.gradients", "reductions.carry", "reductions.collect",
    "conv._forward", "conv._backward",
}  # fmt: skip
HALF_KERNELS = {"layer_norm._forward", "layer_norm._backward", "widen.pad_rows"}
# `gradients` uses all 255 registers that a thread may have, and keeps some addresses in local memory
SPILLED = {"gradients.gradients": 448}  # bytes a thread, of at most 255 * 4 + spilled


def train(length: int, width: int, dtype: torch.dtype) -> None:
    """Launches of a Mamba layer's forward and backward pass, on meta tensors."""
    from umamba.models.kernels import layer_norm
    from umamba.models.mamba.kernels.block_op import block_backward, block_forward

    inner, states, rank = 2 * width, 16, math.ceil(width / 16)
    shapes = [(2 * inner, width), (inner, 1, 4), (inner,), (rank + 2 * states, inner), (inner, rank), (inner,)]
    shapes += [(inner, states), (inner,), (width, inner)]
    weights = [torch.empty(shape, device="meta") for shape in shapes]
    x = torch.empty(2, length, width, dtype=dtype, device="meta")
    _, kept = block_forward(x, *weights)
    block_backward(x, kept, x, *weights)
    if dtype != torch.float32:
        gain = torch.empty(width, device="meta")
        layer_norm.forward(x, gain, gain, 1e-5)
        layer_norm.backward(x, x, x, gain, gain, 1e-5)


def scan(length: int, channels: int, states: int, dtype: torch.dtype) -> None:
    """Launches of the scan by itself, forward and backward, with B and C in `dtype`, too."""
    from umamba.models.mamba.kernels.scan_backward import scan_backward
    from umamba.models.mamba.kernels.scan_forward import scan_forward

    u, delta, z, grad = (torch.empty(2, length, channels, dtype=dtype, device="meta") for _ in range(4))
    B, C = (torch.empty(2, length, states, dtype=dtype, device="meta") for _ in range(2))
    A, skip = torch.empty(channels, states, device="meta"), torch.empty(channels, device="meta")
    _, kept = scan_forward(u, delta, A, B, C, skip, z, skip, True)
    scan_backward(grad, u, delta, A, B, C, skip, z, skip, True, kept)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("channels", "states"), [(64, 64), (64, 32), (64, 4), (33, 5), (16, 1)])
def test_kernels_of_any_size_compile(channels, states, dtype):
    """All numbers of states, and half-precision rows that are whole words of four bytes or not."""
    assert built_for(80, lambda: scan(700, channels, states, dtype))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", MAPS, ids=str)
@pytest.mark.parametrize("capability", SHARED_MEMORY)
def test_kernels_of_training_compile_and_fit(capability, dtype):
    def training():
        for length, width in MAPS[dtype]:
            train(length, width, dtype)

    built = built_for(capability, training)
    assert {kernel.name for kernel in built} == (KERNELS if dtype == torch.float32 else KERNELS | HALF_KERNELS)
    for kernel in built:
        assert kernel.registers * kernel.threads <= REGISTERS, kernel
        assert kernel.shared <= SHARED_MEMORY[capability] * 1024, kernel
        assert kernel.spilled <= SPILLED.get(kernel.name, 0), kernel
