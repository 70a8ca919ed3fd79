"""Say how the jobs of a sweep stand: which are finished, run, were interrupted, failed, or have not begun.

    python -m umamba.sweep status logs/sweeps/mamba
    python -m umamba.sweep status logs/sweeps/mamba format=json

Nothing is started; the sweep's own command, given again, does what is missing or failed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from umamba.help import exit_with_help

if __name__ == "__main__":
    exit_with_help(__doc__, "sweep")

from omegaconf import DictConfig

from umamba.resolvers import register_resolvers
from umamba.run.command import command, run_command
from umamba.run.job_state import show_states
from umamba.run.score import check_metric
from umamba.run.sweep import quoted
from umamba.sweep.status import Finding, survey, varied

register_resolvers()

FORMATS = ("text", "json")


def main() -> None:
    """See the module."""
    sys.argv[1:] = command_line(sys.argv[1:])
    _main()


@command("sweep")
def _main(cfg: DictConfig) -> None:
    if cfg.action != "status":
        raise ValueError(f"action={cfg.action}: expected status. Sweeps are run by python train.py --multirun.")
    if cfg.format not in FORMATS:
        raise ValueError(f"format={cfg.format}: expected {' or '.join(FORMATS)}.")
    check_metric(cfg.metric, test=True)
    findings = survey(Path(str(cfg.folder)), cfg.metric)
    if cfg.format == "json":
        sys.stdout.write(json.dumps([finding.facts() for finding in findings], indent=2, ensure_ascii=False) + "\n")
    else:
        show(findings)


def show(findings: Sequence[Finding]) -> None:
    """Print one table: a line per job, and how many there are of each state."""
    rows, metrics = [], {finding.metric for finding in findings if finding.metric}
    one = metrics.pop() if len(metrics) == 1 else None
    for finding, overrides in zip(findings, varied(findings), strict=True):
        of = "" if finding.steps is None else f" of {finding.steps}"
        score = "" if finding.score is None else f"{finding.score:.4f}" + ("" if one else f" {finding.metric}")
        cells = {
            "job": finding.entry.name, "overrides": " ".join(overrides), "state": finding.condition.value,
            "step": "" if finding.step is None else f"{finding.step}{of}", one or "score": score,
            "s": "" if finding.seconds is None else f"{finding.seconds:.0f}", "why": finding.detail,
        }  # fmt: skip
        rows.append((finding.condition, cells))
    show_states(rows, f"; each is in its folder below {findings[0].entry.sweep}")


def command_line(arguments: Sequence[str]) -> list[str]:
    """`status FOLDER` as action=status folder=FOLDER; what has a = stays as it is."""
    plain = [word for word in arguments if "=" not in word and not word.startswith("-")]
    given = [word for word in arguments if word not in plain]
    action, *folder = plain if plain and plain[0] == "status" else ["status", *plain]
    return [f"action={action}", *(f"folder={quoted(word)}" for word in folder), *given]


if __name__ == "__main__":
    run_command(main)
