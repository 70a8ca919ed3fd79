"""A sweep as an array of batch jobs of SLURM.

The batch script holds the command of each job and can be read, changed and submitted again. hydra-submitit-launcher is
not used: between SLURM and the training it puts a process of its own that passes no signal on, so that a training
which is to stop is killed without a checkpoint, and all that it submits are pickles.
"""

from __future__ import annotations

import logging
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from umamba.files import write_text
from umamba.sweep.entry import FOLDER, SweepJob
from umamba.typed import is_whole

log = logging.getLogger(__name__)

_OURS = ("array", "output", "open-mode", "chdir", "wrap")
# To the batch shell, with which a job is the same process, and one that ends a training with its checkpoint
_SIGNAL = re.compile(r"(?:B|BR|RB):(?:SIG)?(?:USR1|TERM|INT)(?:@\d+)?", re.IGNORECASE)


def submit(
    jobs: Sequence[SweepJob], *, sbatch: Mapping[str, Any], setup: Sequence[str], at_once: int | None, really: bool
) -> None:
    """Write the batch script of a sweep's jobs and, if `really`, submit it; options as of `SlurmLauncher`.

    Raises:
        ValueError: See `check_options`.
        RuntimeError: sbatch refuses it.
    """
    text = batch_script(jobs, sbatch=sbatch, setup=setup, at_once=at_once)
    folder = jobs[0].entry.sweep / FOLDER
    path = folder / f"submit_{datetime.now().astimezone():%Y-%m-%d_%H-%M-%S}.sh"
    write_text(text, path)
    if not really:
        log.info("%s is written; sbatch %s submits it.", path, shlex.quote(str(path)))
        return
    done = subprocess.run(["sbatch", "--parsable", str(path)], capture_output=True, text=True, check=False)
    number = re.match(r"(\d+)", done.stdout)
    if done.returncode != 0 or number is None:
        raise RuntimeError(f"sbatch has not taken {path}: {(done.stderr or done.stdout).strip()}")
    for index, job in enumerate(jobs):
        job.entry.update(submitted=f"{number[1]}_{index}")
    log.info("SLURM has %d job(s) as %s; squeue shows them, scancel %s ends them.", len(jobs), number[1], number[1])


def check_options(*, sbatch: Mapping[str, Any], at_once: int | None, really: bool) -> dict[str, Any]:
    """See that jobs can be submitted so, before anything is written.

    Returns:
        The options by their long names, without those that are not said.

    Raises:
        ValueError: An option is none, or one that the sweep sets itself, or a signal that no job would get.
        FileNotFoundError: There is no sbatch here.
    """
    if at_once is not None and not is_whole(at_once, 1):
        raise ValueError(f"hydra.launcher.at_once={at_once}: expected a number of jobs, or null.")
    options = {str(key).replace("_", "-"): value for key, value in sbatch.items() if value not in (None, False)}
    for name, value in options.items():
        if name in _OURS or not re.fullmatch(r"[a-z][a-z-]*", name) or "\n" in str(value):
            raise ValueError(
                f"hydra.launcher.sbatch.{name}={value!r}: expected a long option of sbatch and its value; "
                f"{', '.join(_OURS)} are set by the sweep."
            )
    if "signal" in options and not _SIGNAL.fullmatch(str(options["signal"])):
        raise ValueError(
            f"hydra.launcher.sbatch.signal={options['signal']}: expected B:USR1@SECONDS, after which a job writes its "
            "checkpoint and is run again, B:TERM@SECONDS, after which it only ends, or null. Without B: a signal goes "
            "to what srun has started, which these jobs are not, and other signals kill them."
        )
    if really and shutil.which("sbatch") is None:
        raise FileNotFoundError(
            "hydra/launcher=slurm: there is no sbatch here. Call it where jobs are submitted, or write the batch "
            "script alone with hydra.launcher.submit=false."
        )
    return options


def batch_script(
    jobs: Sequence[SweepJob], *, sbatch: Mapping[str, Any], setup: Sequence[str], at_once: int | None
) -> str:
    """The script of an array with a job for each of the sweep's (else ValueError)."""
    options = check_options(sbatch=sbatch, at_once=at_once, really=False)
    folder = str(jobs[0].entry.sweep / FOLDER).replace("%", "%%")  # of which sbatch makes numbers otherwise
    limit = f"%{at_once}" if at_once else ""
    options |= {
        "array": f"0-{len(jobs) - 1}{limit}", "output": f"{folder}/%A_%a.out", "open-mode": "append",
        "chdir": Path.cwd(),
    }  # fmt: skip
    lines = ["#!/bin/bash"]
    for name, value in options.items():
        lines.append(f"#SBATCH --{name}" + ("" if value is True else f"={_quoted(str(value))}"))
    lines += ["", *setup, "", 'case "$SLURM_ARRAY_TASK_ID" in']
    for index, job in enumerate(jobs):
        lines.append(f"{index}) set -- {shlex.join([str(job.entry.sweep), job.name, *job.command])} ;;")
    # exec: the signal of B: reaches the batch shell alone, which is this process then
    lines += ["esac", f'exec {shlex.quote(sys.executable)} -m umamba.sweep.job "$@"', ""]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """As sbatch reads the lines of a script: in double quotes where there is a blank."""
    return f'"{text}"' if re.search(r"\s", text) else text
