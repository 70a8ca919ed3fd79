"""The previous stage of a cascade in a prediction: what it segments, on which grid, and which networks it must be."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.cascade.made_cascade import FULL, LOW, SECOND, make_cascade, save, two_stages
from tests.inference.small import make_plan, write_image
from umamba.files import read_json
from umamba.inference.ensemble import FILE
from umamba.inference.members import Member
from umamba.inference.predictor import Predictor
from umamba.inference.previous_facts import KEY, PreviousFacts
from umamba.inference.previous_stage import PreviousStage
from umamba.planning.plan import Plan
from umamba.planning.preprocess import preprocess_case
from umamba.raw.readers import Geometry

CPU = torch.device("cpu")


class Threshold(nn.Module):
    """Two classes: above 0.5 or not."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([0.5 - image, image - 0.5], 1)


def stage_of(plan: Plan) -> PreviousStage:
    return PreviousStage({0: Member(Threshold())}, plan, LOW, {}, CPU, {"seen": 0})


def plain_plan(forward: tuple[int, int, int] = (0, 1, 2), spacing: float = 1.7) -> Plan:
    """Without normalisation, so that a threshold means the same on both grids."""
    plan = make_plan(forward=forward)
    full = dataclasses.replace(plan.configurations[FULL], normalization=("NoNormalization",), spacing=(1.2, 1.0, 1.0))
    return two_stages(dataclasses.replace(plan, configurations={FULL: full}), spacing)


