"""Checkpoints from strangers: whatever they name, nothing of it is built, run, resolved or allocated."""

from __future__ import annotations

import copy
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from umamba.models.build import build_network
from umamba.models.checkpoint import datamodule_from_checkpoint, load_checkpoint, network_from_checkpoint
from umamba.planning.fingerprint import Fingerprint
from umamba.planning.intensities import Intensities
from umamba.planning.options import PlannerOptions
from umamba.planning.planner import plan_dataset
from umamba.raw.description import DatasetDescription

SOUND_NETWORK = {"_target_": "umamba.models.umamba.UMamba", "_partial_": True, "mamba": "bottleneck", "mixer": "s6"}


def sound(network: dict[str, Any] = SOUND_NETWORK) -> dict[str, Any]:
    """A checkpoint as train.py writes it, of a tiny network with random weights."""
    description = DatasetDescription(
        name="Toy", channel_names=("MR",), labels={"background": 0, "liver": 1}, file_ending=".nii.gz", num_training=4
    )
    names = ("mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5")
    fingerprint = Fingerprint(
        spacings=((1.0, 1.0, 1.0),) * 4,
        shapes_after_crop=((16, 16, 16),) * 4,
        intensities=(Intensities(**dict.fromkeys(names, 1.0)),),
        median_relative_size=1.0,
    )
    plan = plan_dataset(fingerprint, description, PlannerOptions(base_features=4))
    built = build_network(instantiate(network), plan, "3d_fullres", True)
    return {
        "state_dict": {f"network.{name}": tensor for name, tensor in built.state_dict().items()},
        "plan": plan.to_dict(),
        "configuration": "3d_fullres",
        "config": {
            "model": {"network": network, "deep_supervision": True},
            "data": {
                "_target_": "umamba.datamodules.custom.CustomDataModule",
                "dataset_dir": "/nowhere/raw",
                "prepared_dir": "/nowhere/prepared",
                "configuration": "3d_fullres",
                "augmentation": {"noise": {"_target_": "torchio.RandomNoise"}},
                "fold": 0,
            },
        },
    }


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    return sound()


@pytest.fixture
def content(template) -> dict[str, Any]:
    return copy.deepcopy(template)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def saved_and_loaded(content: Any, **options: Any) -> dict[str, Any]:
        torch.save(content, tmp_path / "stranger.ckpt")
        return load_checkpoint(tmp_path / "stranger.ckpt", **options)

    return saved_and_loaded


def test_a_sound_checkpoint_loads(content, load) -> None:
    network, plan = network_from_checkpoint(load(content))
    assert network(torch.zeros(1, 1, *plan.configuration("3d_fullres").patch_size)).isfinite().all()


