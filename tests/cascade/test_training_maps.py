"""The first stage in a training of the second: each case by the network that did not see it, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from tests.cascade.made_cascade import LOW, SECOND, make_low, planned, save, split_in_two, two_stages
from tests.miniatures import make_tumours, make_volumes
from umamba.cascade.training import check_asked, find_previous
from umamba.inference.predictor import Predictor
from umamba.inference.previous_facts import KEY
from umamba.inference.previous_stage import PreviousStage
from umamba.planning.plan import Plan
from umamba.run.compare import ResumeError
from umamba.run.folder import Run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    folder = make_volumes(tmp_path_factory.mktemp("data") / "Dataset960_Two", labels=("liver", "tumour"))
    split_in_two(folder)
    return folder


@pytest.fixture(scope="module")
def plan(raw) -> Plan:
    """Of the data set: names, intensities and number of cases are its own."""
    plan = two_stages()
    labels = {"background": 0, "liver": 1, "tumour": 2}
    return dataclasses.replace(plan, dataset_name=raw.name, labels=labels, num_training=5)


@pytest.fixture(scope="module")
def low(raw, plan, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "3d_lowres"
    make_low(raw, folder, plan)
    return folder


def run_of(tmp_path: Path, given: object, configuration: str = SECOND, resume_from: Path | None = None) -> Run:
    config = OmegaConf.create({"data": {"configuration": configuration}, "previous_stage": given})
    return Run(config=config, folder=tmp_path / "run", resume_from=resume_from)


def maps_of(datamodule, run: Run):
    found = find_previous(run, datamodule)
    datamodule.prepare_data()
    found.give(datamodule, CPU)
    return found


def test_each_case_is_segmented_by_the_network_that_did_not_see_it(raw, plan, low, tmp_path) -> None:
    datamodule, run = planned(raw, plan), run_of(tmp_path, str(low))
    maps_of(datamodule, run)
    for fold, cases in ((0, ("case_3", "case_4")), (1, ("case_0", "case_1", "case_2"))):
        alone = Predictor.from_checkpoint(low / f"fold_{fold}" / "checkpoints" / "last.ckpt", device="cpu")
        stage = PreviousStage(
            {0: alone.members[0]}, alone.plan, LOW, alone.config, CPU, {}
        )  # the mean of one network is the network
        for name in cases:
            case = next(one for one in datamodule.raw.training_cases if one.identifier == name)
            image, geometry = alone._read(case.images)
            stored = datamodule.store.case(name)
            expected = stage.segment(image, geometry, stored.properties, None, 0.5)
            assert stored.previous.shape == stored.label.shape == expected.shape
            np.testing.assert_array_equal(stored.previous[:], expected)
    values = np.unique(np.concatenate([datamodule.store.case(f"case_{n}").previous[:].ravel() for n in range(5)]))
    assert len(values) > 1  # or nothing would be shown


def test_the_same_maps_are_made_once_and_what_is_missing_again(raw, plan, low, tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    datamodule = planned(raw, plan)
    maps_of(datamodule, run_of(tmp_path, str(low)))
    folder, before = datamodule.store.previous.folder, datamodule.store.case("case_1").previous[:]
    stamps = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.b2nd")}
    assert len(stamps) == 5
    caplog.clear()
    again = planned(raw, plan, fold=1)  # the other fold reads the same
    maps_of(again, run_of(tmp_path, str(low)))
    assert again.store.previous.folder == folder and "are segmented by" not in caplog.text
    (folder / "case_1.b2nd").unlink()  # as a kill leaves it
    (folder / ".writing-1-abc-case_1.b2nd").write_bytes(b"half")
    maps_of(planned(raw, plan), run_of(tmp_path, str(low)))
    assert "1 case(s) are segmented by 3d_lowres" in caplog.text
    assert {path.name for path in folder.iterdir()} == {*stamps, *(f"{name}.crc32" for name in stamps), ".lock"}
    assert {p.name: p.stat().st_mtime_ns for p in folder.glob("*.b2nd") if p.name != "case_1.b2nd"} == {
        name: stamp for name, stamp in stamps.items() if name != "case_1.b2nd"
    }
    np.testing.assert_array_equal(datamodule.store.previous.case("case_1")[:], before)


def test_other_networks_have_maps_of_their_own(raw, plan, low, tmp_path) -> None:
    other = tmp_path / "other"
    make_low(raw, other, plan, folds=(1, 0))
    make_low(raw, other, plan, epoch=3)  # the same weights in another file
    folders = []
    for given in (low, other):
        datamodule = planned(raw, plan)
        maps_of(datamodule, run_of(tmp_path, str(given)))
        folders.append(datamodule.store.previous.folder)
    assert folders[0] != folders[1] and all(len(list(one.glob("*.b2nd"))) == 5 for one in folders)


def test_maps_are_mirrored_as_the_first_stage_was_scored(raw, plan, low, tmp_path) -> None:
    """cross_validation.mirror of the first stage holds for what the second one is trained with."""
    make_low(raw, tmp_path / "mirrored", plan, mirror=True)
    run, datamodule = run_of(tmp_path, str(tmp_path / "mirrored")), planned(raw, plan)
    maps_of(datamodule, run)
    plain = planned(raw, plan)
    maps_of(plain, run_of(tmp_path, str(low)))
    assert run.metadata[KEY]["mirror"] is True and plain.store.previous.folder != datamodule.store.previous.folder
    assert any(
        (plain.store.case(name).previous[:] != datamodule.store.case(name).previous[:]).any()
        for name in plain.store.identifiers
    )
    path = save(tmp_path / "run" / "checkpoints" / "last.ckpt", plan, SECOND, **{KEY: run.metadata[KEY]})
    with pytest.raises(ResumeError, match="held out, or mirrored"):
        find_previous(run_of(tmp_path, str(low), resume_from=path), plain)


def test_batches_have_a_channel_for_each_label(raw, plan, low, tmp_path) -> None:
    datamodule = planned(raw, plan, augmentation=[], num_workers=0)
    maps_of(datamodule, run_of(tmp_path, str(low)))
    for loader in (datamodule.train_dataloader(), datamodule.val_dataloader()):
        batch = next(iter(loader))
        assert batch["image"].shape == (2, 3, 8, 8, 8) and batch["image"].dtype == torch.float32
        one_hot = batch["image"][:, 1:]
        assert set(one_hot.unique().tolist()) <= {0.0, 1.0} and (one_hot.sum(1) <= 1).all()


def test_a_patch_holds_what_the_map_has_there(raw, plan, low, tmp_path) -> None:
    datamodule = planned(raw, plan, augmentation=[], num_workers=0)
    maps_of(datamodule, run_of(tmp_path, str(low)))
    dataset = datamodule.train_dataloader().dataset
    for index in range(6):
        _, identifier = dataset._begin(index)
        case, sample = datamodule.store.case(identifier), dataset[index]
        rng, _ = dataset._begin(index)
        start = dataset._draw_start(case, index, rng)
        padded = np.pad(case.previous[:].astype(int), 32)
        there = padded[tuple(slice(32 + a, 40 + a) for a in start)]
        np.testing.assert_array_equal(sample["image"][1:].numpy(), np.stack([there == 1, there == 2]))


def test_training_without_the_first_stage_is_refused(raw, plan, low, tmp_path) -> None:
    datamodule = planned(raw, plan)
    datamodule.prepare_data()
    with pytest.raises(ValueError, match="3d_cascade_fullres is trained with what 3d_lowres segments"):
        datamodule.train_dataloader()
    with pytest.raises(ValueError, match="second stage of a cascade.*--config-name=cascade.*previous_stage=") as caught:
        find_previous(run_of(tmp_path, None), datamodule)
    with pytest.raises(ValueError, match="second stage") as early:
        check_asked(run_of(tmp_path, None).config)
    assert str(early.value) == str(caught.value)
    with pytest.raises(ValueError, match="would do nothing: .*2d sees the image alone"):
        check_asked(run_of(tmp_path, str(low), "2d").config)
    with pytest.raises(ValueError, match="would do nothing: .*3d_fullres sees the image alone"):
        find_previous(run_of(tmp_path, str(low), "3d_fullres"), planned(raw, plan, "3d_fullres"))
    assert find_previous(run_of(tmp_path, None, "3d_fullres"), planned(raw, plan, "3d_fullres")) is None


@pytest.mark.parametrize("choice", ["cpu", "auto"])
def test_the_workers_augment(raw, plan, choice, caplog) -> None:
    caplog.set_level("INFO")
    datamodule = planned(raw, plan, augment_on=choice)
    assert datamodule.placement.choice == "cpu"
    assert ("augmented by the workers (data.augment_on=auto)" in caplog.text) == (choice == "auto")


def test_the_gpu_cannot_augment(raw, plan) -> None:
    with pytest.raises(ValueError, match="data.augment_on=cuda: what a cascade's previous stage segmented"):
        planned(raw, plan, augment_on="cuda")


def test_its_augmentation_is_of_a_cascade_alone(raw, plan) -> None:
    from umamba.datamodules.augmentation.previous_stage import RandomBinaryOperator

    with pytest.raises(ValueError, match="RandomBinaryOperator.*3d_fullres has no previous stage"):
        planned(raw, plan, "3d_fullres", augmentation=[RandomBinaryOperator()])


def test_a_missing_fold_is_named_with_the_command(raw, plan, low, tmp_path) -> None:
    folder = tmp_path / "3d_lowres"
    make_low(raw, folder, plan, folds=(0,))
    lines = ["data=custom", "data.dataset_dir=here", "cross_validation.folds=[0]", "~cross_validation", "fold=0",
             "~cascade", "data.configuration='3d_lowres'", "~augmentation.mine", "tags=['a $b']"]  # fmt: skip
    (folder / "fold_0" / "overrides.txt").write_text("\n".join(lines) + "\n")
    datamodule = planned(raw, plan)
    with pytest.raises(
        ValueError, match=r"3 case\(s\).*case_0, case_1, case_2.*fold 1 of 3d_lowres is missing"
    ) as caught:
        find_previous(run_of(tmp_path, str(folder)), datamodule)
    said = str(caught.value)
    command = said[said.index("python train.py") :]
    assert "\"data.configuration='3d_lowres'\"" in command  # readable
    assert shlex.split(command) == [
        "python", "train.py", "--config-name=cross_validation", "data=custom", "data.dataset_dir=here",
        "data.configuration='3d_lowres'", "~augmentation.mine", "tags=['a $b']", "cross_validation.folds=[0,1]",
        f"run_dir='{folder}'",
    ]  # fmt: skip


def test_an_unfinished_fold_is_named_with_the_command(raw, plan, tmp_path) -> None:
    folder = tmp_path / "3d_lowres"
    make_low(raw, folder, plan)
    (folder / "ensemble.json").unlink()
    (folder / "fold_1" / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(FileNotFoundError, match="checkpoints of fold_0, and fold_1 without one.*--config-name=cross"):
        check_asked(run_of(tmp_path, str(folder)).config)
    with pytest.raises(FileNotFoundError, match="no such folder.*data=... model=... data.configuration=3d_lowres"):
        check_asked(run_of(tmp_path, str(tmp_path / "absent")).config)


def test_a_checkpoint_is_no_first_stage(raw, plan, low, tmp_path) -> None:
    single = str(low / "fold_0" / "checkpoints" / "last.ckpt")
    with pytest.raises(ValueError, match="is a file. Expected the folder of a cross-validation"):
        check_asked(run_of(tmp_path, single).config)


def test_a_fold_that_was_trained_on_is_refused(raw, plan, tmp_path) -> None:
    folder = tmp_path / "3d_lowres"
    make_low(raw, folder, plan)
    save(folder / "fold_1" / "checkpoints" / "last.ckpt", plan, LOW, seed=9)
    with pytest.raises(ValueError, match="is another checkpoint than the one that"):
        check_asked(run_of(tmp_path, str(folder)).config)


def test_folds_of_another_configuration_or_plan_are_refused(raw, plan, tmp_path) -> None:
    datamodule = planned(raw, plan)
    make_low(raw, tmp_path / "full", plan, name="3d_fullres")
    with pytest.raises(ValueError, match="was trained as 3d_fullres; the previous stage of this cascade is 3d_lowres"):
        find_previous(run_of(tmp_path, str(tmp_path / "full")), datamodule)
    make_low(raw, tmp_path / "coarse", two_stages(dataclasses.replace(plan), spacing=2.5))
    with pytest.raises(ValueError, match=r"another plan.*differ in configurations\.3d_lowres\.spacing"):
        find_previous(run_of(tmp_path, str(tmp_path / "coarse")), datamodule)
    swapped = dataclasses.replace(plan, labels={"background": 0, "tumour": 1, "liver": 2})
    make_low(raw, tmp_path / "labels", swapped)
    with pytest.raises(ValueError, match="another plan than the next stage's: they differ in labels"):
        find_previous(run_of(tmp_path, str(tmp_path / "labels")), datamodule)
    mixed = tmp_path / "mixed"
    make_low(raw, mixed, plan)
    paths = make_low(raw, tmp_path / "wide", dataclasses.replace(plan, base_features=5))
    content = json.loads((mixed / "ensemble.json").read_text())
    members = json.loads((tmp_path / "wide" / "ensemble.json").read_text())["groups"][0]["members"]
    content["groups"][0]["members"][1] = {**members[1], "checkpoint": str(paths[1])}
    (mixed / "ensemble.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="Folds 0 and 1 .*have different plans"):
        find_previous(run_of(tmp_path, str(mixed)), datamodule)


def test_a_fold_that_has_seen_what_it_held_out_is_refused(raw, plan, low, tmp_path) -> None:
    folder = tmp_path / "3d_lowres"
    make_low(raw, folder, plan)
    path = folder / "fold_0" / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    content["cases"]["trained_on"]["case_3"] = "mark"
    make_low(raw, folder, plan)
    torch.save(content, path)
    from umamba.inference.ensemble import FILE, Group, write_ensemble

    paths = [folder / f"fold_{fold}" / "checkpoints" / "last.ckpt" for fold in (0, 1)]
    folds = {"folds": [{"fold": 0, "cases": []}, {"fold": 1, "cases": []}]}
    write_ensemble(folder / FILE, [Group.of("nnunet", paths)], [], mirror=False, fitted_on=[], facts=folds)
    with pytest.raises(ValueError, match="was trained on 1 of the cases to be scored: case_3"):
        find_previous(run_of(tmp_path, str(folder)), planned(raw, plan))


def test_a_run_goes_on_with_the_same_networks_only(raw, plan, low, tmp_path) -> None:
    datamodule, run = planned(raw, plan), run_of(tmp_path, str(low))
    find_previous(run, datamodule)
    facts = run.metadata[KEY]
    assert [member["held_out"] for member in facts["members"]] == [["case_3", "case_4"], ["case_0", "case_1", "case_2"]]
    path = save(tmp_path / "run" / "checkpoints" / "last.ckpt", plan, SECOND, **{KEY: facts})
    find_previous(run_of(tmp_path, str(low), resume_from=path), datamodule)
    make_low(raw, tmp_path / "other", plan, epoch=1)
    with pytest.raises(ResumeError, match=r"trained with other networks of the previous stage[\s\S]*fold 0: "):
        find_previous(run_of(tmp_path, str(tmp_path / "other"), resume_from=path), datamodule)
    bare = save(tmp_path / "bare.ckpt", plan, SECOND)
    with pytest.raises(ResumeError, match=r"fold 1: '\(absent\)'"):
        find_previous(run_of(tmp_path, str(low), resume_from=bare), datamodule)


def test_regions_have_a_channel_for_each_label_value(tmp_path) -> None:
    raw = make_tumours(tmp_path / "Dataset961_Regions")
    split_in_two(raw)
    base = planned(raw, _plan_of_regions(raw), "3d_fullres").plan
    assert base.foreground_labels == (1, 2, 3) and base.num_inputs(SECOND) == 4 + 3
    make_low(raw, tmp_path / "3d_lowres", base)
    datamodule = planned(raw, base, augmentation=[], num_workers=0)
    maps_of(datamodule, run_of(tmp_path, str(tmp_path / "3d_lowres")))
    assert next(iter(datamodule.train_dataloader()))["image"].shape == (2, 7, 8, 8, 8)


def _plan_of_regions(raw: Path) -> Plan:
    from tests.inference.small import make_plan
    from umamba.raw.dataset import RawDataset

    opened = RawDataset.open(raw)
    plan = two_stages(make_plan(channels=opened.channel_names))
    return dataclasses.replace(
        plan, dataset_name=opened.name, labels=opened.labels, regions=opened.regions, num_training=5
    )
