"""Two processes at once: both finish on one data set, one is refused a run folder in use, an output stays whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from compare import all_whole, load, nothing_unfinished, same, same_labels
from harness import Command, in_words, train_line

AT_ONCE = ("trainer.max_epochs=2", "test=false")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_one_data_set(tmp_path: Path, workers: int) -> None:
    """Started from nothing: one makes raw data, plan and store, the other waits; both train the same network."""
    lines = [train_line(tmp_path / name, *AT_ONCE, workers=workers) for name in ("first", "second")]
    with Command(*lines[0], folder=tmp_path) as first, Command(*lines[1], folder=tmp_path) as second:
        for command in (first, second):
            assert command.wait() == 0, command.output
            command.must_leave_nothing()
    ours, theirs = (load(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("first", "second"))
    assert ours["plan"] == theirs["plan"]
    same(ours["state_dict"], theirs["state_dict"], "weights")
    all_whole(tmp_path / "data")
    nothing_unfinished(tmp_path / "data")


@pytest.mark.slow
def test_other_planning_options(tmp_path: Path, prepared: Path) -> None:
    """A second run that plans otherwise does not change what the first one reads."""
    long = ("trainer.max_epochs=30", "data.iterations_per_epoch=10", "test=false")
    with Command(*train_line(tmp_path / "first", *long), folder=tmp_path, root=prepared) as first:
        first.wait_for((tmp_path / "first" / "checkpoints" / "last.ckpt").is_file, "to train")
        other = train_line(tmp_path / "second", *AT_ONCE, "data.planning.memory_gb=0.04", "data.planning.rule='2.8'")
        with Command(*other, folder=tmp_path, root=prepared) as second:
            code = second.wait()
            assert first.code is None, "the first run ended too early for this test"
            if code != 0:
                in_words(second.output)
                assert "plan" in second.output
        first.kill()
        first.must_leave_nothing()
    with Command(*train_line(tmp_path / "third", *AT_ONCE), folder=tmp_path, root=prepared) as third:
        assert third.wait() == 0, third.output
    plans = [load(tmp_path / name / "checkpoints" / "last.ckpt")["plan"] for name in ("first", "third")]
    assert plans[0] == plans[1]


def test_one_run_folder(prepared: Path, tmp_path: Path) -> None:
    """The second training is refused at once and says who holds the folder; the first is not disturbed."""
    run = tmp_path / "run"
    line = train_line(run, "trainer.max_epochs=500", "test=false")  # it is killed when all is seen
    with Command(*line, folder=tmp_path, root=prepared) as first:
        first.wait_for((run / "checkpoints" / "last.ckpt").is_file, "to train")
        config = (run / "config.yaml").read_bytes()
        with Command(*line, folder=tmp_path, root=prepared) as second:
            code = second.wait()
            assert code != 0 and first.code is None, second.output
            said = "".join(second.output.split())
            assert "".join(str(run).split()) in said and str(first.process.pid) in said, second.output[-3000:]
            second.must_leave_nothing()
        assert (run / "config.yaml").read_bytes() == config
        first.kill()
        first.must_leave_nothing()
    all_whole(run)


@pytest.mark.slow
def test_one_output_of_predictions(prepared: Path, trained: Path, tmp_path: Path) -> None:
    """Both finish, or the second is refused; what lies there is whole either way."""
    images = prepared / "data" / "raw" / "Dataset900_Phantom" / "imagesTs"
    line = (
        "predict.py", f"checkpoint={trained / 'checkpoints' / 'last.ckpt'}", f"input={images}",
        f"output={tmp_path / 'out'}",
    )  # fmt: skip
    with Command(*line, folder=tmp_path) as first, Command(*line, folder=tmp_path) as second:
        codes = [first.wait(), second.wait()]
    assert 0 in codes, first.output + second.output
    same_labels(tmp_path / "out", trained / "predictions")
    nothing_unfinished(tmp_path / "out")


@pytest.mark.slow
def test_one_output_of_scores(prepared: Path, trained: Path, tmp_path: Path) -> None:
    line = ("eval.py", f"ckpt_path={trained / 'checkpoints' / 'last.ckpt'}", f"output={tmp_path / 'scores'}")
    with (
        Command(*line, folder=tmp_path, root=prepared) as first,
        Command(*line, folder=tmp_path, root=prepared) as second,
    ):
        codes = [first.wait(), second.wait()]
    assert 0 in codes, first.output + second.output
    all_whole(tmp_path / "scores")
    nothing_unfinished(tmp_path / "scores")
