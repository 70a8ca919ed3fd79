"""A resumed run keeps the metrics it had."""

from pathlib import Path

import pandas as pd

from src.callbacks.csv_log import ResumableCSVLogger


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
