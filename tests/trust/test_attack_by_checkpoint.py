"""Checkpoints from strangers: truncated, foreign, with code in them, with absurd plans, with NaN in their weights."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import load
from harness import Command, in_words, train_line
from test_attack_by_image import MEMORY_GIB, normal

Checkpoint = dict[str, Any]


def network(target: str, **arguments: Any) -> Callable[[Checkpoint, Path], None]:
    """Put a target in the constructor's place; OWNED in an argument becomes the path that must not appear."""

    def change(checkpoint: Checkpoint, owned: Path) -> None:
        filled = {key: value.replace("OWNED", str(owned)) if isinstance(value, str) else value
                  for key, value in arguments.items()}  # fmt: skip
        checkpoint["config"]["model"]["network"] = {"_target_": target, "_partial_": False, **filled}

    return change


def argument(value: Any) -> Callable[[Checkpoint, Path], None]:
    """Give the right constructor a further argument."""

    def change(checkpoint: Checkpoint, owned: Path) -> None:
        checkpoint["config"]["model"]["network"]["mixer"] = _filled(value, owned)

    return change


def data(value: Any) -> Callable[[Checkpoint, Path], None]:
    """Change the part that eval.py builds its data module from."""

    def change(checkpoint: Checkpoint, owned: Path) -> None:
        checkpoint["config"]["data"] |= _filled(value, owned)

    return change


def plan(**values: Any) -> Callable[[Checkpoint, Path], None]:
    """Change the trained configuration of the plan."""

    def change(checkpoint: Checkpoint, owned: Path) -> None:
        checkpoint["plan"]["configurations"]["3d_fullres"] |= values

    return change


def weights(value: float) -> Callable[[Checkpoint, Path], None]:
    def change(checkpoint: Checkpoint, owned: Path) -> None:
        name = next(name for name in checkpoint["state_dict"] if name.endswith("weight"))
        checkpoint["state_dict"][name].view(-1)[0] = value

    return change


def _filled(value: Any, owned: Path) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, owned) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, owned) for item in value]
    return value.replace("OWNED", str(owned)) if isinstance(value, str) else value


SHELL = {"_target_": "torch.utils.collect_env.run", "command": "touch OWNED"}
CHANGES: dict[str, Callable[[Checkpoint, Path], None]] = {
    "torch_shell": network(SHELL["_target_"], command=SHELL["command"]),
    "own_process": network("umamba.run.run_in_own_process", script="OWNED"),
    "through_modules": network("umamba.run.subprocess.run", args=["touch", "OWNED"]),
    "remove_case": network("umamba.planning.store.remove_case", folder="OWNED.victim", identifier="precious"),
    "os_system": network("os.system", command="touch OWNED"),
    "partial": network("functools.partial"),
    "torch_load": network("torch.load", f="OWNED.victim/precious/thesis.txt"),
    "torch_hub": network("torch.hub.load", repo_or_dir="OWNED.victim", model="x", source="local"),
    "monai_bundle": network("monai.bundle.scripts.run", config_file="OWNED.victim/x.json"),
    "nested": argument({"_target_": "torch.nn.Sequential", "_args_": [SHELL]}),
    "mixer": argument({**SHELL, "_partial_": True}),
    "in_a_list": argument([{"deep": [SHELL]}]),
    "interpolation": argument("${oc.env:HOME}"),
    "data_target": data(SHELL),
    "data_nested": data({"augmentation": {"evil": SHELL}}),
    "data_planning": data({"planning": {"_target_": "torch.utils.collect_env.run", "command": "touch OWNED"}}),
    "huge_network": plan(features_per_stage=[10**7] * 4),
    "huge_patch": plan(patch_size=[10**6] * 3),
    "negative_patch": plan(patch_size=[-8, 32, 32]),
    "plan_of_strings": plan(patch_size="many", spacing="wide"),
    "nan_weights": weights(float("nan")),
    "infinite_weights": weights(float("inf")),
}
UNREAD = ("data_target", "data_nested", "data_planning")  # parts that need not be looked at: not built, or refused
FAST = ("torch_shell", "nan_weights")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    normal(folder / "case_0000.nii.gz")
    return folder


