"""A bundle of a cascade holds both stages, and predicts as they do from their folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.cascade.made_cascade import make_cascade, save, two_stages
from tests.export.made import save as save_alone
from tests.inference.small import write_image
from tests.miniatures import run
from umamba.export.given import read_given
from umamba.export.model_folder import write_model_folder
from umamba.export.traced import Traced
from umamba.files import content_hash
from umamba.inference.averaged import predictor_of
from umamba.inference.bundle import VERSION, WITH_PREVIOUS, read_bundle, write_bundle
from umamba.inference.bundled import predictor_of_bundle
from umamba.inference.ensemble import FILE, Group, write_ensemble
from umamba.inference.predictor import Predictor
from umamba.inference.previous_facts import KEY
from umamba.models.checkpoint import BUNDLE, load_checkpoint


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """Checkpoint of a second stage, beside two folds of the first."""
    return make_cascade(tmp_path / "then", two_stages())


def test_it_predicts_where_neither_stage_is_left(second: Path, tmp_path: Path) -> None:
    image = write_image(tmp_path / "images" / "a.nii.gz", (11, 12, 9))
    expected, _ = Predictor.from_checkpoint(second, "cpu").predict([image])
    write_bundle(read_given(str(second)), tmp_path / "b.ckpt")
    (tmp_path / "then").rename(tmp_path / "elsewhere")
    predictor, _ = predictor_of_bundle(tmp_path / "b.ckpt", device="cpu")
    np.testing.assert_array_equal(predictor.predict([image])[0], expected)
    assert len(np.unique(expected)) > 1
    again = read_given(str(tmp_path / "b.ckpt"))
    write_bundle(again, tmp_path / "again.ckpt")
    np.testing.assert_array_equal(
        predictor_of_bundle(tmp_path / "again.ckpt", device="cpu")[0].predict([image])[0], expected
    )
    moved = tmp_path / "elsewhere" / "3d_cascade_fullres" / "fold_0" / "checkpoints" / "last.ckpt"
    (tmp_path / "elsewhere" / "3d_lowres").rename(tmp_path / "low")
    with pytest.raises(FileNotFoundError, match="predicts with 3d_lowres, whose fold 0 was"):
        read_given(str(moved))
    given = read_given(str(moved), previous_stage=str(tmp_path / "low"))
    assert [len(sources) for sources in given.previous.values()] == [2]


def test_the_command_and_what_reads_its_file(second: Path, tmp_path: Path) -> None:
    """Two folds of the second stage, and what a bundle of several networks is refused for."""
    content = load_checkpoint(second)
    folder = second.parents[2]
    save(folder / "fold_1" / "checkpoints" / "last.ckpt", two_stages(), content["configuration"], seed=9,
         **{KEY: content[KEY]})  # fmt: skip
    paths = [folder / f"fold_{fold}" / "checkpoints" / "last.ckpt" for fold in (0, 1)]
    write_ensemble(folder / FILE, [Group.of("nnunet", paths)], [], mirror=False, fitted_on=["a"], facts={})
    write_image(tmp_path / "images" / "a.nii.gz", (11, 12, 9))
    said = run("src/__main__.py", "export", f"checkpoint={folder}", "output=b.ckpt", folder=tmp_path)
    assert "4 networks" in said
    said = run("predict.py", "checkpoint=b.ckpt", "input=images", "output=p", "device=cpu", folder=tmp_path)
    assert "2 of nnunet (3d_cascade_fullres) upon 2 of the first stage, by umamba-lightning" in said
    run("predict.py", f"checkpoint={folder}", "input=images", "output=q", "device=cpu", folder=tmp_path)
    assert (tmp_path / "p" / "a.nii.gz").read_bytes() == (tmp_path / "q" / "a.nii.gz").read_bytes()
    call = ("predict.py", "checkpoint=b.ckpt", "input=images", "output=r", "device=cpu")
    said = run(*call, "previous_stage=then", folder=tmp_path, ok=False)
    assert "previous_stage=then would do nothing: a bundle of a cascade holds both stages" in said
    for name in ("onnx", "torch_export", "nnunet"):
        said = run(
            "src/__main__.py", "export", "checkpoint=b.ckpt", f"output=n.{name}", f"format={name}",
            "previous_stage=then", folder=tmp_path, ok=False,
        )  # fmt: skip
        assert f"previous_stage=then does nothing with format={name}; it is for bundle" in said


def test_what_has_no_place_for_a_first_stage_refuses_it(second: Path, tmp_path: Path) -> None:
    given = read_given(str(second))
    for refusing in (Traced, lambda one: write_model_folder(one, tmp_path / "out")):
        with pytest.raises(ValueError, match=r"is the second stage of a cascade.*format=bundle holds both"):
            refusing(given)
    alone = save_alone(tmp_path / "alone.ckpt", "model=nnunet")
    with pytest.raises(ValueError, match=r"previous_stage=here would do nothing: .*alone.ckpt sees the image alone"):
        read_given(str(alone), previous_stage="here")
    write_bundle(read_given(str(alone)), tmp_path / "b.ckpt")
    assert torch.load(tmp_path / "b.ckpt", weights_only=True)[BUNDLE]["version"] == VERSION  # older programs read it


def other_first_stage(content: dict[str, Any]) -> None:
    content["members"][1], content["members"][2] = content["members"][2], content["members"][1]


def no_first_stage(content: dict[str, Any]) -> None:
    del content["members"][1:], content[BUNDLE]["groups"][0][KEY]
    signed(content)


def foreign_first_stage(content: dict[str, Any]) -> None:
    content[BUNDLE]["groups"][0][KEY][0]["hash"] = "0" * 64
    signed(content)


def other_facts(content: dict[str, Any]) -> None:
    content["members"][0][KEY]["members"][0]["hash"] = "0" * 64


def signed(content: dict[str, Any]) -> None:
    """Make the record's hash anew, as one would who knows how."""
    record = content[BUNDLE]
    record["hash"] = content_hash({key: value for key, value in record.items() if key != "hash"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_first_stage, r"weights_sha256, origin of last\.ckpt were|weights_sha256 of last\.ckpt was changed"),
        (
            no_first_stage,
            r"holds networks of 3d_cascade_fullres without those of 3d_lowres that they were trained upon",
        ),
        (foreign_first_stage, r"without those of 3d_lowres that they were trained upon"),
        (other_facts, r"origin of last\.ckpt was changed"),
    ],
)
def test_one_that_was_changed_is_refused(
    second: Path, change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "b.ckpt"
    write_bundle(read_given(str(second)), path)
    content = torch.load(path, weights_only=True)
    assert content[BUNDLE]["version"] == WITH_PREVIOUS
    change(content)
    torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        predictor_of_bundle(path, device="cpu")


def test_of_a_choice_only_the_cascade_has_a_first_stage(second: Path, tmp_path: Path) -> None:
    """A cascade and a network that sees the image alone, averaged as probabilities."""
    plan = two_stages()
    alone = save(tmp_path / "full" / "last.ckpt", plan, "3d_fullres", seed=3)
    groups = [Group.of("alone", [alone]), Group.of("nnunet", [second])]
    write_ensemble(tmp_path / "best" / FILE, groups, [], mirror=False, fitted_on=["a"], facts={})
    given = read_given(str(tmp_path / "best"))
    assert list(given.previous) == ["nnunet"]
    write_bundle(given, tmp_path / "b.ckpt")
    image = write_image(tmp_path / "images" / "a.nii.gz", (11, 12, 9))
    expected, _ = predictor_of(tmp_path / "best" / FILE, device="cpu").predict([image])
    np.testing.assert_array_equal(
        predictor_of_bundle(tmp_path / "b.ckpt", device="cpu")[0].predict([image])[0], expected
    )
    assert len(read_bundle(tmp_path / "b.ckpt").sources) == 4
