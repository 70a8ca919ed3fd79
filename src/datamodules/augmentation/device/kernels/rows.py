"""Triton kernels that change channels: brightness, contrast, gamma, blur and low resolution.

Images (B * C, V) are contiguous. `rows` (R,) are those that are changed; draws are float64, values float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

WHOLE = 8192  # voxels of a row that a program of `factors` takes at a time


@triton.jit
def _curved(value, low, span, factor):
    """((value - low) / span) ** factor, of values that are `low` or more."""
    share = (value - low) / span
    power = tl.exp2(factor * tl.log2(tl.where(share > 0, share, 1.0)))
    return tl.where(share > 0, power, tl.where(factor == 0, 1.0, share))  # NaN stays


@triton.jit(do_not_specialize=["V"])
def factors(image, rows, drawn, V, small, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """Change a row by its factor; one program a row, so that it can look at all of it first."""
    row = tl.load(rows + tl.program_id(0)).to(tl.int64)
    factor = tl.load(drawn + tl.program_id(0)).to(tl.float32)
    image += row * V
    lane = tl.arange(0, BLOCK)
    if KIND == 0:
        for begin in range(0, V, BLOCK):
            inside = begin + lane < V
            value = tl.load(image + begin + lane, mask=inside, other=0.0)
            tl.store(image + begin + lane, value * factor, mask=inside)
    else:
        sign = -1.0 if KIND == 3 else 1.0
        least = tl.full([BLOCK], float("inf"), tl.float32)
        most = tl.full([BLOCK], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK], tl.float32)
        for begin in range(0, V, BLOCK):
            inside = begin + lane < V
            value = tl.load(image + begin + lane, mask=inside, other=0.0)
            least = tl.minimum(least, tl.where(inside, value * sign, float("inf")))
            most = tl.maximum(most, tl.where(inside, value * sign, float("-inf")))
            total += value
        low, high, mean = tl.min(least, 0), tl.max(most, 0), tl.sum(total, 0) / V
        if KIND == 1:
            for begin in range(0, V, BLOCK):
                inside = begin + lane < V
                value = (tl.load(image + begin + lane, mask=inside, other=0.0) - mean) * factor + mean
                tl.store(image + begin + lane, tl.minimum(tl.maximum(value, low), high), mask=inside)
        else:
            span = high - low + 1e-7
            total = tl.zeros([BLOCK], tl.float32)
            spread = tl.zeros([BLOCK], tl.float32)
            for begin in range(0, V, BLOCK):
                inside = begin + lane < V
                value = tl.load(image + begin + lane, mask=inside, other=0.0)
                total += tl.where(inside, _curved(value * sign, low, span, factor), 0.0)
                spread += tl.where(inside, (value - mean) * (value - mean), 0.0)
            middle = tl.sum(total, 0) / V
            new_spread = tl.zeros([BLOCK], tl.float32)
            for begin in range(0, V, BLOCK):
                inside = begin + lane < V
                value = tl.load(image + begin + lane, mask=inside, other=0.0)
                curved = _curved(value * sign, low, span, factor) - middle
                new_spread += tl.where(inside, curved * curved, 0.0)
            ratio = sign * tl.sqrt(tl.sum(spread, 0)) / (tl.sqrt(tl.sum(new_spread, 0)) + small)
            for begin in range(0, V, BLOCK):
                inside = begin + lane < V
                value = tl.load(image + begin + lane, mask=inside, other=0.0)
                curved = _curved(value * sign, low, span, factor) - middle
                tl.store(image + begin + lane, curved * ratio + mean, mask=inside)


@triton.jit
def _row(image, rows, V, CHOSEN: tl.constexpr):
    """Where the program's row begins: in the batch (CHOSEN), or among R rows by themselves."""
    row = tl.program_id(1).to(tl.int64)
    if CHOSEN:
        row = tl.load(rows + row)
    return image + row * V


