"""Examine a raw data set before it costs a training run.

    python -m umamba.datamodules.doctor data=custom data.dataset_dir=raw/Dataset123_Mine

Exit code: 0 nothing that stops a training, 1 errors, 2 no data set to examine.
"""

from __future__ import annotations

from umamba.help import exit_with_help

if __name__ == "__main__":
    exit_with_help(__doc__, "doctor")  # before the imports that take seconds

import sys
import time
from pathlib import Path

from omegaconf import DictConfig

from umamba.datamodules.doctor.contact_sheet import contact_sheet
from umamba.datamodules.doctor.examination import examine_dataset
from umamba.raw.dataset import refuse_raw_folders
from umamba.resolvers import register_resolvers
from umamba.run.command import command, run_command
from umamba.run.console import for_terminal, table_console
from umamba.run.errors import explained
from umamba.run.habits import name_dataset

register_resolvers()


@command("doctor")
def main(cfg: DictConfig) -> None:
    console = table_console()
    start = time.monotonic()
    with explained(code=2):
        output = Path(name_dataset(cfg).output)
        refuse_raw_folders(output, Path(cfg.data.dataset_dir), "output")
        report, cases = examine_dataset(
            Path(cfg.data.dataset_dir), output, workers=cfg.data.num_workers, geometry=cfg.geometry
        )
    report.save(output / "report.json")
    if cfg.contact_sheet:
        contact_sheet(output / "contact_sheet.png", cases, report)
    report.print(console)
    said = (
        f"{report.num_errors} errors, {len(report.findings) - report.num_errors} warnings in {len(cases)} cases, "
        f"{time.monotonic() - start:.1f} s; report and contact sheet in {output}"
    )
    console.print(for_terminal(said, sys.stdout), soft_wrap=True)
    sys.exit(1 if report.num_errors else 0)


if __name__ == "__main__":
    run_command(main)
