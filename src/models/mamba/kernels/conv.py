"""Depthwise causal convolution and SiLU on channels-last sequences, forward and backward, in Triton.

The backward pass forms the convolution again instead of keeping it, writes the gradient of the input over the input,
and sums the weight gradients per program and then over programs in a fixed order. Maps are float32 or half precision,
arithmetic is float32.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from umamba.models.mamba.kernels.arithmetic import sigmoid
from umamba.models.mamba.kernels.launch import LAUNCHES_KEPT, Description, Launch, describe
from umamba.models.mamba.kernels.resident import device_of_index
from umamba.models.mamba.kernels.tiling import cdiv, next_power_of_2

TOKENS = 32  # a tile of the forward pass
WIDEST = 64  # channels a program
MANY_TOKENS, FEW_TOKENS = 256, 32  # a program of the backward pass
BUSY = 8  # programs of one warp that keep a multiprocessor busy
STEPS = 4  # tokens whose loads are under way together in the backward pass


@triton.jit(do_not_specialize=["L", "chunks", "T"])
def _forward(
    x, weight, bias, out, edges, L, D, chunks, T, x_b, x_l, out_b, out_l,
    WIDTH: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = silu(convolution of x). `edges` (batch, chunks + 1, 2 (WIDTH - 1), D), if given, receives the rows of x
    around the boundaries between chunks of T tokens.
    """
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
        value = tl.load(x + batch * x_b + row[:, None] * x_l + channel[None, :], mask=inside, other=0.0).to(tl.float32)
        y += w[None, :] * value
    inside = (token < L)[:, None] & mask[None, :]
    tl.store(out + batch * out_b + token[:, None] * out_l + channel[None, :], y * sigmoid(y), mask=inside)
    if edges is not None:
        phase = token % T
        behind = phase >= T - (WIDTH - 1)  # before the next boundary
        boundary = token // T + tl.where(behind, 1, 0)
        place = tl.where(behind, phase - (T - (WIDTH - 1)), phase + WIDTH - 1)
        slot = (batch * (chunks + 1) + boundary) * (2 * WIDTH - 2) + place
        near = behind | (phase < WIDTH - 1)
        tl.store(edges + slot[:, None] * D + channel[None, :], value, mask=inside & near[:, None])


@triton.jit
def _turn(xs, gs, x, grad, w, offset, WIDTH: tl.constexpr):
    """One token on: the last WIDTH inputs, the last WIDTH gradients at the convolution's output, and silu of that."""
    xs = xs[1:] + (x,)
    y = offset
    for k in tl.static_range(WIDTH):
        y += w[k] * xs[k]
    sig = sigmoid(y)
    gs = gs[1:] + (grad * sig * (1.0 + y * (1.0 - sig)),)
    return xs, gs, y * sig


@triton.jit
def _input_gradient(gs, w, WIDTH: tl.constexpr):
    """What the outputs of WIDTH tokens ask of the input at the first of them."""
    total = gs[0] * w[WIDTH - 1]
    for s in tl.static_range(1, WIDTH):
        total += gs[s] * w[WIDTH - 1 - s]
    return total


