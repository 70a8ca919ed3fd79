"""Stores side by side: none is changed under a run that reads it, nothing foreign is ever deleted."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from preparation import SMALL, run
from raw_data import blobs, make_dataset, write_volume

from umamba.planning import stores as stores_module
from umamba.planning.configuration import PlanError
from umamba.planning.options import PlannerOptions
from umamba.planning.prepare import prepare_plan
from umamba.planning.preprocess import CaseProperties, PreprocessedCase
from umamba.planning.store import Store, remove_case, write_case
from umamba.raw.description import DatasetError
from umamba.raw.readers import Geometry


def edited(out: Path, **changes) -> None:
    content = json.loads((out / "plan.json").read_text())
    content["configurations"]["3d_fullres"] |= changes
    (out / "plan.json").write_text(json.dumps(content))


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_another_plan_makes_another_store_beside_the_one_that_is_read(tmp_path, written, caplog):
    raw, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    _, first = run(raw, out)
    case, before = first.case("case_1"), content_of(first.folder)
    edited(out, normalization=["RescaleTo01Normalization"])
    written.clear()
    with caplog.at_level(logging.INFO):
        _, second = run(raw, out)
    assert second.folder != first.folder and second.folder.name.startswith("3d_fullres-") and len(written) == 3
    assert content_of(first.folder) == before
    assert first.case("case_0").data[:].mean() == pytest.approx(0, abs=1e-4)  # opened after the second preparation
    assert case.data[:].std() == pytest.approx(1, abs=1e-4)
    assert second.case("case_0").data[:].max() == pytest.approx(1)
    assert f"Other stores are kept for runs that use them: {first.folder} (" in caplog.text


def test_two_sets_of_options_in_turn_compute_once_each(tmp_path, written):
    raw, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    options = [SMALL, PlannerOptions(base_features=16), PlannerOptions(base_features=8, preset="resenc_m")]
    folders = [run(raw, out, some)[1].folder for some in options * 2]
    assert len(written) == 3 and len(set(folders)) == 1  # spacing and normalisation are the same: so is the store


def test_changed_raw_files_leave_the_store_that_is_read(tmp_path, written):
    raw, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    _, first = run(raw, out)
    before = content_of(first.folder)
    image, _ = blobs((20, 24, 28), seed=9)
    write_volume(raw / "imagesTr" / "case_1_0000.nii.gz", image)
    written.clear()
    _, second = run(raw, out)
    assert written == ["case_1"] and content_of(first.folder) == before
    np.testing.assert_allclose(second.case("case_1").data[0], (image - image.mean()) / image.std(), atol=1e-5)
    shared = [(store.folder / "case_0" / "data.b2nd").stat().st_ino for store in (first, second)]
    assert shared[0] == shared[1]
    shutil.rmtree(first.folder)
    np.testing.assert_array_equal(second.case("case_0").label[:], blobs((20, 24, 28), seed=0)[1])


def test_without_links_the_cases_are_computed(tmp_path, written, monkeypatch):
    raw, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    run(raw, out)
    (raw / "imagesTr" / "case_2_0000.nii.gz").unlink()
    (raw / "labelsTr" / "case_2.nii.gz").unlink()

    def no_links(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    written.clear()
    _, store = run(raw, out)
    assert written == ["case_0", "case_1"] == list(store.identifiers)
    assert not list(store.folder.glob(".*"))


def test_a_store_of_the_former_naming_is_used_where_it_is(tmp_path, written):
    raw, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    _, store = run(raw, out)
    os.replace(store.folder, out / "3d_fullres")
    written.clear()
    _, again = run(raw, out)
    assert again.folder == out / "3d_fullres" and written == []
    image, _ = blobs((20, 24, 28), seed=9)
    write_volume(raw / "imagesTr" / "case_1_0000.nii.gz", image)
    _, changed = run(raw, out)
    assert changed.folder.name.startswith("3d_fullres-") and written == ["case_1"]
    assert Store.open(out / "3d_fullres").identifiers == again.identifiers


def test_what_the_project_did_not_write_stays(tmp_path):
    raw, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    _, store = run(raw, out)
    inside = ("notes/b.txt", "case_0/c.txt", ".writing-case_0-1/d.txt")
    foreign = [
        out / "3d_fullres" / "a.txt",
        out / "other-12345678" / "e.txt",
        *(store.folder / name for name in inside),
    ]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("precious")
    (store.folder / "case_1" / "case.json").unlink()
    run(raw, out)
    assert all(path.read_text() == "precious" for path in foreign)
    assert len(store.identifiers) == 3


@pytest.mark.parametrize("name", ["", ".", "..", "../victim", "a/../../victim", "/etc", "case\x00"])
def test_no_case_outside_of_its_store_is_removed(tmp_path, name):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "case.json").write_text("precious")
    with pytest.raises(ValueError, match="A case cannot be called"):
        remove_case(tmp_path / "store", name)
    assert (victim / "case.json").read_text() == "precious"


def test_a_link_to_elsewhere_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "case.json").write_text("precious")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "case_0").symlink_to(victim)
    remove_case(tmp_path / "store", "case_0")
    assert (victim / "case.json").read_text() == "precious"


@pytest.mark.parametrize("function", [run, lambda raw, out: prepare_plan(raw, out, SMALL, workers=1)])
def test_two_data_sets_do_not_share_a_folder(tmp_path, function):
    one, two = make_dataset(tmp_path / "a" / "Dataset001"), make_dataset(tmp_path / "b" / "Dataset001", cases=4)
    out = tmp_path / "out"
    run(one, out)
    before = content_of(out)
    with pytest.raises(DatasetError, match=rf"(?s)out holds .*{one}; the one in {two} has other files.*prepared_dir"):
        function(two, out)
    after = content_of(out)
    assert {k: v for k, v in after.items() if k != ".lock"} == {k: v for k, v in before.items() if k != ".lock"}
    function(one, out)


def test_equal_names_and_sizes_are_not_the_same_data_while_both_are_there(tmp_path):
    one = make_dataset(tmp_path / "a" / "Dataset001")
    two = Path(shutil.copytree(one, tmp_path / "b" / "Dataset001", copy_function=shutil.copyfile))  # new times
    run(one, tmp_path / "out")
    with pytest.raises(DatasetError, match="has other files"):
        run(two, tmp_path / "out")


@pytest.mark.parametrize("how", ["move", "copy", "move without times", "link"])
def test_a_data_set_that_was_moved_keeps_its_preparation(tmp_path, written, how):
    one, two = make_dataset(tmp_path / "a" / "Data set [1] ä"), tmp_path / "b" / "Dataset001"
    run(one, tmp_path / "out")
    two.parent.mkdir()
    if how == "move":
        os.replace(one, two)
    elif how == "link":
        two.symlink_to(one)
    else:
        shutil.copytree(one, two, copy_function=shutil.copy2 if how == "copy" else shutil.copyfile)
        if how == "move without times":
            shutil.rmtree(one)
    written.clear()
    run(two, tmp_path / "out")
    assert len(written) == (3 if how == "move without times" else 0)
    state = json.loads((tmp_path / "out" / "state.json").read_text())
    assert state["dataset"]["folder"] == str((one if how == "link" else two).resolve())


def test_a_moved_and_changed_data_set_says_that_the_old_place_is_empty(tmp_path):
    one = make_dataset(tmp_path / "a" / "Dataset001")
    run(one, tmp_path / "out")
    shutil.rmtree(one)
    two = make_dataset(tmp_path / "b" / "Dataset001", cases=4)
    with pytest.raises(DatasetError, match="which is no longer there"):
        run(two, tmp_path / "out")


def test_a_preparation_of_before_is_adopted(tmp_path, written):
    raw, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    run(raw, out)
    state = json.loads((out / "state.json").read_text())
    del state["dataset"]
    (out / "state.json").write_text(json.dumps(state))
    written.clear()
    run(raw, out)
    assert written == [] and json.loads((out / "state.json").read_text())["dataset"]["folder"] == str(raw.resolve())


def test_sizes_of_other_stores_count_what_deleting_them_would_free(tmp_path):
    raw, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    _, first = run(raw, out)
    alone = stores_module._size(first.folder)
    assert alone == sum(path.stat().st_size for path in first.folder.rglob("*") if path.is_file())
    image, _ = blobs((20, 24, 28), seed=9)
    write_volume(raw / "imagesTr" / "case_1_0000.nii.gz", image)
    run(raw, out)
    assert 0 < stores_module._size(first.folder) < alone


def test_what_the_plan_has_no_cascade_for_is_refused(tmp_path):
    raw, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    with pytest.raises(ValueError, match="no configuration '3d_cascade_fullres'.*less than 25% of the voxels.*here"):
        run(raw, out, configuration="3d_cascade_fullres")
    content = json.loads((out / "plan.json").read_text())
    content["configurations"]["second"] = {"inherits_from": "3d_fullres", "previous_stage": "2d"}
    (out / "plan.json").write_text(json.dumps(content))
    with pytest.raises(PlanError, match="second.previous_stage = '2d'.*2d is of slices"):
        run(raw, out, configuration="second")


def test_a_cascade_reads_the_store_of_full_resolution(tmp_path):
    raw, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    _, store = run(raw, out, configuration="3d_fullres")
    content = json.loads((out / "plan.json").read_text())
    low = {"inherits_from": "3d_fullres", "spacing": [4.0, 4.0, 4.0], "data_identifier": "low"}
    content["configurations"] |= {"low": low, "second": {"inherits_from": "3d_fullres", "previous_stage": "low"}}
    (out / "plan.json").write_text(json.dumps(content))
    plan, other = run(raw, out, configuration="second")
    assert other == store and other.previous is None
    assert plan.num_inputs("second") == plan.num_inputs("low") + len(plan.foreground_labels)


def test_a_disk_that_is_full_at_the_locations_says_so(small_disk):
    """NumPy's own writer tells how many voxels it wrote, and not that the disk is full."""
    shape = (32, 32, 32)
    geometry = Geometry(
        shape=shape, spacing=(1.0,) * 3, origin=(0.0,) * 3, direction=tuple(np.eye(3).ravel()), dimension=3
    )
    case = PreprocessedCase(
        data=np.zeros((1, *shape), np.float32),
        label=np.ones(shape, np.int16),  # one class everywhere: 10,000 locations of 12 bytes, nothing else of size
        properties=CaseProperties(geometry=geometry, shape_before_crop=shape, box=((0, 32),) * 3, shape=shape),
    )
    plan = SimpleNamespace(labels={"background": 0, "liver": 1}, regions=(), ignore_label=None)
    with pytest.raises(OSError, match="No space left") as caught:
        write_case(small_disk, "case_0", case, plan, (16, 16, 16), "key")
    assert caught.value.errno == errno.ENOSPC  # what turns it into a DiskError with the folder and the room
    assert not list(small_disk.iterdir())
