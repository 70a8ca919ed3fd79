"""The selective scan in plain torch operations, for the CPU and any other device without a kernel.

The sequence is cut into blocks and each block into `n` chunks of `STEPS` tokens. The chunks of a block advance
together, one step at a time: once from a zero start for their final states, which are joined from chunk to chunk, and
once more from the true start that this gives each of them. Python thus makes some hundred calls per block of thousands
of tokens. No cumulative product is divided by, so long memory and fast decay are as exact as in the recurrence. The
backward pass keeps one state per block, recomputes the states inside a block and runs the adjoint recurrence in the
same way, backwards in time.

Inside a block, tensors are (STEPS, d_state, batch, n, d_inner): sequences need not be reordered, and what belongs to
one step fits a core's second-level cache while its operations are done. Decays are powers of two with log2(e) folded
into A, because torch's exp2 takes a third of the time of its exp on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = 16  # tokens a chunk
BLOCK_ELEMENTS = 1 << 20  # d_state * batch * d_inner * tokens of a block: 4 MiB in float32


def _block_length(batch: int, channels: int, states: int) -> int:
    return max(1, BLOCK_ELEMENTS // (batch * channels * states * STEPS)) * STEPS


def _buffers(x: Tensor, states: int, count: int) -> list[Tensor]:
    """Memory for `count` tensors of a block's states; kept from block to block, since fresh pages cost time."""
    batch, length, channels = x.shape
    tokens = min(_block_length(batch, channels, states), -(-length // STEPS) * STEPS)
    return [x.new_empty(states * batch * channels * tokens) for _ in range(count)]


def _fold(x: Tensor, steps: int) -> Tensor:
    """(batch, tokens, channels) -> (steps, batch, n, channels); tokens past the end are zero: no input, no decay."""
    batch, tokens, channels = x.shape
    if tokens % steps:
        x = F.pad(x, (0, 0, 0, -tokens % steps))
    return x.reshape(batch, -1, steps, channels).permute(2, 0, 1, 3)


def _over_states(x: Tensor) -> Tensor:
    """(steps, batch, n, d_state) -> (steps, d_state, batch, n, 1)."""
    return x.movedim(-1, 1).unsqueeze(-1)


def _chunk_starts(total: Tensor, ends: Tensor, start: Tensor, reverse: bool = False) -> tuple[Tensor, Tensor]:
    """The state before each chunk (behind it if `reverse`) from what the chunks end with when started at zero.

    Args:
        total: decay over each chunk, (d_state, batch, n, d_inner).
        ends: final states from a zero start, same shape.
        start: state before the first chunk (behind the last), (d_state, batch, d_inner).
        reverse: run from the last chunk to the first.

    Returns:
        (d_state, batch, n, d_inner), and the state after all chunks, (d_state, batch, d_inner).
    """
    starts = torch.empty_like(ends)
    after = torch.empty_like(start)
    rows, last, decays = (list(t.unbind(-2))[:: -1 if reverse else 1] for t in (starts, ends, total))
    rows[0].copy_(start)
    for before, end, decay, behind in zip(rows, last, decays, [*rows[1:], after], strict=True):
        torch.addcmul(end, decay, before, out=behind)
    return starts, after


class _Block:
    """The states of one block of tokens, in buffers that the blocks of a sequence share.

    Args:
        x, delta, B: folded inputs, (steps, batch, n, d_inner or d_state).
        A: (d_inner, d_state).
        start: the state before the block, (d_state, batch, d_inner).
        buffers: two of `_buffers`.

    Attributes:
        rates: A log2(e), (d_state, 1, 1, d_inner).
        decay: for each step, (d_state, batch, n, d_inner).
        total: decay over each chunk, (d_state, batch, n, d_inner).
        starts: the state before each chunk, same shape.
        end: the state behind the block, (d_state, batch, d_inner).
    """

    def __init__(self, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, start: Tensor, buffers: list[Tensor]) -> None:
        self.rates = (A.t() * math.log2(math.e))[:, None, None, :]
        self.shape = (len(x), A.shape[1], *x.shape[1:])
        self.decay, self._states = (self.steps(b) for b in buffers)
        ends = x.new_zeros(self.shape[1:])
        for x_t, delta_t, B_t, decay, state in zip(x, delta, _over_states(B), self.decay, self._states, strict=True):
            torch.mul(delta_t, self.rates, out=decay).exp2_()
            torch.mul(x_t, B_t, out=state)
            torch.addcmul(state, decay, ends, out=ends)
        self.total = (delta.sum(0) * self.rates).exp2_()
        self.starts, self.end = _chunk_starts(self.total, ends, start)

    def steps(self, buffer: Tensor) -> tuple[Tensor, ...]:
        """`buffer` as a (d_state, batch, n, d_inner) for each step."""
        return buffer[: math.prod(self.shape)].view(self.shape).unbind(0)

    def states(self) -> Iterator[Tensor]:
        """The states of each step, (d_state, batch, n, d_inner); to be gone through before `before` is called."""
        state = self.starts
        for decay, inputs in zip(self.decay, self._states, strict=True):
            state = inputs.addcmul_(decay, state)
            yield state

    def before(self, t: int) -> Tensor:
        """The states before step t."""
        return self._states[t - 1] if t else self.starts


@torch.library.custom_op("umamba::recurrence", mutates_args=())
def recurrence(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """y_t = <C_t, h_t> with h_t = exp(delta_t A) h_{t-1} + x_t B_t; all tensors of one dtype.

    One operation to torch.compile, which would unroll the loop over blocks.

    Returns:
        y, (batch, L, d_inner); the state before each block, (blocks, d_state, batch, d_inner).
    """
    batch, length, channels = x.shape
    size = _block_length(batch, channels, A.shape[1])
    buffers = _buffers(x, A.shape[1], 2)
    y = x.new_empty(x.shape)
    state = x.new_zeros(A.shape[1], batch, channels)
    starts = []
    for begin in range(0, length, size):
        part = slice(begin, min(begin + size, length))
        tokens = part.stop - begin
        steps = min(STEPS, tokens)
        starts.append(state)
        xs, deltas, Bs, Cs = (_fold(t[:, part], steps) for t in (x, delta, B, C))
        block = _Block(xs, deltas, A, Bs, state, buffers)
        state = block.end
        work = torch.empty_like(block.starts)
        products = zip(block.states(), _over_states(Cs), strict=True)  # a product and a sum: bmm is slow at 16 x 16
        out = torch.stack([torch.mul(h, c, out=work).sum(0) for h, c in products], dim=2)
        y[:, part] = out.flatten(1, 2)[:, :tokens]
    return y, torch.stack(starts)


@torch.library.custom_op("umamba::recurrence_backward", mutates_args=())
def recurrence_backward(
    grad: Tensor, starts: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, delta, A, B and C from that of y.

    With g_t = dL/dh_t = C_t dL/dy_t + decay_{t+1} g_{t+1}, whose last term comes from the next chunk at a chunk's end.
    """
    batch, length, channels = x.shape
    size = _block_length(batch, channels, A.shape[1])
    *buffers, third = _buffers(x, A.shape[1], 3)
    gradients = tuple(t.new_empty(t.shape) for t in (x, delta, B, C))
    grad_A = A.new_zeros(A.shape)
    adjoint = torch.zeros_like(starts[0])  # decay_{t+1} g_{t+1} of the first token behind the block
    for index in reversed(range(len(starts))):
        part = slice(index * size, min((index + 1) * size, length))
        tokens = part.stop - part.start
        steps = min(STEPS, tokens)
        xs, deltas, Bs, Cs, grads = (_fold(t[:, part], steps) for t in (x, delta, B, C, grad))
        block = _Block(xs, deltas, A, Bs, starts[index], buffers)
        folded = [t.new_empty(batch, t.shape[2], steps, t.shape[3]) for t in (xs, deltas, Bs, Cs)]
        out_x, out_delta, out_B, out_C = (t.permute(2, 0, 1, 3) for t in folded)
        g = block.steps(third)
        work = torch.empty_like(block.starts)
        for state, grad_t, out in zip(block.states(), grads, out_C, strict=True):
            out.copy_(torch.mul(state, grad_t, out=work).sum(-1).movedim(0, -1))
        ends = torch.zeros_like(work)
        backwards = range(steps - 1, -1, -1)
        for t, C_t in zip(backwards, _over_states(Cs).flip(0), strict=True):
            torch.mul(grads[t], C_t, out=g[t])
            torch.addcmul(g[t], block.decay[min(t + 1, steps - 1)], ends, out=ends)  # ends is zero at first
        carried, adjoint = _chunk_starts(block.total, ends.mul_(block.decay[0]), adjoint, reverse=True)
        sum_A = torch.zeros_like(work)
        for t, B_t in zip(backwards, _over_states(Bs).flip(0), strict=True):
            g_t = g[t].add_(carried)
            out_x[t] = torch.mul(g_t, B_t, out=work).sum(0)
            out_B[t] = torch.mul(g_t, xs[t], out=work).sum(-1).movedim(0, -1)
            carried = block.decay[t].mul_(g_t)
            # dL/d(delta_t A) = decay_t g_t h_{t-1}; as g_t (h_t - x_t B_t) it would cancel where the decay is strong
            torch.mul(carried, block.before(t), out=work)
            sum_A.addcmul_(work, deltas[t])
            out_delta[t] = work.mul_(block.rates).sum(0)
        grad_A += sum_A.sum((1, 2)).t()
        folded[1].mul_(math.log(2))  # the rates carry log2(e)
        for whole, block_part in zip(gradients, folded, strict=True):
            whole[:, part] = block_part.flatten(1, 2)[:, :tokens]
    grad_x, grad_delta, grad_B, grad_C = gradients
    return grad_x, grad_delta, grad_A, grad_B, grad_C


@recurrence.register_fake
def _(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    batch, length, channels = x.shape
    blocks = -(-length // _block_length(batch, channels, A.shape[1]))
    return x.new_empty(x.shape), x.new_empty(blocks, A.shape[1], batch, channels)


@recurrence_backward.register_fake
def _(
    grad: Tensor, starts: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grad_x, grad_delta, grad_A, grad_B, grad_C = (t.new_empty(t.shape) for t in (x, delta, A, B, C))
    return grad_x, grad_delta, grad_A, grad_B, grad_C


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], *inputs)


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor, ...]:
    return recurrence_backward(grad, *ctx.saved_tensors)


recurrence.register_autograd(_backward, setup_context=_keep)


def torch_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """`reference.reference_scan` with the same arguments and numbers, in memory O(batch L d_inner) plus one block."""
    dtype = torch.float64 if torch.float64 in (u.dtype, delta.dtype, A.dtype) else torch.float32
    x, delta, A, B, C = (t.to(dtype) for t in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)
    if delta_softplus:
        delta = F.softplus(delta)
    y = recurrence(delta * x, delta, A, B, C)[0]
    if D is not None:
        y = torch.addcmul(y, x, D.to(dtype))
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype)
