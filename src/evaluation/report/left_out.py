"""Runs that cannot be read are named and left out; the others are reported, and then it is said once more."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

Faults = dict[str, str]  # file -> why it cannot be read


class LeftOutError(RuntimeError):
    """A report was made, but some runs could not be read and are not in it.

    Attributes:
        path: Of the page, which lists them too.
        faults: File -> why.
    """

    def __init__(self, path: Path, faults: Mapping[str, str]) -> None:
        self.path, self.faults = path, dict(faults)
        super().__init__(f"{path} was made without {len(faults)} run(s) that cannot be read:\n{_lines(faults)}")


@contextmanager
def left_out(faults: Faults | None, path: Path) -> Iterator[None]:
    """Note why a run's file cannot be read, and go on.

    Args:
        faults: Gets file -> why; None lets the error through.
        path: The file that is read inside.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if faults is None:
            raise
        faults[str(path)] = str(error)
        log.error("Left out: %s", error)


def leave_out_unknown(folder: Path, faults: Faults | None) -> None:
    """Leave out the scores below a folder that has no run.json.

    Raises:
        FileNotFoundError: There are no scores either.
        ValueError: Without `faults`.
    """
    tables = sorted(folder.rglob("scores.csv"))
    if not tables:
        raise FileNotFoundError(f"There is no run.json below {folder}; train.py and eval.py write them to tables/.")
    for table in tables:
        with left_out(faults, table):
            raise ValueError(
                f"{table} has no run.json beside it, so nothing says which network and training made these scores. "
                "Those of stored predictions (eval.py predictions=...) cannot enter a report; score the checkpoint "
                "that made them with eval.py ckpt_path=..."
            )


def check_any(runs: object, faults: Faults) -> None:
    """Raises ValueError if no run is left."""
    if faults and not runs:
        raise ValueError(f"None of the {len(faults)} run(s) can be read:\n{_lines(faults)}")


def _lines(faults: Mapping[str, str]) -> str:
    return "\n".join(f"  {why}" for why in faults.values())
