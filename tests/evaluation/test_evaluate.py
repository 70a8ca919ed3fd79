"""Scoring of files: the standard protocol, its edge cases, and bad input."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from skimage import io as skio

from umamba.datamodules.doctor.quick import header_faults
from umamba.evaluation.evaluate import evaluate
from umamba.evaluation.pairs import Pair, pair_cases, pair_folders
from umamba.evaluation.scoring import Scoring
from umamba.raw.dataset import RawCase
from umamba.raw.organs import ABDOMEN_TOLERANCES

LABELS = {"background": 0, "liver": 1, "spleen": 2}
SPACING = (2.5, 0.8, 0.8)  # z, y, x


def save(path: Path, array: np.ndarray, spacing=SPACING, origin=(0.0, 0.0, 0.0), direction=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(path))
    return path


def volume(*boxes: tuple[int, slice], shape=(10, 20, 20)) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    for value, z in boxes:
        label[z, 5:12, 4 + 8 * (value - 1) : 10 + 8 * (value - 1)] = value
    return label


def pair_of(folder: Path, reference: np.ndarray, prediction: np.ndarray, case: str = "a", **geometry) -> Pair:
    return Pair(
        case=case,
        prediction=save(folder / "predictions" / f"{case}.nii.gz", prediction, **geometry),
        reference=save(folder / "references" / f"{case}.nii.gz", reference),
    )


def scoring(labels=LABELS, file_ending=".nii.gz", **options) -> Scoring:
    return Scoring(labels=labels, file_ending=file_ending, **{"tolerance": 1.0, **options})


def score(pair: Pair, **options):
    table = evaluate([pair], scoring(file_ending=pair.reference.suffix, **options))
    return {row["class"]: row for row in table.to_dict("records")}


def test_a_shift_by_one_slice(tmp_path):
    pair = pair_of(tmp_path, volume((1, slice(2, 6)), (2, slice(1, 3))), volume((1, slice(3, 7)), (2, slice(1, 3))))
    rows = score(pair, tolerance={"liver": 2.5, "spleen": 0.0})
    liver, spleen = rows["liver"], rows["spleen"]
    assert liver["dsc"] == 2 * 3 / (4 + 4)
    assert liver["nsd"] == 1 and liver["hd95"] == 2.5 and liver["nsd_tolerance"] == 2.5
    assert (spleen["dsc"], spleen["nsd"], spleen["hd95"], spleen["volume_error"]) == (1, 1, 0, 0)
    assert rows["liver"]["protocol"] == "standard" and rows["liver"]["case"] == "a"
    assert score(pair, tolerance=2.49)["liver"]["nsd"] < 1


def test_empty_classes(tmp_path):
    both = score(pair_of(tmp_path / "both", volume((1, slice(2, 6))), volume((1, slice(2, 6)))))["spleen"]
    assert all(math.isnan(both[name]) for name in ("dsc", "nsd", "hd95", "volume_error", "abs_volume_error"))
    missed = score(pair_of(tmp_path / "missed", volume((2, slice(2, 6))), volume()))["spleen"]
    assert (missed["dsc"], missed["nsd"], missed["volume_error"]) == (0, 0, -1) and math.isnan(missed["hd95"])
    invented = score(pair_of(tmp_path / "invented", volume(), volume((2, slice(2, 6)))))["spleen"]
    assert (invented["dsc"], invented["nsd"]) == (0, 0)
    assert math.isnan(invented["hd95"]) and math.isnan(invented["volume_error"])


def test_volume_error_is_signed_and_relative(tmp_path):
    row = score(pair_of(tmp_path, volume((1, slice(2, 6))), volume((1, slice(2, 5)))))["liver"]
    assert (row["volume_error"], row["abs_volume_error"]) == (-0.25, 0.25)


def test_ignored_voxels_count_for_nothing(tmp_path):
    reference = volume((1, slice(2, 6)))
    reference[6] = 3
    pair = pair_of(tmp_path, reference, volume((1, slice(2, 7))))
    assert score(pair, ignore_label=3)["liver"]["dsc"] == 1
    with pytest.raises(ValueError, match=r"a\.nii\.gz: The reference holds label 3; expected labels 0 to 2"):
        score(pair)


def test_pictures_are_scored_in_two_dimensions(tmp_path):
    reference, prediction = np.zeros((30, 30), np.uint8), np.zeros((30, 30), np.uint8)
    reference[5:20, 5:20], prediction[5:20, 8:23] = 1, 1
    for name, array in (("r.png", reference), ("p.png", prediction)):
        skio.imsave(tmp_path / name, array, check_contrast=False)
    pair = Pair(case="a", prediction=tmp_path / "p.png", reference=tmp_path / "r.png")
    row = score(pair, tolerance=3.0)["liver"]
    assert row["nsd"] == 1 and row["hd95"] == 3
    # The upper and lower edges overlap over 12 of 15 pixels; elsewhere the contours lie up to 3 px apart.
    assert 0 < score(pair, tolerance=0.0)["liver"]["nsd"] < 0.75


def test_processes_give_the_same_table(tmp_path, monkeypatch):
    """And do not run the script again that started them, as a spawned process does by itself."""
    (tmp_path / "script.py").write_text(f"open({str(tmp_path / 'run again')!r}, 'w')")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(tmp_path / "script.py"), raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    pairs = [pair_of(tmp_path, volume((1, slice(2, 6))), volume((1, slice(2, 6 + n))), case=f"c{n}") for n in range(3)]
    apart = evaluate(pairs, scoring(), workers=2)
    assert apart.equals(evaluate(pairs, scoring(), workers=0))
    assert list(apart["case"].unique()) == ["c0", "c1", "c2"]
    assert not (tmp_path / "run again").exists()


def test_instances_are_found_in_class_maps(tmp_path):
    instances = np.zeros((40, 40), np.int32)
    instances[5:15, 5:15], instances[20:30, 20:30], instances[20:30, 2:12] = 1, 2, 7
    classes = np.zeros((40, 40), np.uint8)
    classes[5:15, 5:14], classes[20:30, 20:30] = 1, 1
    (tmp_path / "labelsTs").mkdir()
    (tmp_path / "instancesTs").mkdir()
    (tmp_path / "predictions").mkdir()
    skio.imsave(tmp_path / "labelsTs" / "a.png", classes, check_contrast=False)
    skio.imsave(tmp_path / "predictions" / "a.png", classes, check_contrast=False)
    case = RawCase(identifier="a", images=(), label=tmp_path / "labelsTs" / "a.png")
    cells = scoring({"background": 0, "interior": 1, "boundary": 2}, ".png", task="instances")
    with pytest.raises(FileNotFoundError, match=r"instancesTs/a\.tif"):
        pair_cases([case], tmp_path / "predictions", cells)
    tifffile.imwrite(tmp_path / "instancesTs" / "a.tif", instances)
    pairs = pair_cases([case], tmp_path / "predictions", cells)
    row = evaluate(pairs, cells).iloc[0]
    assert (row["true_positives"], row["false_positives"], row["false_negatives"]) == (2, 0, 1)
    assert row["f1"] == pytest.approx(0.8) and row["panoptic_quality"] == pytest.approx(1.9 / 2.5)
    assert row["f1_50_95"] == pytest.approx((9 * 0.8 + 1 * 2 / 5) / 10)  # IoU 0.9 falls out at 0.95 only
    skio.imsave(tmp_path / "predictions" / "a.png", (classes * 9).astype(np.uint8), check_contrast=False)
    with pytest.raises(ValueError, match=r"a\.png holds label 9.*instance_predictions=true"):
        evaluate(pairs, cells)


def test_instance_maps_may_be_tiff_whatever_the_images_are(tmp_path):
    """As Cellpose, StarDist and the authors' own script write them; more objects than a PNG of 8 bits holds."""
    instances = np.arange(400, dtype=np.int32).reshape(20, 20).repeat(4, 0).repeat(4, 1)
    case = RawCase(identifier="a", images=(), label=tmp_path / "labelsTs" / "a.png")
    for folder, name in (("instancesTs", "a.tif"), ("predictions", "a.tiff")):
        (tmp_path / folder).mkdir()
        tifffile.imwrite(tmp_path / folder / name, instances)
    labels = {"background": 0, "interior": 1}
    cells = scoring(labels, ".png", task="instances", instance_predictions=True)
    row = evaluate(pair_cases([case], tmp_path / "predictions", cells), cells).iloc[0]
    assert (row["true_positives"], row["f1"]) == (399, 1)
    assert evaluate(pair_folders(tmp_path / "predictions", tmp_path / "instancesTs", cells), cells).iloc[0]["f1"] == 1
    with pytest.raises(FileNotFoundError, match=r"holds no file that ends in \.png\.$"):
        pair_cases([case], tmp_path / "predictions", scoring(labels, ".png", task="instances"))
    skio.imsave(tmp_path / "predictions" / "a.png", np.zeros((80, 80), np.uint8), check_contrast=False)
    with pytest.raises(ValueError, match=r"files that end in \.png and in \.tiff"):
        pair_cases([case], tmp_path / "predictions", cells)


