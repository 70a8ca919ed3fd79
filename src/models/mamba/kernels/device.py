"""Device functions of the selective scan's Gluon kernels.

Gluon is the layer of Triton where layouts are explicit. A program is one warp with a block of channels across its
lanes; the states of a channel lie in one lane's registers as the columns of a (d_state, channels) tile, so that sums
over the states need no communication. B_t and C_t, which all channels share, are read from shared memory.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy

from umamba.models.mamba.kernels.arithmetic import LOG2E

# Triton 3.8 renamed it
copy_to_shared = getattr(async_copy, "async_load", None) or async_copy.async_copy_global_to_shared


@gluon.jit
def softplus(x):
    """max(x, 0) + log1p(exp(-|x|)), relative error 2e-7 also for steps of 1e-5, where log(1 + e) keeps three digits.

    log1p(e) / e is a Chebyshev interpolant of degree 8 on [0, 1] (error 3e-8).
    """
    e = gl.exp2(-LOG2E * gl.abs(x))
    p = 0.00512610212 * e - 0.0290740646
    p = p * e + 0.0775160866
    p = p * e - 0.136022476
    p = p * e + 0.190768807
    p = p * e - 0.24835399
    p = p * e + 0.333181217
    p = p * e - 0.49999445
    p = p * e + 0.999999966
    return gl.maximum(x, 0.0) + e * p


@gluon.jit
def one_minus_exp(x):
    """1 - exp(-x) for x >= 0, without cancellation below 1/2 (interpolant of degree 5, error 2e-9): softplus' from
    softplus.
    """
    p = -0.00112340422 * x + 0.00818961363
    p = p * x - 0.0416300728
    p = p * x + 0.166662419
    p = p * x - 0.499999819
    p = p * x + 0.999999999
    return gl.where(x < 0.5, x * p, 1.0 - gl.exp2(-LOG2E * x))


@gluon.jit
def step_size(raw, mask, SOFTPLUS: gl.constexpr):
    if SOFTPLUS:
        raw = softplus(raw)
    return gl.where(mask, raw, 0.0)


@gluon.jit
def load_or_zero(pointer, channel, mask):
    if pointer is None:
        return gl.full(channel.shape, 0.0, gl.float32, channel.type.layout)
    else:
        return gl.load(pointer + channel, mask=mask, other=0.0).to(gl.float32)


@gluon.jit
def load_projection(weight, channel, mask, RANK: gl.constexpr):
    """Columns of a (channels, RANK) matrix."""
    columns = ()
    for r in gl.static_range(RANK):
        columns = columns + (gl.load(weight + channel * RANK + r, mask=mask, other=0.0),)
    return columns


@gluon.jit
def load_rows(pointer, stride, begin, length, channel, mask, COUNT: gl.constexpr):
    """Rows begin ... begin + COUNT - 1 of a (length, channels) matrix as float32 vectors; zero behind its end."""
    rows = ()
    for k in gl.static_range(COUNT):
        inside = mask & (begin + k < length)
        rows = rows + (gl.load(pointer + (begin + k) * stride + channel, mask=inside, other=0.0).to(gl.float32),)
    return rows


@gluon.jit
def load_steps(pointer, stride, begin, length, channel, mask, row, r, COUNT: gl.constexpr, RANK: gl.constexpr):
    """What the step sizes of COUNT tokens are made of: a row a token, or RANK numbers a token spread over the lanes."""
    if RANK == 0:
        return load_rows(pointer, stride, begin, length, channel, mask, COUNT)
    else:
        return load_small(pointer, stride, begin, length, row, r, RANK)


@gluon.jit
def raw_step(rows, shared, w, bias, k: gl.constexpr, RANK: gl.constexpr, RANK_PAD: gl.constexpr):
    """Step size before softplus of the k-th of these tokens: its row, or projected from RANK numbers in `shared`."""
    if RANK == 0:
        return rows[k] + bias
    else:
        raw = bias
        for r in gl.static_range(RANK):
            raw += shared.slice(k * RANK_PAD + r, 1).load(bias.type.layout) * w[r]
        return raw


@gluon.jit
def shared_row(shared, k: gl.constexpr, like):
    """The k-th row in `shared`, as a float32 vector as long and laid out as `like`."""
    COLUMNS: gl.constexpr = like.shape[0]
    return shared.slice(k * COLUMNS, COLUMNS).load(like.type.layout).to(gl.float32)


@gluon.jit
def shared_step(shared, w, bias, k: gl.constexpr, RANK: gl.constexpr, RANK_PAD: gl.constexpr):
    """`raw_step` where rows, too, are in `shared`."""
    if RANK == 0:
        return shared_row(shared, k, bias) + bias
    else:
        return raw_step(None, shared, w, bias, k, RANK, RANK_PAD)


@gluon.jit
def load_small(pointer, stride, begin, length, row, n, N: gl.constexpr):
    """B or C of some tokens, spread over the lanes."""
    inside = (n < N) & (begin + row < length)
    return gl.load(pointer + (begin + row) * stride + n, mask=inside, other=0.0).to(gl.float32)


@gluon.jit
def fetch(shared, pointer, stride, begin, length, elements):
    """Bring rows begin ... of a (length, columns) matrix to `shared`, zero behind its end.

    `elements` holds the row behind `begin` and the column of every element of `shared`, and whether the column exists.
    Where `shared` has the matrix's dtype the copy is asynchronous: it passes by the registers and is waited for by
    group. Such a copy moves 4 bytes or more, so with half precision whoever allocates `shared` makes sure that the
    elements of a lane lie side by side.
    """
    row, column, inside = elements
    source = pointer + (begin + row) * stride + column
    exists = inside & (begin + row < length)
    if shared.dtype == pointer.dtype.element_ty:
        copy_to_shared(shared, source, mask=exists)
    else:
        shared.store(gl.load(source, mask=exists, other=0.0).to(shared.dtype))


@gluon.jit
def join(ends, totals, decay, first, count, step: gl.constexpr, D, N: gl.constexpr, n, channel, mask):
    """The state at a boundary, of all that `count` chunks end with when started at zero: those of slots `first`, first
    + step, ..., the farthest first. `decay` includes log2(e). A few chunks are loaded together.
    """
    TOGETHER: gl.constexpr = 4
    both = (n < N)[:, None] & mask[None, :]
    state = gl.full([n.shape[0], channel.shape[0]], 0.0, gl.float32, decay.type.layout)
    for begin in range(0, count, TOGETHER):
        sums = ()
        ends_here = ()
        for i in gl.static_range(TOGETHER):
            slot = first + step * (begin + i)
            there = begin + i < count
            sums = sums + (gl.load(totals + slot * D + channel, mask=mask & there, other=0.0),)
            place = ends + slot * N * D + n[:, None] * D + channel[None, :]
            ends_here = ends_here + (gl.load(place, mask=both & there, other=0.0),)
        for i in gl.static_range(TOGETHER):
            state = gl.exp2(sums[i][None, :] * decay) * state + ends_here[i]
    return state
