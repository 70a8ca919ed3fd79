"""Gluon kernels of the selective scan over chunks: end states, outputs, and the adjoints' counterpart of the former.

L is cut into chunks of T tokens. `replay` without outputs runs each chunk from a zero start, `carry`
(triton_carry.py) scans over the chunks and gives each its true start, and `replay` with outputs runs each chunk again
from there; where the chunks are few, it finds the start itself from the ends. Nothing larger than one state per chunk
is written besides the output. The next TOKENS tokens are loaded while the present ones are worked on.

Names: u, delta, z, out (batch, L, channels) with any batch and row stride; B, C (batch, L, d_state) likewise; A
(channels, d_state) float32; ends, starts (batch, chunks, d_state, channels) float32; totals (batch, chunks, channels)
float32, the sum of delta over a chunk. With RANK > 0 `delta` is (batch, L, RANK) and is projected by `weight`
(channels, RANK) inside the kernels, so that the (batch, L, channels) step sizes never pass through memory.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from umamba.models.mamba.kernels.arithmetic import LOG2E, sigmoid
from umamba.models.mamba.kernels.device import (
    join,
    load_or_zero,
    load_projection,
    load_rows,
    load_small,
    load_steps,
    raw_step,
    step_size,
)

# Triton compiles a kernel anew for numbers that are 1 or multiples of 16. Of widths and strides of maps that tells how
# wide loads can be; these other numbers differ from stage to stage of a network to no use.
LENGTHS = ("L", "chunks", "T")
ROWS_OF_STATES = ("B_b", "B_l", "C_b", "C_l")


@gluon.constexpr_function
def states_of_channels(N_PAD, CHANNELS):
    """Layout of a (d_state, channels) tile: all states of a channel, and one or two channels, in a lane."""
    return gl.BlockedLayout([N_PAD, CHANNELS // 32], [1, 32], [1, 1], [0, 1])


@gluon.jit
def place(L, D, chunks, T, tile_l: gl.constexpr, N_PAD: gl.constexpr, CHANNELS: gl.constexpr):
    """Where a program works: numbers of the states, batch entry, chunk, its first token and length, channels, and which
    of these exist.
    """
    blocks = gl.cdiv(D, CHANNELS)
    pid = gl.program_id(0).to(gl.int64)
    chunk = (pid // blocks) % chunks
    batch = pid // (blocks * chunks)
    first = chunk * T
    length = gl.minimum(L - first, T).to(gl.int32)
    n = gl.arange(0, N_PAD, layout=gl.SliceLayout(1, tile_l))
    channel = (pid % blocks).to(gl.int32) * CHANNELS + gl.arange(0, CHANNELS, layout=gl.SliceLayout(0, tile_l))
    return n, batch, chunk, first, length, channel, channel < D


@gluon.jit
def load_weights(A, weight, bias, n, channel, mask, N: gl.constexpr, RANK: gl.constexpr):
    """A log2(e), the step size's projection as RANK vectors, and its bias or zeros."""
    both = (n < N)[:, None] & mask[None, :]
    decay = gl.load(A + channel[None, :] * N + n[:, None], mask=both, other=0.0) * LOG2E
    return decay, load_projection(weight, channel, mask, RANK), load_or_zero(bias, channel, mask)


@gluon.jit
def shared_rows(ROWS: gl.constexpr, COLUMNS: gl.constexpr):
    """Shared memory for rows of float32 numbers, and row and column of its elements, spread over the lanes."""
    flat_l: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    shared_l: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, order=[0])
    element = gl.arange(0, ROWS * COLUMNS, layout=flat_l)
    return gl.allocate_shared_memory(gl.float32, [ROWS * COLUMNS], shared_l), element // COLUMNS, element % COLUMNS


