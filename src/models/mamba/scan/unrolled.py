"""The selective scan in plain torch operations alone, for export: no loop, no custom operation, nothing in place.

The sequence is cut into chunks of `STEPS` tokens. What a chunk adds to the state is a sum over its tokens, each decayed
to the chunk's end; the states before the chunks follow from that by the same cut, again and again, until one chunk is
left; then all chunks run through their tokens at once. A graph of this has a number of nodes that grows with the
logarithm of the length, and holds one state per chunk: batch L / STEPS d_inner d_state numbers, several times.

Decays are formed of sums of step sizes, never divided by, so that none overflows. How many levels there are depends on
the length: a graph fits the length that it was traced with.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from umamba.models.mamba.scan.reference import reference_scan

STEPS = 16  # tokens a chunk


def _recurrence(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """As `reference.one_by_one`."""
    length = x.shape[1]
    xs, deltas, Bs, Cs = (_fold(t).unbind(2) for t in (x, delta, B, C))  # per step (batch, n, d_inner or d_state)
    behind = torch.zeros_like(deltas[0])  # step sizes from behind a token to the chunk's end, summed
    gained = behind.unsqueeze(-1) * A  # (batch, n, d_inner, d_state), zero
    for x_t, delta_t, B_t in zip(reversed(xs), reversed(deltas), reversed(Bs), strict=True):
        gained = gained + torch.exp(behind.unsqueeze(-1) * A) * x_t.unsqueeze(-1) * B_t.unsqueeze(-2)
        behind = behind + delta_t
    state = _states_before(torch.exp(behind.unsqueeze(-1) * A), gained)
    outputs = []
    for x_t, delta_t, B_t, C_t in zip(xs, deltas, Bs, Cs, strict=True):
        state = torch.exp(delta_t.unsqueeze(-1) * A) * state + x_t.unsqueeze(-1) * B_t.unsqueeze(-2)
        outputs.append((state * C_t.unsqueeze(-2)).sum(-1))
    return torch.stack(outputs, dim=2).flatten(1, 2)[:, :length]


def _states_before(decay: Tensor, gained: Tensor) -> Tensor:
    """The state before each entry of a sequence, h_k = decay_k h_{k-1} + gained_k, from a zero start.

    All three are (batch, n, d_inner, d_state).
    """
    count = gained.shape[1]
    if count <= STEPS:
        return torch.stack(_through(decay.unbind(1), gained.unbind(1), torch.zeros_like(gained[:, 0]))[:-1], dim=1)
    decays, gains = (_fold(t).unbind(2) for t in (decay, gained))  # padded with nothing gained
    zero, one = torch.zeros_like(gains[0]), torch.ones_like(gains[0])
    ends = _through(decays, gains, zero)[-1]
    total = one
    for each in decays:
        total = total * each
    states = _through(decays, gains, _states_before(total, ends))
    return torch.stack(states[:-1], dim=2).flatten(1, 2)[:, :count]


def _through(decays: tuple[Tensor, ...], gains: tuple[Tensor, ...], start: Tensor) -> list[Tensor]:
    """The state at the start and after each step."""
    states = [start]
    for decay, gain in zip(decays, gains, strict=True):
        states.append(decay * states[-1] + gain)
    return states


def _fold(x: Tensor) -> Tensor:
    """(batch, L, ...) -> (batch, n, STEPS, ...); zeros past the end."""
    missing = -x.shape[1] % STEPS
    if missing:
        x = F.pad(x, (*[0, 0] * (x.ndim - 2), 0, missing))
    return x.unflatten(1, (-1, STEPS))


unrolled_scan = functools.partial(reference_scan, recurrence=_recurrence)
