"""What the table of runs says of commit and date, and scores that nothing says the origin of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.evaluation.scored_runs import make_run
from umamba.evaluation.report.__main__ import make_report
from umamba.evaluation.report.left_out import LeftOutError
from umamba.evaluation.report.runs import gather
from umamba.evaluation.report.tables import runs_table


def cross_validation(folder: Path, commits: tuple[str | None, ...], days: tuple[str, ...]) -> dict[str, str]:
    """The row of a cross-validation whose folds are of these commits (None: not at hand) and days."""
    checkpoints = []
    for fold, (commit, day) in enumerate(zip(commits, days, strict=True)):
        run = folder / f"fold_{fold}" / "run"
        run.mkdir(parents=True)
        checkpoints.append(str(run / "checkpoints" / "last.ckpt"))
        if commit is not None:
            content = {"git_revision": commit, "started": f"{day}T10:00:00+00:00"}
            (run / "provenance.json").write_text(json.dumps(content))
    tables = make_run(folder / "tables", scored="out_of_fold")
    record = json.loads((tables / "run.json").read_text())
    (tables / "run.json").write_text(json.dumps(record | {"checkpoints": checkpoints}))
    return runs_table(gather([folder])).iloc[0].to_dict()


@pytest.mark.parametrize(
    ("commits", "days", "commit", "date"),
    [
        (("abc", "abc"), ("2026-01-02", "2026-01-02"), "abc", "2026-01-02"),
        (("abc", "abc"), ("2026-01-02", "2026-01-03"), "abc", "several"),
        (("abc", "def"), ("2026-01-02", "2026-01-02"), "several", "2026-01-02"),
        (("abc", None), ("2026-01-02", "2026-01-02"), "–", "–"),
    ],
)
def test_commit_and_date_of_a_cross_validation_are_those_of_its_folds(tmp_path, commits, days, commit, date):
    row = cross_validation(tmp_path, commits, days)
    assert (row["commit"], row["date"]) == (commit, date)


def test_what_lies_beside_the_tables_is_the_runs_own(tmp_path):
    make_run(tmp_path / "run" / "tables")
    content = {"git_revision": "abc", "started": "2026-01-02T10:00:00+00:00"}
    (tmp_path / "run" / "provenance.json").write_text(json.dumps(content))
    row = runs_table(gather([tmp_path])).iloc[0]
    assert (row["commit"], row["date"]) == ("abc", "2026-01-02")


def test_scores_of_stored_predictions_are_left_out_and_named(tmp_path):
    make_run(tmp_path / "run" / "tables")
    stored = make_run(tmp_path / "stored" / "tables")
    (stored / "run.json").unlink()
    with pytest.raises(LeftOutError, match=r"stored/tables/scores\.csv has no run\.json .*which network and training"):
        make_report([tmp_path / "run", tmp_path / "stored"], tmp_path / "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "1 scored run" in page and "cannot enter a report" in page.partition(">Left out</h2>")[2]
    with pytest.raises(ValueError, match=r"None of the 1 run\(s\) can be read:\n.*cannot enter a report"):
        make_report([tmp_path / "stored"], tmp_path / "none")
    (stored / "scores.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"no run\.json below .*stored"):
        make_report([tmp_path / "run", tmp_path / "stored"], tmp_path / "none")
