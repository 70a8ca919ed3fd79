"""Depthwise causal convolution and SiLU on channels-last sequences, forward and backward, in Triton.

The backward pass forms the convolution again instead of keeping it, and sums the weight gradients per program and
then over programs in a fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TOKENS = 32  # a tile
TILES = 32  # a program of the backward pass


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-1.4426950408889634 * x))


@triton.jit
def _forward(
    x, weight, bias, out, L, D, x_b, x_l, out_b, out_l, WIDTH: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr
):
    tiles = tl.cdiv(L, TOKENS)
    blocks = tl.cdiv(D, BLOCK)
    pid = tl.program_id(0).to(tl.int64)
    channel = (pid % blocks) * BLOCK + tl.arange(0, BLOCK)
    token = (pid // blocks) % tiles * TOKENS + tl.arange(0, TOKENS)
    batch = pid // blocks // tiles
    mask = channel < D
    y = tl.zeros([TOKENS, BLOCK], tl.float32) + tl.load(bias + channel, mask=mask, other=0.0)[None, :]
    for k in tl.static_range(WIDTH):
        row = token - (WIDTH - 1 - k)
        inside = ((row >= 0) & (row < L))[:, None] & mask[None, :]
        w = tl.load(weight + channel * WIDTH + k, mask=mask, other=0.0)
        y += w[None, :] * tl.load(x + batch * x_b + row[:, None] * x_l + channel[None, :], mask=inside, other=0.0)
    target = out + batch * out_b + token[:, None] * out_l + channel[None, :]
    tl.store(target, y * sigmoid(y), mask=(token < L)[:, None] & mask[None, :])


@triton.jit
def _backward(
    grad, x, weight, bias, grad_x, partial, L, D, grad_b, grad_l, x_b, x_l, gx_b, gx_l,
    WIDTH: tl.constexpr, TOKENS: tl.constexpr, TILES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """grad_x of TILES * TOKENS tokens; partial (programs, WIDTH + 1, D): their sums for weight and bias."""
    parts = tl.cdiv(L, TOKENS * TILES)
    blocks = tl.cdiv(D, BLOCK)
    pid = tl.program_id(0).to(tl.int64)
    channel = (pid % blocks) * BLOCK + tl.arange(0, BLOCK)
    batch = pid // blocks // parts
    begin = (pid // blocks) % parts * (TOKENS * TILES)
    mask = channel < D
    offset = tl.load(bias + channel, mask=mask, other=0.0)[None, :]
    x += batch * x_b
    grad += batch * grad_b
    sums = ()
    for _ in tl.static_range(WIDTH + 1):
        sums = sums + (tl.zeros([TOKENS, BLOCK], tl.float32),)
    for tile in range(tl.minimum(TILES, tl.cdiv(L - begin, TOKENS)).to(tl.int32)):
        token = begin + tile * TOKENS + tl.arange(0, TOKENS)
        rows = ()  # x at token - (WIDTH - 1) ... token + (WIDTH - 1)
        for k in tl.static_range(2 * WIDTH - 1):
            row = token + (k - WIDTH + 1)
            inside = ((row >= 0) & (row < L))[:, None] & mask[None, :]
            rows = rows + (tl.load(x + row[:, None] * x_l + channel[None, :], mask=inside, other=0.0).to(tl.float32),)
        gx = tl.zeros([TOKENS, BLOCK], tl.float32)
        for s in tl.static_range(WIDTH):  # what output token + s asks of x at token
            y = tl.zeros([TOKENS, BLOCK], tl.float32) + offset
            for k in tl.static_range(WIDTH):
                y += tl.load(weight + channel * WIDTH + k, mask=mask, other=0.0)[None, :] * rows[s + k]
            sig = sigmoid(y)
            inside = (token + s < L)[:, None] & mask[None, :]
            g = tl.load(grad + (token + s)[:, None] * grad_l + channel[None, :], mask=inside, other=0.0).to(tl.float32)
            g *= sig * (1.0 + y * (1.0 - sig))
            gx += g * tl.load(weight + channel * WIDTH + WIDTH - 1 - s, mask=mask, other=0.0)[None, :]
            if s == 0:
                new = ()
                for k in tl.static_range(WIDTH):
                    new = new + (sums[k] + g * rows[k],)
                sums = new + (sums[WIDTH] + g,)
        target = grad_x + batch * gx_b + token[:, None] * gx_l + channel[None, :]
        tl.store(target, gx, mask=(token < L)[:, None] & mask[None, :])
    part = partial + pid // blocks * (WIDTH + 1) * D
    for k in tl.static_range(WIDTH + 1):
        tl.store(part + k * D + channel, tl.sum(sums[k], 0), mask=mask)


def conv_silu(x: Tensor, weight: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
    """silu(causal convolution) of x (batch, L, channels) with contiguous last axis; weight (channels, 1, width)."""
    batch, length, channels = x.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
    block = min(64, max(16, triton.next_power_of_2(channels)))
    _forward[(batch * triton.cdiv(length, TOKENS) * triton.cdiv(channels, block),)](
        x, weight, bias, out, length, channels, x.stride(0), x.stride(1), out.stride(0), out.stride(1),
        WIDTH=weight.shape[-1], TOKENS=TOKENS, BLOCK=block, num_warps=4,
    )  # fmt: skip
    return out


def conv_silu_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, grad_x: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (written to `grad_x` if given; it must not share memory with x or grad), weight and bias."""
    batch, length, channels = x.shape
    width = weight.shape[-1]
    grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device) if grad_x is None else grad_x
    block = min(32, max(16, triton.next_power_of_2(channels)))
    tiles = TILES if batch * length * channels > 1 << 24 else 1
    parts = batch * triton.cdiv(length, TOKENS * tiles)
    partial = torch.empty(parts, width + 1, channels, device=x.device)
    _backward[(parts * triton.cdiv(channels, block),)](
        grad, x, weight, bias, grad_x, partial,
        length, channels, grad.stride(0), grad.stride(1), x.stride(0), x.stride(1),
        grad_x.stride(0), grad_x.stride(1), WIDTH=width, TOKENS=TOKENS, TILES=tiles, BLOCK=block, num_warps=4,
    )  # fmt: skip
    sums = partial.sum(0)
    return grad_x, sums[:width].t().unsqueeze(1), sums[width]
