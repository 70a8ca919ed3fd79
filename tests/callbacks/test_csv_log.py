"""A resumed run keeps the metrics it had."""

from pathlib import Path

import pandas as pd
import pytest

from umamba.callbacks.csv_log import ResumableCSVLogger


def test_metrics_are_appended_even_with_new_columns(tmp_path: Path) -> None:
    first = ResumableCSVLogger(tmp_path)
    first.log_metrics({"epoch": 0, "loss": 1.0}, step=0)
    first.save()
    resumed = ResumableCSVLogger(tmp_path)
    resumed.log_metrics({"epoch": 1, "loss": 0.5, "dice": 0.7}, step=1)
    resumed.save()
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert table["loss"].tolist() == [1.0, 0.5]
    assert table["dice"].isna().tolist() == [True, False]


def test_a_torn_row_is_removed_and_said(tmp_path: Path, caplog) -> None:
    first = ResumableCSVLogger(tmp_path)
    for step in range(3):
        first.log_metrics({"loss": 1.0 + step}, step=step)
    first.save()
    path = tmp_path / "metrics.csv"
    path.write_bytes(path.read_bytes()[:-3])
    resumed = ResumableCSVLogger(tmp_path)
    resumed.log_metrics({"loss": 3.0}, step=2)
    resumed.save()
    assert pd.read_csv(path)["loss"].tolist() == [1.0, 2.0, 3.0]
    assert "ends within a row" in caplog.text


@pytest.mark.parametrize("size", [0, 3])
def test_a_file_without_a_whole_header_is_begun_anew(tmp_path: Path, size: int) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"epo"[:size])
    logger = ResumableCSVLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.save()
    assert pd.read_csv(tmp_path / "metrics.csv")["loss"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfestep\r\n1\r\n", "can't decode byte 0xff"),
        (b"a,b\r\n1,2\r\n", "a row has the step None"),
        (b"step,loss\r\n1.0,2\r\n", "a row has the step '1.0'"),
    ],
)
def test_a_file_of_something_else_is_named_and_stays(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"metrics\.csv is not as a run leaves it \(.*{reason}.*move this one away"):
        ResumableCSVLogger(tmp_path).experiment.rewind(2)
    assert path.read_bytes() == content


def test_a_row_that_was_cut_by_hand_is_told_of(tmp_path: Path, caplog) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"step,loss\r\n0\r\n1,2\r\n")
    ResumableCSVLogger(tmp_path).experiment.rewind(2)
    assert "1 row(s) of another number of columns" in caplog.text
    assert (tmp_path / "metrics.csv").read_bytes() == b"step,loss\r\n1,2\r\n"


def test_rewinding_drops_the_rows_that_are_trained_again(tmp_path: Path) -> None:
    logger = ResumableCSVLogger(tmp_path)
    for step in range(4):
        logger.log_metrics({"loss": float(step)}, step=step)
    logger.save()
    resumed = ResumableCSVLogger(tmp_path)
    resumed.experiment.rewind(2)
    resumed.log_metrics({"loss": 20.0, "dice": 0.5}, step=2)
    resumed.save()
    assert pd.read_csv(tmp_path / "metrics.csv")["loss"].tolist() == [0.0, 1.0, 20.0]


def test_a_kill_while_a_column_is_added_loses_no_row(tmp_path: Path, monkeypatch) -> None:
    logger = ResumableCSVLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.save()

    def killed(*arguments) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("umamba.files.os.replace", killed)
    logger.log_metrics({"loss": 2.0, "dice": 0.5}, step=1)
    with pytest.raises(KeyboardInterrupt):
        logger.save()
    assert pd.read_csv(tmp_path / "metrics.csv")["loss"].tolist() == [1.0]


def saved(logger: ResumableCSVLogger, *rows: dict) -> list[dict]:
    """What is in the file when each of some rows was logged and saved; without what is empty."""
    for row in rows:
        logger.log_metrics({key: value for key, value in row.items() if key != "step"}, step=row["step"])
        logger.save()
    table = pd.read_csv(logger.experiment.metrics_file_path)
    return [{key: value for key, value in row.items() if value == value} for row in table.to_dict("records")]


def test_an_epoch_is_one_row(tmp_path: Path) -> None:
    rows = [{"step": 0, "epoch": 0, "lr-SGD": 0.1}, {"step": 9, "epoch": 0, "val/loss": 2.0},
            {"step": 9, "epoch": 0, "train/loss": 1.0}, {"step": 10, "epoch": 1, "lr-SGD": 0.05}]  # fmt: skip
    whole = [{"step": 9, "epoch": 0, "lr-SGD": 0.1, "val/loss": 2.0, "train/loss": 1.0}, rows[3]]
    assert saved(ResumableCSVLogger(tmp_path / "one"), *rows) == whole
    for row in rows:  # each by a process of its own
        found = saved(ResumableCSVLogger(tmp_path / "many"), row)
    assert found == whole


def test_what_is_logged_by_step_has_a_row_each_time(tmp_path: Path) -> None:
    steps = [{"step": step, "epoch": 0, "lr-SGD": 0.1} for step in (3, 6, 9)]
    end = {"step": 9, "epoch": 0, "train/loss": 1.0}
    assert saved(ResumableCSVLogger(tmp_path), *steps, end) == [*steps[:2], {**steps[2], **end}]
    validated = [{"step": step, "epoch": 1, "val/loss": 1.0} for step in (14, 19)]  # twice in an epoch
    assert saved(ResumableCSVLogger(tmp_path), *validated)[3:] == validated


def test_an_epoch_that_is_gone_on_with_midway_keeps_its_learning_rate(tmp_path: Path) -> None:
    rows = [{"step": 9, "epoch": 0, "train/loss": 1.0}, {"step": 10, "epoch": 1, "lr-SGD": 0.1},
            {"step": 19, "epoch": 1, "val/loss": 2.0}]  # fmt: skip
    end = {"step": 19, "epoch": 1, "val/loss": 3.0}
    for step, midway, expected in ((15, 1, {**end, "lr-SGD": 0.1}), (10, None, end)):
        saved(ResumableCSVLogger(tmp_path / str(step)), *rows)
        resumed = ResumableCSVLogger(tmp_path / str(step))
        resumed.experiment.rewind(step, midway)
        assert saved(resumed, end) == [rows[0], expected]


def test_a_file_that_is_gone_where_a_run_goes_on_is_missed_once(tmp_path: Path, caplog) -> None:
    ResumableCSVLogger(tmp_path).experiment.rewind(0)
    assert not caplog.text
    for step in (4, 5):
        logger = ResumableCSVLogger(tmp_path)
        logger.experiment.rewind(step)
        logger.log_metrics({"loss": 1.0}, step=step)
        logger.save()
    assert caplog.text.count("metrics.csv is missing although the training continues at step 4") == 1
    assert "at step 5" not in caplog.text
