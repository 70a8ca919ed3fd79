"""Triton kernels of the sums that Dice and cross-entropy are made of, and of the logits' gradient.

Logits are read as they lie, channels-first or channels-last, as (batch, positions, classes), ROWS positions and all
classes at a time. The label has the highest resolution; other resolutions find their voxel in it by index (`_label`).

Names: S positions of a sample, K classes, D H W the spatial axes (1 where there are fewer than three), LD LH LW the
label's, zd zh zw their ratios. All arithmetic is float32; every sum has a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

# One compiled kernel for all resolutions and patches: Triton would compile another one for sizes that 16 divides
_SIZES = ["S", "H", "W", "LD", "LH", "LW", "chunks", "length", "ignore"]


@triton.jit
def _place(logits, label, S, LD, LH, LW, chunks, K: tl.constexpr):
    """The program's sample and chunk, and where the sample's logits and label begin."""
    batch = (tl.program_id(0) // chunks).to(tl.int64)
    return batch, tl.program_id(0) % chunks, logits + batch * S * K, label + batch * LD * LH * LW


@triton.jit
def _source(index, ratio, size):
    """Index of the voxel whose centre is nearest, as torch's nearest-exact finds it, in float32."""
    return tl.minimum(((index.to(tl.float32) + 0.5) * ratio).to(tl.int32), size - 1)


@triton.jit
def _label(label, position, inside, H, W, LD, LH, LW, zd, zh, zw, SAME: tl.constexpr):
    """Labels (int64) of a sample's positions; 0 outside."""
    if SAME:
        at = position
    else:
        plane = H * W
        d = _source(position // plane, zd, LD)
        h = _source(position % plane // W, zh, LH)
        w = _source(position % W, zw, LW)
        at = (d * LH + h) * LW + w
    return tl.load(label + at, mask=inside, other=0).to(tl.int64)


@triton.jit
def _softmax(
    logits, label, begin, end, S, H, W, LD, LH, LW, zd, zh, zw, ignore,
    K: tl.constexpr, LAST: tl.constexpr, SAME: tl.constexpr, IGNORE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of ROWS positions from `begin`: where they lie, which of the tile exists, the classes' probabilities (0 where
    nothing counts), -log of them, and where the class is the label's.

    A label that is no class makes the probabilities NaN: torch would end the process, and a loss that leaves such
    voxels out would be wrong without a word.
    """
    position = begin + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)
    rows = position < end
    inside = rows[:, None] & (column < K)[None, :]
    if LAST:
        at = position[:, None] * K + column[None, :]
    else:
        at = position[:, None] + column[None, :] * S
    value = tl.load(logits + at, mask=inside, other=float("-inf")).to(tl.float32)
    target = _label(label, position, rows, H, W, LD, LH, LW, zd, zh, zw, SAME)
    counted = rows
    if IGNORE:
        counted = rows & (target != ignore)
    known = (target >= 0) & (target < K)
    shifted = value - tl.where(rows, tl.max(value, 1), 0.0)[:, None]
    powers = tl.exp(shifted)
    total = tl.sum(powers, 1)
    share = tl.where(counted, tl.where(known, 1.0 / total, float("nan")), 0.0)
    hit = (column[None, :] == target.to(tl.int32)[:, None]) & (counted & known)[:, None]
    return at, inside, powers * share[:, None], tl.log(total)[:, None] - shifted, hit


@triton.jit(do_not_specialize=_SIZES)
def class_sums(
    logits, label, partial, S, H, W, LD, LH, LW, chunks, length, ignore, zd, zh, zw,
    K: tl.constexpr, LAST: tl.constexpr, SAME: tl.constexpr, IGNORE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums over a chunk of `length` positions into `partial` (chunks, batch, 4, K): of the probability where the class
    is the label's, of the probability, of such voxels, and of their cross-entropy.
    """
    batch, chunk, logits, label = _place(logits, label, S, LD, LH, LW, chunks, K)
    end = tl.minimum((chunk + 1) * length, S)
    intersection = tl.zeros([ROWS, BLOCK], tl.float32)
    predicted = tl.zeros([ROWS, BLOCK], tl.float32)
    voxels = tl.zeros([ROWS, BLOCK], tl.float32)
    entropy = tl.zeros([ROWS, BLOCK], tl.float32)
    for begin in range(chunk * length, end, ROWS):
        _, _, probability, minus_log, hit = _softmax(
            logits, label, begin, end, S, H, W, LD, LH, LW, zd, zh, zw, ignore, K, LAST, SAME, IGNORE, ROWS,
            BLOCK,
        )  # fmt: skip
        intersection += tl.where(hit, probability, 0.0)
        predicted += probability
        voxels += tl.where(hit, 1.0, 0.0)
        entropy += tl.where(hit, minus_log, 0.0)
    samples = tl.num_programs(0) // chunks
    column = tl.arange(0, BLOCK)
    base = partial + (chunk * samples + batch) * 4 * K + column
    tl.store(base, tl.sum(intersection, 0), mask=column < K)
    tl.store(base + K, tl.sum(predicted, 0), mask=column < K)
    tl.store(base + 2 * K, tl.sum(voxels, 0), mask=column < K)
    tl.store(base + 3 * K, tl.sum(entropy, 0), mask=column < K)


@triton.jit(do_not_specialize=_SIZES)
def logits_gradient(
    grad, logits, label, grad_logits, S, H, W, LD, LH, LW, chunks, length, ignore, zd, zh, zw,
    K: tl.constexpr, LAST: tl.constexpr, SAME: tl.constexpr, IGNORE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The logits' gradient from that of the sums, `grad` (batch, 4, K), over a chunk.

    With a = grad predicted + (grad intersection where the class is the label's) and c = grad entropy of the label's
    class: dx = p (a - sum p a + c) - (c where the class is the label's).
    """
    batch, chunk, logits, label = _place(logits, label, S, LD, LH, LW, chunks, K)
    grad_logits += batch * S * K
    end = tl.minimum((chunk + 1) * length, S)
    column = tl.arange(0, BLOCK)
    table = grad + batch * 4 * K + column
    of_intersection = tl.load(table, mask=column < K, other=0.0)[None, :]
    of_predicted = tl.load(table + K, mask=column < K, other=0.0)[None, :]
    of_entropy = tl.load(table + 3 * K, mask=column < K, other=0.0)[None, :]
    for begin in range(chunk * length, end, ROWS):
        at, inside, probability, _, hit = _softmax(
            logits, label, begin, end, S, H, W, LD, LH, LW, zd, zh, zw, ignore, K, LAST, SAME, IGNORE, ROWS,
            BLOCK,
        )  # fmt: skip
        of_probability = of_predicted + tl.where(hit, of_intersection, 0.0)
        of_label = tl.where(hit, of_entropy, 0.0)
        common = tl.sum(probability * of_probability - of_label, 1)
        tl.store(grad_logits + at, probability * (of_probability - common[:, None]) - of_label, mask=inside)
