"""The selective scan in plain torch operations, for the CPU and any other device without a kernel.

The sequence is cut into blocks and each block into `n` chunks of `STEPS` tokens. The chunks of a block advance
together, one token at a time, from a zero start; a tree over the chunks gives every chunk its true start, whose decayed
value is then added. Python therefore makes STEPS + log(n) calls per block of thousands of tokens, never one per token.
No cumulative product is divided by, so long memory and fast decay are as exact as in the recurrence. The backward pass
keeps one state per block, recomputes the states inside a block and runs the adjoint recurrence with the same code,
reversed in time.

Inside a block, tensors are (STEPS, d_state, batch, d_inner, n): the chunks lie innermost, so that every operation is
one long vector loop.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

STEPS = 16  # tokens a chunk; 16 was the fastest of 8, 16, 32, 64 on two cores at (1, 64, 32768)
BLOCK_ELEMENTS = 1 << 20  # d_state * batch * d_inner * tokens of a block: 4 MiB in float32


def _block_length(batch: int, channels: int, states: int) -> int:
    return max(1, BLOCK_ELEMENTS // (batch * channels * states * STEPS)) * STEPS


def _fold(x: Tensor, steps: int) -> Tensor:
    """(batch, tokens, channels) -> (steps, batch, channels, n); tokens past the end become zero: no input, no decay."""
    batch, tokens, channels = x.shape
    chunks = -(-tokens // steps)
    if chunks * steps != tokens:
        x = F.pad(x, (0, 0, 0, chunks * steps - tokens))
    return x.reshape(batch, chunks, steps, channels).permute(2, 0, 3, 1).contiguous()


def _unfold(x: Tensor, tokens: int) -> Tensor:
    """Undo `_fold`."""
    steps, batch, channels, chunks = x.shape
    return x.permute(1, 3, 0, 2).reshape(batch, chunks * steps, channels)[:, :tokens]


def _carry(decay: Tensor, state: Tensor) -> Tensor:
    """Inclusive scan s_k = decay_k s_{k-1} + state_k along the last axis, as a tree of pairs (2n work)."""
    n = state.shape[-1]
    if n == 1:
        return state
    even, odd = slice(0, n - n % 2, 2), slice(1, None, 2)
    pair_states = torch.addcmul(state[..., odd], decay[..., odd], state[..., even])
    pairs = _carry(decay[..., odd] * decay[..., even], pair_states)
    result = torch.empty_like(state)
    result[..., odd] = pairs
    result[..., 0] = state[..., 0]
    rest = result[..., 2::2]
    torch.addcmul(state[..., 2::2], decay[..., 2::2], pairs[..., : rest.shape[-1]], out=rest)
    return result


def _scan_block(decay: Tensor, states: Tensor, start: Tensor, reverse: bool = False) -> tuple[Tensor, Tensor]:
    """Turn the inputs of a block into its states, in place: states_t = decay_t states_{t-1} + inputs_t.

    Args:
        decay: (steps, d_state, batch, d_inner, n).
        states: the inputs, same shape; overwritten by the states.
        start: state before the first token, (d_state, batch, d_inner).
        reverse: run from the last token to the first.

    Returns:
        The state before each chunk, (d_state, batch, d_inner, n); that after the block, (d_state, batch, d_inner).
    """
    order = list(range(decay.shape[0]))[:: -1 if reverse else 1]
    reach = torch.empty_like(decay)  # decay accumulated since the chunk's beginning
    reach[order[0]] = decay[order[0]]
    for previous, t in itertools.pairwise(order):
        states[t].addcmul_(decay[t], states[previous])
        torch.mul(decay[t], reach[previous], out=reach[t])
    total, last = reach[order[-1]], states[order[-1]]
    if reverse:
        total, last = total.flip(-1), last.flip(-1)
    last = torch.cat([torch.addcmul(last[..., :1], total[..., :1], start.unsqueeze(-1)), last[..., 1:]], dim=-1)
    ends = _carry(total, last)
    starts = torch.cat([start.unsqueeze(-1), ends[..., :-1]], dim=-1)
    if reverse:
        starts = starts.flip(-1)
    states.addcmul_(reach, starts)
    return starts, ends[..., -1]


def _states(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Decays and states of one folded block, (steps, d_state, batch, d_inner, n), and what `_scan_block` returns."""
    decay = (delta.unsqueeze(1) * A.t()[None, :, None, :, None]).exp_()
    states = x.unsqueeze(1) * B.transpose(1, 2).unsqueeze(3)
    starts, end = _scan_block(decay, states, start)
    return decay, states, starts, end


