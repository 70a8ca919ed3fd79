"""What the times of a row mean: what bounds the training, and what would change it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from umamba.words import count

WAITING = 0.05  # share of a step: with more, batches come too late
IDLE = 0.10  # share of a step: with more, a device that has its batches waits for the host
ENOUGH = 1.05  # times the best epoch: no slower than that, so many workers are enough

UNKNOWN = "–"
COLUMNS = {  # of the table -> how a row's entry is written
    "data": lambda row: f"{row['data']}, {row['configuration']}",
    "network": lambda row: row["model"],
    "batches": lambda row: batches_of(row["feed"], row["workers"]),
    "devices": lambda row: f"{row['devices']} x {row['machine']}",
    "s/epoch": lambda row: _number(row["epoch_s"]),
    "first, more": lambda row: _number(row["epochs_s"][0] - row["epoch_s"] if row.get("epochs_s") else None),
    "step ms": lambda row: _number(row["step_ms"]),
    "waiting ms": lambda row: _number(row["loader_ms"]),
    "host ms": lambda row: _number(row["host_ms"]),
    "device ms": lambda row: _number(row["device_ms"]),
    "idle": lambda row: UNKNOWN if idle(row) is None else f"{100 * (idle(row) or 0):.0f} %",
    "GiB": lambda row: _number(row["peak_gib"]),
    "bound by": lambda row: row["bound"] or UNKNOWN,
}


def batches_of(feed: str, workers: int | None) -> str:
    """Such as "real, 2 workers"."""
    return feed if workers is None else f"{feed}, {count(workers, 'worker')}"


def idle(row: dict[str, Any]) -> float | None:
    """Share of a step in which the device has nothing to do; None where nobody knows."""
    if row["device_ms"] is None or not row["step_ms"]:
        return None
    return max(0.0, 1 - row["device_ms"] / row["step_ms"])


def bound_of(row: dict[str, Any]) -> str | None:
    """What bounds it: "loader", "host" or "device"; None of a GPU whose kernels were not recorded."""
    if row["loader_ms"] > WAITING * row["step_ms"]:
        return "loader"
    if row["peak_gib"] is None:  # the processor is the device
        return "device"
    share = idle(row)
    return None if share is None else "host" if share > IDLE else "device"


def sentence(row: dict[str, Any]) -> str:
    """What bounds the training of a row, and what to change."""
    step, waits, share = _number(row["step_ms"]), _number(row["loader_ms"]), idle(row)
    if row["bound"] == "loader":
        return (
            f"The loader bounds it: {waits} of a step's {step} ms are waiting for batches. Give it more "
            f"workers (data.num_workers={row['workers']} of {row['cpus']} CPUs now), or {_cheaper(row)}."
        )
    if row["bound"] == "host":
        graphs = (
            "With cuda_graph=auto the host launches a step at once."
            if row["cuda_graph"] is False
            else "A larger data.batch_size gives the device more to do for each launch."
        )
        return (
            f"The host bounds it: the device has nothing to do for {100 * (share or 0):.0f} % of a step's {step} "
            f"ms, though its batches are there. {graphs}"
        )
    if row["bound"] == "device":
        device = "processor" if row["peak_gib"] is None else "device"
        return f"The {device} bounds it: it is busy for nearly all of a step's {step} ms. More workers gain nothing."
    return "No kernels were recorded, so nobody can tell the host from the device."


def _cheaper(row: dict[str, Any]) -> str:
    if row["peak_gib"] is not None and row["augmented_on"] == "cpu":
        return "let the GPU augment (data.augment_on=cuda)"
    return "a cheaper augmentation (augmentation=nnunet_28)"


def enough_workers(rows: Sequence[dict[str, Any]]) -> str | None:
    """Which of several numbers of workers to take; of rows that differ in nothing else."""
    tried = {row["workers"]: row["epoch_s"] for row in rows if row["feed"] == "real"}
    if len(tried) < 2:
        return None
    best = min(tried.values())
    enough = min(workers for workers, seconds in tried.items() if seconds <= ENOUGH * best)
    more = " More might be faster still: try them." if enough == max(tried) else ""
    return (
        f"data.num_workers={enough} is enough: with it an epoch takes {tried[enough]:.3g} s, with the best of "
        f"{', '.join(map(str, sorted(tried)))} {best:.3g} s.{more}"
    )


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """A table of all rows."""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *([cell(row) for cell in COLUMNS.values()] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3g}" if value < 1000 else f"{value:.0f}"