@triton.jit(do_not_specialize=["V", "n", "inner", "taps", "axis", "axes"])
def blur(
    image, out, rows, kernels, sources, V, n, inner, taps, axis, axes,
    FIRST: tl.constexpr, LAST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Weighted sum along an axis of n voxels `inner` apart, kernels (R, axes, taps), through `sources` (n + taps - 1).

    FIRST reads, LAST writes rows of the batch.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < V
    i = at // inner % n
    line = _row(image, rows, V, FIRST) + (at - i * inner)
    kernels += (tl.program_id(1) * axes + axis) * taps
    value = tl.zeros([BLOCK], tl.float32)
    for k in range(taps):
        source = tl.load(sources + i + k, mask=inside, other=0)
        weight = tl.load(kernels + k).to(tl.float32)
        value += weight * tl.load(line + source * inner, mask=inside, other=0.0)
    tl.store(_row(out, rows, V, LAST) + at, value, mask=inside)


@triton.jit
def _taken(line, taken, place, inner, inside):
    source = tl.load(taken + place, mask=inside, other=0)
    return tl.load(line + source * inner, mask=inside, other=0.0)


@triton.jit(do_not_specialize=["V", "n", "inner", "longest", "parts"])
def sample_up(
    image, out, rows, taken, first, weights, extremes, V, n, inner, longest, parts,
    ORDER: tl.constexpr, POLE: tl.constexpr, REACH: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
    PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Along an axis, the spline through the voxels `taken` (R, longest), of which `first` (R, n) and `weights`
    (R, n, ORDER + 1) say which each voxel is made of. FIRST reads, LAST writes rows of the batch; LAST clips.

    The spline's prefilter is its recursion over REACH voxels to either side, see `spline_filter`.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < V
    r = tl.program_id(1)
    i = at // inner % n
    line = _row(image, rows, V, FIRST) + (at - i * inner)
    taken += r * longest
    place = tl.load(first + r * n + i, mask=inside, other=REACH)
    weights += (r * n + i) * (ORDER + 1)
    w0 = tl.load(weights, mask=inside, other=0.0).to(tl.float32)
    w1 = tl.load(weights + 1, mask=inside, other=0.0).to(tl.float32)
    x0 = _taken(line, taken, place, inner, inside)
    x1 = _taken(line, taken, place + 1, inner, inside)
    if ORDER == 1:
        value = w0 * x0 + w1 * x1
    else:
        w2 = tl.load(weights + 2, mask=inside, other=0.0).to(tl.float32)
        w3 = tl.load(weights + 3, mask=inside, other=0.0).to(tl.float32)
        x2 = _taken(line, taken, place + 2, inner, inside)
        x3 = _taken(line, taken, place + 3, inner, inside)
        before = tl.zeros([BLOCK], tl.float32)
        behind = tl.zeros([BLOCK], tl.float32)
        for step in range(REACH):
            before = before * POLE + _taken(line, taken, place - REACH + step, inner, inside)
            behind = behind * POLE + _taken(line, taken, place + 3 + REACH - step, inner, inside)
        f0 = before * POLE + x0
        f1 = f0 * POLE + x1
        f2 = f1 * POLE + x2
        f3 = f2 * POLE + x3
        b3 = behind * POLE
        b2 = (b3 + x3) * POLE
        b1 = (b2 + x2) * POLE
        b0 = (b1 + x1) * POLE
        value = w0 * (f0 + b0) + w1 * (f1 + b1) + w2 * (f2 + b2) + w3 * (f3 + b3)
        value = 1.7320508075688772 * value
    if LAST:
        part = tl.arange(0, PARTS)
        extremes += r * 2 * parts
        low = tl.min(tl.load(extremes + part, mask=part < parts, other=float("inf")), 0)
        high = tl.max(tl.load(extremes + parts + part, mask=part < parts, other=float("-inf")), 0)
        value = tl.minimum(tl.maximum(value, low), high)
    tl.store(_row(out, rows, V, LAST) + at, value, mask=inside)


@triton.jit(do_not_specialize=["V", "s0", "s1", "s2", "n1", "n2", "margin", "parts"])
def taken_extremes(
    image, rows, taken0, taken1, taken2, extremes, V, s0, s1, s2, n1, n2, margin, parts,
    ALL0: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Least and largest of the voxels that all axes take, by `parts` programs a row: (R, 2, parts).

    The tables have `margin` entries at either end that say nothing new; s0, s1 and s2 are their lengths without. Of the
    first axis all are taken if ALL0; D = 2: there is none.
    """
    r = tl.program_id(1)
    line = _row(image, rows, V, True)
    least = tl.full([BLOCK], float("inf"), tl.float32)
    most = tl.full([BLOCK], float("-inf"), tl.float32)
    count = s0 * s1 * s2
    for begin in range(tl.program_id(0) * BLOCK, count, parts * BLOCK):
        at = begin + tl.arange(0, BLOCK)
        inside = at < count
        i0 = at // (s1 * s2)
        i1 = tl.load(taken1 + r * (s1 + 2 * margin) + margin + at // s2 % s1, mask=inside, other=0)
        i2 = tl.load(taken2 + r * (s2 + 2 * margin) + margin + at % s2, mask=inside, other=0)
        source = i1 * n2 + i2
        if D == 3:
            if not ALL0:
                i0 = tl.load(taken0 + r * (s0 + 2 * margin) + margin + i0, mask=inside, other=0)
            source += i0 * n1 * n2
        value = tl.load(line + source, mask=inside, other=0.0)
        least = tl.minimum(least, tl.where(inside, value, float("inf")))
        most = tl.maximum(most, tl.where(inside, value, float("-inf")))
    tl.store(extremes + r * 2 * parts + tl.program_id(0), tl.min(least, 0))
    tl.store(extremes + (r * 2 + 1) * parts + tl.program_id(0), tl.max(most, 0))
