"""What cannot be exported is said before anything is read, and nothing is left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.export.made import save, save_folds
from umamba.export.__main__ import main
from umamba.export.facts import PACKAGE
from umamba.export.given import read_given
from umamba.export.model_folder import write_model_folder
from umamba.export.place import check_place, check_suffix, clear_folder
from umamba.export.traced import write_torch_export
from umamba.files import UNFINISHED, atomic_folder
from umamba.inference.predictor import Predictor


def test_options_are_checked_first(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    asked = {"format": "bundle", "overwrite": False, "fixed_size": False, "postprocessing": None}
    asked |= {"checkpoint": "x", "output": "y", "previous_stage": None}
    for change, message in [
        ({"format": "tflite"}, r"format is 'tflite'; known are bundle, .*nnunet"),
        ({"overwrite": "yes please"}, r"overwrite=yes please: expected true or false"),
        ({"fixed_size": True}, r"fixed_size=True does nothing with format=bundle; it is for torch_export, onnx"),
        ({"format": "nnunet", "postprocessing": "x.json"}, r"postprocessing=x\.json does nothing with format=nnunet"),
    ]:
        with pytest.raises((ValueError, SystemExit), match=message):
            main.__wrapped__.__wrapped__(OmegaConf.create(asked | change))


def test_places_that_are_taken(tmp_path: Path) -> None:
    file, folder = tmp_path / "file.ckpt", tmp_path / "folder"
    file.write_text("a checkpoint")
    folder.mkdir()
    for output, of_folder, overwrite, message in [
        (file, False, False, r"would replace checkpoint="),
        (folder, False, True, r"is a folder; this format writes a file"),
        (file, True, True, r"would replace checkpoint="),
        (tmp_path / "other.ckpt", True, True, r"is a file; this format writes a folder"),
        (tmp_path / "other.ckpt", False, False, r"is there already\. .*overwrite=true"),
        (tmp_path / "other.ckpt", False, True, r"is none that an export has written, and is not replaced"),
        (file / "x" / "y.ckpt", False, False, r"cannot be written to: .*file\.ckpt is no folder"),
    ]:
        (tmp_path / "other.ckpt").write_text("mine")
        with pytest.raises(ValueError, match=message):
            check_place(output, str(file), folder=of_folder, overwrite=overwrite)
    check_place(folder, str(file), folder=True, overwrite=False)  # an empty folder is nothing that could be lost
    (folder / "fold_0").mkdir()
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(PACKAGE.encode())
    check_place(folder, str(file), folder=True, overwrite=True)
    (folder / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"holds what no export has left there \(notes\.txt\)"):
        check_place(folder, str(file), folder=True, overwrite=True)
    with pytest.raises(ValueError, match=r"holds notes\.txt"):
        clear_folder(folder)
    assert (folder / "fold_0" / "checkpoint_final.pth").exists()


@pytest.mark.parametrize("name", ["net.onnx", "net.pt2"])
def test_graphs_of_others_are_not_replaced(name: str, tmp_path: Path) -> None:
    output = tmp_path / name
    for content in (b"", b"a graph of somebody else's"):
        output.write_bytes(content)
        with pytest.raises(ValueError, match=r"is none that an export has written, and is not replaced"):
            check_place(output, "last.ckpt", folder=False, overwrite=True)
    facts = tmp_path / f"{name}.json"
    facts.write_text('{"made_by": "another program"}')
    with pytest.raises(ValueError, match=r"net\.\w+\.json is none that an export has written"):
        check_suffix(output, output.suffix, overwrite=True)


def test_what_an_export_has_written_is_replaced(tmp_path: Path) -> None:
    given = read_given(str(save(tmp_path / "last.ckpt", "model=nnunet", configuration="2d")))
    graph, folder = tmp_path / "net.pt2", tmp_path / "folder"
    write_torch_export(given, graph, fixed_size=True)
    check_place(graph, "last.ckpt", folder=False, overwrite=True)
    check_suffix(graph, ".pt2", overwrite=True)
    write_model_folder(given, folder)
    check_place(folder, "last.ckpt", folder=True, overwrite=True)
    write_model_folder(given, folder)


@pytest.mark.parametrize("names", [["dataset.json"], ["plans.json", "dataset.json", "fold_0/checkpoint_final.pth"]])
def test_model_folders_of_nnunets_own_trainings_are_not_replaced(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("nnU-Net's")
    with pytest.raises(ValueError, match=rf"holds what no export has left there \({names[-1]}\)"):
        check_place(tmp_path, "last.ckpt", folder=True, overwrite=True)
    with pytest.raises(ValueError, match=r"which no export has left there"):
        clear_folder(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ValueError, match=r"nothing can be made in .*Permission denied"):
        check_place(tmp_path / "b.ckpt", "last.ckpt", folder=False, overwrite=False)


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), atomic_folder(tmp_path / "out") as beside:
        assert beside.name.startswith(UNFINISHED)
        (beside / "plans.json").touch()
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_no_checkpoint_and_no_ensemble(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"checkpoint=\[\] is an empty list"):
        read_given([])
    folder = save_folds(tmp_path / "cv", "model=nnunet")
    checkpoint = folder / "fold_0" / "checkpoints" / "last.ckpt"
    (tmp_path / "link.ckpt").symlink_to(checkpoint)
    for ask in (read_given, Predictor.from_checkpoint):
        with pytest.raises(ValueError, match=r"checkpoint names .*last\.ckpt twice, whose logits would count double"):
            ask([str(checkpoint), str(tmp_path / "link.ckpt")])
    (folder / "ensemble.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no ensemble\.json.*last\.ckpt|holds no ensemble\.json"):
        read_given(str(folder))
