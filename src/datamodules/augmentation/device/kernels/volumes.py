"""Triton kernels of rotation, scaling and mirroring, and of the rules for what lies outside of the image.

Coordinates are float64 and products and sums are not contracted, so that a point falls into the cell that NumPy finds;
weights and values are float32. Images and labels are contiguous and have P * n0 * n1 * n2 voxels: where slices are
turned in plane there are P of them, which share the coordinates, and n0 is 1.
"""

from __future__ import annotations

import triton
import triton.language as tl

REACH = 16  # voxels after which the spline's filter has forgotten all but 1e-9
TURNED = 256  # voxels a program of `turn`

_FILTERED = ["V", "n", "inner"]
_TURNED = ["C", "P", "m0", "m1", "m2", "n0", "n1", "n2", "no_label"]
_MOVED = ["C", "n0", "n1", "n2"]


@triton.jit
def _mirrored(i, n, SHORT: tl.constexpr):
    """Index of a voxel in an axis that is continued by mirroring at its outermost voxels; SHORT: also far outside."""
    i = tl.abs(i)
    if SHORT:
        i = i % tl.maximum(2 * (n - 1), 1)
    return (n - 1) - tl.abs(n - 1 - i)


@triton.jit(do_not_specialize=_FILTERED)
def spline_filter(image, out, V, n, inner, POLE: tl.constexpr, REACH: tl.constexpr, SHORT: tl.constexpr,
                  BLOCK: tl.constexpr):  # fmt: skip
    """Cubic spline coefficients along an axis of n voxels that lie `inner` apart: sqrt(3) sum_k POLE^|k| x[i + k].

    The recursion of the filter runs REACH voxels to either side instead of through the axis, in Horner's order.
    """
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < V
    base = tl.program_id(1).to(tl.int64) * V
    i = at // inner % n
    line = image + base + (at - i * inner)
    before = tl.zeros([BLOCK], tl.float32)
    behind = tl.zeros([BLOCK], tl.float32)
    for step in range(REACH):
        k = REACH - step
        before = before * POLE + tl.load(line + _mirrored(i - k, n, SHORT) * inner, mask=inside, other=0.0)
        behind = behind * POLE + tl.load(line + _mirrored(i + k, n, SHORT) * inner, mask=inside, other=0.0)
    here = tl.load(line + i * inner, mask=inside, other=0.0)
    tl.store(out + base + at, 1.7320508075688772 * ((before + behind) * POLE + here), mask=inside)


@triton.jit
def _place(matrix, shift, i0, i1, i2, m, A: tl.constexpr, D: tl.constexpr):
    """Coordinate along axis A of D in an image of m voxels, float64: summed in NumPy's order."""
    where = tl.load(matrix + A * D + D - 2) * i1
    if D == 3:
        where = tl.load(matrix + A * D) * i0 + where
    where = where + tl.load(matrix + A * D + D - 1) * i2
    return where + ((m - 1) * 0.5 - tl.load(shift + A))


@triton.jit
def _cell(where, m, CUT: tl.constexpr):
    """Lowest corner (int32) and place in the cell (float32, 0 to 1) of a coordinate, and whether it is outside."""
    floor = tl.minimum(tl.maximum(tl.floor(where), -1.0), (m - 1) * 1.0)
    if CUT:
        outside = (where < 0) | (where > m - 1)
    else:
        outside = (where < -1) | (where > m)
    return floor.to(tl.int32), (where - floor).to(tl.float32), outside


@triton.jit
def _tap(cell, t, m, k, ORDER: tl.constexpr):
    """Index and weight of tap k of a spline, and whether it lies in the image: a cubic one continues by mirroring."""
    if ORDER == 1:
        i = cell + k
        weight = tl.where(k == 1, t, 1 - t)
    else:
        i = _mirrored(cell + (k - 1), m, True)
        u = 1 - t
        outer, inner = tl.where(k == 0, u, t), tl.where(k == 1, t, u)  # of taps 0 and 3, and of 1 and 2
        weight = tl.where((k == 0) | (k == 3), outer * outer * outer / 6, (inner - 2) * inner * inner / 2 + 2.0 / 3)
    return i, weight, (i >= 0) & (i < m)


