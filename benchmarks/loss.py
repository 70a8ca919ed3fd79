"""The deep-supervision losses, fused and in torch's operations: a table. Needs torch and a CUDA device.

    python benchmarks/loss.py          # half a minute

Forward and backward of Dice and cross-entropy, and of relatives that are not fused, over all outputs, channels-last, in
the settings of `training_step.py` and for 120 classes. `device ms` is a CUDA graph's replay, `host ms` what launching
takes without one, `peak gib` is what is needed beside the logits, `difference` that of both ways' values.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from settings import Setting
from timing import PeakMemory, replay_ms
from training_step import SETTINGS
from umamba.files import write_text
from umamba.models import losses
from umamba.models.loss_terms import Terms
from umamba.models.losses import DeepSupervision, DiceCELoss

ROOT = Path(__file__).resolve().parents[1]
CASES = {
    **SETTINGS,
    "120 classes": Setting(
        channels=1, labels=120, patch=(64, 128, 128), batch=2, topology={"strides": (1, 2, 2, 2, 2)}
    ),
}
LOSSES = {"dice_ce": Terms(), "dice_topk": Terms(hardest_percent=10.0), "dice_focal": Terms(gamma=2.0)}
DTYPES = {"bf16": torch.bfloat16, "32": torch.float32}
REPEATS = 20
COLUMNS = ("setting", "logits", "loss", "way", "device ms", "host ms", "peak gib", "difference")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "benchmarks")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device, and nothing else to time.")
    rows = [row for setting in args.settings for dtype in DTYPES for row in measure(setting, dtype)]
    lines = [
        "# The loss",
        "",
        f"`python benchmarks/loss.py` on one {torch.cuda.get_device_name()}, torch {torch.__version__}.",
    ]
    lines += ["", "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(str(row[key]) for key in COLUMNS) + " |" for row in rows]
    args.output.mkdir(parents=True, exist_ok=True)
    write_text("\n".join([*lines, ""]), args.output / "loss.md")
    print("\n".join(lines))


def measure(setting: str, dtype: str) -> list[dict[str, Any]]:
    """A row of each way."""
    case = CASES[setting]
    label = torch.randint(case.labels, (case.batch, *case.patch), device="cuda", dtype=torch.int16)
    outputs, shape = [], list(case.patch)
    for strides in case.stage_strides()[:-1]:
        shape = [-(-size // step) for size, step in zip(shape, strides, strict=True)]
        logits = torch.randn(case.batch, *shape, case.labels, device="cuda", dtype=DTYPES[dtype])
        outputs.append(logits.movedim(-1, 1).requires_grad_())
    if not losses.loss_fused(outputs, label, None):
        raise SystemExit("The fused loss cannot be used on this device; the log says why.")
    rows: list[dict[str, Any]] = []
    for name, terms in LOSSES.items():
        loss = DeepSupervision(DiceCELoss(len(case.patch) == 2, None, terms))
        for way in ("fused", "torch") if terms.of_sums else ("torch",):
            chosen = losses.loss_fused if way == "fused" else lambda *inputs: False
            with mock.patch.object(losses, "loss_fused", chosen):
                row = timed(functools.partial(run, loss, outputs, label))
                value = loss(outputs, label).item()
            about = {"setting": setting, "logits": dtype, "loss": name, "way": way, "difference": ""}
            rows.append({**about, **row, "value": value})
    apart = abs(rows[0]["value"] - rows[1]["value"])  # of the first, both ways
    return [{**row, "difference": f"{apart:.0e}"} if row["loss"] == "dice_ce" else row for row in rows]


def run(loss: DeepSupervision, outputs: list[Tensor], label: Tensor) -> None:
    torch.autograd.grad(loss(outputs, label), outputs)


def timed(step: Callable[[], None]) -> dict[str, float]:
    for _ in range(3):
        step()
    memory = PeakMemory()
    start = time.perf_counter()
    for _ in range(REPEATS):
        step()
    host = time.perf_counter() - start
    torch.cuda.synchronize()
    peak = memory.grown_gib()
    return {
        "device ms": round(replay_ms(step, REPEATS), 3),
        "host ms": round(1e3 * host / REPEATS, 2),
        "peak gib": round(peak, 2),
    }


if __name__ == "__main__":
    main()