def faulty(folder: Path, prediction: np.ndarray, **geometry) -> None:
    score(pair_of(folder, volume((1, slice(2, 6))), prediction, **geometry))


def test_faulty_predictions_are_named(tmp_path):
    good = volume((1, slice(2, 6)))
    with pytest.raises(ValueError, match=r"predictions/a\.nii\.gz does not lie .* shape is \(9, 20, 20\)"):
        faulty(tmp_path, good[:9])
    with pytest.raises(ValueError, match=r"predictions/a\.nii\.gz .* its spacing is"):
        faulty(tmp_path, good, spacing=(2.5, 0.8, 0.9))
    slightly = tuple(size * 1.002 for size in SPACING)  # as in training, where a thousandth is too much
    with pytest.raises(ValueError, match=r"predictions/a\.nii\.gz .* its spacing is"):
        faulty(tmp_path, good, spacing=slightly)
    with pytest.raises(ValueError, match=r"predictions/a\.nii\.gz .* its origin is"):
        faulty(tmp_path, good, origin=(0.0, 0.0, 5.0))
    with pytest.raises(ValueError, match=r"predictions/a\.nii\.gz .* its direction is"):
        faulty(tmp_path, good, direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
    with pytest.raises(ValueError, match=r"predictions/a\.nii\.gz holds values that are no whole numbers"):
        faulty(tmp_path, good * np.float32(0.5))
    holes = save(tmp_path / "a.mha", np.where(good == 1, np.float32("nan"), good))
    with pytest.raises(ValueError, match=r"a\.mha holds NaN"):
        score(Pair(case="a", prediction=holes, reference=tmp_path / "references" / "a.nii.gz"))
    with pytest.raises(ValueError, match=r"a\.nii\.gz: The prediction holds label 7; expected labels 0 to 2"):
        faulty(tmp_path, good * 7)


@pytest.mark.parametrize(("apart", "accepted"), [(0.3, True), (0.79, True), (0.9, False)])
def test_a_reference_that_the_data_set_may_have_beside_its_image_is_scored(tmp_path, apart, accepted):
    """Training takes labels up to a voxel (0.8 mm) away from their image; the label map lies where the image does."""
    reference = volume((1, slice(2, 6)))
    pair = pair_of(tmp_path, reference, volume((1, slice(3, 7))), origin=(apart, 0.0, 0.0))
    image = save(tmp_path / "images" / "a_0000.nii.gz", reference.astype(np.int16), origin=(apart, 0.0, 0.0))
    case = RawCase(identifier="a", images=(image,), label=pair.reference)
    errors = [finding for finding in header_faults(case)[0] if finding.severity == "error"]
    assert bool(errors) is not accepted
    (made,) = pair_cases([case], pair.prediction.parent, scoring())
    if accepted:
        assert (
            score(made)["liver"]["dsc"]
            == score(pair_of(tmp_path / "b", reference, volume((1, slice(3, 7)))))["liver"]["dsc"]
        )
    else:
        with pytest.raises(ValueError, match=r"lies 1\.12 voxels away from"):
            score(made)
    with pytest.raises(ValueError, match="its origin is"):  # of a stored one nobody knows what it was made of
        score(pair)


def cut(path: Path) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif"])
@pytest.mark.parametrize("side", ["prediction", "reference"])
def test_a_file_that_is_cut_off_is_no_label_map(tmp_path, ending, side):
    label = np.random.default_rng(0).integers(0, 3, (6, 40, 40)).astype(np.uint8)
    paths = {name: tmp_path / f"{name}{ending}" for name in ("prediction", "reference")}
    for path in paths.values():
        if ending == ".tif":
            tifffile.imwrite(path, label[0], compression="zlib")
        elif ending == ".png":
            skio.imsave(path, label[0], check_contrast=False)
        else:
            save(path, label)
    assert score(Pair(case="a", **paths))["liver"]["dsc"] == 1
    cut(paths[side])
    with pytest.raises(ValueError, match=rf"{side}{ending}.* (cannot be read|is cut off)"):
        score(Pair(case="a", **paths))


def test_nan_that_simpleitk_reads_as_zero(tmp_path):
    good = volume((1, slice(2, 6)))
    pair = pair_of(tmp_path, good, np.where(good == 1, np.float32("nan"), 0).astype(np.float32))
    with pytest.raises(ValueError, match=r"predictions/a\.nii\.gz holds NaN"):
        score(pair)
    save(pair.reference, np.where(good == 1, np.float32("inf"), 0).astype(np.float32))
    save(pair.prediction, good)
    with pytest.raises(ValueError, match=r"references/a\.nii\.gz holds NaN or infinite"):
        score(pair)


def test_all_faulty_files_are_named_at_once(tmp_path):
    good = volume((1, slice(2, 6)))
    pairs = [pair_of(tmp_path, good, good, case=name) for name in ("a", "b", "c", "d", "e")]
    cut(pairs[1].prediction)
    cut(pairs[2].reference)
    save(pairs[3].prediction, good[:9])
    save(pairs[4].prediction, good * 7)
    with pytest.raises(ValueError, match=r"4 of 5 case\(s\) cannot be scored") as caught:
        evaluate(pairs, scoring(), workers=0)
    lines = str(caught.value).splitlines()[1:]
    named = ("predictions/b.nii.gz", "references/c.nii.gz", "predictions/d.nii.gz", "predictions/e.nii.gz")
    assert len(lines) == 4 and all(name in line for name, line in zip(named, lines, strict=True))


def test_folders_that_do_not_match(tmp_path):
    pair_of(tmp_path, volume(), volume(), case="a")
    pair_of(tmp_path, volume(), volume(), case="b")
    predictions, references = tmp_path / "predictions", tmp_path / "references"
    assert [p.case for p in pair_folders(predictions, references, scoring())] == ["a", "b"]
    (predictions / "b.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks the predictions of 1 reference\(s\): .*references/b\.nii\.gz"):
        pair_folders(predictions, references, scoring())
    paper = scoring({name: value for value, name in enumerate(ABDOMEN_TOLERANCES, start=1)}, protocol="paper")
    left = pair_folders(predictions, references, paper)
    assert [p.case for p in left] == ["a"]
    save(predictions / "c.nii.gz", volume())
    with pytest.raises(ValueError, match=r"1 prediction\(s\) without a reference: .*predictions/c\.nii\.gz"):
        pair_folders(predictions, references, paper)
    with pytest.raises(FileNotFoundError, match=r"holds no file that ends in \.png"):
        pair_folders(predictions, references, scoring(file_ending=".png"))
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        pair_folders(tmp_path / "absent", references, scoring())
    with pytest.raises(ValueError, match="No reference label for x"):
        pair_cases([RawCase(identifier="x", images=(), label=None)], predictions, scoring())


def test_wrong_arguments(tmp_path):
    pair = pair_of(tmp_path, volume(), volume())
    with pytest.raises(ValueError, match="protocol must be one of standard, paper, it is 'papers'"):
        score(pair, protocol="papers")
    with pytest.raises(ValueError, match="task must be one of"):
        score(pair, task="panoptic")
    with pytest.raises(ValueError, match="nothing to score"):
        evaluate([], scoring())
    with pytest.raises(ValueError, match="given twice: a"):
        evaluate([pair, pair], scoring())
    with pytest.raises(ValueError, match="tolerance >= 0 .* for spleen; got"):
        score(pair, tolerance={"liver": 1.0})
    with pytest.raises(ValueError, match="tolerance >= 0 .* for liver, spleen; got None"):
        score(pair, tolerance=None)
    with pytest.raises(ValueError, match="no class to score"):
        scoring({"background": 0})
    with pytest.raises(ValueError, match="13 organs.*Use protocol=standard"):
        score(pair, protocol="paper")
