"""Several checkpoints in one call of eval.py: one data set, one way of scoring, and a note where the cases differ."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from tests.evaluation.knowing import checkpoint_of, eval_config
from tests.inference.small import make_plan
from tests.miniatures import make_volumes
from umamba.evaluation import __main__ as script
from umamba.inference.predictor import Predictor


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_volumes(tmp_path / "Dataset950_Small", cases=6, labels=("class_1",))


def checkpoint(raw: Path, name: str, **data) -> Path:
    return checkpoint_of(raw, name, make_plan(), **data)


def test_two_data_sets_are_refused_and_copies_can_be_named(raw: Path, monkeypatch) -> None:
    other = shutil.copytree(raw, raw.parent / "Dataset951_Other")
    both = f"ckpt_path=[{checkpoint(raw, 'a.ckpt')},{checkpoint(other, 'b.ckpt')}]"
    with monkeypatch.context() as patched:
        patched.setattr(Predictor, "predict_cases", lambda *_, **__: pytest.fail("predicted"))
        with pytest.raises(ValueError, match="two data sets, .*Dataset950_Small and .*Dataset951_Other.*report"):
            script.score_checkpoints(eval_config(raw.parent / "out", both))
    assert not (raw.parent / "out").exists()
    script.score_checkpoints(eval_config(raw.parent / "out", both, f"data.dataset_dir={raw}"))
    assert (raw.parent / "out" / "tables" / "summary.md").is_file()


def test_a_link_to_a_data_set_is_that_data_set(raw: Path) -> None:
    (raw.parent / "link").symlink_to(raw)
    both = f"ckpt_path=[{checkpoint(raw, 'a.ckpt')},{checkpoint(raw.parent / 'link', 'b.ckpt')}]"
    script.score_checkpoints(eval_config(raw.parent / "out", both))
    assert "not comparable" not in (raw.parent / "out" / "tables" / "summary.md").read_text()


def test_two_tolerances_are_refused(raw: Path, monkeypatch) -> None:
    monkeypatch.setattr(Predictor, "predict_cases", lambda *_, **__: pytest.fail("predicted"))
    both = f"ckpt_path=[{checkpoint(raw, 'a.ckpt')},{checkpoint(raw, 'b.ckpt', nsd_tolerance=5.0)}]"
    with pytest.raises(ValueError, match="a and b differ in NSD tolerances: {'class_1': 2.0} and {'class_1': 5.0}"):
        script.score_checkpoints(eval_config(raw.parent / "out", both))


def test_folds_of_other_cases_are_said_to_be(raw: Path, caplog) -> None:
    caplog.set_level(logging.INFO)
    both = f"ckpt_path=[{checkpoint(raw, 'a.ckpt')},{checkpoint(raw, 'b.ckpt', fold=1)}]"
    script.score_checkpoints(eval_config(raw.parent / "out", both))
    told = "The rows are of different cases and not comparable (cases by row: a: 2; b: 1; 0 in all of them)."
    for name in ("summary.md", "per_class.md", "per_case.md"):
        assert told in (raw.parent / "out" / "tables" / name).read_text()
    assert "not comparable" in " ".join(caplog.text.split())