@triton.jit(do_not_specialize=_TURNED)
def turn(
    image, label, samples, matrix, shift, new_image, new_label, padding, C, P, m0, m1, m2, n0, n1, n2, no_label,
    D: tl.constexpr, ORDER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Resample (S, C, P, m0, m1, m2) spline coefficients and (S, P, m0, m1, m2) labels into the samples of a batch.

    Of each point that label wins whose linearly interpolated indicator is largest, ties going to the smallest label.
    """
    turned = tl.program_id(1)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    V, M = n0 * n1 * n2, m0 * m1 * m2
    inside = at < P * V
    plane = at // V
    i0, i1, i2 = (at // (n1 * n2) % n0).to(tl.float64), (at // n2 % n1).to(tl.float64), (at % n2).to(tl.float64)
    matrix += turned * D * D
    shift += turned * D
    c1, t1, outside = _cell(_place(matrix, shift, i0, i1, i2, m1, D - 2, D), m1, ORDER == 3)
    c2, t2, beyond = _cell(_place(matrix, shift, i0, i1, i2, m2, D - 1, D), m2, ORDER == 3)
    outside |= beyond
    c0, t0 = c1 * 0, t1 * 0
    if D == 3:
        c0, t0, beyond = _cell(_place(matrix, shift, i0, i1, i2, m0, 0, D), m0, ORDER == 3)
        outside |= beyond
    sample = tl.load(samples + turned)
    for channel in range(C):
        source = image + ((turned * C + channel).to(tl.int64) * P + plane) * M
        value = tl.zeros([BLOCK], tl.float32)
        for a in range(ORDER + 1 if D == 3 else 1):  # not unrolled: that would only take longer to compile
            j0, w0, in0 = c0, t0 + 1, inside
            if D == 3:
                j0, w0, in0 = _tap(c0, t0, m0, a, ORDER)
            for b in tl.static_range(ORDER + 1):
                j1, w1, in1 = _tap(c1, t1, m1, b, ORDER)
                for c in tl.static_range(ORDER + 1):
                    j2, w2, in2 = _tap(c2, t2, m2, c, ORDER)
                    known = inside & in0 & in1 & in2
                    tap = tl.load(source + (j0 * m1 + j1) * m2 + j2, mask=known & (outside == 0), other=padding)
                    value += w0 * w1 * w2 * tap
        value = tl.where(outside, padding, value)
        tl.store(new_image + (sample * C + channel) * P * V + at, value, mask=inside)
    source_label = label + (turned.to(tl.int64) * P + plane) * M
    best = tl.zeros([BLOCK], tl.float32) - 1
    winner = tl.zeros([BLOCK], tl.int32)
    for k in tl.static_range(2**D):
        candidate = _corner(source_label, c0, c1, c2, m0, m1, m2, inside, no_label, k, D)
        share = tl.zeros([BLOCK], tl.float32)
        for j in tl.static_range(2**D):
            weight = t1 if j // 2 % 2 == 1 else 1 - t1
            if D == 3:
                weight = (t0 if j // 4 == 1 else 1 - t0) * weight
            weight = weight * (t2 if j % 2 == 1 else 1 - t2)
            other = _corner(source_label, c0, c1, c2, m0, m1, m2, inside, no_label, j, D)
            share += tl.where(other == candidate, weight, 0.0)
        better = (share > best) | ((share == best) & (candidate < winner))
        winner = tl.where(better, candidate, winner)
        best = tl.maximum(best, share)
    winner = tl.where(outside, no_label, winner)
    tl.store(new_label + sample * P * V + at, winner.to(tl.int16), mask=inside)


@triton.jit
def _corner(label, c0, c1, c2, m0, m1, m2, inside, no_label, K: tl.constexpr, D: tl.constexpr):
    """Labels (int32) at corner K of cells, `no_label` beyond the border."""
    j1, j2 = c1 + K // 2 % 2, c2 + K % 2
    known = inside & (j1 >= 0) & (j1 < m1) & (j2 >= 0) & (j2 < m2)
    at = j1 * m2 + j2
    if D == 3:
        j0 = c0 + K // 4
        known &= (j0 >= 0) & (j0 < m0)
        at += j0 * m1 * m2
    return tl.load(label + at, mask=known, other=no_label).to(tl.int32)


@triton.jit(do_not_specialize=_MOVED)
def mirror(
    image, label, from0, from1, from2, new_image, new_label, C, n0, n1, n2, D: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Voxels (B, n0, n1, n2) from where the tables (B, n) of each axis say; D = 2: the first axis has none."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    sample = tl.program_id(1).to(tl.int64)
    V = n0 * n1 * n2
    inside = at < V
    j1 = tl.load(from1 + sample * n1 + at // n2 % n1, mask=inside, other=0)
    j2 = tl.load(from2 + sample * n2 + at % n2, mask=inside, other=0)
    source = j1 * n2 + j2
    if D == 3:
        source += tl.load(from0 + sample * n0 + at // (n1 * n2), mask=inside, other=0) * n1 * n2
    tl.store(new_label + sample * V + at, tl.load(label + sample * V + source, mask=inside), mask=inside)
    for channel in range(C):
        base = (sample * C + channel) * V
        tl.store(new_image + base + at, tl.load(image + base + source, mask=inside), mask=inside)


@triton.jit(do_not_specialize=["C", "V", "masked"])
def settle(image, label, C, V, masked, BLOCK: tl.constexpr):
    """Where labels (B, V) are negative, set channels whose bit is in `masked` to 0; those labels become 0 as well."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    sample = tl.program_id(1).to(tl.int64)
    inside = at < V
    found = tl.load(label + sample * V + at, mask=inside, other=0)
    outside = inside & (found < 0)
    tl.store(label + sample * V + at, tl.zeros([BLOCK], tl.int16), mask=outside)
    for channel in range(C):
        if ((masked >> channel) & 1) != 0:
            tl.store(image + (sample * C + channel) * V + at, tl.zeros([BLOCK], tl.float32), mask=outside)
