"""A loss made of its configuration and the data: the choices of configs/loss, and losses of the user's own."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn

from tests.models.test_loss_terms import CHOICES, REGIONS
from umamba.locations import CONFIGS
from umamba.models.build_loss import OwnLoss, build_loss, check_is_loss, check_loss, segmentation_loss
from umamba.models.loss_terms import Terms
from umamba.models.losses import DiceCELoss
from umamba.models.regions import DiceBCELoss
from umamba.raw.description import DatasetDescription
from umamba.resolvers import register_resolvers
from umamba.usual_loss import USUAL, with_loss, without_usual_loss

FILES = sorted(path.stem for path in (CONFIGS / "loss").glob("*.yaml") if path.stem != "own")


class Squares(nn.Module):
    """Of the user's own; knows neither regions nor an ignore label."""

    def __init__(self, num_classes: int, scale: float = 1.0) -> None:
        super().__init__()
        self.num_classes, self.scale = num_classes, scale

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        target = nn.functional.one_hot(label, self.num_classes).movedim(-1, 1)
        return self.scale * (logits - target).square().mean()


class Constant(nn.Module):
    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        return torch.randn(())


class Knowing(Squares):
    def __init__(self, num_classes: int, ignore_label: int | None, regions: list) -> None:
        super().__init__(num_classes)
        self.ignore_label, self.regions = ignore_label, regions


def built(make, ignore_label: int | None = None, regions=(), batch_dice: bool = True) -> nn.Module:
    check_is_loss(make)
    return build_loss(make, num_classes=3, batch_dice=batch_dice, ignore_label=ignore_label, regions=regions)


def composed(name: str, *overrides: str) -> functools.partial:
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return instantiate(compose("train", [f"loss={name}", *overrides]).loss)


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_the_loss_of_its_name(name: str) -> None:
    loss = built(composed(name), ignore_label=4)
    assert isinstance(loss, DiceCELoss) and (loss.batch_dice, loss.ignore_label) == (True, 4)
    assert loss.terms == Terms(**CHOICES[name])
    if loss.terms.hardest_percent == 100:
        regions = built(composed(name), 4, REGIONS, batch_dice=False)
        assert isinstance(regions, DiceBCELoss) and regions.terms == loss.terms and not regions.batch_dice


def test_the_files_are_those_that_are_tried_and_the_first_is_the_usual_one() -> None:
    assert {*FILES} == {*CHOICES} - {"all", "weighted"}
    content = yaml.safe_load((CONFIGS / "loss" / "dice_ce.yaml").read_text())
    numbers = {key: value for key, value in content.items() if not key.startswith("_")}
    assert numbers == vars(Terms()) and content == USUAL
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        assert dict(compose("train").loss) == USUAL


def test_values_come_from_the_command_line() -> None:
    loss = built(composed("ce", "loss.class_weights=[1,2,0.5]", "loss.gamma=1.5"))
    assert isinstance(loss, DiceCELoss)
    assert loss.terms == Terms(dice=0, gamma=1.5, class_weights=(1, 2, 0.5))


def test_a_loss_of_ones_own_is_told_what_it_asks_for() -> None:
    loss = built(functools.partial(Squares, scale=2.0))
    assert isinstance(loss, OwnLoss) and loss.name.endswith("test_build_loss.Squares")
    logits, label = torch.randn(2, 3, 4), torch.randint(0, 3, (2, 4), dtype=torch.int16)
    assert loss(logits, label).item() == pytest.approx(Squares(3, 2.0)(logits, label.long()).item())
    knowing = built(functools.partial(Knowing), 4, REGIONS).loss
    assert (knowing.ignore_label, knowing.regions) == (4, [*REGIONS])
    torchs = built(composed("own", "loss._target_=torch.nn.CrossEntropyLoss", "+loss.label_smoothing=0.1"))
    expected = nn.CrossEntropyLoss(label_smoothing=0.1)(logits, label.long())
    assert torchs(logits, label).item() == pytest.approx(expected.item())
    with pytest.raises(ValueError, match=r"gives a tensor of shape \(2, 4\); expected a scalar"):
        built(functools.partial(nn.CrossEntropyLoss, reduction="none"))(logits, label)


