"""The number that a sweep optimises, read from what a job has left in its folder."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

_OF_THE_TEST = "test/"


def check_metric(name: str | None, *, test: bool) -> None:
    """Refuse, before any work, a number that no job will have.

    Raises:
        ValueError: it is that of a test that is left out, or none of the kinds that there are.
    """
    if name is None:
        return
    name = str(name)
    if name.startswith(_OF_THE_TEST) and not test:
        raise ValueError(f"optimized_metric={name} is measured by the test, which test=false leaves out.")
    if not name.startswith((_OF_THE_TEST, "train/", "val/", "cost/")):
        raise ValueError(
            f"optimized_metric={name!r}: expected a column of metrics.csv such as val/dice_ema, or test/ with a column "
            "of tables/per_case.csv such as test/dsc."
        )


def score_of(folder: Path, name: str) -> float:
    """The last value in metrics.csv, or the mean of the test cases.

    Args:
        folder: of a run that has ended.
        name: a column of metrics.csv, or ``test/`` with a column of tables/per_case.csv.

    Raises:
        FileNotFoundError, ValueError: the run has no such number.
    """
    of_test = name.startswith(_OF_THE_TEST)
    path = folder / "tables" / "per_case.csv" if of_test else folder / "metrics.csv"
    if not path.is_file():
        raise FileNotFoundError(f"optimized_metric={name}: the job has left no {path}.")
    try:
        table = pd.read_csv(path)
    except ValueError as error:
        raise ValueError(f"optimized_metric={name}: {path} is no table ({error}).") from error
    column = name.removeprefix(_OF_THE_TEST) if of_test else name
    values = table[column].dropna() if column in table else pd.Series(dtype=float)
    if values.empty:
        numbers = [str(each) for each in table.columns if pd.api.types.is_numeric_dtype(table[each])]
        raise ValueError(f"optimized_metric={name}: {path} has no values of it; its numbers are {', '.join(numbers)}.")
    value = float(values.mean() if of_test else values.iloc[-1])
    if not math.isfinite(value):
        raise ValueError(f"optimized_metric={name} is {value} in {path}; it cannot be optimised.")
    return value
