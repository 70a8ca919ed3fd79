"""What eval.py refuses it refuses before the first prediction; a record tells which checkpoint was scored."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.evaluation.knowing import checkpoint_of, eval_config
from tests.inference.small import MIRROR, make_plan
from tests.miniatures import make_volumes
from umamba.evaluation import __main__ as script
from umamba.evaluation.postprocessing import save_rules
from umamba.evaluation.record import is_scored
from umamba.inference.predictor import Predictor
from umamba.inference.rules import Rule


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_volumes(tmp_path / "Dataset950_Small", cases=5, labels=("class_1",))


def checkpoint(raw: Path, name: str, *, mirror: bool = True, channels=("MR",), **data) -> Path:
    augmentation = {"mirror": MIRROR} if mirror else None
    return checkpoint_of(raw, name, make_plan(channels), augmentation=augmentation, **data)


@pytest.fixture
def predicted(monkeypatch) -> list[str]:
    """Names of the cases that were predicted."""
    names: list[str] = []
    whole = Predictor.predict_cases

    def counted(self: Predictor, cases, output_dir):
        names.extend(case.identifier for case in cases)
        return whole(self, cases, output_dir)

    monkeypatch.setattr(Predictor, "predict_cases", counted)
    return names


def rules_fitted_on(raw: Path, cases: list[str]) -> Path:
    rule = Rule(classes=("class_1",), labels=(1,), dice_before=0.1, dice_after=0.2)
    save_rules([rule], raw.parent / "rules.json", cases)
    return raw.parent / "rules.json"


def test_mirroring_is_refused_before_the_other_rows(raw: Path, predicted: list[str]) -> None:
    path = checkpoint(raw, "plain.ckpt", mirror=False)
    with pytest.raises(ValueError, match="was trained without mirroring"):
        script.score_checkpoints(eval_config(raw.parent / "out", f"ckpt_path={path}", "mirror=true"))
    assert not predicted and not (raw.parent / "out").exists()


def test_what_another_row_lacks_is_refused_before_the_first(raw: Path, predicted: list[str]) -> None:
    first, other = checkpoint(raw, "a.ckpt"), checkpoint(raw, "b.ckpt", nsd_tolerance={"other": 1.0})
    with pytest.raises(ValueError, match="NSD needs a tolerance.*class_1"):
        script.score_checkpoints(eval_config(raw.parent / "out", f"ckpt_path=[{first},{other}]"))
    assert not predicted


def test_rules_fitted_on_the_cases_to_be_scored(raw: Path, predicted: list[str]) -> None:
    first, other = checkpoint(raw, "a.ckpt"), checkpoint(raw, "b.ckpt", seed=1)
    rules = rules_fitted_on(raw, [f"case_{index}" for index in range(5)])
    overrides = [f"ckpt_path=[{first},{other}]", f"postprocessing={rules}"]
    with pytest.raises(ValueError, match="fitted on 1 of the cases to be scored"):
        script.score_checkpoints(eval_config(raw.parent / "out", *overrides))
    assert not predicted


def test_parquet_that_cannot_be_written(raw: Path, predicted: list[str], monkeypatch) -> None:
    monkeypatch.setattr("umamba.evaluation.tables.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs pyarrow"):
        script.score_checkpoints(
            eval_config(raw.parent / "out", f"ckpt_path={checkpoint(raw, 'a.ckpt')}", "parquet=true")
        )
    assert not predicted


def test_label_maps_of_other_cases_are_named_and_not_scored(raw: Path, predicted: list[str], caplog) -> None:
    path, out = checkpoint(raw, "a.ckpt"), raw.parent / "out"
    (out / "predictions").mkdir(parents=True)
    shutil.copy(raw / "labelsTr" / "case_0.nii.gz", out / "predictions" / "another.nii.gz")
    script.score_checkpoints(eval_config(out, f"ckpt_path={path}"))
    assert set(pd.read_csv(out / "tables" / "scores.csv")["case"]) == set(predicted) and "another" not in predicted
    assert "1 label map(s) of other cases lie here too and are not scored" in caplog.text and "another" in caplog.text


def test_a_checkpoint_counts_as_scored_by_what_it_holds(raw: Path, monkeypatch) -> None:
    path, out = checkpoint(raw, "a.ckpt"), raw.parent / "out"
    tables = out / "tables"
    assert not is_scored(path, tables)
    script.score_checkpoints(eval_config(out, f"ckpt_path={path}"))
    record = json.loads((tables / "run.json").read_text())
    assert len(record["checkpoints_sha256"]) == 1 and "global_step" in record["members"][0]
    assert is_scored(path, tables)
    os.utime(path)  # a later date
    shutil.copytree(out, raw.parent / "copy")  # all dates anew
    assert is_scored(path, tables) and is_scored(path, raw.parent / "copy" / "tables")
    later = checkpoint(raw, "later.ckpt", seed=1)
    os.utime(later, (0, 0))
    assert not is_scored(later, tables)
    with monkeypatch.context() as broken:  # a kill after the tables
        broken.setattr("umamba.evaluation.score_run.overlay_figure", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            script.score_checkpoints(eval_config(out, f"ckpt_path={path}"))
    assert (tables / "summary.csv").is_file() and not is_scored(path, tables)
    (raw.parent / "copy" / "tables" / "scores.csv").write_text("case\n")
    assert not is_scored(path, raw.parent / "copy" / "tables")


def test_a_checkpoint_that_is_replaced_meanwhile_is_refused(raw: Path, predicted: list[str], monkeypatch) -> None:
    path, later, whole = checkpoint(raw, "a.ckpt"), checkpoint(raw, "b.ckpt", seed=1), Predictor.from_checkpoint

    def slowly(*arguments, **options) -> Predictor:
        predictor = whole(*arguments, **options)
        os.replace(later, path)
        return predictor

    monkeypatch.setattr(Predictor, "from_checkpoint", slowly)
    with pytest.raises(ValueError, match="was replaced while it was read"):
        script.score_checkpoints(eval_config(raw.parent / "out", f"ckpt_path={path}"))
    assert not predicted
