"""The CPU part: the torch backend beside the plain recurrence and mambapy, each in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor

from common import processor, versions
from scan.inputs import forward_and_backward, make_inputs, ours

log = logging.getLogger("selective_scan")

PARTIES = ("torch", "reference", "mambapy")
SHAPE = (1, 64, 32768)  # batch, d_inner, L
RUNS = {"torch": 9, "mambapy": 5, "reference": 2}  # the recurrence takes ten seconds each


def mambapy_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, delta_bias: Tensor
) -> Tensor:
    """The selective scan as mambapy's block composes it around its parallel scan."""
    from mambapy.pscan import pscan

    delta = torch.nn.functional.softplus(delta + delta_bias)
    decay = torch.exp(delta.unsqueeze(-1) * A)
    states = pscan(decay, (delta * u).unsqueeze(-1) * B.unsqueeze(2))
    return ((states @ C.unsqueeze(-1)).squeeze(3) + D * u) * torch.nn.functional.silu(z)


def cpu_run(party: str, threads: int) -> None:
    """Time forward + backward of one party in this process and print, as JSON, its least seconds, on the wall and of
    the processor, and the growth of peak memory. The least of several: other work on the machine only adds.
    """
    torch.set_num_threads(threads)
    scan = mambapy_scan if party == "mambapy" else ours(party)
    batch, channels, _ = SHAPE
    # load what is loaded lazily
    forward_and_backward(scan, make_inputs((batch, channels, 64), "cpu"))["both"]()
    run = forward_and_backward(scan, make_inputs(SHAPE, "cpu", "trained"))["both"]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(RUNS[party]):
        wall, processor = time.perf_counter(), time.process_time()
        run()
        times.append((time.perf_counter() - wall, time.process_time() - processor))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    wall, processor = (min(column) for column in zip(*times, strict=True))
    json.dump({"wall": wall, "processor": processor, "peak_gib": grown}, sys.stdout)


def cpu_part() -> dict:
    """Every party on one thread and on all of the machine's."""
    cores = os.cpu_count() or 1
    result: dict[str, Any] = {
        "machine": processor(),
        "versions": versions("torch", "mambapy"),
        "shape": SHAPE,
    }
    for party in PARTIES:
        if party == "mambapy" and importlib.util.find_spec("mambapy") is None:
            log.warning("mambapy is not installed: its row stays empty.")
            continue
        result[party] = {}
        for name, threads in (("one", 1), ("all", cores)):
            command = [sys.executable, sys.argv[0], "cpu-run", "--party", party, "--threads", str(threads)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result[party][name] = json.loads(done.stdout)
        log.info("%s %s", party, result[party])
    return result
