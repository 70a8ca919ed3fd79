"""Preparation end to end on small data: fresh, stale, interrupted, edited, broken."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from preparation import SMALL, run
from raw_data import blobs, make_dataset, make_pictures, write_volume

from umamba.files import UNFINISHED, content_hash
from umamba.planning import locking
from umamba.planning import prepare as prepare_module
from umamba.planning import store as store_module
from umamba.planning.configuration import PlanError
from umamba.planning.options import PlannerOptions
from umamba.planning.plan import Plan
from umamba.planning.prepare import bytes_per_worker, prepare
from umamba.planning.store import Store
from umamba.raw.dataset import RawDataset
from umamba.raw.description import DatasetError
from umamba.raw.regions import Region


def store_of(tmp_path: Path) -> Path:
    """The one store of a prepared folder."""
    (folder,) = (tmp_path / "out").glob("3d_fullres-????????")
    return folder


def test_makes_plan_and_store_that_match_the_raw_data(tmp_path):
    raw = make_dataset(tmp_path / "raw")
    plan, store = run(raw, tmp_path / "out")
    assert store.identifiers == ("case_0", "case_1", "case_2")
    assert plan == Plan.load(tmp_path / "out" / "plan.json")
    image, label = blobs((20, 24, 28), seed=1)
    case = store.case("case_1")
    np.testing.assert_allclose(case.data[0], (image - image.mean()) / image.std(), atol=1e-5)
    np.testing.assert_array_equal(case.label[:], label)
    assert case.label.dtype == np.int16 and case.data.dtype == np.float32
    for value, rows in case.class_locations.items():
        assert len(rows) == (label == value).sum()
        assert (label[tuple(rows.T)] == value).all()


def test_what_a_killed_preparation_was_writing_is_cleared_away(tmp_path):
    raw, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    run(raw, out)
    for name in ("raw_files.json", "checked.json", "plan.json"):
        (out / f"{UNFINISHED}1-0-{name}").write_text("{")
    run(raw, out)
    assert not [*out.rglob(f"{UNFINISHED}*")]


def test_parallel_and_serial_stores_agree(tmp_path):
    raw = make_dataset(tmp_path / "raw")
    _, serial = run(raw, tmp_path / "serial")
    _, parallel = prepare(raw, tmp_path / "parallel", "3d_fullres", SMALL, workers=2)
    assert serial.identifiers == parallel.identifiers
    for name in serial.identifiers:
        np.testing.assert_array_equal(serial.case(name).data[:], parallel.case(name).data[:])
        np.testing.assert_array_equal(serial.case(name).label[:], parallel.case(name).label[:])


def test_pictures_are_prepared_as_2d(tmp_path):
    raw = make_pictures(tmp_path / "raw")
    plan, store = run(raw, tmp_path / "out", configuration="2d")
    assert list(plan.configurations) == ["2d"] and plan.configuration("2d").spatial_dims == 2
    assert store.case("case_0").data.shape == (3, 1, 40, 56)


def test_nothing_is_done_twice(tmp_path, written):
    raw = make_dataset(tmp_path / "raw")
    run(raw, tmp_path / "out")
    assert written == ["case_0", "case_1", "case_2"]
    run(raw, tmp_path / "out")
    assert len(written) == 3


def test_only_what_changed_is_done_again(tmp_path, written):
    raw = make_dataset(tmp_path / "raw")
    run(raw, tmp_path / "out")
    image, _label = blobs((20, 24, 28), seed=9)
    write_volume(raw / "imagesTr" / "case_1_0000.nii.gz", image)
    written.clear()
    _, store = run(raw, tmp_path / "out")
    assert written == ["case_1"]
    np.testing.assert_allclose(store.case("case_1").data[0], (image - image.mean()) / image.std(), atol=1e-5)


def test_a_case_that_is_gone_leaves_the_store(tmp_path):
    raw = make_dataset(tmp_path / "raw", numTraining=3)
    run(raw, tmp_path / "out")
    (raw / "imagesTr" / "case_2_0000.nii.gz").unlink()
    (raw / "labelsTr" / "case_2.nii.gz").unlink()
    _, store = run(raw, tmp_path / "out")
    assert store.identifiers == ("case_0", "case_1")


def test_two_at_once_do_the_work_once(tmp_path, written):
    raw = make_dataset(tmp_path / "raw")
    with ThreadPoolExecutor(2) as threads:
        results = [future.result() for future in [threads.submit(run, raw, tmp_path / "out") for _ in range(2)]]
    assert sorted(written) == ["case_0", "case_1", "case_2"]
    assert results[0][0] == results[1][0] and len(results[1][1].identifiers) == 3


def test_other_options_plan_anew(tmp_path):
    raw = make_dataset(tmp_path / "raw")
    first, _ = run(raw, tmp_path / "out")
    second, _ = run(raw, tmp_path / "out", options=PlannerOptions(base_features=16))
    assert first.configuration("3d_fullres").features_per_stage[0] == 8
    assert second.configuration("3d_fullres").features_per_stage[0] == 16


def test_a_kill_while_planning_anew_leaves_no_old_plan(tmp_path, monkeypatch):
    raw = make_dataset(tmp_path / "raw")
    run(raw, tmp_path / "out")

    def killed(plan, path):
        raise KeyboardInterrupt

    save = Plan.save
    monkeypatch.setattr(Plan, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        run(raw, tmp_path / "out", options=PlannerOptions(base_features=16))
    monkeypatch.setattr(Plan, "save", save)
    plan, _ = run(raw, tmp_path / "out", options=PlannerOptions(base_features=16))
    assert plan.base_features == 16


def test_an_edited_plan_is_kept_and_guarded(tmp_path, written, caplog):
    raw = make_dataset(tmp_path / "raw")
    run(raw, tmp_path / "out")
    path = tmp_path / "out" / "plan.json"
    content = json.loads(path.read_text())
    content["configurations"]["3d_fullres"]["batch_size"] = 5
    content["configurations"]["coarse"] = {
        "inherits_from": "3d_fullres",
        "spacing": [2.0, 2.0, 2.0],
        "data_identifier": "coarse",
    }
    path.write_text(json.dumps(content))
    written.clear()
    with caplog.at_level(logging.INFO):
        plan, _ = run(raw, tmp_path / "out")
    assert plan.configuration("3d_fullres").batch_size == 5
    assert "differs from what was planned" in caplog.text
    assert written == []  # the batch size does not touch the arrays
    _, coarse = run(raw, tmp_path / "out", configuration="coarse")
    assert coarse.case("case_0").data.shape == (1, 10, 12, 14)
    with pytest.raises(PlanError, match=r"plan.json was edited by hand, but .* options changed.*Delete it"):
        run(raw, tmp_path / "out", options=PlannerOptions(base_features=16))
    assert Plan.load(path).configuration("3d_fullres").batch_size == 5


def test_an_edit_that_contradicts_itself_is_named(tmp_path):
    raw = make_dataset(tmp_path / "raw")
    run(raw, tmp_path / "out")
    path = tmp_path / "out" / "plan.json"
    content = json.loads(path.read_text())
    content["configurations"]["3d_fullres"]["patch_size"] = [20, 24, 27]
    path.write_text(json.dumps(content))
    with pytest.raises(
        PlanError, match=r"plan.json: configurations.3d_fullres.patch_size = \(20, 24, 27\): expected mul"
    ):
        run(raw, tmp_path / "out")


def test_a_plan_of_other_data_is_refused(tmp_path):
    run(make_dataset(tmp_path / "one"), tmp_path / "out")
    other = make_dataset(tmp_path / "two", labels={"background": 0, "kidney": 1, "tumour": 2})
    (tmp_path / "out" / "state.json").unlink()
    with pytest.raises(PlanError, match=r"plan.json: labels is .*liver.* but .*dataset.json has .*kidney"):
        run(other, tmp_path / "out")


def test_an_interrupted_preparation_is_picked_up(tmp_path, monkeypatch, written):
    raw = make_dataset(tmp_path / "raw")
    compress = store_module.compress

    def killed(array, patch_size):
        if written[-1] == "case_1" and array.ndim == 3:  # its data are written, its label is not
            raise KeyboardInterrupt
        return compress(array, patch_size)

    monkeypatch.setattr(store_module, "compress", killed)
    with pytest.raises(KeyboardInterrupt):
        run(raw, tmp_path / "out")
    assert Store.open(store_of(tmp_path)).identifiers == ("case_0",)
    monkeypatch.setattr(store_module, "compress", compress)
    written.clear()
    _, store = run(raw, tmp_path / "out")
    assert written == ["case_1", "case_2"] and len(store.identifiers) == 3


def test_what_a_kill_leaves_behind_is_removed(tmp_path):
    raw = make_dataset(tmp_path / "raw")
    run(raw, tmp_path / "out")
    folder = store_of(tmp_path)
    (folder / ".writing-case_9-1").mkdir()
    (folder / "case_0" / "case.json").unlink()  # a deletion that was cut off
    assert "case_0" not in Store.open(folder).identifiers
    _, store = run(raw, tmp_path / "out")
    assert len(store.identifiers) == 3 and not list(folder.glob(".writing*"))


def test_a_full_disk_says_which_folder_and_how_much(tmp_path, monkeypatch):
    raw = make_dataset(tmp_path / "raw")
    original = Path.write_bytes

    def full(path, content):
        if "case_1" in str(path):
            original(path, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return original(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    message = (
        r"No space left on device: cannot write to .*out \(\d.* [kMGT]?B free; the preprocessed data need .* [kM]B\)"
    )
    with pytest.raises(OSError, match=message):
        run(raw, tmp_path / "out")
    monkeypatch.undo()
    folder = store_of(tmp_path)
    assert Store.open(folder).identifiers == ("case_0",) and not list(folder.glob(".writing*"))
    _, store = run(raw, tmp_path / "out")
    assert len(store.identifiers) == 3


def test_a_read_only_disk_serves_what_is_finished(tmp_path, monkeypatch):
    raw = make_dataset(tmp_path / "raw")
    run(raw, tmp_path / "out")

    def read_only(*_args, **_kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(locking.FileLock, "acquire", read_only)
    monkeypatch.setattr(prepare_module, "write_json", read_only)
    _, store = run(raw, tmp_path / "out")
    assert len(store.identifiers) == 3
    with pytest.raises(OSError, match="Read-only file system: cannot write to .*paths.prepared"):
        run(raw, tmp_path / "out", options=PlannerOptions(base_features=16))


def test_all_bad_cases_are_listed_at_once(tmp_path):
    raw = make_dataset(tmp_path / "raw")
    image, label = blobs((20, 24, 28), seed=0)
    image[0, 0, 0] = np.nan
    write_volume(raw / "imagesTr" / "case_0_0000.nii.gz", image)
    write_volume(raw / "labelsTr" / "case_2.nii.gz", label + 5)
    with pytest.raises(DatasetError, match=r"(?s)2 cases.*case_0: .*1 NaN or infinite.*case_2: .*values 5, 6, 7"):
        run(raw, tmp_path / "out")
    assert not (tmp_path / "out" / "fingerprint.json").exists()


@pytest.mark.parametrize(
    ("channel", "spacing", "message"),
    [("MR", 0.001, "its header is wrong"), ("rgb_to_0_1", 1.0, r"expects values in 0\.\.255")],
)
def test_what_shows_in_preprocessing_alone_names_the_case(tmp_path, channel, spacing, message):
    raw = make_dataset(tmp_path / "raw", channels=(channel,))
    image, label = blobs((20, 24, 28), seed=2)
    for part, name, array in (("imagesTr", "case_2_0000", 9 * image), ("labelsTr", "case_2", label)):
        write_volume(raw / part / f"{name}.nii.gz", array, (spacing,) * 3)
    for number in (0, 1):
        image, _ = blobs((20, 24, 28), seed=number)
        write_volume(raw / "imagesTr" / f"case_{number}_0000.nii.gz", image.clip(0, 255))
    with pytest.raises(DatasetError, match=rf"(?s)^Case case_2, .*case_2_0000\.nii\.gz: .*{message}"):
        run(raw, tmp_path / "out")


def test_regions_are_prepared_with_plain_labels_and_places_of_each_region(tmp_path):
    labels = {"background": 0, "whole": [2, 1], "core": 2}
    raw = make_dataset(tmp_path / "raw", labels=labels, regions_class_order=[1, 2])
    plan, store = run(raw, tmp_path / "out")
    assert plan.labels == {"background": 0} and plan.num_classes == 2
    assert plan.regions == (
        Region(name="whole", labels=(1, 2), written=1),
        Region(name="core", labels=(2,), written=2),
    )
    assert Plan.from_dict(json.loads((tmp_path / "out" / "plan.json").read_text())) == plan
    for identifier in store.identifiers:
        case = store.case(identifier)
        label = case.label[:]
        assert {*np.unique(label)} <= {-1, 0, 1, 2}
        for number, values in ((1, (1, 2)), (2, (2,))):
            assert len(case.class_locations[number]) == np.isin(label, values).sum() > 0
            assert np.isin(label[tuple(case.class_locations[number].T)], values).all()


def test_the_same_files_with_other_regions_are_planned_and_stored_anew(tmp_path):
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    raw = make_dataset(tmp_path / "raw", labels=labels, regions_class_order=[1, 2])
    _, first = run(raw, tmp_path / "out")
    content = json.loads((raw / "dataset.json").read_text())
    content |= {"labels": {"background": 0, "core": 2, "whole": [1, 2]}, "regions_class_order": [2, 1]}
    (raw / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="cannot express label 2: it lies in core, whole, and would be written as 1"):
        run(raw, tmp_path / "out")
    content |= {"labels": {"background": 0, "one": 1, "two": 2}, "regions_class_order": [1, 2]}
    (raw / "dataset.json").write_text(json.dumps(content))
    plan, second = run(raw, tmp_path / "out")
    assert plan.labels == {"background": 0, "one": 1, "two": 2} and first.folder != second.folder


def test_without_regions_plans_and_descriptions_hash_as_before_there_were_any(tmp_path):
    plan, _ = run(make_dataset(tmp_path / "raw"), tmp_path / "out")
    assert plan.to_dict()["regions"] == {}
    raw = RawDataset.open(tmp_path / "raw")
    before = {
        "name": "Toy", "channel_names": ["MR"], "labels": {"background": 0, "liver": 1, "spleen": 2}, "regions": {},
        "ignore_label": None, "file_ending": ".nii.gz", "num_training": 3,
    }  # fmt: skip
    assert prepare_module._description_hash(raw) == content_hash(before)


def test_no_foreground_anywhere_is_refused(tmp_path):
    raw = make_dataset(tmp_path / "raw")
    for path in (raw / "labelsTr").iterdir():
        write_volume(path, np.zeros((20, 24, 28), dtype=np.uint8))
    with pytest.raises(DatasetError, match="No training case has any labelled voxel"):
        run(raw, tmp_path / "out")


def test_one_case_without_foreground_is_said_and_kept(tmp_path, caplog):
    raw = make_dataset(tmp_path / "raw")
    write_volume(raw / "labelsTr" / "case_1.nii.gz", np.zeros((20, 24, 28), dtype=np.uint8))
    _, store = run(raw, tmp_path / "out")
    assert "case_1.nii.gz has no foreground" in caplog.text
    assert all(len(rows) == 0 for rows in store.case("case_1").class_locations.values())


def test_one_case_is_enough_and_an_absent_class_is_empty(tmp_path):
    raw = make_dataset(tmp_path / "raw", cases=1, labels={"background": 0, "liver": 1, "spleen": 2, "rare": 3})
    plan, store = run(raw, tmp_path / "out")
    locations = store.case("case_0").class_locations
    assert plan.num_classes == 4 and plan.configuration("3d_fullres").batch_size == 2
    assert list(locations) == [1, 2, 3] and len(locations[3]) == 0


@pytest.mark.parametrize("shape", [(1, 24, 28), (3, 5, 6), (20, 1, 28)])
def test_thin_and_tiny_volumes_are_handled(tmp_path, shape):
    raw = make_dataset(tmp_path / "raw", shape=shape)
    for i, path in enumerate(sorted((raw / "labelsTr").iterdir())):
        label = np.zeros(shape, dtype=np.uint8)
        label.flat[i::3] = 1
        write_volume(path, label)
    plan, store = run(raw, tmp_path / "out", configuration="2d")
    assert store.case("case_0").data.shape[0] == 1
    assert plan.configuration("2d").batch_size >= 2


def test_ignored_voxels_are_kept_and_annotated_ones_located(tmp_path):
    labels = {"background": 0, "liver": 1, "spleen": 2, "ignore": 3}
    raw = make_dataset(tmp_path / "raw", labels=labels)
    for path in (raw / "labelsTr").iterdir():
        label = np.full((20, 24, 28), 3, dtype=np.uint8)
        label[5:8, 5:8, 5:8], label[8, 8, 8] = 1, 0
        write_volume(path, label)
    plan, store = run(raw, tmp_path / "out")
    case = store.case("case_0")
    assert plan.ignore_label == 3 and plan.num_classes == 3
    assert len(case.class_locations[1]) == 27 and len(case.annotated_locations) == 28
    assert (case.label[:] == 3).sum() == 20 * 24 * 28 - 28


def test_what_a_worker_needs_follows_from_the_largest_header(tmp_path):
    raw = RawDataset.open(make_dataset(tmp_path, channels=("T1", "T2")))
    assert bytes_per_worker(raw) == 20 * 24 * 28 * (2 * 8 + 20)
    (tmp_path / "imagesTr" / "case_0_0000.nii.gz").write_bytes(bytes(100_000))
    assert bytes_per_worker(raw) == 0  # cannot be read; the check of every case says so


@pytest.mark.parametrize("content", [None, b"", bytes(5000)])
@pytest.mark.parametrize("name", ["data.b2nd", "label.b2nd"])
def test_a_damaged_case_says_how_to_get_it_anew(tmp_path, name, content):
    raw = make_dataset(tmp_path / "raw", cases=1)
    _, store = run(raw, tmp_path / "out")
    folder = store.folder / "case_0"
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match="case_0 is damaged .* Delete it and start again"):
        store.case("case_0")
    shutil.rmtree(folder)
    _, again = run(raw, tmp_path / "out")
    assert again.case("case_0").data.shape[0] == 1


def test_stored_cases_of_another_format_are_refused(tmp_path):
    raw = make_dataset(tmp_path / "raw", cases=1)
    _, store = run(raw, tmp_path / "out")
    path = store.folder / "case_0" / "case.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 99}))
    with pytest.raises(ValueError, match="not a stored case of format 1. Delete it"):
        store.case("case_0")
    with pytest.raises(KeyError, match="no case 'case_7'"):
        store.case("case_7")
    with pytest.raises(FileNotFoundError, match="no preprocessed case"):
        Store.open(tmp_path)


def test_a_ready_plan_can_be_given(tmp_path):
    raw = make_dataset(tmp_path / "raw")
    plan, _ = run(raw, tmp_path / "one")
    changed = dataclasses.replace(
        plan, configurations={"mine": dataclasses.replace(plan.configuration("3d_fullres"), name="mine", batch_size=3)}
    )
    changed.save(tmp_path / "given.json")
    options = PlannerOptions(plans=str(tmp_path / "given.json"))
    used, store = run(raw, tmp_path / "two", options, "mine")
    assert used == changed and len(store.identifiers) == 3