def check(tmp_path: Path, *line: str, root: Path | None = None, ok: bool | None = False) -> str:
    """Run the command: it must not do what the checkpoint wants, and fail in words (unless `ok` says otherwise)."""
    victim = tmp_path / "owned.victim" / "precious"
    victim.mkdir(parents=True, exist_ok=True)
    (victim / "thesis.txt").write_text("years of work")
    with Command(*line, folder=tmp_path, root=root) as command:
        code = command.wait()
        command.must_leave_nothing()
    assert not (tmp_path / "owned").exists(), "code of the checkpoint ran"
    assert (victim / "thesis.txt").is_file(), "the checkpoint removed a folder"
    assert command.peak_gib < MEMORY_GIB, f"took {command.peak_gib:.1f} GiB"
    assert ok is None or (code == 0) == ok, command.output[-4000:]
    if code:
        in_words(command.output)
        assert "evil.ckpt" in command.output, f"the message does not name the file:\n{command.output[-3000:]}"
    return command.output


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in CHANGES])
def test_a_changed_checkpoint(trained: Path, prepared: Path, images: Path, tmp_path: Path, name: str) -> None:
    checkpoint = copy.deepcopy(load(trained / "checkpoints" / "last.ckpt"))
    CHANGES[name](checkpoint, tmp_path / "owned")
    path = tmp_path / "evil.ckpt"
    torch.save(checkpoint, path)
    unread = name in UNREAD
    check(
        tmp_path, "predict.py", f"checkpoint={path}", f"input={images}", f"output={tmp_path / 'out'}",
        ok=None if unread else False,
    )  # fmt: skip
    assert unread or not list((tmp_path / "out").glob("*.nii.gz"))
    if name not in FAST:
        line = ("eval.py", f"ckpt_path={path}", f"output={tmp_path / 'scores'}")
        check(tmp_path, *line, root=prepared, ok=None if unread else False)
        assert unread or not (tmp_path / "scores" / "tables").exists()


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99, 1.01])
def test_a_cut_checkpoint(trained: Path, images: Path, tmp_path: Path, share: float) -> None:
    content = (trained / "checkpoints" / "last.ckpt").read_bytes()
    (tmp_path / "evil.ckpt").write_bytes(content[: int(share * len(content))] if share < 1 else content[::-1])
    line = ("predict.py", f"checkpoint={tmp_path / 'evil.ckpt'}", f"input={images}", f"output={tmp_path / 'out'}")
    check(tmp_path, *line)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pickle", "in_the_weights", "another_project", "not_a_dict"])
def test_a_foreign_checkpoint(trained: Path, images: Path, tmp_path: Path, kind: str) -> None:
    checkpoint, bomb = load(trained / "checkpoints" / "last.ckpt"), Bomb(f"touch {tmp_path / 'owned'}")
    content = {
        "pickle": bomb,
        "in_the_weights": checkpoint | {"state_dict": {**checkpoint["state_dict"], "network.x": bomb}},
        "another_project": {"state_dict": checkpoint["state_dict"], "epoch": 3},
        "not_a_dict": [1, 2, 3],
    }[kind]
    torch.save(content, tmp_path / "evil.ckpt")
    line = ("predict.py", f"checkpoint={tmp_path / 'evil.ckpt'}", f"input={images}", f"output={tmp_path / 'out'}")
    check(tmp_path, *line)


@pytest.mark.slow
def test_resuming_from_a_cut_checkpoint(trained: Path, prepared: Path, tmp_path: Path) -> None:
    """The folder's own last.ckpt is cut off: training says so and overwrites nothing."""
    path = tmp_path / "evil.ckpt" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    content = (trained / "checkpoints" / "last.ckpt").read_bytes()
    path.write_bytes(content[: len(content) // 2])
    check(tmp_path, *train_line(path.parent.parent), root=prepared)
    assert path.read_bytes() == content[: len(content) // 2]
