"""What a prediction writes, what it refuses, and that one bad case does not touch the others."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from inspect import unwrap
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from tests import warm_start
from tests.composed import composed
from tests.inference.small import MIRROR, cut, make_plan, save_checkpoint, write_image
from umamba.inference import __main__ as script
from umamba.inference import devices, many_cases, one_case, pipeline
from umamba.inference.folders import cases_in_folder
from umamba.inference.members import Member
from umamba.inference.pipeline import CasesFailedError
from umamba.inference.predictor import Predictor
from umamba.inference.record import parse_part, record_path
from umamba.locations import ROOT
from umamba.machine import free_memory
from umamba.raw.dataset import RawCase


class Constant(torch.nn.Module):
    """Says one class everywhere, or something that is no number."""

    def __init__(self, classes: int, value: float = 1.0) -> None:
        super().__init__()
        self.classes, self.value = classes, value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(len(x), self.classes, *x.shape[2:])
        logits[:, 1] = self.value
        return logits


def constant(value: float = 1.0, **plan) -> Predictor:
    plan = make_plan(**plan)
    (name,) = plan.configurations
    return Predictor([Member(Constant(plan.num_classes, value))], plan, name, {}, torch.device("cpu"))


def folder_of(path: Path, names: tuple[str, ...] = ("a", "b", "c", "d")) -> Path:
    for number, name in enumerate(names):
        write_image(path / f"{name}_0000.nii.gz", seed=number)
    return path


def corrupt_nan(path: Path) -> None:
    array = sitk.GetArrayFromImage(sitk.ReadImage(path))
    array[2, 3, 4] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(array), path)


def corrupt_inf(path: Path) -> None:
    array = sitk.GetArrayFromImage(sitk.ReadImage(path))
    array[2, 3, 4] = np.inf
    sitk.WriteImage(sitk.GetImageFromArray(array), path)


DAMAGES = {
    "truncated": lambda path: cut(path, 0.6),
    "header only": lambda path: cut(path, 0.02),
    "empty": lambda path: path.write_bytes(b""),
    "no image": lambda path: path.write_bytes(b"not an image" * 100),
    "NaN": corrupt_nan,
    "Inf": corrupt_inf,
    "two dimensions too many": lambda path: sitk.WriteImage(sitk.JoinSeries([sitk.Image(4, 4, 4, 2)] * 3), path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_image_is_named_and_the_others_are_predicted(tmp_path: Path, damage: str) -> None:
    images = folder_of(tmp_path / "images")
    DAMAGES[damage](images / "b_0000.nii.gz")
    out = tmp_path / "out"
    with pytest.raises(CasesFailedError, match=r"1 of 4 case.*\n  b: .*b_0000\.nii\.gz") as caught:
        constant().predict_cases(cases_in_folder(images, ".nii.gz", 1), out)
    assert [path.name for path in caught.value.written] == ["a.nii.gz", "c.nii.gz", "d.nii.gz"]
    assert sorted(path.name for path in out.iterdir()) == ["a.nii.gz", "c.nii.gz", "d.nii.gz", "inference.json"]
    record = json.loads((out / "inference.json").read_text())
    assert sorted(record["seconds"]) == ["a", "c", "d"] and list(record["failed"]) == ["b"]
    for path in caught.value.written:
        assert (sitk.GetArrayFromImage(sitk.ReadImage(path)) == 1).all()


def test_a_label_map_of_an_earlier_prediction_is_pointed_out(tmp_path: Path) -> None:
    images, out = folder_of(tmp_path / "images"), tmp_path / "out"
    cases = cases_in_folder(images, ".nii.gz", 1)
    constant().predict_cases(cases, out)
    cut(images / "b_0000.nii.gz", 0.5)
    with pytest.raises(CasesFailedError, match=r"b\.nii\.gz is of an earlier prediction"):
        constant().predict_cases(cases, out)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_no_numbers_are_an_error_with_case_and_place(tmp_path: Path, value: float) -> None:
    images = folder_of(tmp_path / "images", ("a",))
    with pytest.raises(CasesFailedError, match=r"a: the network's logits.*class 1 at voxel \(0, 0, 0\).*only finite"):
        constant(value).predict_cases(cases_in_folder(images, ".nii.gz", 1), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_a_full_disk_ends_the_prediction(small_disk: Path, tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images")
    (small_disk / "filling").write_bytes(bytes(56 * 1024))  # room for what says who is at work, and for the record

    class Noise(Constant):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.rand(len(x), 2, *x.shape[2:])

    predictor = constant()
    predictor.members = [Member(Noise(2))]
    for name in "abcd":
        write_image(images / f"{name}_0000.nii.gz", (40, 80, 80))
    predictor.patch_size = (40, 80, 80)
    with pytest.raises(OSError, match="No space left.*a.nii.gz"):
        predictor.predict_cases(cases_in_folder(images, ".nii.gz", 1), small_disk)
    assert sorted(path.name for path in small_disk.iterdir()) == ["filling", "inference.json"]


def test_no_image_is_replaced_by_a_label_map(tmp_path: Path) -> None:
    image = write_image(tmp_path / "scan.nii.gz")
    before = image.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "scan.nii.gz").symlink_to(image)
    for case, out in [(image, tmp_path), (image, tmp_path / "link"), (tmp_path / "images" / "scan.nii.gz", tmp_path)]:
        with pytest.raises(ValueError, match="would replace the image"):
            constant().predict_cases([RawCase(identifier="scan", images=(case,), label=None)], out)
    assert image.read_bytes() == before


def test_cases_are_computed_while_others_are_written_but_not_without_end(tmp_path: Path, monkeypatch) -> None:
    """Writing blocks: the cases that may wait are computed meanwhile, and no more."""
    images, blocked, computed = folder_of(tmp_path / "images", tuple("abcdef")), threading.Event(), []
    predictor = constant()
    logits, write = predictor._logits, many_cases.write_label
    monkeypatch.setattr(pipeline, "_WAITING", 3)
    monkeypatch.setattr(predictor, "_logits", lambda data: computed.append(len(computed)) or logits(data))
    monkeypatch.setattr(many_cases, "write_label", lambda *rest: blocked.wait(120) and write(*rest))
    run = threading.Thread(target=predictor.predict_cases, args=(cases_in_folder(images, ".nii.gz", 1), tmp_path / "o"))
    run.start()
    until = time.monotonic() + 60
    while len(computed) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    run.join(0.3)  # time for one too many
    assert run.is_alive() and computed == [0, 1, 2, 3]
    blocked.set()
    run.join(60)
    assert len(computed) == 6 and len(list((tmp_path / "o").glob("*.nii.gz"))) == 6


def test_a_case_that_does_not_fit_is_refused_before_memory_is_taken(tmp_path: Path, monkeypatch) -> None:
    images = folder_of(tmp_path / "images", ("a",))
    monkeypatch.setattr(one_case, "require_memory", lambda needed, what: _refuse(needed, what))
    with pytest.raises(CasesFailedError, match="a: 2 classes at 9 x 10 x 11 voxels.*crop the image"):
        constant().predict_cases(cases_in_folder(images, ".nii.gz", 1), tmp_path / "out")


def _refuse(needed: int, what: str) -> None:
    assert 0 < needed < free_memory()
    raise MemoryError(what)


def test_a_mean_of_members_is_the_mean_of_their_logits(tmp_path: Path) -> None:
    paths = [save_checkpoint(tmp_path / f"{seed}.ckpt", make_plan(), seed=seed) for seed in range(3)]
    data = torch.randn(1, 12, 13, 14)

    def logits(checkpoints) -> torch.Tensor:
        return torch.cat(list(Predictor.from_checkpoint(checkpoints, "cpu")._logits(data)), 1).double()

    torch.testing.assert_close(logits(paths), sum(map(logits, paths)) / 3, atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_with_weights_that_are_no_numbers_is_refused(tmp_path: Path, value: float) -> None:
    path = save_checkpoint(tmp_path / "a [1] ä.ckpt", make_plan())
    content = torch.load(path, weights_only=True)
    name = next(name for name in content["state_dict"] if name.endswith("weight"))
    content["state_dict"][name].view(-1)[0] = value
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"a \[1\] ä\.ckpt holds NaN or infinite weights \(.*weight\)"):
        Predictor.from_checkpoint(path, "cpu")


def test_mirroring_goes_over_the_axes_of_the_training(tmp_path: Path) -> None:
    config = {"data": {"augmentation": {"mirror": MIRROR | {"axes": [0, 2]}}}}
    path = save_checkpoint(tmp_path / "a.ckpt", make_plan(), config=config)
    plain, mirrored = (Predictor.from_checkpoint(path, "cpu", mirror=mirror) for mirror in (False, True))
    assert mirrored.members[0].mirror_axes == (0, 2)
    patch = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        expected = sum(plain.networks[0](patch.flip(f)).flip(f) for f in ((), (2,), (4,), (2, 4))) / 4
        torch.testing.assert_close(mirrored.members[0](patch), expected)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("meta", "device is 'meta'; this machine has"),
        ("cuda:99", "this machine has the CPU and"),
        ("gpu", "expected auto"),
    ],
)
def test_a_device_that_there_is_not(tmp_path: Path, device: str, message: str) -> None:
    path = save_checkpoint(tmp_path / "a.ckpt", make_plan())
    with pytest.raises(ValueError, match=message):
        Predictor.from_checkpoint(path, device)
    with pytest.raises(ValueError, match=r"no checkpoint to predict with"):
        Predictor.from_checkpoint([], "cpu")


def test_a_flat_image_on_a_network_of_volumes_is_refused(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((10, 11), np.float32)), images / "a.nii.gz")
    with pytest.raises(CasesFailedError, match=r"a: .*a\.nii\.gz is a 2D image; the network was trained in 3D"):
        constant().predict_cases(cases_in_folder(images, ".nii.gz", 1), tmp_path / "out")


@pytest.mark.parametrize("augmentation", [{}, [], None, {"mirror": MIRROR | {"axis_p": 0}}])
def test_mirroring_that_the_training_did_not_do_is_refused(tmp_path: Path, augmentation) -> None:
    path = save_checkpoint(tmp_path / "a.ckpt", make_plan(), config={"data": {"augmentation": augmentation}})
    with pytest.raises(ValueError, match=r"a\.ckpt was trained without mirroring.*mirror=false"):
        Predictor.from_checkpoint(path, "cpu", mirror=True)


def test_a_channel_too_many_is_named(tmp_path: Path) -> None:
    images = tuple(write_image(tmp_path / f"a_{i:04d}.nii.gz") for i in range(2))
    with pytest.raises(CasesFailedError, match="give 2 channel.*expected are 1 "):
        constant().predict_cases([RawCase(identifier="a", images=images, label=None)], tmp_path / "out")


def test_channels_that_lie_apart_are_refused_or_said_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cases = []
    for name, shift in {"a": 0.5, "b": 0.5, "c": 50.0}.items():
        images = tuple(write_image(tmp_path / f"{name}_{i:04d}.nii.gz") for i in range(2))
        moved = sitk.ReadImage(images[1])
        moved.SetOrigin((0.0, 0.0, shift))
        sitk.WriteImage(moved, images[1])
        cases.append(RawCase(identifier=name, images=images, label=None))
    with pytest.raises(CasesFailedError, match=r"1 of 3 .*\n  c: .*c_0001.nii.gz lies 50.00 voxels away"):
        constant(channels=("T1", "T2")).predict_cases(cases, tmp_path / "out")
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said.startswith("2 case(s) have files that lie up to a voxel apart, such as: ") and "a_0001" in said


def predict(*arguments: object) -> subprocess.CompletedProcess:
    return warm_start.run("predict.py", "device=cpu", *arguments)


def test_the_script_ends_with_1_and_the_list_of_what_failed(tmp_path: Path) -> None:
    checkpoint, images = save_checkpoint(tmp_path / "a.ckpt", make_plan()), folder_of(tmp_path / "images")
    cut(images / "b_0000.nii.gz", 0.5)
    corrupt_nan(images / "d_0000.nii.gz")
    shutil.copy(images / "a_0000.nii.gz", images / "e\nf_0000.nii.gz")  # a name that no label map may have
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".writing-1-ab-a.nii.gz").write_bytes(b"left by a killed prediction")
    result = predict(f"checkpoint={checkpoint}", f"input={images}", f"output={tmp_path / 'out'}")
    assert result.returncode == 1 and "Traceback" not in result.stderr + result.stdout
    output = result.stdout + result.stderr
    assert "Wrote 2 label maps to" in output and "3 of 5 case(s) could not be predicted" in output
    assert "  b: " in output and "  d: " in output and r"'e\nf'" in output and "control character" in output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "c.nii.gz", "inference.json"]
    assert not list(tmp_path.glob("inference.json"))
    record = json.loads((tmp_path / "out" / "inference.json").read_text())
    assert sorted(record["failed"]) == ["b", "d", "e\nf"] and sorted(record["seconds"]) == ["a", "c"]


@pytest.mark.parametrize("part", [(0, 1), (1, 2)])
def test_what_was_refused_when_the_folder_was_listed_is_in_the_record(tmp_path: Path, part: tuple[int, int]) -> None:
    images, out = folder_of(tmp_path / "images"), tmp_path / "out"
    shutil.copy(images / "a_0000.nii.gz", images / "a_0001.nii.gz")  # a channel too many
    shutil.copy(images / "a_0000.nii.gz", images / "f_0001.nii.gz")  # a case of its own, called f_0001
    out.mkdir()
    write_image(out / "a.nii.gz")
    with pytest.raises(CasesFailedError, match=r"a.nii.gz is of an earlier prediction") as failed:
        constant().segment_files(images, out, part=part)
    record = json.loads(record_path(out, part).read_text())
    assert record["failed"] == failed.value.failures and list(record["failed"]) == ["a"]
    assert "case a has 2 file(s)" in record["failed"]["a"]
    assert failed.value.written and out / "a.nii.gz" not in failed.value.written


def test_the_script_refuses_to_write_into_its_input(tmp_path: Path) -> None:
    image = write_image(tmp_path / "images" / "scan.nii.gz")
    before = image.read_bytes()
    result = predict("checkpoint=absent.ckpt", f"input={image.parent}", f"output={image.parent}")
    assert result.returncode == 1 and "is the folder of the images" in result.stdout + result.stderr
    assert image.read_bytes() == before


def test_a_device_without_memory_falls_back_to_main_memory_and_says_so(tmp_path: Path, monkeypatch, caplog) -> None:
    """The device is torch's without memory, so that nothing on it can be used by mistake."""
    images = folder_of(tmp_path / "images", ("a",))
    predictor = constant()
    export, preprocess, places = predictor._export, one_case.preprocess_on, []

    def exported(data, properties, **options):
        places.append(data.device.type)
        if data.device.type == "meta":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return export(data, properties, **options)

    def preprocessed(device, *case):
        places.append(f"preprocessed on {device}")
        if len(places) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return preprocess(device, *case)

    monkeypatch.setattr(predictor, "_export", exported)
    monkeypatch.setattr(one_case, "preprocess_on", preprocessed)
    monkeypatch.setattr(one_case, "place_for", lambda needed, device: torch.device("meta"))
    with caplog.at_level("WARNING"):
        predictor.predict_cases(cases_in_folder(images, ".nii.gz", 1), tmp_path / "out")
    assert places == ["preprocessed on cpu", "preprocessed on cpu", "meta", "cpu"]
    assert "too little memory left to preprocess" in caplog.text and "sums of logits in main memory" in caplog.text
    assert (sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "out" / "a.nii.gz")) == 1).all()