@gluon.jit(do_not_specialize=[*LENGTHS, *ROWS_OF_STATES])
def replay(
    u, delta, A, B, C, skip, z, weight, bias, starts, ends, totals, out,
    L, D, chunks, u_b, u_l, delta_b, delta_l, B_b, B_l, C_b, C_l, z_b, z_l, out_b, out_l,
    T, N: gl.constexpr, N_PAD: gl.constexpr, RANK: gl.constexpr, RANK_PAD: gl.constexpr,
    SOFTPLUS: gl.constexpr, OUTPUT: gl.constexpr, CHANNELS: gl.constexpr, TOKENS: gl.constexpr,
):  # fmt: skip
    """Run one chunk of one channel block.

    Without OUTPUT run it from zero and write the state behind it to `ends` and the sum of delta to `totals`. With, run
    it from `starts`, or from what the `ends` of earlier chunks come to, or if both are None from zero, and write out =
    (<C, h> + skip u) silu(z), which may be `u` or `z` itself.
    """
    tile_l: gl.constexpr = states_of_channels(N_PAD, CHANNELS)
    state_l: gl.constexpr = gl.SliceLayout(1, tile_l)
    n, batch, chunk, first, length, channel, mask = place(L, D, chunks, T, tile_l, N_PAD, CHANNELS)
    both = (n < N)[:, None] & mask[None, :]
    state = (batch * chunks + chunk) * N * D + n[:, None] * D + channel[None, :]
    decay, w, offset = load_weights(A, weight, bias, n, channel, mask, N, RANK)
    shared_B, flat_row, flat_n = shared_rows(TOKENS, N_PAD)
    shared_C, _, _ = shared_rows(TOKENS, N_PAD)
    shared_dt, rank_row, rank_r = shared_rows(TOKENS, RANK_PAD)
    u += batch * u_b + first * u_l
    delta += batch * delta_b + first * delta_l
    B += batch * B_b + first * B_l
    if starts is not None:
        h = gl.load(starts + state, mask=both, other=0.0)
    elif OUTPUT and (ends is not None):
        h = join(ends, totals, decay, batch * chunks, chunk.to(gl.int32), 1, D, N, n, channel, mask)
    else:
        h = gl.full([N_PAD, CHANNELS], 0.0, gl.float32, tile_l)
    next_steps = load_steps(delta, delta_l, 0, length, channel, mask, rank_row, rank_r, TOKENS, RANK)
    next_values = load_rows(u, u_l, 0, length, channel, mask, TOKENS)
    next_B = load_small(B, B_l, 0, length, flat_row, flat_n, N)
    if OUTPUT:
        C += batch * C_b + first * C_l
        out += batch * out_b + first * out_l
        direct = load_or_zero(skip, channel, mask)
        next_C = load_small(C, C_l, 0, length, flat_row, flat_n, N)
        if z is not None:
            z += batch * z_b + first * z_l
            next_gates = load_rows(z, z_l, 0, length, channel, mask, TOKENS)
    else:
        total = gl.full([CHANNELS], 0.0, gl.float32, gl.SliceLayout(0, tile_l))
    for begin in range(0, length, TOKENS):
        steps = next_steps
        values = next_values
        shared_B.store(next_B)
        if RANK > 0:
            shared_dt.store(steps)
        next_steps = load_steps(delta, delta_l, begin + TOKENS, length, channel, mask, rank_row, rank_r, TOKENS, RANK)
        next_values = load_rows(u, u_l, begin + TOKENS, length, channel, mask, TOKENS)
        next_B = load_small(B, B_l, begin + TOKENS, length, flat_row, flat_n, N)
        if OUTPUT:
            shared_C.store(next_C)
            next_C = load_small(C, C_l, begin + TOKENS, length, flat_row, flat_n, N)
            if z is not None:
                gates = next_gates
                next_gates = load_rows(z, z_l, begin + TOKENS, length, channel, mask, TOKENS)
        for k in gl.static_range(TOKENS):
            inside = mask & (begin + k < length)
            step = step_size(raw_step(steps, shared_dt, w, offset, k, RANK, RANK_PAD), inside, SOFTPLUS)
            b = shared_B.slice(k * N_PAD, N_PAD).load(state_l)
            h = gl.exp2(step[None, :] * decay) * h + (step * values[k])[None, :] * b[:, None]
            if OUTPUT:
                c = shared_C.slice(k * N_PAD, N_PAD).load(state_l)
                y = direct * values[k] + gl.sum(h * c[:, None], 0)
                if z is not None:
                    y *= gates[k] * sigmoid(gates[k])
                gl.store(out + (begin + k) * out_l + channel, y, mask=inside)
            else:
                total += step
    if not OUTPUT:
        gl.store(ends + state, h, mask=both)
        gl.store(totals + (batch * chunks + chunk) * D + channel, total, mask=mask)


