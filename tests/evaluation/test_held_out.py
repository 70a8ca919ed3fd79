"""No case is scored that a network was trained on: checkpoints, ensembles, old ones, moved and changed data."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from tests.miniatures import make_volumes
from umamba.datamodules.custom import CustomDataModule
from umamba.evaluation.held_out import add_source, cases_of_training, choose_cases, source_of
from umamba.evaluation.members import Member
from umamba.planning import raw_files
from umamba.planning.options import PlannerOptions
from umamba.planning.prepare import prepare_plan
from umamba.planning.raw_files import RawFiles
from umamba.raw import known_images
from umamba.raw.file_identity import fingerprint
from umamba.raw.image_marks import are_alike, of_files
from umamba.run.compare import differences


def write_case(folder: Path, name: str, split: str, labelled: bool = True, seed: int | None = None) -> None:
    rng = np.random.default_rng([ord(c) for c in f"{split}{name}"] if seed is None else seed)
    for part in ("images", "labels") if labelled else ("images",):
        path = folder / f"{part}{split}" / (f"{name}_0000.nii.gz" if part == "images" else f"{name}.nii.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        volume = path.with_name("volume.nii")
        sitk.WriteImage(sitk.GetImageFromArray(rng.integers(0, 256, (5, 10, 10)).astype(np.uint8)), volume)
        path.write_bytes(gzip.compress(volume.read_bytes(), mtime=0))
        volume.unlink()


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "Dataset001_Mine"
    for index in range(10):
        write_case(folder, f"c{index}", "Tr")
    (folder / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "numTraining": 10,
                    "file_ending": ".nii.gz"})
    )  # fmt: skip
    return folder


def opened(raw: Path, fold: int | str = 0) -> CustomDataModule:
    datamodule = CustomDataModule(dataset_dir=raw, prepared_dir=raw.parent / "prepared", fold=fold)
    datamodule.open_raw()
    return datamodule


def member(raw: Path, fold: int | str, *, old: bool = False, seed: int = 0) -> Member:
    cases = cases_of_training(opened(raw, fold))
    known = {} if old else {**cases, "validated_with": tuple(cases["validated_with"])}
    known.pop("orientations", None)
    config = {"fold": fold, "seed": seed, "data": {"dataset_dir": str(raw), "fold": fold}}
    plan = {"num_training": len(opened(raw, fold).raw.training_cases)}
    path = Path(f"fold_{fold}_{seed}.ckpt")
    return Member(path=path, config=config, plan=plan, configuration="2d", **known)


def chosen(members: list[Member], raw: Path, cases: str = "validation", fold: int | str = 0) -> tuple[list[str], str]:
    some, kind = choose_cases(members, opened(raw, fold), cases)
    return [case.identifier for case in some], kind


def test_the_start_of_a_training_hashes_no_label_that_its_preparation_knows(raw, monkeypatch):
    expected = cases_of_training(opened(raw))
    RawFiles.read(opened(raw).raw, raw.parent / "prepared", workers=1).save()
    monkeypatch.setattr(raw_files, "file_content", lambda path: pytest.fail(f"{path} was read"))
    assert cases_of_training(opened(raw)) == expected and "label" in expected["files"]["c0"]
    assert expected["orientations"] == ["LPS"]


@pytest.mark.parametrize("old", [False, True])
def test_a_checkpoint_is_validated_with_its_own_fold(raw, old):
    for fold in range(5):
        own = sorted(opened(raw, fold).val_ids)
        assert chosen([member(raw, fold, old=old)], raw, fold=(fold + 1) % 5) == (own, "validation")
        assert chosen([member(raw, fold, old=old)], raw, "test") == (own, "validation")


@pytest.mark.parametrize("old", [False, True])
def test_an_ensemble_over_folds_has_no_case_left(raw, old):
    members = [member(raw, fold, old=old) for fold in range(3)]
    for cases in ("test", "validation"):
        with pytest.raises(
            ValueError, match=r"no case in common.*fold_0_0\.ckpt \(fold 0\) holds out c\d, c\d; .*fold 1"
        ):
            chosen(members, raw, cases)
    seeds = [member(raw, 1, old=old, seed=seed) for seed in (0, 1)]
    assert chosen(seeds, raw)[0] == sorted(opened(raw, 1).val_ids)
    write_case(raw, "t0", "Ts")
    write_case(raw, "t1", "Ts", labelled=False)
    assert chosen(members, raw, "test") == (["t0"], "test")
    with pytest.raises(ValueError, match="no case in common"):
        chosen(members, raw, "validation")


def test_overlapping_folds_share_what_no_member_saw(raw):
    names = [f"c{i}" for i in range(10)]
    splits = [{"train": names[:7], "val": names[7:]}, {"train": names[:6] + names[9:], "val": names[6:9]}]
    (raw / "splits_final.json").write_text(json.dumps(splits))
    assert chosen([member(raw, 0), member(raw, 1)], raw)[0] == ["c7", "c8"]


def test_who_trained_on_all_cases_is_scored_on_test_cases_only(raw):
    of_all = member(raw, "all")
    assert chosen([of_all], raw, "test", "all") == ([f"c{i}" for i in range(10)], "training")  # train.py's last step
    for members, cases in (([of_all], "validation"), ([member(raw, 0), of_all], "validation"), ([of_all] * 2, "test")):
        with pytest.raises(ValueError, match=r"fold_all_0\.ckpt was trained on every training case \(fold all\)"):
            chosen(members, raw, cases)
    write_case(raw, "t0", "Ts")
    assert chosen([of_all], raw, "test", "all") == (["t0"], "test")


def test_folds_that_were_dealt_anew(raw):
    before = member(raw, 0)
    own = sorted(before.validated_with)
    names = [f"c{i}" for i in range(10)]
    seen = sorted(before.trained_on)[:2]
    (raw / "splits_final.json").write_text(
        json.dumps([{"train": [name for name in names if name not in seen], "val": seen}])
    )
    assert chosen([before], raw)[0] == own  # not what fold 0 holds now


@pytest.mark.parametrize("place", [0, 250_000, 499_999])
def test_labels_that_changed_anywhere_are_other_data(raw, place):
    name = opened(raw).train_ids[0]
    label = raw / "labelsTr" / f"{name}.nii.gz"
    label.write_bytes(bytes(500_000))
    before = cases_of_training(opened(raw))
    assert cases_of_training(opened(raw)) == before
    content = bytearray(500_000)
    content[place] = 1
    label.write_bytes(content)
    after = cases_of_training(opened(raw))
    assert list(differences(before, after)) == [f"files.{name}.label"]


def test_second_channels_that_were_exchanged_are_other_data(raw):
    description = json.loads((raw / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps({**description, "channel_names": {"0": "T1", "1": "T2"}}))
    for index in range(10):
        (raw / "imagesTr" / f"c{index}_0001.nii.gz").write_bytes(gzip.compress(bytes([index] * 99), mtime=0))
    before = cases_of_training(opened(raw))
    one, other = ((raw / "imagesTr" / f"{name}_0001.nii.gz") for name in opened(raw).train_ids[:2])
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    found = differences(before, cases_of_training(opened(raw)))
    assert sorted(found) == sorted(f"files.{name}.channel_1" for name in opened(raw).train_ids[:2])


def test_a_data_set_that_has_grown(raw):
    known, old = member(raw, 0), member(raw, 0, old=True)
    own = sorted(known.validated_with)
    write_case(raw, "c91", "Tr")
    assert chosen([known], raw)[0] == own
    with pytest.raises(ValueError, match=r"does not say which cases .* there were 10 then .* has 11 now"):
        chosen([old], raw)


def test_another_data_set_with_the_same_names(raw, tmp_path):
    trained = member(raw, 0)
    other = tmp_path / "Dataset002_Other"
    for index in range(10):
        write_case(other, f"c{index}", "Tr", seed=100 + index)
    write_case(other, "c0", "Ts", seed=200)
    (other / "dataset.json").write_text((raw / "dataset.json").read_text())
    assert chosen([trained], other, "test") == (["c0"], "test")  # another patient of that name
    (other / "imagesTs" / "c0_0000.nii.gz").write_bytes(
        (raw / "imagesTr" / f"{sorted(trained.trained_on)[0]}_0000.nii.gz").read_bytes()
    )
    with pytest.raises(ValueError, match=r"fold_0_0\.ckpt \(fold 0\) was trained on 1 of the cases to be scored: c0"):
        chosen([trained], other, "test")


def test_a_moved_data_set_is_the_same(raw, tmp_path):
    trained = member(raw, 0)
    moved = raw.rename(tmp_path / "elsewhere")
    assert chosen([trained], moved)[0] == sorted(trained.validated_with)
    for name in trained.validated_with:
        (moved / "imagesTr" / f"{name}_0000.nii.gz").unlink()
        (moved / "labelsTr" / f"{name}.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"validated with cases that .*elsewhere does not have: c"):
        chosen([trained], moved)


def test_cases_that_moved_into_the_training_set(raw):
    trained = member(raw, 0)
    own, seen = trained.validated_with[0], sorted(trained.trained_on)[0]
    image = raw / "imagesTr" / f"{own}_0000.nii.gz"
    image.write_bytes((raw / "imagesTr" / f"{seen}_0000.nii.gz").read_bytes())  # renamed since
    with pytest.raises(ValueError, match=rf"was trained on 1 of the cases to be scored: {own}"):
        chosen([trained], raw)


@pytest.mark.parametrize("size", [0, 1, 8192, 8193, 300_000])
def test_fingerprints_know_files_apart(tmp_path, size):
    content = np.random.default_rng(0).bytes(size)
    (tmp_path / "a").write_bytes(content)
    (tmp_path / "b").write_bytes(content)
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    for other in (content + b"x", b"x" + content, content[:-1] + b"\0\0"):
        (tmp_path / "b").write_bytes(other)
        assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")


def test_an_unknown_choice_is_named(raw):
    with pytest.raises(ValueError, match="cases must be test or validation, it is 'train'"):
        chosen([member(raw, 0)], raw, "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cases": "x"}, "cases must be a dictionary, it is a str"),
        ({"cases": {"trained_on": ["a"]}}, r"cases\.trained_on must be a dictionary"),
        ({"cases": {"validated_with": "abc"}}, r"cases\.validated_with a list"),
        ({"provenance": ["x"]}, "provenance must be a dictionary, it is a list"),
    ],
)
def test_what_a_checkpoint_says_of_its_cases_is_checked(tmp_path: Path, changes: dict, message: str) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"config": {}, "plan": {}, "configuration": "2d"} | changes, path)
    with pytest.raises(ValueError, match=rf"last\.ckpt: .*{message}"):
        Member.read(path)


def test_a_held_out_case_that_is_a_training_case_by_another_name_is_refused_before_training(raw):
    held_out, trained_on = opened(raw).val_ids[0], opened(raw).train_ids[0]
    image = raw / "imagesTr" / f"{held_out}_0000.nii.gz"
    image.write_bytes((raw / "imagesTr" / f"{trained_on}_0000.nii.gz").read_bytes())
    with pytest.raises(ValueError, match=rf"1 case\(s\) to validate with.*: {held_out} = {trained_on}\."):
        cases_of_training(opened(raw))
    assert held_out in cases_of_training(opened(raw, "all"))["trained_on"]


def test_a_test_case_that_is_a_training_case_is_refused_before_training(raw):
    write_case(raw, "t0", "Ts")
    trained_on = opened(raw).train_ids[0]
    image = raw / "imagesTs" / "t0_0000.nii.gz"
    image.write_bytes((raw / "imagesTr" / f"{trained_on}_0000.nii.gz").read_bytes())
    with pytest.raises(ValueError, match=rf"t0 = {trained_on}\."):
        cases_of_training(opened(raw))


def compressed_anew(source: Path, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    before = source.read_bytes()
    path.write_bytes(gzip.compress(gzip.decompress(before), 1, mtime=1))
    assert path.read_bytes() != before


def planned(raw: Path, fold: int | str = 0) -> CustomDataModule:
    prepare_plan(raw, raw.parent / "prepared", PlannerOptions(base_features=8), 1)
    return opened(raw, fold)


def test_images_that_were_compressed_anew_are_known(tmp_path: Path) -> None:
    raw = make_volumes(tmp_path / "Dataset950_Small", cases=10, labels=("liver",))
    first = planned(raw)
    seen, cases, trained = first.train_ids[0], cases_of_training(first), member(raw, 0)
    images = raw / "imagesTr"
    compressed_anew(images / f"{seen}_0000.nii.gz", raw / "imagesTs" / "t0_0000.nii.gz")
    compressed_anew(raw / "labelsTr" / f"{seen}.nii.gz", raw / "labelsTs" / "t0.nii.gz")
    with pytest.raises(ValueError, match=rf"1 case\(s\) .* to test have the image of .*: t0 = {seen}\."):
        cases_of_training(opened(raw))
    with pytest.raises(ValueError, match=r"was trained on 1 of the cases to be scored: t0\."):
        choose_cases([trained], opened(raw), "test")
    tested = opened(raw, "all")
    with pytest.raises(ValueError, match=r"init_from was trained on 1 of the cases .*: t0\. Their"):
        add_source({"trained_on": {}}, tested, cases["trained_on"])


def test_training_images_that_were_compressed_anew_are_known_without_reading_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = make_volumes(tmp_path / "Dataset950_Small", cases=10, labels=("liver",))
    every = cases_of_training(planned(raw, "all"))["trained_on"]
    for path in (raw / "imagesTr").iterdir():
        compressed_anew(path, path)
    again = planned(raw)
    monkeypatch.setattr(known_images, "read_images", lambda paths: pytest.fail("was read"))
    names = ", ".join(sorted(again.val_ids))
    with pytest.raises(ValueError, match=f"init_from was trained on 2 of the cases .*: {names}. Their scores"):
        add_source(cases_of_training(again), again, every)
    old = of_files(every)  # of an earlier version
    add_source(cases_of_training(again), again, old)
    now = cases_of_training(again)["trained_on"]
    assert now and all(are_alike(every[name], mark) and mark != every[name] for name, mark in now.items())


def blanked(raw: Path, channels: tuple[int, ...] = (0,)) -> None:
    """Let channels of all cases be empty."""
    for channel in channels:
        for path in (raw / "imagesTr").glob(f"*_{channel:04d}.nii.gz"):
            sitk.WriteImage(sitk.ReadImage(path) * 0, path)


def test_cases_whose_first_channel_is_empty_are_known_by_the_next_one(tmp_path: Path) -> None:
    raw = make_volumes(tmp_path / "Dataset950_Small", cases=10, channels=("T1", "T2"))
    blanked(raw)
    first = planned(raw)
    trained = member(raw, 0)
    seen = first.train_ids[0]
    assert chosen([trained], raw)[0] == sorted(first.val_ids)  # empty channels make no two cases one
    save = {"config": {"data": {}}, "plan": {}, "configuration": "2d", "cases": cases_of_training(first)}
    torch.save(save, tmp_path / "last.ckpt")
    source = Member.read(tmp_path / "last.ckpt").marks
    second = opened(raw, 1)
    with pytest.raises(ValueError, match=f"init_from was trained on 2 of the cases .*: {', '.join(second.val_ids)}"):
        add_source(cases_of_training(second), second, source)
    add_source(cases_of_training(first), first, source)
    for channel in range(2):
        compressed_anew(
            raw / "imagesTr" / f"{seen}_{channel:04d}.nii.gz", raw / "imagesTs" / f"t0_{channel:04d}.nii.gz"
        )
    compressed_anew(raw / "labelsTr" / f"{seen}.nii.gz", raw / "labelsTs" / "t0.nii.gz")
    with pytest.raises(ValueError, match=rf"to test have the image of .*: t0 = {seen}\."):
        cases_of_training(opened(raw))
    with pytest.raises(ValueError, match=r"was trained on 1 of the cases to be scored: t0\."):
        choose_cases([trained], opened(raw), "test")


def test_of_cases_that_are_empty_in_all_channels_it_is_said_that_nobody_can_tell(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    raw = make_volumes(tmp_path / "Dataset950_Small", cases=10, channels=("T1", "T2"))
    blanked(raw, (0, 1))
    first = planned(raw)
    own = sorted(first.val_ids)
    assert chosen([member(raw, 0)], raw)[0] == own
    said = f"was trained on 2 of the cases to be scored: {', '.join(own)}. Cases are known by the voxels"
    assert f"fold_0_0.ckpt (fold 0) {said}" in caplog.text
    every = cases_of_training(opened(raw, "all"))["trained_on"]
    add_source(cases_of_training(first), first, every)
    assert f"Nobody can tell whether init_from {said}" in caplog.text


def test_a_checkpoint_that_knows_files_by_their_bytes_says_so_of_test_cases_alone(
    raw: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained = member(raw, 0)  # nothing was prepared, so that the voxels are unknown
    seen = sorted(trained.trained_on)[0]
    assert chosen([trained], raw) == (sorted(trained.validated_with), "validation")
    assert "Nobody can tell" not in caplog.text
    for part in ("images", "labels"):
        name = "_0000.nii.gz" if part == "images" else ".nii.gz"
        compressed_anew(raw / f"{part}Tr" / f"{seen}{name}", raw / f"{part}Ts" / f"t0{name}")
    assert chosen([trained], raw, "test") == (["t0"], "test")
    assert "Nobody can tell whether fold_0_0.ckpt (fold 0) was trained on 1 of the cases" in caplog.text
    assert "knows files by their bytes, none that was compressed anew." in caplog.text


def test_what_an_earlier_version_prepared_is_read_once(tmp_path: Path) -> None:
    raw = make_volumes(tmp_path / "Dataset950_Small", cases=5, labels=("liver",))
    before = cases_of_training(planned(raw))
    path = raw.parent / "prepared" / "raw_files.json"
    records = json.loads(path.read_text())
    path.write_text(json.dumps({n: {k: v for k, v in one.items() if k != "voxels"} for n, one in records.items()}))
    fingerprint_before = (path.with_name("fingerprint.json")).stat().st_mtime_ns
    assert cases_of_training(opened(raw)) == of_files(before)
    assert cases_of_training(planned(raw)) == before and json.loads(path.read_text()) == records
    assert path.with_name("fingerprint.json").stat().st_mtime_ns == fingerprint_before
    kept = path.stat().st_mtime_ns
    planned(raw)
    assert path.stat().st_mtime_ns == kept


def test_what_the_first_weights_have_seen_is_kept_and_refused_where_it_is_held_out(raw):
    datamodule = opened(raw, 0)
    cases = cases_of_training(datamodule)
    before = dict(cases["trained_on"])
    add_source(cases, datamodule, {"c0": "0123456789abcdef"})  # another data set with a case of this name
    assert cases["trained_on"] == before | {"init_from/c0": "0123456789abcdef"}
    assert source_of(cases) == {"init_from/c0": "0123456789abcdef"}
    add_source(cases, datamodule, source_of(cases))  # of a training that began with one that had begun so
    assert source_of(cases) == {"init_from/c0": "0123456789abcdef"}
    add_source(cases_of_training(datamodule), datamodule, before)  # of the same fold
    every = cases_of_training(opened(raw, "all"))["trained_on"]
    names = ", ".join(sorted(datamodule.val_ids))
    with pytest.raises(ValueError, match=f"init_from was trained on 2 of the cases .*: {names}. Their scores"):
        add_source(cases_of_training(datamodule), datamodule, every)
    of_all = opened(raw, "all")
    add_source(cases_of_training(of_all), of_all, every)
    write_case(raw, "t0", "Ts")
    tested = opened(raw, "all")
    with pytest.raises(ValueError, match="init_from was trained on 1 of the cases .*: t0. Their"):
        add_source(cases_of_training(tested), tested, {"x": fingerprint(raw / "imagesTs" / "t0_0000.nii.gz")})