@pytest.mark.parametrize(("needed", "place"), [(100, "cuda"), (400, "cpu")])
def test_sums_go_where_they_fit(monkeypatch, caplog, needed: int, place: str) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (300, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    with caplog.at_level("INFO"):
        assert devices.place_for(needed, torch.device("cuda")).type == place
    assert ("in main memory" in caplog.text) == (place == "cpu")


def test_what_is_finished_is_left_and_the_rest_is_done(tmp_path: Path) -> None:
    images, out = folder_of(tmp_path / "images"), tmp_path / "out"
    cases = cases_in_folder(images, ".nii.gz", 1)
    constant().predict_cases(cases[:2], out, resume=True)
    (out / "b.nii.gz").unlink()
    before = (out / "a.nii.gz").stat().st_mtime_ns
    again = constant().predict_cases(cases, out, resume=True)
    assert [path.name for path in again] == ["a.nii.gz", "b.nii.gz", "c.nii.gz", "d.nii.gz"]
    assert (out / "a.nii.gz").stat().st_mtime_ns == before and all(path.is_file() for path in again)
    assert sorted(json.loads((out / "inference.json").read_text())["seconds"]) == ["a", "b", "c", "d"]
    constant().predict_cases(cases, out)
    assert (out / "a.nii.gz").stat().st_mtime_ns != before


def test_label_maps_of_other_networks_or_options_are_not_gone_on_with(tmp_path: Path) -> None:
    cases = cases_in_folder(folder_of(tmp_path / "images"), ".nii.gz", 1)
    paths = [save_checkpoint(tmp_path / f"{seed}.ckpt", make_plan(), seed=seed) for seed in range(2)]
    one, other = (Predictor.from_checkpoint(path, "cpu") for path in paths)
    one.predict_cases(cases[:1], tmp_path / "out")
    one.predict_cases(cases[:2], tmp_path / "out", resume=True)
    for predictor, options, differs in [
        (other, {}, "networks"), (one, {"keep": ["probabilities"]}, "keep"), (one, {"labels": ["class_1"]}, "labels"),
        (Predictor.from_checkpoint(paths[0], "cpu", mirror=True), {}, r"mirror\)"),
        (one, {"part": (1, 2), "labels": ["class_1"]}, "labels"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=f"is of another prediction .it differs in {differs}"):
            predictor.predict_cases(cases, tmp_path / "out", resume=True, **options)
    (tmp_path / "out" / "inference.json").unlink()
    with pytest.raises(ValueError, match=r"holds label maps \(a, \.\.\.\) but no inference\.json"):
        one.predict_cases(cases, tmp_path / "out", resume=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.nii.gz", "b.nii.gz"]


def test_label_maps_of_other_images_are_not_gone_on_with(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images, out = folder_of(tmp_path / "images"), tmp_path / "out"
    Predictor.from_checkpoint(save_checkpoint(tmp_path / "a.ckpt", make_plan()), "cpu").segment_files(images, out)
    predictor = Predictor.from_checkpoint(tmp_path / "a.ckpt", "cpu")
    first = (out / "a.nii.gz").read_bytes()
    one, other, beside = (images / f"{name}.nii.gz" for name in ("a_0000", "b_0000", "beside"))
    for source, target in ((one, beside), (other, one), (beside, other)):
        source.replace(target)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}

    def replaced() -> list[str]:
        nonlocal before
        caplog.clear()
        predictor.segment_files(images, out, resume=True)
        now = {path.name: path.stat().st_mtime_ns for path in out.glob("*.nii.gz")}
        changed, before = sorted(name[0] for name in now if now[name] != before.get(name)), now
        return changed

    assert replaced() == ["a", "b"] and "2 label map(s)" in caplog.text and "of other images" in caplog.text
    assert (out / "b.nii.gz").read_bytes() == first
    for path in images.iterdir():
        shutil.copy(path, tmp_path / "copy")  # another stamp of every file, the same content
        (tmp_path / "copy").replace(path)
    assert replaced() == [] and "label map(s)" not in caplog.text
    record = json.loads((out / "inference.json").read_text())
    for key in ("images", "replaced"):  # as an earlier version wrote it
        del record[key]
    (out / "inference.json").write_text(json.dumps(record))
    assert replaced() == [] and "does not say which images" in caplog.text


@pytest.mark.parametrize("how", ["killed", "failed"])
def test_label_maps_of_an_earlier_prediction_are_not_gone_on_with(tmp_path: Path, monkeypatch, how: str) -> None:
    """They have the names of those of the prediction that was broken off, whose record lies beside them."""
    cases = cases_in_folder(folder_of(tmp_path / "images"), ".nii.gz", 1)
    paths = [save_checkpoint(tmp_path / f"{seed}.ckpt", make_plan(), seed=seed) for seed in range(2)]
    earlier, later = (Predictor.from_checkpoint(path, "cpu") for path in paths)
    earlier.predict_cases(cases, tmp_path / "out")
    later.predict_cases(cases, tmp_path / "expected")
    done, segment = [], later._segment

    def until_the_second(*case, **options):
        if done:
            raise KeyboardInterrupt if how == "killed" else MemoryError("too large")
        done.append(segment(*case, **options))
        return done[-1]

    with monkeypatch.context() as broken:
        broken.setattr(later, "_segment", until_the_second)
        with pytest.raises(KeyboardInterrupt if how == "killed" else CasesFailedError):
            later.predict_cases(cases, tmp_path / "out")
    later.predict_cases(cases, tmp_path / "out", resume=True)
    for name in "abcd":
        assert (tmp_path / "out" / f"{name}.nii.gz").read_bytes() == (
            tmp_path / "expected" / f"{name}.nii.gz"
        ).read_bytes()


def test_parts_share_the_cases_and_keep_records_of_their_own(tmp_path: Path) -> None:
    cases, out = cases_in_folder(folder_of(tmp_path / "images", tuple("abcde")), ".nii.gz", 1), tmp_path / "out"
    written = [constant().predict_cases(cases, out, part=(number, 3), resume=True) for number in range(3)]
    assert [[path.name[0] for path in part] for part in written] == [["a", "d"], ["b", "e"], ["c"]]
    assert len(list(out.glob("inference_*_of_3.json"))) == 3 and len(list(out.glob("*.nii.gz"))) == 5
    assert len(constant().predict_cases(cases, out, resume=True)) == 5


def test_probabilities_logits_and_some_labels(tmp_path: Path) -> None:
    images, out = folder_of(tmp_path / "images", ("a",)), tmp_path / "out"
    predictor = Predictor.from_checkpoint(save_checkpoint(tmp_path / "a.ckpt", make_plan(classes=4)), "cpu")
    plain = predictor.segment_files(images, tmp_path / "plain")
    options = {"keep": ["probabilities", "logits"], "labels": ["class_1", "class_3"]}
    (path,) = predictor.segment_files(images, out, **options)
    whole, some = (sitk.GetArrayFromImage(sitk.ReadImage(one)) for one in (plain[0], path))
    assert {1, 2} <= set(np.unique(whole)) and np.array_equal(some, np.where(whole == 2, 0, whole))
    arrays = np.load(out / "a.npz")
    assert sorted(arrays) == ["logits", "probabilities"] and arrays["logits"].shape == (4, 9, 10, 11)
    logits = arrays["logits"].astype(np.float32)
    softmax = np.exp(logits) / np.exp(logits).sum(0)
    np.testing.assert_allclose(arrays["probabilities"], softmax, atol=2e-3)
    assert (softmax.argmax(0) == whole).mean() > 0.99
    (out / "a.npz").unlink()
    predictor.segment_files(images, out, resume=True, **options)
    assert (out / "a.npz").is_file()
    for wrong in (["liver"], [], "class_1", ["background"]):
        with pytest.raises(ValueError, match=r"expected a list of some classes .*, of class_1, class_2, class_3\."):
            predictor.segment_files(images, tmp_path / "none", labels=wrong)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("text", "part"),
    [(None, (0, 1)), ("0/4", (0, 4)), ("3/4", (3, 4)), ("4/4", None), ("1", None), ("a/b", None), ("-1/4", None)],
)
def test_parts_are_read_or_refused(text: str | None, part: tuple[int, int] | None) -> None:
    if part is not None:
        assert parse_part(text) == part
        return
    with pytest.raises(ValueError, match="part is .*; expected NUMBER/COUNT"):
        parse_part(text)


def test_the_script_goes_on_and_takes_its_part(tmp_path: Path) -> None:
    checkpoint, images = save_checkpoint(tmp_path / "a.ckpt", make_plan()), folder_of(tmp_path / "images")
    line = (f"checkpoint={checkpoint}", f"input={images}", f"output={tmp_path / 'out'}")
    assert predict(*line, "part=1/2", "probabilities=true").returncode == 0
    assert sorted(path.stem for path in (tmp_path / "out").glob("*.npz")) == ["b", "d"]
    result = predict(*line, "continue=true", "probabilities=true")
    said = result.stdout + result.stderr
    assert result.returncode == 0 and "There already: 2 of 4 cases." in said
    assert "Wrote 2 label maps to" in said and "; 2 were there already." in said
    result = predict(*line, "continue=true")
    assert result.returncode == 1 and "it differs in keep" in result.stdout + result.stderr


def test_the_script_shares_the_cases_among_devices(tmp_path: Path) -> None:
    checkpoint, images = save_checkpoint(tmp_path / "a.ckpt", make_plan()), folder_of(tmp_path / "images")
    cut(images / "b_0000.nii.gz", 0.5)
    line = (f"checkpoint={checkpoint}", f"input={images}", f"output={tmp_path / 'out'}", "device=[cpu,cpu]")
    result = predict(*line)
    output = result.stdout + result.stderr
    assert result.returncode == 1 and "1 of 2 case(s) could not be predicted" in output and "[0, 1]" in output
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 3
    records = [json.loads((tmp_path / "out" / f"inference_{i}_of_2.json").read_text()) for i in range(2)]
    assert [sorted(record["seconds"]) for record in records] == [["a", "c"], ["d"]]
    result = predict(*line, "part=0/2")
    assert result.returncode == 1 and "leave part out" in result.stdout + result.stderr


def test_an_image_that_cannot_be_normalised_is_named_and_the_others_are_predicted(tmp_path: Path) -> None:
    """Of scans and of pictures that are taken for 0 to 255."""
    predictor, images = constant(), folder_of(tmp_path / "images")
    large = sitk.GetArrayFromImage(sitk.ReadImage(images / "b_0000.nii.gz")) * np.float32(1e18)
    sitk.WriteImage(sitk.GetImageFromArray(large), images / "b_0000.nii.gz")
    with pytest.raises(CasesFailedError, match=r"1 of 4 case.*\n  b: .*too large to be normalised in float32"):
        predictor.segment_files(images, tmp_path / "out")
    plan = predictor.plan.from_dict(predictor.plan.to_dict())
    object.__setattr__(plan.configuration("3d_fullres"), "normalization", ("RGBTo01Normalization",))
    scaled = Predictor([Member(Constant(2))], plan, "3d_fullres", {}, torch.device("cpu"))
    with pytest.raises(CasesFailedError, match=r"1 of 4 case.*\n  b: rgb_to_0_1 expects values in 0\.\.255"):
        scaled.segment_files(images, tmp_path / "other")
    assert len(list((tmp_path / "other").glob("*.nii.gz"))) == 3


def test_what_is_no_device_is_said_without_a_traceback(tmp_path: Path) -> None:
    """Before the others predict their part."""
    checkpoint, images = save_checkpoint(tmp_path / "a.ckpt", make_plan()), folder_of(tmp_path / "images")
    line = (f"checkpoint={checkpoint}", f"input={images}", f"output={tmp_path / 'out'}", "device=[cpu,cuda:99]")
    result = predict(*line)
    said = result.stdout + result.stderr
    assert result.returncode == 1 and "device is 'cuda:99'" in said
    assert "Traceback" not in said and not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes in /proc")
def test_processes_of_several_devices_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    checkpoint, images = save_checkpoint(tmp_path / "a.ckpt", make_plan()), folder_of(tmp_path / "images", ("a", "b"))
    for name in "ab":
        write_image(images / f"{name}_0000.nii.gz", (400, 160, 160))
    command = [sys.executable, ROOT / "predict.py", "device=[cpu,cpu]", f"checkpoint={checkpoint}", f"input={images}",
               f"output={tmp_path / 'out'}"]  # fmt: skip
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def children() -> list[int]:
        return [int(child) for task in Path(f"/proc/{process.pid}/task").glob("*/children")
                for child in task.read_text().split()]  # fmt: skip

    until = time.monotonic() + 400  # on a busy machine imports alone take minutes
    while not list(tmp_path.glob("out/inference_*_of_2.json")) and time.monotonic() < until:
        time.sleep(0.1)
    started = children()
    process.kill()
    process.wait()
    assert len(started) == 2
    until = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() for child in started) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{child}").exists() for child in started)
    assert not list(tmp_path.glob("out/*.nii.gz"))


@pytest.mark.parametrize("option", ["mirror=maybe", "probabilities=1", "save_logits=off", "continue=abc"])
def test_switches_are_true_or_false(tmp_path: Path, option: str) -> None:
    """Any text would be taken for true."""
    cfg = composed("predict", ["checkpoint=a", f"input={tmp_path}/i", f"output={tmp_path}/o", option])
    with pytest.raises(ValueError, match=rf"^{option.split('=')[0]}=.*: expected true or false"):
        unwrap(script.main)(cfg)
