"""What the text header of a MetaImage or NRRD says is minded wherever a volume is opened, in all ways of writing it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.inference.small import make_plan, save_checkpoint
from tests.raw.text_files import LABEL, text
from umamba.datamodules.doctor.quick import quick_check
from umamba.datamodules.prepare.volumes import read_volume
from umamba.evaluation.evaluate import evaluate
from umamba.evaluation.pairs import Pair
from umamba.evaluation.scoring import Scoring
from umamba.files import write_json
from umamba.inference.predictor import Predictor
from umamba.raw.checks import check_case
from umamba.raw.dataset import RawDataset
from umamba.raw.description import DatasetError
from umamba.raw.doubts import file_doubts
from umamba.raw.file_identity import parts_of
from umamba.raw.readers import read_geometry, read_images, read_label
from umamba.raw.text_header import TextHeader
from umamba.raw.volume_files import check_volume_whole, open_volume

SRC = Path(__file__).resolve().parents[2] / "src"
SIZE, SPACE = "ElementSpacing = 1 2 3", "space: LPS\nspace directions: (1,0,0) (0,2,0) (0,0,3)"


def raw_set(folder: Path, image: str, label: str) -> RawDataset:
    """A data set of one case, with these lines in the headers of its files."""
    for name, line in (("imagesTr/a_0000", image), ("labelsTr/a", label)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        text(folder / f"{name}.mha", SIZE, line)
    labels = {"background": 0, "a": 1, "b": 2}
    write_json(
        {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".mha"},
        folder / "dataset.json",
    )
    return RawDataset.open(folder)


def scored(folder: Path, prediction: str, reference: str) -> None:
    pair = Pair(
        case="a",
        prediction=text(folder / "p.mha", SIZE, prediction),
        reference=text(folder / "r.mha", SIZE, reference),
        source=None,
    )
    evaluate([pair], Scoring(labels={"background": 0, "a": 1}, file_ending=".mha", tolerance=1.0), workers=0)


def predicted(folder: Path, line: str) -> None:
    (folder / "images").mkdir()
    text(folder / "images" / "a_0000.mha", SIZE, line)
    checkpoint = save_checkpoint(folder / "a.ckpt", make_plan(classes=3, ending=".mha"))
    Predictor.from_checkpoint(checkpoint, "cpu").segment_files(folder / "images", folder / "out")


def faults(raw: RawDataset) -> None:
    for finding in check_case(raw.training_cases[0], raw.description):
        raise DatasetError(finding.message)


CENTIMETRES = "DistanceUnits = cm"
CALLERS: dict[str, Callable[[Path], object]] = {
    "images": lambda folder: read_images([text(folder / "a.mha", CENTIMETRES)]),
    "labels": lambda folder: read_label(text(folder / "a.mha", CENTIMETRES)),
    "geometry": lambda folder: read_geometry(text(folder / "a.mha", CENTIMETRES)),
    "other layouts": lambda folder: read_volume(text(folder / "a.mha", CENTIMETRES)),
    "before a training, image": lambda folder: quick_check(raw_set(folder, CENTIMETRES, "")),
    "before a training, label": lambda folder: quick_check(raw_set(folder, "", CENTIMETRES)),
    "doctor": lambda folder: faults(raw_set(folder, CENTIMETRES, "")),
    "prediction": lambda folder: predicted(folder, CENTIMETRES),
    "scoring, prediction": lambda folder: scored(folder, CENTIMETRES, ""),
    "scoring, reference": lambda folder: scored(folder, "", CENTIMETRES),
}


@pytest.mark.parametrize("caller", CALLERS)
def test_who_opens_a_volume_minds_its_header(tmp_path: Path, caller: str) -> None:
    with pytest.raises(Exception, match="states its voxel size in 'cm', which would be read as mm"):
        CALLERS[caller](tmp_path)


def test_volumes_are_opened_in_one_place() -> None:
    """A picture, which has no such header, is read by SimpleITK too."""
    found = {
        path.relative_to(SRC).as_posix()
        for path in SRC.rglob("*.py")
        if re.search(r"\bReadImage\b|ImageFileReader\(|nibabel\.load|ImageSeriesReader", path.read_text("utf-8"))
    }
    assert found == {"raw/pictures.py", "raw/volume_files.py"}


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a.nrrd", 'space units: "cm" "cm" "cm"'),
        ("a.nrrd", 'units: "mm" "mm" "um"'),
        ("a.mha", "DistanceUnits = cm"),
        ("a.mhd", "DistanceUnits = um"),
    ],
)
def test_other_units_than_mm_are_refused(tmp_path: Path, name: str, line: str) -> None:
    extra = ["space: LPS", "space directions: (1,0,0) (0,2,0) (0,0,3)"] if line.startswith("space") else []
    path = text(tmp_path / name, *extra, line)
    for read in (lambda: read_images([path]), lambda: read_label(path), lambda: read_geometry(path)):
        with pytest.raises(DatasetError, match=r"states its voxel size in '[cu]m', which would be read as mm"):
            read()


@pytest.mark.parametrize("line", ["ElementToIntensityFunctionSlope = 2", "ElementToIntensityFunctionOffset = -1024"])
def test_a_scale_that_metaimage_does_not_apply_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(DatasetError, match="has a scale of its values in its header"):
        read_images([text(tmp_path / "a.mha", "ElementSpacing = 1 2 3", line)])


@pytest.mark.parametrize(("ending", "named"), [(".mhd", "LIST"), (".mhd", "slice%03d.raw 1 4 1"), (".nrrd", "LIST")])
def test_voxels_in_several_files_are_refused(tmp_path: Path, ending: str, named: str) -> None:
    """What an image is known again by is the content of two files at most."""
    for number, part in enumerate(LABEL, 1):
        (tmp_path / f"slice{number:03d}.raw").write_bytes(part.tobytes())
    path = text(tmp_path / f"a{ending}")
    head = path.read_bytes().partition(b"ElementDataFile" if ending == ".mhd" else b"\n\n")[0].decode()
    line = f"ElementDataFile = {named}" if ending == ".mhd" else f"\ndata file: {named}"
    files = [f"slice{number:03d}.raw" for number in range(1, 5)] if named == "LIST" else []
    path.write_text("\n".join([head + line, *files, ""]))
    with pytest.raises(DatasetError, match="in several files .*Write it as one file"):
        read_label(path)


@pytest.mark.parametrize(
    ("name", "lines", "said"),
    [
        ("a.nrrd", [], True),
        ("a.nrrd", ["spacings: 1 nan 3"], True),
        ("a.nrrd", ["spacings: 1 2 3"], False),
        ("a.nrrd", [SPACE, 'space units: "mm" "mm" "mm"'], False),
        ("a.mha", [], True),
        ("a.mha", ["ElementSpacing = 1 2 3", "DistanceUnits = mm", "ElementToIntensityFunctionSlope = 1"], False),
        ("a.mha", ["ElementSize = 1 2 3"], False),
        ("a.mha", ["Elementspacing = 1 2 3"], True),  # names that SimpleITK does not know
        ("a.mha", ["garbage", "ElementSpacing = 1 2 3"], True),
    ],
)
def test_a_size_that_is_not_stated_is_said(tmp_path: Path, name: str, lines: list[str], said: bool) -> None:
    path = text(tmp_path / name, *lines)
    assert [kind for kind, _ in file_doubts(path)] == ["spacing"] * said
    assert read_geometry(path).spacing == (3.0, 2.0, 1.0) or said


@pytest.mark.parametrize("sign", [" = ", "=", ": ", ":", " : "])
def test_a_colon_is_an_equals_sign(tmp_path: Path, sign: str) -> None:
    """As in ITK, which reads all these; else a unit or a scale written so would not be seen."""
    size = f"ElementSpacing{sign}1 2 3"
    assert read_geometry(text(tmp_path / "a.mha", size)).spacing == (3.0, 2.0, 1.0)
    assert not list(file_doubts(tmp_path / "a.mha"))
    for line, said in (("DistanceUnits{}cm", "'cm'"), ("ElementToIntensityFunctionSlope{}2", "has a scale")):
        for lines in ([size, line.format(sign)], [size, "", line.format(sign)]):
            with pytest.raises(DatasetError, match=said):
                read_geometry(text(tmp_path / "a.mha", *lines))
    voxels = text(tmp_path / "a.mhd").read_bytes()
    path, beside = tmp_path / "b.mhd", tmp_path / "b.raw"
    path.write_bytes(voxels.partition(b"ElementDataFile")[0] + f"ElementDataFile{sign}b.raw\n".encode())
    beside.write_bytes(LABEL.tobytes())
    assert np.array_equal(read_label(path)[0], LABEL) and parts_of(path) == [path, beside]


@pytest.mark.parametrize("yes", ["True", "true", "TRUE", "T", "t", "1"])
def test_voxels_that_are_compressed_by_any_word_are_checked(tmp_path: Path, yes: str) -> None:
    """SimpleITK leaves the memory as it was where the compressed voxels end too early."""
    whole, part = zlib.compress(LABEL.tobytes()), zlib.compress(LABEL[:2].tobytes())
    lines = SIZE, f"CompressedData = {yes}", "CompressedDataSize = {}"
    path = text(tmp_path / "a.mha", *lines[:2], lines[2].format(len(whole)), voxels=whole)
    assert np.array_equal(read_label(path)[0], LABEL)
    check_volume_whole(path)
    with pytest.raises(DatasetError, match="holds 60 of 120 bytes of voxels"):
        read_label(text(tmp_path / "a.mha", *lines[:2], lines[2].format(len(part)), voxels=part))
    with pytest.raises(DatasetError, match="CompressedDataSize = nothing"):
        read_label(text(tmp_path / "a.mha", *lines[:2], voxels=whole))


def test_a_file_called_list_is_one_file(tmp_path: Path) -> None:
    path = text(tmp_path / "a.mhd", SIZE)
    path.write_bytes(path.read_bytes().partition(b"ElementDataFile")[0] + b"ElementDataFile = list.raw\n")
    (tmp_path / "list.raw").write_bytes(LABEL.tobytes())
    assert np.array_equal(read_label(path)[0], LABEL)


@pytest.mark.parametrize("line", ['units: "mm" "mm" "mm"', "spacings: 1 2 3", "axis mins: 0 0 0"])
def test_what_nrrd_has_not_beside_directions_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(DatasetError, match=r"delete those lines of its header; `space units` names the unit, mm"):
        open_volume(text(tmp_path / "a.nrrd", SPACE, line))
    with pytest.raises(DatasetError, match="states its voxel size in 'cm'"):
        open_volume(text(tmp_path / "a.nrrd", SPACE, 'units: "cm" "cm" "cm"'))


@pytest.mark.parametrize(("line", "said"), [("units: mm", r"units info \|mm\|"), ("space: RPS", r"space info \|RPS\|")])
def test_a_line_that_is_no_nrrd_is_named(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(DatasetError, match=rf"Correct its header, or write the file again: trouble parsing {said}\."):
        open_volume(text(tmp_path / "a.nrrd", line))


def test_a_header_is_read_to_its_end_and_no_further(tmp_path: Path) -> None:
    note = [f"note{number}:={'x' * 1000}" for number in range(100)]
    path = text(tmp_path / "a.nrrd", *note, "# units: cm", 'units: "mm" "mm" "um"')
    with pytest.raises(DatasetError, match="'um'"):
        open_volume(path)
    header = TextHeader.read(text(tmp_path / "a.mha", SIZE, voxels=b"\nDistanceUnits = cm\n" + LABEL.tobytes()))
    assert header is not None and "distanceunits" not in header.fields
    path = text(tmp_path / "b.nrrd", *note, "spacings: 1 2 3")
    assert not list(file_doubts(path)) and np.array_equal(read_label(path)[0], LABEL)
    check_volume_whole(path)
    sitk.WriteImage(sitk.ReadImage(path), tmp_path / "c.nrrd", True)
    assert np.array_equal(read_label(tmp_path / "c.nrrd")[0], LABEL)
