"""A folder of label maps that several predictions have left in it is not scored as one network's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import SimpleITK as sitk
import torch

from tests.composed import composed
from tests.inference.small import cut, make_plan, save_checkpoint
from tests.miniatures import make_volumes
from umamba.evaluation import __main__ as script
from umamba.evaluation.pairs import Pair
from umamba.evaluation.report.scored_run import ScoredRun
from umamba.inference.pipeline import CasesFailedError
from umamba.inference.predictor import Predictor
from umamba.raw.file_identity import fingerprint
from umamba.raw.image_marks import joined, voxel_marks
from umamba.raw.readers import read_images

CASES = tuple(f"case_{number}" for number in range(4))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_volumes(tmp_path / "Dataset950_Small", cases=4, labels=("class_1",))


def images_of(raw: Path, cases: tuple[str, ...], folder: str = "images") -> Path:
    images = raw.parent / folder
    images.mkdir()
    for case in cases:
        shutil.copy(raw / "imagesTr" / f"{case}_0000.nii.gz", images)
    return images


def predictor(folder: Path, seed: int = 0) -> Predictor:
    return Predictor.from_checkpoint(save_checkpoint(folder / f"{seed}.ckpt", make_plan(), seed=seed), "cpu")


def score(raw: Path, predictions: Path, *more: str) -> None:
    overrides = [f"predictions={predictions}", f"references={raw / 'labelsTr'}", f"output={raw.parent / 'scores'}"]
    script.score_folders(
        composed("eval", [*overrides, "nsd_tolerance=1", "workers=0", "device=cpu", "other_dataset=true", *more])
    )


def test_what_an_earlier_prediction_left_is_not_scored_as_the_later_ones(
    raw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "predictions"
    predictor(tmp_path, 0).segment_files(images_of(raw, CASES), out)
    score(raw, out)
    predictor(tmp_path, 1).segment_files(images_of(raw, CASES[:2], "some"), out)
    assert "2 label map(s) of other predictions" in caplog.text and "case_3" in caplog.text
    with pytest.raises(ValueError, match=r"2 label map\(s\).*not of the prediction.*case_2, case_3"):
        score(raw, out)


def test_parts_of_two_networks_are_not_scored_as_one(raw: Path, tmp_path: Path) -> None:
    out, images = tmp_path / "predictions", images_of(raw, CASES)
    for number in range(2):
        predictor(tmp_path, 0).segment_files(images, out, part=(number, 2))
    score(raw, out)
    predictor(tmp_path, 1).segment_files(images, out, part=(1, 2))
    with pytest.raises(ValueError, match=r"2 label map\(s\).*case_0, case_2"):
        score(raw, out)
    predictor(tmp_path, 1).segment_files(images, out, part=(0, 2))
    score(raw, out)
    predictor(tmp_path, 0).segment_files(images, out)  # whole: the parts' records are of label maps that are gone
    assert [path.name for path in out.glob("*.json")] == ["inference.json"]
    score(raw, out)
    parts = tmp_path / "parts"  # of two machines, copied together
    for number in range(2):
        predictor(tmp_path, number).segment_files(images, tmp_path / str(number), part=(number, 2))
        shutil.copytree(tmp_path / str(number), parts, dirs_exist_ok=True)
    with pytest.raises(ValueError, match=r"inference_0_of_2.*inference_1_of_2.*two predictions.*networks"):
        score(raw, parts)


def test_a_case_that_failed_is_not_scored_by_an_older_label_map(raw: Path, tmp_path: Path) -> None:
    out, images = tmp_path / "predictions", images_of(raw, CASES)
    predictor(tmp_path, 0).segment_files(images, out)
    cut(images / "case_1_0000.nii.gz", 0.5)
    with pytest.raises(CasesFailedError, match="case_1"):
        predictor(tmp_path, 1).segment_files(images, out)
    with pytest.raises(ValueError, match=r"1 label map\(s\).*case_1"):
        score(raw, out)


def test_one_network_may_fill_a_folder_in_several_calls(
    raw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, one = tmp_path / "predictions", predictor(tmp_path)
    one.segment_files(images_of(raw, CASES[:2]), out)
    one.segment_files(images_of(raw, CASES[2:], "more"), out, keep=["probabilities"])
    assert "of other predictions" not in caplog.text
    score(raw, out)


def test_without_a_record_nothing_is_compared(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "predictions"
    predictor(tmp_path).segment_files(images_of(raw, CASES), out)
    notes = out / "inference_notes.json"  # a user's own
    notes.write_text(json.dumps({"made_by": "me"}))
    (out / "inference.json").unlink()
    score(raw, out)
    predictor(tmp_path).segment_files(tmp_path / "images", out)
    assert notes.is_file()
    record = json.loads((out / "inference.json").read_text())
    del record["images"]  # as an earlier version wrote it
    (out / "inference.json").write_text(json.dumps(record))
    score(raw, out)


def exchange(folder: Path, one: str = "case_0", other: str = "case_1") -> None:
    first, second = (folder / f"{name}.nii.gz" for name in (one, other))
    content = first.read_bytes()
    assert content != second.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def edit(folder: Path, name: str = "case_2") -> None:
    """As a program for labelling does it."""
    path = folder / f"{name}.nii.gz"
    image = sitk.ReadImage(path)
    array = sitk.GetArrayFromImage(image)
    array[:2] = 1 - array[:2]
    edited = sitk.GetImageFromArray(array)
    edited.CopyInformation(image)
    sitk.WriteImage(edited, path)


def test_label_maps_that_others_changed_are_not_scored_as_the_networks(raw: Path, tmp_path: Path) -> None:
    out, images = tmp_path / "predictions", images_of(raw, CASES)
    one = predictor(tmp_path)
    one.segment_files(images, out, keep=["probabilities"])
    moved = tmp_path / "elsewhere"  # as to another machine: other stamps, the same content
    shutil.copytree(out, moved)
    score(raw, moved)
    exchange(out)
    edit(out)
    with pytest.raises(ValueError, match=r"3 label map\(s\).*not what the prediction wrote.*case_0, case_1, case_2\."):
        score(raw, out)
    with pytest.raises(ValueError, match=r"continue=true: 3 case\(s\).*not what.*case_0, case_1, case_2\. Remove"):
        one.segment_files(images, out, keep=["probabilities"], resume=True)
    for case in CASES[:3]:
        (out / f"{case}.nii.gz").unlink()
    one.segment_files(images, out, keep=["probabilities"], resume=True)
    score(raw, out)
    for path in out.glob("*.nii.gz"):
        assert path.read_bytes() == (moved / path.name).read_bytes()
    shutil.copy(out / "case_0.npz", out / "case_1.npz")  # what is written beside counts where it is to be kept
    score(raw, out)
    with pytest.raises(ValueError, match=r"continue=true: 1 case.*case_1\."):
        one.segment_files(images, out, keep=["probabilities"], resume=True)
    (out / "inference.json").unlink()
    edit(out)
    score(raw, out)  # of nobody knows whom


def test_label_maps_that_were_corrected_by_hand_are_not_replaced_unasked(raw: Path, tmp_path: Path) -> None:
    out, images, one = tmp_path / "predictions", images_of(raw, CASES), predictor(tmp_path)
    one.segment_files(images, out)
    edit(out)
    corrected = (out / "case_2.nii.gz").read_bytes()
    for again in (one, predictor(tmp_path, 1)):
        with pytest.raises(ValueError, match=r"1 label map\(s\).*would be replaced: case_2\..*move these files away"):
            again.segment_files(images, out)
    assert (out / "case_2.nii.gz").read_bytes() == corrected
    one.segment_files(images_of(raw, CASES[:2], "some"), out)  # of the others
    (out / "case_2.nii.gz").unlink()
    one.segment_files(images, out)
    score(raw, out)


def test_changed_label_maps_are_seen_in_folders_of_several_calls_and_parts(raw: Path, tmp_path: Path) -> None:
    out, images, one = tmp_path / "predictions", images_of(raw, CASES), predictor(tmp_path)
    first, second = images_of(raw, CASES[:2], "first"), images_of(raw, CASES[2:], "second")
    for resume in (False, True):
        shutil.rmtree(out, ignore_errors=True)
        one.segment_files(first, out)
        one.segment_files(second, out, resume=resume)
        score(raw, out)
        exchange(out, "case_0", "case_2")
        with pytest.raises(ValueError, match=r"2 label map.*not what.*case_0, case_2"):
            score(raw, out)
    shutil.rmtree(out)
    for number in range(2):
        one.segment_files(images, out, part=(number, 2))
    score(raw, out)
    one.segment_files(images, out)  # again as a whole: two records tell of each, which agree
    score(raw, out)
    exchange(out)
    with pytest.raises(ValueError, match=r"2 label map.*not what.*case_0, case_1"):
        score(raw, out)
    with pytest.raises(ValueError, match=r"2 case.*case_0, case_1"):
        one.segment_files(images, out, resume=True)


def test_a_prediction_that_was_cut_off_makes_again_what_it_had_not_said(
    raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out, images, one = tmp_path / "predictions", images_of(raw, CASES), predictor(tmp_path)
    one.segment_files(images, out)
    record = json.loads((out / "inference.json").read_text())
    assert sorted(record["written"]) == list(CASES)
    del record["written"]["case_3"]  # killed between the label map and the record
    (out / "inference.json").write_text(json.dumps(record))
    edit(out, "case_3")
    with pytest.raises(ValueError, match=r"cut off, or goes on.*1 label map\(s\).*case_3"):
        score(raw, out)
    one.segment_files(images, out, resume=True)
    assert "1 label map(s)" in caplog.text and "cut off" in caplog.text and "case_3" in caplog.text
    score(raw, out)

    segment, done = one._segment, []

    def stopped(*case: object, **options: object) -> object:
        done.append(segment(*case, **options))
        if len(done) == 3:
            raise KeyboardInterrupt
        return done[-1]

    shutil.rmtree(out)
    monkeypatch.setattr(one, "_segment", stopped)
    with pytest.raises(KeyboardInterrupt):
        one.segment_files(images, out)
    monkeypatch.setattr(one, "_segment", segment)
    made = json.loads((out / "inference.json").read_text())["written"]
    assert sorted(made) == list(CASES[:2])  # one that is told to stop says all that it wrote
    times = {name: (out / f"{name}.nii.gz").stat().st_mtime_ns for name in made}
    one.segment_files(images, out, resume=True)
    assert times == {name: (out / f"{name}.nii.gz").stat().st_mtime_ns for name in made}
    score(raw, out)


def test_a_record_that_does_not_say_what_was_written_goes_on_working(
    raw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, images, one = tmp_path / "predictions", images_of(raw, CASES), predictor(tmp_path)
    one.segment_files(images, out)
    record = json.loads((out / "inference.json").read_text())
    del record["written"]
    (out / "inference.json").write_text(json.dumps(record))
    exchange(out)
    score(raw, out)
    assert "does not say what was written: 4 label map(s)" in caplog.text
    one.segment_files(images, out, resume=True)  # from now on it is known
    edit(out)
    with pytest.raises(ValueError, match=r"1 label map.*not what.*case_2"):
        score(raw, out)


def test_cases_that_were_trained_on_are_not_scored_as_new_ones(
    raw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images, out = images_of(raw, CASES), tmp_path / "predictions"
    path = save_checkpoint(tmp_path / "a.ckpt", make_plan())
    content = torch.load(path, weights_only=True)
    seen = {"other": fingerprint(images / "case_1_0000.nii.gz"), "case_2": fingerprint(images / "case_0_0000.nii.gz")}
    torch.save({**content, "cases": {"trained_on": seen}}, tmp_path / "known.ckpt")
    one = Predictor.from_checkpoint([path, tmp_path / "known.ckpt"], "cpu")  # of one nothing is known
    one.segment_files(images, out)
    assert "The network was trained on 2 of these cases: case_0, case_1." in caplog.text
    with pytest.raises(ValueError, match=r"trained on 2 of the 4 cases to be scored: case_0, case_1\..*seen_cases"):
        score(raw, out)
    shutil.copytree(out, tmp_path / "copy")
    one.segment_files(images, out, resume=True)  # what is left is known as it was
    with pytest.raises(ValueError, match="trained on 2 of the 4"):
        score(raw, out)
    score(raw, tmp_path / "copy", "seen_cases=true")
    assert "2 of 4 cases were trained on" in (raw.parent / "scores" / "tables" / "summary.md").read_text()
    assert "called like cases" in caplog.text and "case_2." in caplog.text  # its image is another file


def test_a_training_image_that_was_compressed_anew_is_known_when_it_is_predicted(raw: Path, tmp_path: Path) -> None:
    images, out = images_of(raw, CASES), tmp_path / "predictions"
    image, geometry = read_images([images / "case_1_0000.nii.gz"])
    mark = joined("0123456789abcdef", voxel_marks(image, 1, geometry.spacing)[0])  # of another file
    path = save_checkpoint(tmp_path / "a.ckpt", make_plan())
    torch.save({**torch.load(path, weights_only=True), "cases": {"trained_on": {"other": mark}}}, path)
    Predictor.from_checkpoint([path], "cpu").segment_files(images, out)
    with pytest.raises(ValueError, match=r"trained on 1 of the 4 cases to be scored: case_1\."):
        score(raw, out)


def test_of_an_image_that_holds_one_value_nobody_says_whether_it_was_trained_on(
    raw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images, out = images_of(raw, CASES), tmp_path / "predictions"
    empty = images / "case_1_0000.nii.gz"
    sitk.WriteImage(sitk.ReadImage(empty) * 0, empty)
    image, geometry = read_images([empty])
    mark = joined("0123456789abcdef", voxel_marks(image, 1, geometry.spacing)[0])  # of another file
    path = save_checkpoint(tmp_path / "a.ckpt", make_plan())
    torch.save({**torch.load(path, weights_only=True), "cases": {"trained_on": {"case_1": mark}}}, path)
    Predictor.from_checkpoint([path], "cpu").segment_files(images, out)
    assert "Nobody can tell whether the network was trained on 1 case: case_1. Cases are known" in caplog.text
    score(raw, out)
    assert "was trained on 1 of the cases to be scored: case_1" not in caplog.text and "called like" not in caplog.text
    assert "were trained on 1 of the cases to be scored: case_1. Cases are known by the voxels" in caplog.text


def test_a_checkpoint_that_knows_files_by_their_bytes_says_that_it_knows_no_copy(
    raw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images, out = images_of(raw, CASES), tmp_path / "predictions"
    path = save_checkpoint(tmp_path / "a.ckpt", make_plan())
    by_bytes = {"case_0": fingerprint(images / "case_0_0000.nii.gz"), "other": "0123456789abcdef"}  # of another file
    torch.save({**torch.load(path, weights_only=True), "cases": {"trained_on": by_bytes}}, path)
    Predictor.from_checkpoint([path], "cpu").segment_files(images, out)
    assert "The network was trained on 1 of these cases" in caplog.text
    assert "Nobody can tell whether the network was trained on 3 cases: case_1, case_2, case_3." in caplog.text
    score(raw, out, "seen_cases=true")
    assert "were trained on 3 of the cases to be scored: case_1, case_2, case_3. Cases are known by" in caplog.text


def test_changed_label_maps_are_not_shown_as_what_was_scored(
    raw: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images, out = images_of(raw, CASES), tmp_path / "predictions"
    predictor(tmp_path).segment_files(images, out)
    pairs = [
        Pair(
            case=name,
            prediction=out / f"{name}.nii.gz",
            reference=raw / "labelsTr" / f"{name}.nii.gz",
            images=(images / f"{name}_0000.nii.gz",),
        )
        for name in CASES
    ]
    run = ScoredRun(record={"pairs": run_pairs(pairs)}, scores=pd.DataFrame(), folder=tmp_path)
    assert [pair.case for pair in run.pairs] == list(CASES)
    edit(out)
    assert [pair.case for pair in run.pairs] == ["case_0", "case_1", "case_3"]
    assert "1 label map(s)" in caplog.text and "case_2" in caplog.text
    (out / "inference.json").unlink()
    assert len(run.pairs) == 4


def run_pairs(pairs: list[Pair]) -> list[dict[str, object]]:
    """As run.json has them."""
    return [
        {
            "case": pair.case,
            "prediction": str(pair.prediction),
            "reference": str(pair.reference),
            "images": [str(path) for path in pair.images],
        }
        for pair in pairs
    ]