def _adjoints(decay: Tensor, grad: Tensor, C: Tensor, behind: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """g_t = dL/dh_t and q_t = decay_t g_t of one folded block, and the first q for the block before it.

    The recurrence g_t = C_t dL/dy_t + q_{t+1} is run on q, which uses each decay at its own token.
    """
    g = grad.unsqueeze(1) * C.transpose(1, 2).unsqueeze(3)
    q = decay * g
    starts, end = _scan_block(decay, q, behind, reverse=True)
    g[:-1] += q[1:]
    g[-1] += starts
    return g, q, end


@torch.library.custom_op("umamba::recurrence", mutates_args=())
def recurrence(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """y_t = <C_t, h_t> with h_t = exp(delta_t A) h_{t-1} + x_t B_t; all tensors of one dtype.

    One operation to torch.compile, which would unroll the loop over blocks.

    Returns:
        y, (batch, L, d_inner); the state before each block, (blocks, d_state, batch, d_inner).
    """
    batch, length, channels = x.shape
    size = _block_length(batch, channels, A.shape[1])
    y = x.new_empty(x.shape)
    state = x.new_zeros(A.shape[1], batch, channels)
    starts = []
    for begin in range(0, length, size):
        part = slice(begin, min(begin + size, length))
        tokens = part.stop - begin
        steps = min(STEPS, tokens)
        starts.append(state)
        fold = [_fold(t[:, part], steps) for t in (x, delta, B, C)]
        _, states, _, state = _states(fold[0], fold[1], A, fold[2], state)
        states.mul_(fold[3].transpose(1, 2).unsqueeze(3))
        y[:, part] = _unfold(states.sum(1), tokens)
    return y, torch.stack(starts)


@torch.library.custom_op("umamba::recurrence_backward", mutates_args=())
def recurrence_backward(
    grad: Tensor, starts: Tensor, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, delta, A, B and C from that of y."""
    batch, length, channels = x.shape
    size = _block_length(batch, channels, A.shape[1])
    grad_x, grad_delta, grad_B, grad_C = (t.new_empty(t.shape) for t in (x, delta, B, C))
    grad_A = A.new_zeros(A.shape)
    adjoint = torch.zeros_like(starts[0])  # decay_{t+1} dL/dh_{t+1} of the first token behind the block
    for index in reversed(range(len(starts))):
        part = slice(index * size, min((index + 1) * size, length))
        tokens = part.stop - part.start
        steps = min(STEPS, tokens)
        xs, deltas, Bs, Cs, grads = (_fold(t[:, part], steps) for t in (x, delta, B, C, grad))
        decay, states, before, _ = _states(xs, deltas, A, Bs, starts[index])
        g, q, adjoint = _adjoints(decay, grads, Cs, adjoint)
        b = Bs.transpose(1, 2).unsqueeze(3)  # (steps, d_state, batch, 1, n)
        grad_C[:, part] = _unfold((states * grads.unsqueeze(1)).sum(3).transpose(1, 2), tokens)
        grad_B[:, part] = _unfold((g * xs.unsqueeze(1)).sum(3).transpose(1, 2), tokens)
        grad_x[:, part] = _unfold((g * b).sum(1), tokens)
        # dL/d(delta_t A) = q_t h_{t-1}; as g_t (h_t - x_t B_t) it would cancel where the decay is strong
        q[0] *= before
        q[1:] *= states[:-1]
        grad_delta[:, part] = _unfold((q * A.t()[None, :, None, :, None]).sum(1), tokens)
        grad_A += (q * deltas.unsqueeze(1)).sum((0, 2, 4)).t()
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
    return tuple(t.new_empty(t.shape) for t in (x, delta, A, B, C))


def _keep(ctx: FunctionCtx, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], *inputs)


def _backward(ctx: FunctionCtx, grad: Tensor, _: Tensor | None) -> tuple[Tensor, ...]:
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