@pytest.mark.parametrize(
    ("make", "facts", "message"),
    [
        (functools.partial(Squares), {"ignore_label": 4}, r"has an ignore label \(4\), and .*Squares cannot be told"),
        (functools.partial(Squares), {"regions": REGIONS}, "has regions.*Squares cannot be told"),
        (functools.partial(nn.CrossEntropyLoss), {"ignore_label": 4}, "CrossEntropyLoss cannot be told"),
        (functools.partial(Squares, scal=1), {}, r"loss\.scal: \S*Squares has no such argument\. There are scale\."),
        (functools.partial(Constant, scale=1), {}, r"loss\.scale: \S*Constant has no such argument\. It takes none\."),
        (functools.partial(Squares, num_classes=3), {}, r"loss\.num_classes=3 is for the plan of the data to say"),
        (functools.partial(segmentation_loss, ignore_label=3), {}, r"loss\.ignore_label=3"),
        (Squares(3), {}, "loss builds a Squares; expected a _target_ with _partial_: true"),
        (3, {}, "loss builds a int"),
    ],
)
def test_what_does_not_fit_is_refused(make, facts: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(make, **facts)


def test_numbers_are_refused_without_data() -> None:
    with pytest.raises(ValueError, match=r"loss\.gamma=0\.5"):
        check_is_loss(composed("focal", "loss.gamma=0.5"))
    with pytest.raises(ValueError, match="gama"):
        check_is_loss(composed("focal", "+loss.gama=2"))


def test_dataset_json_is_enough_to_refuse() -> None:
    description = DatasetDescription(
        name="a", channel_names=("CT",), labels={"background": 0, "liver": 1}, ignore_label=2, file_ending=".nii.gz",
        num_training=1,
    )  # fmt: skip
    check_loss(composed("dice_topk"), description, 3)
    with pytest.raises(ValueError, match="has 3 numbers.*expected 2"):
        check_loss(composed("ce", "loss.class_weights=[1,1,1]"), description, 3)
    with pytest.raises(ValueError, match="ignore label"):
        check_loss(functools.partial(Squares), description, 3)


def test_a_loss_of_ones_own_is_tried_before_any_data() -> None:
    description = DatasetDescription(
        name="a", channel_names=("CT",), labels={"background": 0, "liver": 1}, file_ending=".nii.gz", num_training=1
    )
    state = torch.get_rng_state()
    for dims in (2, 3):
        check_loss(functools.partial(Squares), description, dims)
    assert torch.equal(torch.get_rng_state(), state)
    for make, said in (
        (functools.partial(nn.Identity), r"Identity cannot be computed.*logits \(2, 2, 16, 16\) and a label \(2, 16"),
        (functools.partial(nn.CrossEntropyLoss, reduction="none"), "expected a scalar"),
        (functools.partial(nn.CrossEntropyLoss, weight=torch.ones(3)), "cannot be computed"),
        (Constant, "does not require grad"),
    ):
        with pytest.raises(ValueError, match=said):
            check_loss(make, description, 2)


def test_a_configuration_without_a_loss_has_the_usual_one() -> None:
    assert with_loss({"fold": 0})["loss"] == USUAL and without_usual_loss(with_loss({"fold": 0})) == {"fold": 0}
    older = {key: value for key, value in USUAL.items() if key != "gamma"}  # of a version with fewer settings
    assert without_usual_loss({"loss": older}) == {}
    other = {"loss": {**USUAL, "gamma": 2.0}}
    assert without_usual_loss(other) == other == with_loss(other)
    own = {"loss": {"_target_": "mymix.Loss"}}
    assert with_loss(own) == own == without_usual_loss(own) and with_loss(None) is None


def test_the_choices_have_what_help_shows() -> None:
    """Comments: each file's first line says what it is."""
    for path in Path(CONFIGS / "loss").glob("*.yaml"):
        assert path.read_text().startswith("# "), path
