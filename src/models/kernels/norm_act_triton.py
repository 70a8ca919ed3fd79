"""Triton kernels of instance norm, residual sum and LeakyReLU, forward and backward.

A feature map is read as (batch, positions, channels) with any strides, so that channels-last and channels-first maps
of any dimension are one case: `row` is the stride of a position, `col` that of a channel, and an instance (one image of
the batch) is `instance` elements long. A program works on BLOCK channels of a chunk of positions, ROWS at a time.

Names: S positions, C channels; tables of an instance's channels are (batch, ..., C) float32. All arithmetic is float32;
every sum has a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _place(S, C, chunks, rows, instance, row, col, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The program's instance, chunk, first and last position, its channels, and where its tiles begin."""
    blocks = tl.cdiv(C, BLOCK)
    pid = tl.program_id(0).to(tl.int64)
    channel = (pid % blocks).to(tl.int32) * BLOCK + tl.arange(0, BLOCK)
    chunk = (pid // blocks) % chunks
    batch = pid // blocks // chunks
    first = chunk * rows
    length = tl.minimum(S - first, rows).to(tl.int32)
    tile = tl.arange(0, ROWS)[:, None] * row + channel[None, :] * col
    return batch, chunk, length, channel, batch * instance + first * row, tile


@triton.jit
def _inside(begin, length, channel, C, ROWS: tl.constexpr):
    return ((begin + tl.arange(0, ROWS)) < length)[:, None] & (channel < C)[None, :]


@triton.jit
def _merge(count_a, mean_a, m2_a, count_b, mean_b, m2_b):
    """Count, mean and sum of squared deviations of two samples together (Chan, Golub & LeVeque 1979)."""
    count = count_a + count_b
    share = tl.where(count > 0, count_b / tl.maximum(count, 1.0), 0.0)
    shift = mean_b - mean_a
    return count, mean_a + shift * share, m2_a + m2_b + shift * shift * count_a * share


@triton.jit
def _moments(x, tile, length, channel, C, row, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Count, mean and sum of squared deviations of each channel over the chunk: Welford's update in every place of the
    tile, the places merged at the end.
    """
    mean = tl.zeros([ROWS, BLOCK], tl.float32)
    m2 = tl.zeros([ROWS, BLOCK], tl.float32)
    turns = 0.0
    for begin in range(0, length, ROWS):
        inside = _inside(begin, length, channel, C, ROWS)
        value = tl.load(x + begin * row + tile, mask=inside, other=0.0).to(tl.float32)
        turns += 1.0
        shift = tl.where(inside, value - mean, 0.0)
        mean += shift / turns
        m2 += shift * tl.where(inside, value - mean, 0.0)
    last = ((turns - 1.0) * ROWS).to(tl.int32) + tl.arange(0, ROWS)
    count = tl.where(last < length, turns, turns - 1.0)[:, None] + tl.zeros([ROWS, BLOCK], tl.float32)
    return tl.reduce((count, mean, m2), 0, _merge)


@triton.jit
def _tables(weight, bias, stats, batch, channel, C):
    """Mean, 1 / sqrt(variance + eps), weight and bias of a program's channels."""
    mask = channel < C
    mean = tl.load(stats + batch * 2 * C + channel, mask=mask, other=0.0)
    rstd = tl.load(stats + (batch * 2 + 1) * C + channel, mask=mask, other=0.0)
    gain = tl.load(weight + channel, mask=mask, other=0.0).to(tl.float32)
    offset = tl.load(bias + channel, mask=mask, other=0.0).to(tl.float32)
    return mean, rstd, gain, offset


@triton.jit
def _normalized(value, mean, rstd, gain, offset):
    """The normalised value, and it scaled and shifted."""
    standard = (value - mean[None, :]) * rstd[None, :]
    return standard, standard * gain[None, :] + offset[None, :]


@triton.jit
def _activated(value, slope):
    return tl.where(value > 0, value, value * slope)


@triton.jit
def _residual(residual, place, inside, mean, rstd, gain, offset, slope, RESIDUAL: tl.constexpr):
    """The residual; with RESIDUAL 2 formed from the input of the norm and activation that made it, and rounded as it
    was when it was stored.
    """
    value = tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)
    if RESIDUAL == 2:
        _, before = _normalized(value, mean, rstd, gain, offset)
        value = _activated(before, slope).to(residual.dtype.element_ty).to(tl.float32)
    return value


@triton.jit
def _write_output(
    x, residual, out, mean, rstd, gain, offset, r_mean, r_rstd, r_gain, r_offset, r_slope,
    start, tile, length, channel, C, row, slope, RESIDUAL: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    for begin in range(0, length, ROWS):
        inside = _inside(begin, length, channel, C, ROWS)
        place = start + begin * row + tile
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        _, before = _normalized(value, mean, rstd, gain, offset)
        if RESIDUAL > 0:
            before += _residual(residual, place, inside, r_mean, r_rstd, r_gain, r_offset, r_slope, RESIDUAL)
        tl.store(out + place, _activated(before, slope), mask=inside)


@triton.jit
def moments(
    x, partial, weight, bias, residual, out, stats, S, C, chunks, rows, instance, row, col, slope, eps,
    RESIDUAL: tl.constexpr, WHOLE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Mean and sum of squared deviations of a chunk into `partial` (batch, chunks, 2, C). With WHOLE the chunk is the
    instance: mean and 1 / sqrt(variance + eps) go to `stats` (batch, 2, C), and the output is written too.
    """
    batch, chunk, length, channel, start, tile = _place(S, C, chunks, rows, instance, row, col, ROWS, BLOCK)
    _, mean, m2 = _moments(x + start, tile, length, channel, C, row, ROWS, BLOCK)
    mask = channel < C
    if WHOLE:
        rstd = 1.0 / tl.sqrt_rn(m2 / S + eps)
        tl.store(stats + batch * 2 * C + channel, mean, mask=mask)
        tl.store(stats + (batch * 2 + 1) * C + channel, rstd, mask=mask)
        gain = tl.load(weight + channel, mask=mask, other=0.0).to(tl.float32)
        offset = tl.load(bias + channel, mask=mask, other=0.0).to(tl.float32)
        _write_output(
            x, residual, out, mean, rstd, gain, offset, mean, rstd, gain, offset, slope,
            start, tile, length, channel, C, row, slope, RESIDUAL, ROWS,
        )  # fmt: skip
    else:
        base = partial + (batch * chunks + chunk) * 2 * C + channel
        tl.store(base, mean, mask=mask)
        tl.store(base + C, m2, mask=mask)


@triton.jit
def join_moments(
    partial, stats, S, C, chunks, rows, eps,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`partial` of `moments` -> mean and 1 / sqrt(variance + eps) of every instance and channel."""
    blocks = tl.cdiv(C, BLOCK)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    channel = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    mask = channel < C
    count = tl.zeros([ROWS, BLOCK], tl.float32)
    mean = tl.zeros([ROWS, BLOCK], tl.float32)
    m2 = tl.zeros([ROWS, BLOCK], tl.float32)
    for begin in range(0, chunks, ROWS):
        chunk = begin + tl.arange(0, ROWS)
        inside = (chunk < chunks)[:, None] & mask[None, :]
        size = tl.maximum(tl.minimum(S - chunk * rows, rows), 0).to(tl.float32)[:, None]
        place = (batch * chunks + chunk)[:, None] * 2 * C + channel[None, :]
        other_mean = tl.load(partial + place, mask=inside, other=0.0)
        other_m2 = tl.load(partial + place + C, mask=inside, other=0.0)
        count, mean, m2 = _merge(count, mean, m2, size + tl.zeros([ROWS, BLOCK], tl.float32), other_mean, other_m2)
    _, mean, m2 = tl.reduce((count, mean, m2), 0, _merge)
    tl.store(stats + batch * 2 * C + channel, mean, mask=mask)
    tl.store(stats + (batch * 2 + 1) * C + channel, 1.0 / tl.sqrt_rn(m2 / S + eps), mask=mask)


@triton.jit
def normalize(
    x, weight, bias, residual, out, stats, r_weight, r_bias, r_stats,
    S, C, chunks, rows, instance, row, col, slope, r_slope,
    RESIDUAL: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = act(norm(x) weight + bias + residual) of a chunk; act(v) is v where positive and slope v elsewhere.

    RESIDUAL: 0 for none, 1 for a map, 2 for one that r_weight, r_bias, r_stats and r_slope form from what is given.
    """
    batch, _, length, channel, start, tile = _place(S, C, chunks, rows, instance, row, col, ROWS, BLOCK)
    mean, rstd, gain, offset = _tables(weight, bias, stats, batch, channel, C)
    r_mean, r_rstd, r_gain, r_offset = mean, rstd, gain, offset
    if RESIDUAL == 2:
        r_mean, r_rstd, r_gain, r_offset = _tables(r_weight, r_bias, r_stats, batch, channel, C)
    _write_output(
        x, residual, out, mean, rstd, gain, offset, r_mean, r_rstd, r_gain, r_offset, r_slope,
        start, tile, length, channel, C, row, slope, RESIDUAL, ROWS,
    )  # fmt: skip


@triton.jit
def _write_gradient(
    source, x, grad_x, mean, rstd, gain, offset, sum_g, sum_gx, start, tile, length, channel, C, S, row, slope,
    ACTIVATED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """dx = weight rstd (g - (sum g + xhat sum g xhat) / S); g is `source` or, with ACTIVATED, formed from it."""
    scale = gain * rstd
    mean_g = sum_g / S
    mean_gx = sum_gx / S
    for begin in range(0, length, ROWS):
        inside = _inside(begin, length, channel, C, ROWS)
        place = start + begin * row + tile
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(source + place, mask=inside, other=0.0).to(tl.float32)
        standard, before = _normalized(value, mean, rstd, gain, offset)
        if ACTIVATED:
            g = tl.where(before > 0, g, g * slope)
        g -= mean_g[None, :] + standard * mean_gx[None, :]
        tl.store(grad_x + place, scale[None, :] * g, mask=inside)


@triton.jit
def gradient_sums(
    grad, x, weight, bias, residual, stats, r_weight, r_bias, r_stats, grad_residual, grad_x, sums,
    S, C, chunks, rows, instance, row, col, slope, r_slope,
    RESIDUAL: tl.constexpr, WHOLE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums of g and g xhat over a chunk into `sums` (batch, chunks, 2, C), g the gradient before the activation.

    With RESIDUAL (see `normalize`) g itself is written, too: it is the residual's gradient. With WHOLE the chunk is the
    instance, and the input's gradient is written.
    """
    batch, chunk, length, channel, start, tile = _place(S, C, chunks, rows, instance, row, col, ROWS, BLOCK)
    mean, rstd, gain, offset = _tables(weight, bias, stats, batch, channel, C)
    r_mean, r_rstd, r_gain, r_offset = mean, rstd, gain, offset
    if RESIDUAL == 2:
        r_mean, r_rstd, r_gain, r_offset = _tables(r_weight, r_bias, r_stats, batch, channel, C)
    sum_g = tl.zeros([ROWS, BLOCK], tl.float32)
    sum_gx = tl.zeros([ROWS, BLOCK], tl.float32)
    for begin in range(0, length, ROWS):
        inside = _inside(begin, length, channel, C, ROWS)
        place = start + begin * row + tile
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(grad + place, mask=inside, other=0.0).to(tl.float32)
        standard, before = _normalized(value, mean, rstd, gain, offset)
        if RESIDUAL > 0:
            before += _residual(residual, place, inside, r_mean, r_rstd, r_gain, r_offset, r_slope, RESIDUAL)
        g = tl.where(before > 0, g, g * slope)
        if RESIDUAL > 0:
            # Rounded before it is summed: the input's gradient is formed from what is stored, and where a map hardly
            # varies rstd would make much of the difference.
            g = g.to(grad_residual.dtype.element_ty)
            tl.store(grad_residual + place, g, mask=inside)
            g = g.to(tl.float32)
        sum_g += g
        sum_gx += g * standard
    total_g = tl.sum(sum_g, 0)
    total_gx = tl.sum(sum_gx, 0)
    base = sums + (batch * chunks + chunk) * 2 * C + channel
    tl.store(base, total_g, mask=channel < C)
    tl.store(base + C, total_gx, mask=channel < C)
    if WHOLE:
        tl.debug_barrier()  # what other threads of the program wrote as the residual's gradient is read below
        source = grad_residual if RESIDUAL > 0 else grad
        _write_gradient(
            source, x, grad_x, mean, rstd, gain, offset, total_g, total_gx, start, tile, length, channel, C, S, row,
            slope, RESIDUAL == 0, ROWS,
        )  # fmt: skip


@triton.jit
def join_sums(partial, sums, C, chunks, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """(batch, chunks, 2, C) -> (batch, 2, C), the chunks always added in the same order; C counts both columns."""
    blocks = tl.cdiv(C, BLOCK)
    batch = (tl.program_id(0) // blocks).to(tl.int64)
    column = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for begin in range(0, chunks, ROWS):
        chunk = begin + tl.arange(0, ROWS)
        inside = (chunk < chunks)[:, None] & (column < C)[None, :]
        total += tl.load(partial + (batch * chunks + chunk)[:, None] * C + column[None, :], mask=inside, other=0.0)
    tl.store(sums + batch * C + column, tl.sum(total, 0), mask=column < C)


@triton.jit
def input_gradient(
    source, x, weight, bias, stats, sums, grad_x, S, C, chunks, rows, instance, row, col, slope,
    ACTIVATED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The input's gradient of a chunk from `sums` (batch, 2, C); see `_write_gradient`."""
    batch, _, length, channel, start, tile = _place(S, C, chunks, rows, instance, row, col, ROWS, BLOCK)
    mean, rstd, gain, offset = _tables(weight, bias, stats, batch, channel, C)
    table = batch * 2 * C + channel
    sum_g = tl.load(sums + table, mask=channel < C, other=0.0)
    sum_gx = tl.load(sums + table + C, mask=channel < C, other=0.0)
    _write_gradient(
        source, x, grad_x, mean, rstd, gain, offset, sum_g, sum_gx, start, tile, length, channel, C, S, row, slope,
        ACTIVATED, ROWS,
    )  # fmt: skip
