"""A check of the Triton kernels against the recurrence, run once per device before they are first used.

A kernel that a new GPU or compiler gets wrong is silent: training goes on and is worse. This takes about a second once
the kernels are compiled (they are compiled at the first use ever, and kept in Triton's cache on disk).
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor

from umamba.models.mamba.scan.reference import Weights, reference_block, reference_scan

TOLERANCE = 1e-5  # relative, float32 kernel against the float64 recurrence; correct kernels stay below 2e-6
HALF_TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 4e-2}
BATCH, LENGTH, STATES = 2, 300, 16  # the last chunk of tokens is short
# A full block of channels and a partly filled one; a multiple of 16, so that networks use the kernels compiled for the
# check
CHANNELS = 48
MANY_CHUNKS_OF = 4  # tokens
FUSED_RANK, RANK = 3, 6  # of a step size that is projected inside the scan, and outside

log = logging.getLogger(__name__)


def relative_error(got: Tensor, expected: Tensor) -> float:
    """The norm of the difference over that of `expected`, which is float64 on the CPU."""
    return ((got.cpu().double() - expected).norm() / expected.norm()).item()


def random_tensor(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal numbers, float64 on the CPU, the same in every process."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _scan_errors(device: torch.device) -> dict[str, float]:
    """Errors of the scan with chunks as they are chosen, and with so many that a kernel of its own joins them."""
    from umamba.models.mamba.kernels.scan_backward import scan_backward
    from umamba.models.mamba.kernels.scan_forward import scan_forward
    from umamba.models.mamba.kernels.tiling import Tiling, cdiv

    tokens, states = (BATCH, LENGTH, CHANNELS), (BATCH, LENGTH, STATES)
    shapes = [tokens, tokens, (CHANNELS, STATES), states, states, (CHANNELS,), tokens, (CHANNELS,)]
    u, delta, A, B, C, D, z, bias = (random_tensor(shape, i) for i, shape in enumerate(shapes))
    A, bias = -torch.exp(A), bias - 2
    exact = [t.requires_grad_() for t in (u, delta, A, B, C, D, z, bias)]
    weight = random_tensor(tokens, len(shapes))
    out = reference_scan(u, delta, A, B, C, D, z, bias, delta_softplus=True)
    names = ("output", "u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    expected = dict(zip(names, (out, *torch.autograd.grad(out, exact, weight)), strict=True))
    u, delta, A, B, C, D, z, bias = (t.detach().float().to(device) for t in exact)
    grad = weight.float().to(device)
    errors = {}
    for chunks, cut in (("few", None), ("many", Tiling(MANY_CHUNKS_OF, cdiv(LENGTH, MANY_CHUNKS_OF), 64))):
        y, kept = scan_forward(u, delta, A, B, C, D, z, bias, True, tiling=cut)
        got = scan_backward(grad, u, delta, A, B, C, D, z, bias, True, kept, tiling=cut)
        got_B, got_C = got.small.chunk(2, -1)
        results = (y, got.u, got.delta, got.A, got_B, got_C, got.skip, got.z, got.bias)
        for name, result in zip(names, results, strict=True):
            assert result is not None  # a gradient of what was given
            errors[f"{name} ({chunks} chunks)"] = relative_error(result, expected[name])
    return errors


def _block_errors(device: torch.device, dtype: torch.dtype, rank: int) -> dict[str, float]:
    """Errors of the fused block with a step size of this rank: convolution, scan, gradients in place."""
    from umamba.models.mamba.kernels.block_op import block_backward, block_forward

    x, weight = (random_tensor((BATCH, LENGTH, CHANNELS), seed).to(dtype).double() for seed in range(2))
    leaves = [t.requires_grad_() for t in (x, *_block_weights(rank))]
    expected = reference_block(leaves[0], Weights(*leaves[1:]))
    gradients = torch.autograd.grad(expected, leaves, weight)
    given, *weights = (t.detach().float().to(device) for t in leaves)
    given, grad = given.to(dtype), weight.to(device, dtype)
    got, kept = block_forward(given, *weights)
    got_gradients = block_backward(grad, kept, given, *weights)
    name = f"block of rank {rank},"
    errors = {f"{name} output": relative_error(got, expected)}
    for weight_name, a, b in zip(("x", *Weights._fields), got_gradients, gradients, strict=True):
        errors[f"{name} {weight_name}"] = relative_error(a, b)
    return errors


def _block_weights(rank: int) -> Weights:
    """Weights such as a new block has, in float64; torch's random state is left alone."""
    inner, width = 2 * CHANNELS, 4
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int, bound: float) -> Tensor:
        return (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1) * bound

    step = 1e-2 * torch.exp(uniform(inner, bound=math.log(10)))  # from 1e-3 to 1e-1
    return Weights(
        in_proj=uniform(2 * inner, CHANNELS, bound=CHANNELS**-0.5),
        conv=uniform(inner, 1, width, bound=width**-0.5),
        conv_bias=uniform(inner, bound=width**-0.5),
        x_proj=uniform(rank + 2 * STATES, inner, bound=inner**-0.5),
        dt_proj=uniform(inner, rank, bound=rank**-0.5),
        dt_bias=step + torch.log(-torch.expm1(-step)),  # softplus gives the step
        A_log=torch.arange(1, STATES + 1, dtype=torch.float64).log().repeat(inner, 1),
        D=torch.ones(inner, dtype=torch.float64),
        out_proj=uniform(CHANNELS, inner, bound=inner**-0.5),
    )