@triton.jit(do_not_specialize=["L", "chunks", "T"])
def _backward(
    grad, x, edges, weight, bias, out, partial, L, D, chunks, T, grad_b, grad_l, x_b, x_l, out_b, out_l,
    WIDTH: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Walk over a chunk of T tokens, a multiple of STEPS: x becomes its gradient, out the forward pass's output.

    partial (batch * chunks, WIDTH + 1, D) receives the sums for weight and bias. The rows of x beyond the chunk, which
    other programs overwrite, come from `edges`.
    """
    LAG: tl.constexpr = WIDTH - 1
    blocks = tl.cdiv(D, BLOCK)
    pid = tl.program_id(0).to(tl.int64)
    channel = (pid % blocks) * BLOCK + tl.arange(0, BLOCK)
    chunk = (pid // blocks) % chunks
    batch = pid // blocks // chunks
    mask = channel < D
    first = chunk * T
    length = tl.minimum(L - first, T).to(tl.int32)
    x += batch * x_b + first * x_l + channel
    grad += batch * grad_b + first * grad_l + channel
    out += batch * out_b + first * out_l + channel
    edges += (batch * (chunks + 1) + chunk) * (2 * LAG * D) + channel
    offset = tl.load(bias + channel, mask=mask, other=0.0)
    zero = tl.zeros([BLOCK], tl.float32)
    w = ()
    xs = (zero,)
    gs = (zero,)
    sums = (zero,)
    for k in tl.static_range(WIDTH):
        w = w + (tl.load(weight + channel * WIDTH + k, mask=mask, other=0.0),)
        sums = sums + (zero,)
    for k in tl.static_range(LAG):
        xs = xs + (tl.load(edges + k * D, mask=mask & (chunk > 0), other=0.0).to(tl.float32),)
        gs = gs + (zero,)
    for begin in range(0, length, STEPS):
        rows = ()
        grads = ()
        for k in tl.static_range(STEPS):
            inside = mask & (begin + k < length)
            rows = rows + (tl.load(x + (begin + k) * x_l, mask=inside, other=0.0).to(tl.float32),)
            grads = grads + (tl.load(grad + (begin + k) * grad_l, mask=inside, other=0.0).to(tl.float32),)
        for k in tl.static_range(STEPS):
            xs, gs, y = _turn(xs, gs, rows[k], grads[k], w, offset, WIDTH)
            tl.store(out + (begin + k) * out_l, y, mask=mask & (begin + k < length))
            new = (sums[0] + gs[LAG],)
            for i in tl.static_range(WIDTH):
                new = new + (sums[i + 1] + gs[LAG] * xs[i],)
            sums = new
            ready = begin + k - LAG
            tl.store(x + ready * x_l, _input_gradient(gs, w, WIDTH), mask=mask & (ready >= 0) & (ready < length))
    end = tl.cdiv(length, STEPS) * STEPS
    for k in tl.static_range(LAG):  # the first tokens of the next chunk; behind the last one grad is zero
        inside = mask & (first + end + k < L)
        row = tl.load(edges + (3 * LAG + k) * D, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(grad + (end + k) * grad_l, mask=inside, other=0.0).to(tl.float32)
        xs, gs, y = _turn(xs, gs, row, value, w, offset, WIDTH)
        ready = end + k - LAG
        tl.store(x + ready * x_l, _input_gradient(gs, w, WIDTH), mask=mask & (ready >= 0) & (ready < length))
    part = partial + pid // blocks * (WIDTH + 1) * D + channel
    for k in tl.static_range(WIDTH + 1):
        tl.store(part + k * D, sums[k], mask=mask)


def chunk_tokens(shape: Sequence[int], device: int) -> int:
    """Tokens a program of the backward pass for (batch, L, channels): few where many would leave the device idle."""
    batch, length, channels = shape
    programs = batch * cdiv(length, MANY_TOKENS) * cdiv(channels, WIDEST)
    return MANY_TOKENS if programs >= BUSY * device_of_index(device).multiprocessors else FEW_TOKENS


def edge_shape(x: Tensor, channels: int, width: int) -> tuple[int, ...]:
    """Shape of the rows that `conv_silu` saves for `conv_silu_backward`, with the batch, L and device of x."""
    batch, length, _ = x.shape
    return batch, cdiv(length, chunk_tokens((batch, length, channels), x.get_device())) + 1, 2 * (width - 1), channels


@functools.lru_cache(maxsize=LAUNCHES_KEPT)
def _forward_launch(tensors: Description) -> Launch:
    """For x, weight, bias, out, edges."""
    shape, (*_, width) = tensors.shape(0), tensors.shape(1)
    batch, length, channels = shape
    block = min(WIDEST, max(16, next_power_of_2(channels)))
    tokens = chunk_tokens(shape, tensors.device)
    numbers = [length, channels, cdiv(length, tokens), tokens, *tensors.strides(0, 3)]
    grid = (batch * cdiv(length, TOKENS) * cdiv(channels, block),)
    constants = (width, TOKENS, block)
    types = tensors.types(*range(5))
    return Launch(_forward, tensors.device, grid, types, numbers, constants, num_warps=4)


@functools.lru_cache(maxsize=LAUNCHES_KEPT)
def _backward_launch(tensors: Description) -> Launch:
    """For grad, x, edges, weight, bias, out, partial."""
    shape, (*_, width) = tensors.shape(1), tensors.shape(3)
    batch, length, channels = shape
    block = min(WIDEST, max(32, next_power_of_2(channels)))
    tokens = chunk_tokens(shape, tensors.device)
    chunks = cdiv(length, tokens)
    grid = (batch * chunks * cdiv(channels, block),)
    numbers = [length, channels, chunks, tokens, *tensors.strides(0, 1, 5)]
    constants = (width, STEPS, block)
    types = tensors.types(*range(7))
    return Launch(_backward, tensors.device, grid, types, numbers, constants, num_warps=1)


def conv_silu(x: Tensor, weight: Tensor, bias: Tensor, edges: Tensor | None = None) -> Tensor:
    """silu(causal convolution) of x (batch, L, channels), last axis contiguous; weight (channels, 1, width)
    float32.

    `edges` (see `edge_shape`) receives what `conv_silu_backward` needs to overwrite x.
    """
    out = x.new_empty(x.shape)
    tensors, addresses = describe(x, weight, bias, out, edges)
    _forward_launch(tensors)(*addresses)
    return out


def conv_silu_backward(
    grad: Tensor, x: Tensor, edges: Tensor, weight: Tensor, bias: Tensor, out: Tensor
) -> tuple[Tensor, Tensor]:
    """Turn x into its gradient and `out` (which shares no memory with x and grad) into what `conv_silu` returned.

    Returns:
        gradients of weight and bias.
    """
    batch, _, channels = x.shape
    partial = weight.new_empty(batch * (edges.shape[1] - 1), weight.shape[-1] + 1, channels)
    tensors, addresses = describe(grad, x, edges, weight, bias, out, partial)
    _backward_launch(tensors)(*addresses)
    sums = partial.sum(0)
    return sums[1:].t().unsqueeze(1), sums[0]
