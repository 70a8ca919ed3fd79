"""A training begins with others' weights: what fits is taken, the rest is named; and weights that are frozen."""

from __future__ import annotations

import dataclasses
import functools
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.cascade.made_cascade import SECOND, save, two_stages
from tests.inference.small import make_plan, save_checkpoint
from tests.models.test_import_weights import build, load_golden
from umamba.models.baselines import segresnet, swinunetr, unetr
from umamba.models.import_weights import convert_state_dict
from umamba.models.initial_weights import freeze, read_initial_weights
from umamba.models.nnunet_checkpoint import OURS
from umamba.models.schedules import poly, warm_up
from umamba.models.segmentation_module import SegmentationModule
from umamba.models.unet import PlainConvUNet
from umamba.raw.regions import Region


def network(*, channels: int = 1, classes: int = 2, dims: int = 3, features: tuple[int, ...] = (4, 8)) -> nn.Module:
    torch.manual_seed(99)
    return PlainConvUNet(
        spatial_dims=dims, in_channels=channels, out_channels=classes, features_per_stage=features,
        kernel_sizes=((3,) * dims,) * len(features), strides=((1,) * dims, *((2,) * dims,) * (len(features) - 1)),
    )  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Of a network of one channel and two classes."""
    return save_checkpoint(tmp_path / "source.ckpt", make_plan())


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    state = torch.load(path, weights_only=True)["state_dict"]
    return {name.removeprefix("network."): tensor for name, tensor in state.items()}


def test_the_same_network_gets_all_weights(checkpoint: Path) -> None:
    target, source = network(), weights_of(checkpoint)
    initial = read_initial_weights(checkpoint, target)
    assert not any(torch.equal(target.state_dict()[name], source[name]) for name in ("heads.0.weight",))  # not yet
    initial.load_into(target)
    assert initial.share == 1 and not initial.left_out and not initial.unused
    assert all(torch.equal(tensor, source[name]) for name, tensor in target.state_dict().items())


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"classes": 5}, {"heads.0.weight", "heads.0.bias"}),
        ({"channels": 3}, {"encoder_stages.0.0.conv.weight"}),
        ({"classes": 5, "channels": 3}, {"heads.0.weight", "heads.0.bias", "encoder_stages.0.0.conv.weight"}),
    ],
)
def test_head_and_first_convolution_begin_anew_where_classes_or_channels_differ(
    checkpoint: Path, change: dict[str, int], expected: set[str], caplog
) -> None:
    target = network(**change)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    initial = read_initial_weights(checkpoint, target)
    initial.load_into(target)
    source = weights_of(checkpoint)
    assert set(initial.left_out) == expected
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, before[name] if name in expected else source[name]), name
    with caplog.at_level(logging.INFO):
        initial.say()
    assert f"{len(before) - len(expected)} of {len(before)} weights are used" in caplog.text
    assert all(name in caplog.text for name in expected) and f"{len(expected)} start with random values" in caplog.text
    assert set(initial.facts()["left_out"]) == expected and set(initial.facts()["taken"]) == set(before) - expected


@pytest.mark.parametrize("name", ["nnunet_a3", "resenc_a3", "repo_bot_a2", "paper_enc_a3"])
def test_checkpoints_of_nnunet_and_umamba_are_taken(name: str, tmp_path: Path) -> None:
    golden = load_golden(name)
    torch.save({"network_weights": golden["network_weights"], "init_args": {}}, tmp_path / "checkpoint_final.pth")
    target = build(golden)
    expected = convert_state_dict(golden["network_weights"], target)
    initial = read_initial_weights(tmp_path / "checkpoint_final.pth", target)
    initial.load_into(target)
    assert initial.share == 1 and all(torch.equal(t, expected[name]) for name, t in target.state_dict().items())
    other = build({**golden, "spec": {**golden["spec"], "nc": golden["spec"]["nc"] + 3}})
    assert all(name.startswith("heads.") for name in read_initial_weights(initial.path, other).left_out)


def test_the_cases_in_a_checkpoint_of_nnunets_form_that_was_exported_here_are_known(tmp_path: Path) -> None:
    golden, seen = load_golden("nnunet_a3"), {"case_1": "0123456789abcdef"}
    content = {"network_weights": golden["network_weights"], "init_args": {}}
    torch.save(content, tmp_path / "of_nnunet.pth")
    assert not read_initial_weights(tmp_path / "of_nnunet.pth", build(golden)).trained_on
    torch.save({**content, OURS: {"cases": {"trained_on": seen}}}, tmp_path / "of_ours.pth")
    assert read_initial_weights(tmp_path / "of_ours.pth", build(golden)).trained_on == seen


def test_the_heads_of_as_many_other_classes_begin_anew(checkpoint: Path) -> None:
    own = make_plan()
    assert not read_initial_weights(checkpoint, network(), own).left_out
    other = dataclasses.replace(own, labels={"background": 0, "spleen": 1})
    left_out = read_initial_weights(checkpoint, network(), other).left_out
    assert set(left_out) == {"heads.0.weight", "heads.0.bias"} and "of class_1" in left_out["heads.0.bias"]


@pytest.mark.parametrize("build_one", [segresnet, unetr, swinunetr])
def test_the_heads_of_a_network_of_monai_are_known_too(build_one: Any, tmp_path: Path) -> None:
    small = {segresnet: {"init_filters": 8}, swinunetr: {"feature_size": 12}, unetr: {"num_heads": 2, "hidden_size": 8}}
    spec = {"spatial_dims": 2, "in_channels": 1, "features_per_stage": (4,), "kernel_sizes": ((3, 3),),
            "strides": ((1, 1),), "patch_size": (32, 32), "deep_supervision": False, **small[build_one]}  # fmt: skip
    own, source = make_plan(patch=(32, 32)), build_one(out_channels=2, **spec)
    weights = {f"network.{name}": tensor for name, tensor in source.state_dict().items()}
    torch.save({"state_dict": weights, "plan": own.to_dict()}, tmp_path / "source.ckpt")
    target = build_one(out_channels=2, **spec)
    assert not read_initial_weights(tmp_path / "source.ckpt", target, own).left_out
    other = dataclasses.replace(own, labels={"background": 0, "spleen": 1})
    as_many = read_initial_weights(tmp_path / "source.ckpt", target, other).left_out
    more = read_initial_weights(tmp_path / "source.ckpt", build_one(out_channels=3, **spec), other).left_out
    assert set(as_many) == set(more) and len(more) == 2  # what knows the classes is what has their number


def test_the_heads_and_channels_of_nnunets_checkpoints_are_what_its_dataset_json_says(tmp_path: Path) -> None:
    golden = load_golden("nnunet_a3")
    channels = golden["network_weights"]["encoder.stages.0.0.convs.0.conv.weight"].shape[1]
    plan = make_plan(tuple(f"T{number}" for number in range(channels)), classes=golden["spec"]["nc"])

    def read(names: list[str], labels: dict[str, int]) -> set[str]:
        description = {"channel_names": {str(i): name for i, name in enumerate(names)}, "labels": labels,
                       "numTraining": 5, "file_ending": ".nii.gz"}  # fmt: skip
        content = {"network_weights": golden["network_weights"], "init_args": {"dataset_json": description}}
        torch.save(content, tmp_path / "checkpoint_final.pth")
        initial = read_initial_weights(tmp_path / "checkpoint_final.pth", build(golden), plan)
        return {name.split(".")[0] for name in initial.left_out}

    assert read(list(plan.channel_names), plan.labels) == set()
    assert read(
        list(plan.channel_names), {name if value == 0 else f"{name}s": value for name, value in plan.labels.items()}
    ) == {"heads"}
    assert read(list(plan.channel_names), {"background": 1}) == set()  # one that cannot be read says nothing
    if channels > 1:
        with pytest.raises(ValueError, match="in this order; here they are T0"):
            read(list(plan.channel_names)[::-1], plan.labels)


def test_as_many_inputs_of_another_kind_are_refused(tmp_path: Path) -> None:
    """Two channels of images are not one channel and what a previous stage segmented, nor the reverse."""
    two_channels, cascade = make_plan(("T1", "T2")), two_stages(make_plan(("T1",)))
    images = save_checkpoint(tmp_path / "images.ckpt", two_channels)
    second = save(tmp_path / "second.ckpt", cascade, SECOND)
    for path, plan in ((images, cascade), (second, two_channels)):
        with pytest.raises(ValueError, match=r"has as many inputs .* of the image, \d of a previous stage there"):
            read_initial_weights(path, network(channels=2), plan)
    assert not read_initial_weights(second, network(channels=2), cascade).left_out
    alone = read_initial_weights(second, network(channels=1), make_plan(("T1",)))  # a 3d_fullres from a cascade
    assert set(alone.left_out) == {"encoder_stages.0.0.conv.weight"}


def test_the_heads_of_regions_in_another_order_begin_anew(tmp_path: Path) -> None:
    regions = (Region(name="left", labels=(1,), written=1), Region(name="right", labels=(2,), written=2))
    own = dataclasses.replace(make_plan(classes=1), regions=regions)
    source = save_checkpoint(tmp_path / "regions.ckpt", own)
    assert not read_initial_weights(source, network(), own).left_out
    turned = dataclasses.replace(own, regions=regions[::-1])
    assert set(read_initial_weights(source, network(), turned).left_out) == {"heads.0.weight", "heads.0.bias"}


@pytest.mark.parametrize(
    ("here", "turned"),
    [(("T2", "T1"), True), (("t1", "T2"), False), (("T2", "CT"), True), (("CT", "PET"), False), (("T2",), False)],
)
def test_the_same_channels_in_another_order_are_refused(tmp_path: Path, here: tuple[str, ...], turned: bool) -> None:
    source, target = save_checkpoint(tmp_path / "two.ckpt", make_plan(("T1", "T2"))), network(channels=len(here))
    if turned:
        with pytest.raises(ValueError, match="channels T1, T2, in this order; here they are T2, .*dataset.json"):
            read_initial_weights(source, target, make_plan(here))
    else:
        taken = read_initial_weights(source, target, make_plan(here)).taken
        assert ("encoder_stages.0.0.conv.weight" in taken) == (len(here) == 2)


def refused(path: Path, target: nn.Module, message: str) -> None:
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_initial_weights(path, target)
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_another_number_of_axes_is_refused(checkpoint: Path) -> None:
    refused(checkpoint, network(dims=2), r"is of a 3D network, this one is 2D \(.*encoder_stages\.0\.0\.conv\.weight")


def test_where_next_to_nothing_fits_it_is_refused(checkpoint: Path) -> None:
    refused(
        checkpoint, network(features=(16, 32)), r"0\.\d % of the network's weights fit, less than 10 %; .*there \(4, 1"
    )


def test_values_that_are_not_finite_are_refused_if_they_would_be_taken(checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"]["network.heads.0.weight"][0] = float("nan")
    torch.save(content, checkpoint)
    refused(checkpoint, network(), r"holds NaN or infinite weights \(heads\.0\.weight\)")
    assert "heads.0.weight" in read_initial_weights(checkpoint, network(classes=4)).left_out


class Trap:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("sprung"),))  # type: ignore[return-value]


def test_a_file_with_code_in_it_is_not_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"network.heads.0.weight": Trap()}}, tmp_path / "trap.ckpt")
    refused(tmp_path / "trap.ckpt", network(), "cannot be read as plain data")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": {}}, r"is no checkpoint: expected one of train\.py .*got weights"),
        ([1], "is no checkpoint"),
        ({"state_dict": {"network.heads.0.weight": 3}}, "its weight 'network.heads.0.weight' is no dense tensor"),
        ({"network_weights": {3: torch.zeros(1)}}, "its weight 3 is no dense tensor"),
        ({"state_dict": {}}, r"0\.0 % of the network's weights fit"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "x.ckpt")
    refused(tmp_path / "x.ckpt", network(), message)
    refused(tmp_path / "absent.ckpt", network(), r"There is no checkpoint at init_from=.*absent\.ckpt")
    (tmp_path / "folder" / "fold_0").mkdir(parents=True)
    refused(tmp_path / "folder", network(), r"There is no checkpoint at init_from=.*folder\.")
    torch.save({"bundle": {}, "members": [{}, {}]}, tmp_path / "several.ckpt")
    refused(tmp_path / "several.ckpt", network(), r"is a bundle of several networks, and a training begins with one")
    (tmp_path / "folder" / "fold_0" / "checkpoint_final.pth").touch()
    refused(
        tmp_path / "folder", network(), r"is a folder\. Name the checkpoint, such as .*fold_0/checkpoint_final\.pth"
    )


def test_frozen_weights_stay_bit_by_bit_while_the_others_learn() -> None:
    target = network()
    frozen = freeze(target, ["encoder*"])
    assert frozen and all(name.startswith("encoder_stages.") for name in frozen)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in target.parameters() if p.requires_grad], lr=0.1, weight_decay=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        sum(output.square().mean() for output in target(torch.randn(1, 1, 8, 8, 8))).backward()
        optimizer.step()
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name in frozen), name


def test_patterns_that_match_nothing_or_everything_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"freeze: 'stem\*' matches no weight .* decoder_stages, encoder_stages, heads"
    ):
        freeze(network(), ["encoder*", "stem*"])
    with pytest.raises(ValueError, match="leaves nothing to train"):
        freeze(network(), ["*"])


def test_freezing_what_begins_anew_is_refused(checkpoint: Path) -> None:
    target = network(channels=3)
    freeze(target, ["encoder*"])
    with pytest.raises(
        ValueError, match=r"freeze keeps 1 weight.*random: encoder_stages\.0\.0\.conv\.weight: \(4, 3, "
    ):
        read_initial_weights(checkpoint, target).refuse_frozen(target)
    target = network(channels=3)
    freeze(target, ["encoder_stages.1*"])
    read_initial_weights(checkpoint, target).refuse_frozen(target)


def module(warmup: Any, **options: Any) -> SegmentationModule:
    return SegmentationModule(
        plan=make_plan(), configuration="3d_fullres", network=PlainConvUNet, warmup_epochs=warmup,
        optimizer=functools.partial(torch.optim.SGD, lr=0.1), scheduler=options.get("scheduler", poly),
    )  # fmt: skip


def rates(one: SegmentationModule, epochs: int) -> list[float]:
    optimizer, schedule = one.optimizer_and_schedule(epochs)
    found = []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_learning_rate_rises_and_then_falls_as_without() -> None:
    found = rates(module(4), 10)
    assert found[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert found[4:] == pytest.approx(rates(module(0), 6))


def test_a_warmed_up_training_goes_on_at_its_epoch_also_with_another_length() -> None:
    for epoch in (2, 7):
        optimizer, schedule = module(4).optimizer_and_schedule(20)
        schedule.load_state_dict({"last_epoch": epoch})
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rates(module(4), 20)[epoch])


@pytest.mark.parametrize("warmup", [-1, 1.5, True, "2"])
def test_what_is_no_number_of_epochs_is_refused(warmup: object) -> None:
    with pytest.raises(ValueError, match="warmup_epochs is .*expected a whole number"):
        module(warmup)


def test_a_warm_up_without_end_or_of_another_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"warmup_epochs=4 leaves no epoch of trainer\.max_epochs=4"):
        module(4).optimizer_and_schedule(4)
    optimizer = torch.optim.SGD(network().parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"goes with umamba\.models\.schedules .* not with ExponentialLR"):
        warm_up(torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9), 3)