def _layer_norm_errors(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    from umamba.models.kernels.layer_norm import backward, forward

    shapes = (BATCH, LENGTH, CHANNELS), (CHANNELS,), (CHANNELS,), (BATCH, LENGTH, CHANNELS)
    x, weight, bias, grad = (random_tensor(shape, i) for i, shape in enumerate(shapes))
    x = x.to(dtype).double()
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    grad = grad.to(dtype).double()
    out = torch.nn.functional.layer_norm(x, (CHANNELS,), weight, bias)
    expected = (out, *torch.autograd.grad(out, leaves, grad))
    x, weight, bias = x.detach().to(device, dtype), weight.detach().float().to(device), bias.detach().float().to(device)
    got, kept = forward(x, weight, bias, 1e-5)
    results = got, *backward(grad.to(device, dtype), kept, x, weight, bias, 1e-5)
    names = ("layer norm", "layer norm x", "layer norm weight", "layer norm bias")
    return {n: relative_error(a, b) for n, a, b in zip(names, results, expected, strict=True)}


def half_errors(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Relative error of layer norm and fused block in half precision, as shares of what `TOLERANCE` is in float32."""
    errors = _layer_norm_errors(device, dtype)
    for rank in (FUSED_RANK, RANK):
        errors |= _block_errors(device, dtype, rank)
    name = str(dtype).removeprefix("torch.")
    return {f"{part} in {name}": error * (TOLERANCE / HALF_TOLERANCE[dtype]) for part, error in errors.items()}


def float16_errors(device: torch.device) -> dict[str, float]:
    """`half_errors` of float16."""
    return half_errors(device, torch.float16)


def bfloat16_errors(device: torch.device) -> dict[str, float]:
    """`half_errors` of bfloat16."""
    return half_errors(device, torch.bfloat16)


HALF_ERRORS = {torch.float16: float16_errors, torch.bfloat16: bfloat16_errors}


def relative_errors(device: torch.device) -> dict[str, float]:
    """Relative error of outputs and gradients of the Triton scan and the fused block on `device`."""
    return _scan_errors(device) | _block_errors(device, torch.float32, FUSED_RANK)


@functools.cache
def check(device: torch.device, errors_of: Callable[[torch.device], dict[str, float]] = relative_errors) -> str | None:
    """Why the Triton kernels must not be used on `device`, or None if they may.

    Args:
        device: a CUDA device.
        errors_of: the relative errors of some kernels on a device, by name; by default those of scan and block.
    """
    log.info("Checking the Triton kernels on %s (half a minute where they have never been compiled).", device)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")  # what the check is for are the kernels, not the products' rounding
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device.type, enabled=False):
            errors = errors_of(device)
    except ImportError as error:
        return f"Triton with Gluon is not installed ({error}); it comes with torch 2.10 or later (Triton 3.6)"
    except Exception as error:  # a compiler or driver that cannot build the kernels: any exception type
        return f"the kernels could not be built or run on {device} ({type(error).__name__}: {error})"
    finally:
        torch.set_float32_matmul_precision(precision)
    wrong = {name: error for name, error in errors.items() if not error < TOLERANCE}
    if not wrong:
        return None
    listing = ", ".join(f"{name} by {error:.1e}" for name, error in wrong.items())
    return (
        f"the kernels are wrong on {torch.cuda.get_device_name(device)}: {listing} (relative; at most {TOLERANCE:.0e})"
    )