@gluon.jit(do_not_specialize=[*LENGTHS, "C_b", "C_l"])
def adjoint_ends(
    grad, delta, A, C, z, weight, bias, ends,
    L, D, chunks, grad_b, grad_l, delta_b, delta_l, C_b, C_l, z_b, z_l,
    T, N: gl.constexpr, N_PAD: gl.constexpr, RANK: gl.constexpr, RANK_PAD: gl.constexpr,
    SOFTPLUS: gl.constexpr, CHANNELS: gl.constexpr, TOKENS: gl.constexpr,
):  # fmt: skip
    """The adjoint recurrence of one chunk from zero behind it: ends = q_t = decay_t dL/dh_t at its first token.

    dL/dh_t = C_t dL/dy_t + q_{t+1}.
    """
    tile_l: gl.constexpr = states_of_channels(N_PAD, CHANNELS)
    state_l: gl.constexpr = gl.SliceLayout(1, tile_l)
    n, batch, chunk, first, length, channel, mask = place(L, D, chunks, T, tile_l, N_PAD, CHANNELS)
    both = (n < N)[:, None] & mask[None, :]
    decay, w, offset = load_weights(A, weight, bias, n, channel, mask, N, RANK)
    shared_C, flat_row, flat_n = shared_rows(TOKENS, N_PAD)
    shared_dt, rank_row, rank_r = shared_rows(TOKENS, RANK_PAD)
    grad += batch * grad_b + first * grad_l
    delta += batch * delta_b + first * delta_l
    C += batch * C_b + first * C_l
    q = gl.full([N_PAD, CHANNELS], 0.0, gl.float32, tile_l)
    begin = (length - 1) // TOKENS * TOKENS
    next_steps = load_steps(delta, delta_l, begin, length, channel, mask, rank_row, rank_r, TOKENS, RANK)
    next_grads = load_rows(grad, grad_l, begin, length, channel, mask, TOKENS)
    next_C = load_small(C, C_l, begin, length, flat_row, flat_n, N)
    if z is not None:
        z += batch * z_b + first * z_l
        next_gates = load_rows(z, z_l, begin, length, channel, mask, TOKENS)
    for back in range(0, length, TOKENS):
        begin = (length - 1) // TOKENS * TOKENS - back
        steps = next_steps
        grads = next_grads
        shared_C.store(next_C)
        if RANK > 0:
            shared_dt.store(steps)
        ahead = gl.maximum(begin - TOKENS, 0)  # the last round loads the first tokens once more, unused
        next_steps = load_steps(delta, delta_l, ahead, length, channel, mask, rank_row, rank_r, TOKENS, RANK)
        next_grads = load_rows(grad, grad_l, ahead, length, channel, mask, TOKENS)
        next_C = load_small(C, C_l, ahead, length, flat_row, flat_n, N)
        if z is not None:
            gates = next_gates
            next_gates = load_rows(z, z_l, ahead, length, channel, mask, TOKENS)
        for i in gl.static_range(TOKENS):
            raw = raw_step(steps, shared_dt, w, offset, TOKENS - 1 - i, RANK, RANK_PAD)
            step = step_size(raw, mask & (begin + TOKENS - 1 - i < length), SOFTPLUS)
            gy = grads[TOKENS - 1 - i]
            if z is not None:
                gy *= gates[TOKENS - 1 - i] * sigmoid(gates[TOKENS - 1 - i])
            c = shared_C.slice((TOKENS - 1 - i) * N_PAD, N_PAD).load(state_l)
            q = gl.exp2(step[None, :] * decay) * (c[:, None] * gy[None, :] + q)
    gl.store(ends + (batch * chunks + chunk) * N * D + n[:, None] * D + channel[None, :], q, mask=both)
