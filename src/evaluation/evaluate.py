"""Score pairs of prediction and reference, several cases at a time, into one table."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import pandas as pd
from rich.progress import Progress

from umamba.evaluation.pairs import Pair
from umamba.evaluation.score_pair import score_pair
from umamba.evaluation.scoring import Scoring
from umamba.machine import usable_cpus
from umamba.processes import light_start, worker_pool
from umamba.words import listed

FAULTS_SHOWN = 50
WORTH_PROCESSES = 20.0  # s of work left: on a busy machine a process takes several to start


def evaluate(pairs: Iterable[Pair], scoring: Scoring, *, workers: int | None = None) -> pd.DataFrame:
    """Score predictions against references.

    Args:
        pairs: What to compare with what, made by `umamba.evaluation.pairs`.
        scoring: Classes, task, protocol and tolerances.
        workers: Processes; 0 or 1 scores in this one, None takes the CPUs at hand if that is worth it.

    Returns:
        One row per case and class: protocol, case, class and the scores of `umamba.evaluation.standard` or
        `umamba.evaluation.paper`; the protocol is "standard", "paper/abdomen", "paper/endoscopy" or "paper/cells".

    Raises:
        ValueError: No pairs, or a case twice; or files are missing, cannot be read, or do not fit each other: all of
            them are looked at first and named.
        RuntimeError: A process was killed.
    """
    pairs = list(pairs)
    _check_names([pair.case for pair in pairs])
    score = partial(score_pair, scoring=scoring)
    with Progress(transient=True, disable=not sys.stdout.isatty()) as bar:
        results = list(bar.track(_results(pairs, score, workers), total=len(pairs), description="Scoring"))
    faults = [result for result in results if isinstance(result, str)]
    if faults:
        listing = listed(faults, FAULTS_SHOWN, "\n  ")
        raise ValueError(f"{len(faults)} of {len(pairs)} case(s) cannot be scored:\n  {listing}")
    rows = [row for result in results for row in result]
    if not rows:
        raise ValueError(
            f"Protocol {scoring.protocol} left out each of the {len(pairs)} case(s); the warnings say why."
        )
    return pd.DataFrame(rows)


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise ValueError("There is nothing to score: no pair of prediction and reference.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"Cases must have names of their own; given twice: {', '.join(twice)}.")


def _results(
    pairs: list[Pair], score: Callable[[Pair], list[dict] | str], workers: int | None
) -> Iterator[list[dict] | str]:
    """The rows of each pair, in order, made by processes if there are to be several."""
    if workers is None:
        workers, started = 0, time.perf_counter()
        for done, pair in enumerate(pairs, start=1):
            yield score(pair)
            if done == 1:
                started = time.perf_counter()  # the first case pays for imports
            elif (time.perf_counter() - started) / (done - 1) * (len(pairs) - done) > WORTH_PROCESSES:
                workers = min(usable_cpus(), len(pairs) - done)
                break
        pairs = pairs[done:]
    if workers <= 1:
        yield from map(score, pairs)
        return
    try:
        with worker_pool(workers) as pool:
            with light_start():
                results = pool.map(score, pairs)
            yield from results
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"One of {workers} scoring processes was killed, most likely for want of memory. Use fewer workers "
            "(0 scores in the main process)."
        ) from error