# Each would leave a file behind, or fetch or load something, if it were called.
HOSTILE = [
    {"_target_": "torch.utils.collect_env.run", "command": "touch {mark}"},
    {"_target_": "torch.hub.load", "repo_or_dir": "{mark}", "model": "x", "source": "local"},
    {"_target_": "torch.load", "f": "{mark}", "weights_only": False},
    {"_target_": "torch.save", "obj": 1, "f": "{mark}"},
    {"_target_": "torch.utils.cpp_extension.load", "name": "x", "sources": ["{mark}"]},
    {"_target_": "torch.nn.modules.module.torch.hub.load", "repo_or_dir": "{mark}", "model": "x"},
    {"_target_": "torch.nn.utils.rnn.torch.save", "obj": 1, "f": "{mark}"},
    {"_target_": "torch.nn.functional.torch.save", "obj": 1, "f": "{mark}"},
    {"_target_": "torch.nn.init.math.prod", "_args_": [[1]]},
    {"_target_": "torch.nn.Module.__subclasses__"},
    {"_target_": "torch.optim.SGD.__init__.__globals__"},
    {"_target_": "torchio.data.io.write_image", "path": "{mark}"},
    {"_target_": "torchio.ScalarImage", "path": "{mark}"},
    {"_target_": "torchio.datasets.IXITiny", "root": "{mark}", "download": True},
    {"_target_": "monai.bundle.run", "config_file": "{mark}"},
    {"_target_": "monai.apps.utils.download_url", "url": "file:///etc/hostname", "filepath": "{mark}"},
    {"_target_": "monai.utils.module.run_eval", "_args_": ["open('{mark}', 'w')"]},
    {"_target_": "monai.networks.nets.UNETR"},
    {"_target_": "umamba.run.sweep.run_in_own_process", "script": "{mark}"},
    {"_target_": "umamba.run.subprocess.run", "args": ["touch", "{mark}"]},
    {"_target_": "umamba.planning.store.remove_case", "folder": "{mark}", "identifier": ".."},
    {"_target_": "umamba.files.write_text", "path": "{mark}", "text": "x"},
    {"_target_": "umamba.models.import_weights.import_checkpoint"},
    {"_target_": "umamba.models.umamba.nn.Linear", "in_features": 1, "out_features": 1},
    {"_target_": "functools.partial"},
    {"_target_": "builtins.exec", "_args_": ["open('{mark}', 'w')"]},
    {"_target_": "os.system", "command": "touch {mark}"},
    {"_target_": "posix.system", "_args_": ["touch {mark}"]},
    {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.system", "command": "touch {mark}"}},
    {"_target_": "__import__('os').system", "command": "touch {mark}"},
    {"_target_": "umamba.models.umamba.UMamba.__init__"},
    {"_target_": "src..models.umamba.UMamba"},
    {"_target_": ""},
    {"_target_": 7},
    {"_target_": ["os.system"]},
    {"_target_": {"_target_": "os.system"}},
    {"_target_": "${oc.env:HOME}"},
]


def _marked(node: Any, mark: Path) -> Any:
    if isinstance(node, dict):
        return {key: _marked(value, mark) for key, value in node.items()}
    if isinstance(node, list):
        return [_marked(value, mark) for value in node]
    return node.replace("{mark}", str(mark)) if isinstance(node, str) else node


def _planted(config: dict[str, Any], evil: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Copies of a config with `evil` in every place that is built, as itself and as a partial."""
    network, data = config["model"]["network"], config["data"]
    partial = evil | {"_partial_": True}
    layer = {"_target_": "torch.nn.Identity", "_partial_": True}
    for changed in (
        partial,
        *(network | {key: some} for key in ("mixer", "order", "argument") for some in (evil, partial)),
        network | {"mamba": [0, [evil]]},
        network | {"_args_": [partial]},
        network | {"mixer": layer | {"a": {"b": [evil]}}},
        network | {"mixer": layer | {"_args_": [evil]}},
    ):
        yield config | {"model": config["model"] | {"network": changed}}
    for changed in (evil, partial, data | {"nsd_tolerance": {"liver": evil}}, data | {"_args_": [evil]}):
        yield config | {"data": changed}


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: str(hostile["_target_"]))
def test_foreign_targets_are_refused_wherever_they_stand(template, load, tmp_path, hostile) -> None:
    load(template)  # imports what any checkpoint needs
    mark, modules = tmp_path / "ran", set(sys.modules)
    bare = template | {"state_dict": {}}  # of which each place would be loaded again
    for config in _planted(template["config"], _marked(hostile, mark)):
        with pytest.raises(ValueError, match=r"stranger\.ckpt: (model\.network|data)\..*_target_ (is|must be)"):
            load(bare | {"config": config})
    assert not mark.exists()
    assert set(sys.modules) == modules  # not even imported


def test_what_is_not_built_may_name_anything_and_is_not_built(content, load, tmp_path) -> None:
    evil = {"_target_": "torch.utils.collect_env.run", "command": f"touch {tmp_path / 'ran'}"}
    content["config"]["model"] |= {"optimizer": evil, "scheduler": evil}
    content["config"] |= {"optimizer": evil, "callbacks": {"x": evil}, "logger": evil, "trainer": evil}
    content["config"]["data"] |= {"augmentation": evil, "planning": evil}
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "dataset.json").write_text("{}")
    checkpoint = load(content)
    network_from_checkpoint(checkpoint)
    datamodule = datamodule_from_checkpoint(checkpoint, {"dataset_dir": str(tmp_path / "raw")})
    assert datamodule.augmentation == [] and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "${cwd:}", "a${b}", "${hydra:runtime.cwd}"])
@pytest.mark.parametrize("place", ["variant", "dataset_dir", "a key"])
def test_nothing_is_interpolated(content, load, text, place) -> None:
    config = content["config"]
    if place == "variant":
        config["model"]["network"]["variant"] = text
    elif place == "dataset_dir":
        config["data"]["dataset_dir"] = text
    else:
        config["model"]["network"][text] = 1
    with pytest.raises(ValueError, match=r"stranger.ckpt: .*without \$\{"):
        load(content)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mamba": [10**9]}, r"model.network.mamba\[0\] is 1000000000; expected a number from -16384"),
        ({"mixer": {"_target_": "torch.nn.LSTM", "_partial_": True, "num_layers": 10**8}}, "num_layers is 100000000"),
        ({"mixer": {"_target_": "torch.nn.Linear", "in_features": 16384, "out_features": 16384}}, "cannot be built"),
        ({"zero_init_residual": float("nan")}, "zero_init_residual is nan"),
        ({"mixer": torch.zeros(1)}, "mixer must be text, a number.*it is a Tensor"),
        ({"mixer": ("s6",)}, "mixer must be text, a number.*it is a tuple"),
        ({"variant": "p" * 5000}, "text of at most 4096 characters"),
        ({7: 1}, "a key must be text, it is a int"),
        ({"_partial_": 1}, "_partial_: true"),
        ({"_recursive_": "yes"}, "_recursive_ must be a bool"),
        ({"_mode_": "x"}, "_mode_: only _target_"),
        ({"colour": 1}, "model.network.colour: UMamba has no such argument"),
        ({"mamba": "encoder"}, r"its weights are not those of its network: .*mamba.* is missing; and \d+ more"),
        ({"mixer": "none"}, "is left over"),
    ],
)
def test_values_of_the_network(content, load, changes, message) -> None:
    content["config"]["model"]["network"] |= changes
    with pytest.raises(ValueError, match=f"(?s)stranger.ckpt: .*{message}"):
        load(content)


def test_a_network_larger_than_its_weights_takes_no_memory(content, load) -> None:
    """Gigabytes of weights are announced; laying them out takes none, and the comparison refuses them."""
    plan = content["plan"]["configurations"]["3d_fullres"]
    stages = len(plan["strides"])
    plan |= {"features_per_stage": [4096] * stages}
    started = time.process_time()
    with pytest.raises(ValueError, match=r"weights are not those of its network: .* and \d+ more"):
        load(content)
    assert time.process_time() - started < 20


def test_views_that_make_one_number_look_like_many(content, load) -> None:
    for name, tensor in content["state_dict"].items():
        content["state_dict"][name] = torch.zeros(1).expand(tensor.numel()).view(tensor.shape)
    with pytest.raises(ValueError, match="numbers, but the file holds .* bytes"):
        load(content)


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(3),
        torch.zeros(4, 1, 3, 3, 3, dtype=torch.int64),
        torch.zeros(4, 1, 3, 3, 3).to_sparse(),
        "text",
        [1.0],
    ],
    ids=["shape", "dtype", "sparse", "text", "list"],
)
def test_weights_of_another_kind(content, load, value) -> None:
    content["state_dict"]["network.stem.conv.weight"] = value
    with pytest.raises(ValueError, match=r"stranger.ckpt: .*stem\.conv\.weight is"):
        load(content)


def test_weights_in_half_precision_are_fine(content, load) -> None:
    content["state_dict"] = {k: v.half() if v.is_floating_point() else v for k, v in content["state_dict"].items()}
    network_from_checkpoint(load(content))


@pytest.mark.parametrize("key", ["state_dict", "plan", "configuration", "config"])
@pytest.mark.parametrize("value", [None, 7, [1], {"a": 1}, "text"])
def test_parts_of_another_type(content, load, key, value) -> None:
    content[key] = value
    with pytest.raises(ValueError, match=r"stranger\.ckpt: "):
        load(content)


@pytest.mark.parametrize(
    "value", [None, [], "x", {"network": None}, {"network": SOUND_NETWORK, "deep_supervision": "no"}]
)
def test_a_model_of_another_form(content, load, value) -> None:
    content["config"]["model"] = value
    with pytest.raises(ValueError, match=r"stranger\.ckpt: model.*must be"):
        load(content)


def test_lists_that_hold_each_other_again_and_again(content, load) -> None:
    laughs: list[Any] = ["ha"]
    for _ in range(12):
        laughs = [laughs] * 10
    content["config"]["model"]["network"]["mamba"] = laughs
    started = time.process_time()
    with pytest.raises(ValueError, match="more than 100000 entries"):
        load(content)
    endless: list[Any] = []
    endless.append(endless)
    content["config"]["model"]["network"] = endless
    with pytest.raises(ValueError, match="nested over 64 deep"):
        load(content)
    assert time.process_time() - started < 10


def test_a_zip_bomb(content, load, tmp_path) -> None:
    torch.save(content, tmp_path / "sound.ckpt")
    with zipfile.ZipFile(tmp_path / "sound.ckpt") as sound, zipfile.ZipFile(tmp_path / "bomb.ckpt", "w") as bomb:
        for entry in sound.infolist():
            bomb.writestr(entry.filename, sound.read(entry))
        bomb.writestr("archive/data/99", bytes(50_000_000), compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="it would unpack to 5"):
        load_checkpoint(tmp_path / "bomb.ckpt")


def test_a_checkpoint_does_not_say_where_raw_data_are_written(content, load, tmp_path) -> None:
    content["config"]["data"] |= {
        "_target_": "umamba.datamodules.phantom.PhantomDataModule",
        "dataset_dir": str(tmp_path / "victim"),
    }
    with pytest.raises(FileNotFoundError, match="no raw data set at .*victim.*data.dataset_dir="):
        datamodule_from_checkpoint(load(content), {})
    assert not (tmp_path / "victim").exists()


def test_an_unknown_key_of_the_data_set_is_named(content, load, tmp_path) -> None:
    content["config"]["data"]["surprise"] = 1
    with pytest.raises(ValueError, match=r"(?s)data set of the checkpoint's config cannot be built .*surprise"):
        datamodule_from_checkpoint(load(content), {"dataset_dir": tmp_path})


OWN = """
import os, torch
class Mixer(torch.nn.Linear):
    def __init__(self, width):
        super().__init__(width, width)
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A checkpoint whose mixer is the user's own class."""
    (tmp_path / "mymix.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    network = SOUND_NETWORK | {"mixer": {"_target_": "mymix.Mixer", "_partial_": True}}
    yield sound(network)
    sys.modules.pop("mymix")


@pytest.mark.parametrize("trusted", [["mymix"], "mymix.Mixer", ["torchio", "mymix"]])
def test_code_of_the_users_own_is_built_where_the_user_says_so(own_code, load, trusted) -> None:
    with pytest.raises(ValueError, match=r"mixer._target_ is 'mymix.Mixer'.*trusted=\[mymix\].*predict.py and eval.py"):
        load(own_code)
    network, _ = network_from_checkpoint(load(own_code, trusted=trusted))
    assert type(network.encoder_stages[-1].mamba.mixers[0]).__module__ == "mymix"


@pytest.mark.parametrize("target", ["mymix.os.system", "mymix.torch.hub.load", "mymix.nothing", "mymixture.Mixer"])
def test_trust_in_a_package_is_not_trust_in_what_it_imports(own_code, load, target) -> None:
    own_code["config"]["model"]["network"]["mixer"] = {"_target_": target, "_partial_": True}
    with pytest.raises(ValueError, match="does not define itself|cannot be imported|not among"):
        load(own_code, trusted=["mymix"])


@pytest.mark.parametrize("trusted", ["", "a b", ["mymix.*"], [3], "../x", "./mymix.py", "a/b", True, 3, {"mymix": 1}])
def test_trusted_that_is_no_name(content, load, trusted) -> None:
    with pytest.raises(ValueError, match="trusted=.*expected the name"):
        load(content, trusted=trusted)


@pytest.mark.parametrize(
    ("trusted", "said"),
    [
        ("a_package_that_does_not_exist", r"finds no package or module a_package_that_does_not_exist"),
        (["mymix", "mymxi"], r"finds no package or module mymxi\..*PYTHONPATH"),
        ("mymix.Mxier", r"trusted=mymix\.Mxier cannot be imported"),
        ("mymix.py", r"cannot be imported.* The module of that file is mymix\."),
        ("broken.Mixer", r"trusted=broken\.Mixer cannot be imported \(.*division"),
    ],
)
def test_trust_in_what_is_not_there_is_refused(own_code, load, tmp_path: Path, trusted, said) -> None:
    (tmp_path / "broken.py").write_text("1 / 0")
    load(own_code, trusted=["mymix", "mymix.Mixer"])
    with pytest.raises(ValueError, match=said):
        load(own_code, trusted=trusted)
    own_code["config"]["model"]["network"].pop("mixer")  # nor where the checkpoint would not need it
    with pytest.raises(ValueError, match=said):
        load(own_code, trusted=trusted)


def test_trust_is_not_read_from_the_checkpoint(own_code, load) -> None:
    own_code["config"]["trusted"] = own_code["trusted"] = ["mymix"]
    with pytest.raises(ValueError, match="not among"):
        load(own_code)