def ball(spacing: tuple[float, float, float], shape: tuple[int, int, int]) -> tuple[np.ndarray, Geometry]:
    """A soft ball off the centre, with a border of zeros that is cropped."""
    axes = [np.arange(n) * step for n, step in zip(shape, spacing, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    image = 1 / (1 + np.exp((np.sqrt((z - 14) ** 2 + (y - 20) ** 2 + (x - 26) ** 2) - 9) / 2))
    image[:2], image[:, :3] = 0, 0
    geometry = Geometry(
        shape=shape, spacing=spacing, origin=(0.0, 0.0, 0.0), direction=tuple(np.eye(3).ravel()), dimension=3
    )
    return image[None].astype(np.float32), geometry


@pytest.mark.parametrize("forward", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_it_segments_on_the_grid_of_the_next_stage(forward) -> None:
    plan = plain_plan(forward)
    image, geometry = ball((0.9, 1.3, 1.1), (32, 30, 48))
    case = preprocess_case(image, geometry, None, plan, plan.configuration(SECOND))
    made = stage_of(plan).segment(image, geometry, case.properties, None, 0.5)
    expected = case.data[0] > 0.5
    assert made.shape == case.properties.shape
    assert 2 * (made.astype(bool) & expected).sum() / (made.sum() + expected.sum()) > 0.97
    one_hot = stage_of(plan).channels(image, geometry, case.properties, None, 0.5)
    assert one_hot.shape == (1, *made.shape) and one_hot.dtype == np.float32
    np.testing.assert_array_equal(one_hot[0], made)


def test_on_one_grid_it_is_the_decision_of_the_network_itself() -> None:
    plan = plain_plan(spacing=1.0)
    full = dataclasses.replace(plan.configurations[SECOND], spacing=(1.0, 1.0, 1.0))
    plan = dataclasses.replace(
        plan,
        configurations={**plan.configurations, FULL: dataclasses.replace(full, name=FULL, previous_stage=None),
                        SECOND: full},
    )  # fmt: skip
    image, geometry = ball((0.9, 1.3, 1.1), (32, 30, 48))
    case = preprocess_case(image, geometry, None, plan, full)
    made = stage_of(plan).segment(image, geometry, case.properties, None, 0.5)
    np.testing.assert_array_equal(made, case.data[0] > 0.5)


@pytest.mark.parametrize("forward", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_on_the_image_s_own_grid_it_is_the_label_map_of_the_first_stage(forward, tmp_path) -> None:
    """Where the full resolution is the image's, what is written for people is what the second stage sees."""
    spacing = (0.9, 1.3, 1.1)
    image, geometry = ball(spacing, (22, 24, 34))
    image[:2] = image[:, :, :3] = 0  # a border that is cropped
    plan = two_stages(make_plan(classes=3, forward=forward), spacing=2.1)
    own = tuple(spacing[axis] for axis in forward)
    second = dataclasses.replace(plan.configurations[SECOND], spacing=own)
    full = dataclasses.replace(second, name=FULL, previous_stage=None)
    plan = dataclasses.replace(plan, configurations={**plan.configurations, FULL: full, SECOND: second})
    low = predict(save(tmp_path / "low.ckpt", plan, LOW))
    onto = preprocess_case(image, geometry, None, plan, second).properties
    made = PreviousStage({0: low.members[0]}, plan, LOW, {}, CPU, {}).segment(image, geometry, onto, None, 0.5)
    written = low.segment(image, spacing).transpose(forward)[tuple(slice(*edge) for edge in onto.box)]
    assert len(np.unique(written)) > 1
    np.testing.assert_array_equal(made, written)


def test_what_all_have_seen_is_refused() -> None:
    stage = stage_of(plain_plan())
    assert stage.made_by()["out_of_fold"] is False
    with pytest.raises(ValueError, match="No network of the previous stage has held out new, other"):
        stage.only_unseen(["seen", "other", "new"])
    stage.only_unseen(["seen"])
    assert stage.made_by()["out_of_fold"] is True


# --- checkpoints of both stages


@pytest.fixture(scope="module")
def plan() -> Plan:
    return two_stages()


def predict(checkpoint: Path, **options: Any) -> Predictor:
    return Predictor.from_checkpoint(checkpoint, device="cpu", **options)


def test_one_call_predicts_with_both_stages(plan, tmp_path) -> None:
    checkpoint = make_cascade(tmp_path, plan)
    write_image(tmp_path / "images" / "a.nii.gz")
    predictor = predict(checkpoint)
    (path,) = predictor.segment_files(tmp_path / "images", tmp_path / "out")
    assert path.is_file()
    made_by = read_json(tmp_path / "out" / "inference.json")["made_by"]
    hashes = [one["weights_sha256"] for one in (*made_by["networks"], *made_by[KEY]["networks"])]
    assert len(set(hashes)) == 3 and made_by["configuration"] == SECOND and made_by[KEY]["out_of_fold"] is False
    mirrored = predict(checkpoint, mirror=True)
    assert (
        mirrored.previous.made_by()["networks"][0]["mirror_axes"] == [0, 1, 2] == list(mirrored.members[0].mirror_axes)
    )


def test_the_second_stage_sees_the_mean_of_the_first(plan, tmp_path) -> None:
    predictor = predict(make_cascade(tmp_path, plan))
    image, geometry = predictor._read([write_image(tmp_path / "a.nii.gz", (14, 15, 16))])
    data, properties = predictor._preprocess(image, geometry)
    together = predict(tmp_path / "3d_lowres" / "fold_0" / "checkpoints" / "last.ckpt")
    other = predict(tmp_path / "3d_lowres" / "fold_1" / "checkpoints" / "last.ckpt")
    stage = PreviousStage(
        {0: together.members[0], 1: other.members[0]}, together.plan, LOW, together.config, CPU, {}
    )  # fmt: skip
    expected = stage.channels(image, geometry, properties, None, 0.5)
    assert data.shape[0] == 1 + 2 and expected.any()
    np.testing.assert_array_equal(data[1:].numpy(), expected)
    alone = [PreviousStage({0: one.members[0]}, one.plan, LOW, one.config, CPU, {}) for one in (together, other)]
    maps = [one.segment(image, geometry, properties, None, 0.5) for one in alone]
    assert (maps[0] != maps[1]).any()  # or nothing would be shown
    predictor.previous.only_unseen(["held_1"])
    data, _ = predictor._preprocess(image, geometry, "held_1")
    np.testing.assert_array_equal(data[1:].numpy(), np.stack([maps[1] == 1, maps[1] == 2]))


def test_a_precision_is_that_of_both_stages(plan, tmp_path, monkeypatch) -> None:
    predictor = predict(make_cascade(tmp_path, plan))
    monkeypatch.setattr("umamba.inference.one_case.chosen_dtype", lambda name, device: torch.float16)  # as on a GPU
    predictor.run_in("16-mixed")
    made_by = predictor.made_by()
    assert {one["precision"] for one in (*made_by["networks"], *made_by[KEY]["networks"])} == {"float16"}
    predictor.previous.only_unseen(["held_1"])
    assert {one.autocast for alone in predictor.previous._alone.values() for one in alone.members} == {torch.float16}


def test_an_image_in_memory_is_segmented_too(plan, tmp_path) -> None:
    label = predict(make_cascade(tmp_path, plan)).segment(np.random.default_rng(0).random((9, 9, 9)), (1.0, 1.0, 1.0))
    assert label.shape == (9, 9, 9)


def test_both_stages_may_be_moved_together(plan, tmp_path) -> None:
    make_cascade(tmp_path / "then", plan)
    shutil.move(tmp_path / "then", tmp_path / "now")
    moved = tmp_path / "now" / "3d_cascade_fullres" / "fold_0" / "checkpoints" / "last.ckpt"
    assert predict(moved).previous is not None
    alone = tmp_path / "alone.ckpt"
    shutil.copy(moved, alone)
    with pytest.raises(FileNotFoundError, match="predicts with 3d_lowres, whose fold 0 was .*previous_stage=<folder"):
        predict(alone)
    for given in (tmp_path / "now" / "3d_lowres", tmp_path / "now" / "3d_lowres" / FILE):
        assert predict(alone, previous_stage=str(given)).previous is not None
    files = sorted((tmp_path / "now" / "3d_lowres").glob("fold_*/checkpoints/last.ckpt"))
    assert predict(alone, previous_stage=[str(path) for path in files]).previous is not None
    with pytest.raises(ValueError, match="has not the networks.* of fold 1 of 3d_lowres"):
        predict(alone, previous_stage=[str(files[0])])
    with pytest.raises(FileNotFoundError, match=r"there is no .*absent\.ckpt"):
        predict(alone, previous_stage=[str(tmp_path / "absent.ckpt")])


def test_other_networks_are_refused(plan, tmp_path) -> None:
    checkpoint = make_cascade(tmp_path / "one", plan)
    save(tmp_path / "one" / "3d_lowres" / "fold_1" / "checkpoints" / "last.ckpt", plan, LOW, seed=8)
    with pytest.raises(ValueError, match="is another network than the one that .* was trained with as fold 1"):
        predict(checkpoint)
    other = make_cascade(tmp_path / "two", plan)
    with pytest.raises(ValueError, match="was trained with another previous stage than"):
        Predictor.from_checkpoint([other, make_cascade(tmp_path / "three", plan, low_seed=2)], device="cpu")


def test_a_checkpoint_that_does_not_say_needs_to_be_told(plan, tmp_path) -> None:
    make_cascade(tmp_path, plan)
    bare = save(tmp_path / "bare.ckpt", plan, SECOND)
    with pytest.raises(ValueError, match="does not say which networks were the first one, 3d_lowres"):
        predict(bare)
    low = tmp_path / "3d_lowres" / "fold_0" / "checkpoints" / "last.ckpt"
    assert predict(bare, previous_stage=str(low)).previous is not None
    full = save(tmp_path / "full.ckpt", plan, FULL)
    with pytest.raises(ValueError, match="was trained as 3d_fullres; the previous stage of this cascade is 3d_lowres"):
        predict(bare, previous_stage=str(full))
    coarse = save(tmp_path / "coarse.ckpt", two_stages(spacing=2.5), LOW)
    with pytest.raises(ValueError, match=r"differ in configurations\.3d_lowres\.spacing"):
        predict(bare, previous_stage=str(coarse))
    with pytest.raises(ValueError, match="would do nothing: .* was trained as 3d_fullres, which sees the image alone"):
        predict(full, previous_stage=str(low))


@pytest.mark.parametrize(
    "changes", [{"members": 3}, {"members": []}, {"members": [{}]}, {"trained_on": []}, {"mirror": None, "members": {}}]
)
def test_a_checkpoint_that_says_nonsense_is_refused(plan, tmp_path, changes) -> None:
    with pytest.raises(ValueError, match="previous_stage does not say what the previous stage was"):
        predict(make_cascade(tmp_path, plan, **changes))


def test_facts_there_and_back(plan, tmp_path) -> None:
    checkpoint = make_cascade(tmp_path, plan)
    content = torch.load(checkpoint, weights_only=True)
    facts = PreviousFacts.of(content, checkpoint)
    assert facts.to_plain() == content[KEY] and facts.held_out == {"held_0": 0, "held_1": 1}
    assert PreviousFacts.of({}, checkpoint) is None
