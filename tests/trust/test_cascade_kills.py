"""A cascade that is killed in each of its stages and started again ends as one that was not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import blosc2
import numpy as np
import pytest
from compare import all_whole, load, nothing_unfinished, same, same_history, same_labels
from harness import Command

from tests.cascade.made_cascade import split_in_two
from tests.miniatures import TINY, make_volumes

DATASET, LOW, SECOND = "Dataset970_Large", "casc/3d_lowres", "casc/3d_cascade_fullres"
LINE = (
    "train.py", "--config-name=cascade", "data=custom", "model=nnunet", "callbacks.progress=null", *TINY,
    f"data.dataset_dir=data/raw/{DATASET}", "cross_validation.folds=[0,1]", "data.planning.memory_gb=0.004",
    "run_dir=casc",
)  # fmt: skip
MAPS = f"data/prepared/{DATASET}/3d_fullres-previous-*/*.b2nd"
MOMENTS = (  # as soon as the first file of it is there
    f"{LOW}/fold_0/checkpoints/last.ckpt", f"{LOW}/fold_1/checkpoints/last.ckpt",
    f"{LOW}/out_of_fold/**/*.nii.gz", MAPS, f"{SECOND}/fold_0/checkpoints/last.ckpt",
    f"{SECOND}/fold_1/checkpoints/last.ckpt", f"{SECOND}/out_of_fold/**/*.nii.gz",
)  # fmt: skip


def user(folder: Path) -> Path:
    """A folder with a data set that has a cascade."""
    make_volumes(folder / "data" / "raw" / DATASET, labels=("liver", "tumour"), shape=(40, 48, 56))
    split_in_two(folder / "data" / "raw" / DATASET)
    return folder


def there(folder: Path, pattern: str) -> Callable[[], bool]:
    return lambda: any(folder.glob(pattern))


@pytest.mark.slow
def test_a_cascade_killed_in_each_stage_ends_as_one_that_was_not(tmp_path: Path) -> None:
    expected, folder = user(tmp_path / "whole"), user(tmp_path / "killed")
    with Command(*LINE, folder=expected) as command:
        assert command.wait() == 0, command.output[-5000:]
    killed = []
    for moment in MOMENTS:
        with Command(*LINE, folder=folder) as command:
            command.wait_for(there(folder, moment), f"to make {moment}")
            assert command.code is None, f"it ended before {moment}:\n{command.output[-5000:]}"
            command.kill()
            killed.append(command)
    with Command(*LINE, folder=folder) as command:
        assert command.wait() == 0, command.output[-5000:]
    for command in killed:
        command.must_leave_nothing()
    for run in (f"{stage}/fold_{fold}" for stage in (LOW, SECOND) for fold in (0, 1)):
        ours, theirs = (load(each / run / "checkpoints" / "last.ckpt") for each in (folder, expected))
        for key in ("state_dict", "optimizer_states", "lr_schedulers"):
            same(ours[key], theirs[key], f"{run}: {key}")
        same_history(folder / run / "metrics.csv", expected / run / "metrics.csv")
    for stage in (LOW, SECOND):
        for fold in (0, 1):
            same_labels(
                folder / stage / "out_of_fold" / f"fold_{fold}", expected / stage / "out_of_fold" / f"fold_{fold}"
            )
        tables = [(each / stage / "tables" / "scores.csv").read_text() for each in (folder, expected)]
        assert tables[0] == tables[1]
    ours, theirs = (sorted(each.glob(MAPS)) for each in (folder, expected))
    assert [path.name for path in ours] == [path.name for path in theirs] and len(ours) == 5
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(blosc2.open(str(one))[...], blosc2.open(str(other))[...])
    all_whole(folder / "casc")
    nothing_unfinished(folder)
