"""Damage to what a preparation keeps is noticed before it is trained on, and mended from the raw data."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
from preparation import run
from raw_data import blobs, make_dataset, write_volume

from umamba.planning import previous_maps, sound_cases
from umamba.planning.arrays import open_array
from umamba.planning.previous_maps import PreviousMaps
from umamba.planning.store import Store


def flip(path: Path, at: float = 0.6) -> None:
    """Turn one bit at a relative place of a file, into new contents of the same file."""
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 4
    path.write_bytes(content)


def arrays_of(store: Store) -> dict[str, tuple]:
    cases = {name: store.case(name) for name in store.identifiers}
    return {name: (case.data[:].tobytes(), case.label[:].tobytes(), case._rows().tobytes(), case.properties)
            for name, case in cases.items()}  # fmt: skip


@pytest.mark.parametrize("name", ["data.b2nd", "label.b2nd", "locations.npy", "case.json"])
def test_a_damaged_case_is_named_and_preprocessed_anew(tmp_path, written, caplog, name):
    raw, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    _, store = run(raw, out)
    before = arrays_of(store)
    damaged = store.folder / "case_1" / name
    if name == "case.json":  # still JSON, of another spacing
        content = json.loads(damaged.read_text())
        content["properties"]["geometry"]["spacing"] = [1.0, 1.0, 2.0]
        damaged.write_text(json.dumps(content))
    else:
        flip(damaged)
    written.clear()
    _, again = run(raw, out)
    assert written == ["case_1"]
    assert (
        f"Not as written, and preprocessed anew: 1 case of {store.folder}: " in caplog.text
        and f"{damaged} has the checksum " in caplog.text
    )
    assert arrays_of(again) == before
    caplog.clear()
    written.clear()
    run(raw, out)
    assert written == [] and "as written" not in caplog.text


def test_what_blosc2_reads_without_an_error_is_noticed(tmp_path, written):
    """The reason for it all: other voxels, and nobody says so."""
    raw, out = make_dataset(tmp_path / "raw", cases=1), tmp_path / "out"
    _, store = run(raw, out)
    path = store.folder / "case_0" / "data.b2nd"
    right, content = open_array(path)[:], path.read_bytes()
    silent = 0
    for at in np.linspace(0.2, 0.8, 7):
        path.write_bytes(content)
        flip(path, at)
        try:
            silent += not np.array_equal(open_array(path)[:], right)
        except RuntimeError:
            continue
    assert silent > 0
    written.clear()
    _, again = run(raw, out)
    assert written == ["case_0"]
    np.testing.assert_array_equal(again.case("case_0").data[:], right)


@pytest.mark.parametrize("name", ["data.b2nd", "label.b2nd", "locations.npy"])
def test_a_case_that_was_copied_in_part_is_preprocessed_anew(tmp_path, written, caplog, name):
    raw, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    _, store = run(raw, out)
    path = store.folder / "case_0" / name
    path.write_bytes(path.read_bytes()[:-100])
    (store.folder / "case_2" / name).unlink()
    written.clear()
    run(raw, out)
    assert written == ["case_0", "case_2"]
    assert "2 cases of" in caplog.text and f"{store.folder / 'case_2' / name} is gone" in caplog.text


def test_a_changed_file_is_read_again_whatever_its_time_says(tmp_path, written):
    raw, out = make_dataset(tmp_path / "raw", cases=1), tmp_path / "out"
    _, store = run(raw, out)
    run(raw, out)  # looked at once
    path = store.folder / "case_0" / "label.b2nd"
    stat = path.stat()
    flip(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    written.clear()
    run(raw, out)
    assert written == ["case_0"]


def test_cases_are_read_once_a_day(tmp_path, monkeypatch):
    raw, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    read: list[str] = []
    original = sound_cases.case_faults
    monkeypatch.setattr(sound_cases, "case_faults", lambda case: [read.append(case.name), *original(case)][1:])
    run(raw, out)
    assert read == []  # written a moment ago
    for _ in range(2):
        run(raw, out)
    assert sorted(read) == ["case_0", "case_1", "case_2"]
    path = out / "checked.json"
    for hours in (-25, 1):  # long ago; and in the future, by a clock that was wrong
        content = json.loads(path.read_text())
        for record in content.values():
            record["at"] += 3600 * hours
        path.write_text(json.dumps(content))
        read.clear()
        run(raw, out)
        assert len(read) == 3, hours
    path.write_text('{"half')
    read.clear()
    run(raw, out)
    assert len(read) == 3


def test_maps_of_a_cascade_are_read_once_a_day(tmp_path, monkeypatch, caplog):
    maps = PreviousMaps(tmp_path / "3d_fullres-previous-1", (1,))
    for name in "abc":
        maps.write(name, np.ones((4, 4, 4), np.uint8), (4, 4, 4))
    read: list[str] = []
    original = previous_maps._fault_of
    monkeypatch.setattr(previous_maps, "_fault_of", lambda path: [read.append(path.stem), original(path)][1])
    for _ in range(2):
        assert maps.missing("abcd") == ["d"]
    assert sorted(read) == ["a", "b", "c"]
    flip(maps.folder / "b.b2nd")
    maps.write("c", np.zeros((4, 4, 4), np.uint8), (4, 4, 4))
    read.clear()
    for _ in range(2):
        assert maps.missing("abcd", workers=2) == ["b", "d"]
    assert sorted(read) == ["b", "b", "c"] and "b.b2nd has the checksum" in caplog.text
    assert json.loads((tmp_path / "checked.json").read_text()).keys() == {f"{maps.folder.name}/{n}" for n in "abc"}


def test_cases_of_earlier_versions_are_used_as_they_are(tmp_path, written, caplog):
    raw, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    _, store = run(raw, out)
    for path in store.folder.glob("*/case.json"):
        content = json.loads(path.read_text())
        del content["checksums"]
        path.write_text(json.dumps(content))
    written.clear()
    with caplog.at_level(logging.INFO):
        run(raw, out)
    assert written == []
    assert f"3 cases of {store.folder} were written by an earlier version, without checksums" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        run(raw, out)
    assert "without checksums" not in caplog.text  # said once
    (store.folder / "case_1" / "data.b2nd").unlink()
    run(raw, out)
    assert written == ["case_1"]


def test_a_damaged_case_is_not_shared_with_another_store(tmp_path, written):
    raw, out = make_dataset(tmp_path / "raw"), tmp_path / "out"
    _, first = run(raw, out)
    right = first.case("case_0").data[:]
    flip(first.folder / "case_0" / "data.b2nd")
    write_volume(raw / "imagesTr" / "case_1_0000.nii.gz", blobs((20, 24, 28), seed=9)[0])
    written.clear()
    _, second = run(raw, out)
    assert second.folder != first.folder and sorted(written) == ["case_0", "case_1"]
    np.testing.assert_array_equal(second.case("case_0").data[:], right)


def test_a_damaged_map_of_the_previous_stage_is_missing(tmp_path, caplog):
    maps = PreviousMaps(tmp_path / "maps", (1, 2))
    label_map = np.random.default_rng(0).integers(0, 3, (12, 20, 20)).astype(np.uint8)
    for name in ("one", "two", "old"):
        maps.write(name, label_map, (8, 8, 8))
    (tmp_path / "maps" / "old.b2nd.crc32").unlink()  # as earlier versions wrote them
    assert maps.missing(["one", "two", "old", "new"]) == ["new"] and not caplog.text
    path = tmp_path / "maps" / "two.b2nd"
    flip(path)
    assert maps.missing(["one", "two"]) == ["two"]
    assert f"Maps of the previous stage are not as written and made anew: {path} has the checksum" in caplog.text
    maps.write("two", label_map, (8, 8, 8))
    assert maps.missing(["one", "two"]) == []
    np.testing.assert_array_equal(maps.case("two")[:], label_map)
