"""What a wheel holds and what the console command does."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

import umamba
from umamba.__main__ import COMMANDS
from umamba.help import help_text
from umamba.locations import CONFIGS, ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


def command(*arguments: str, python: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, *python, "-m", "umamba", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT)


def test_every_package_of_the_folder_is_listed() -> None:
    folders = {path.parent.relative_to(ROOT / "src") for path in (ROOT / "src").rglob("*.py")}
    expected = {".".join(("umamba", *folder.parts)) for folder in folders} | {"umamba.configs"}
    assert set(SETTINGS["tool"]["setuptools"]["packages"]) == expected


def test_every_package_is_marked_as_one() -> None:
    missing = [path.parent for path in (ROOT / "src").rglob("*.py") if not (path.parent / "__init__.py").is_file()]
    assert not missing


@pytest.mark.parametrize("name", umamba.__all__)
def test_the_public_names_are_there(name: str) -> None:
    assert getattr(umamba, name).__name__ == name


def test_an_unknown_name_says_so() -> None:
    with pytest.raises(AttributeError, match="'umamba' has no attribute 'UNambda'"):
        umamba.UNambda  # noqa: B018


def test_networks_need_torch_alone() -> None:
    heavy = ("hydra", "lightning", "monai", "torchio", "SimpleITK", "pandas", "matplotlib", "wandb", "scipy")
    code = (
        "import sys; from umamba import UMamba, Mamba, selective_scan; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_main(name: str) -> None:
    assert callable(importlib.import_module(COMMANDS[name][0]).main)


def test_help_and_version_come_at_once() -> None:
    usage = command("--help", python=("-X", "importtime"))
    assert usage.returncode == 0 and all(name in usage.stdout for name in COMMANDS)
    imported = re.findall(r"\| +(\w+)$", usage.stderr, re.M)
    assert imported and not {"torch", "lightning", "numpy"} & set(imported)
    assert "torch 2." in command("version").stdout


def test_an_unknown_command_names_the_known_ones() -> None:
    result = command("segment")
    assert result.returncode == 2 and result.stderr.startswith("There is no command 'segment', only predict,")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_lists_its_keys(name: str) -> None:
    result = command(name, "--help")
    assert result.returncode == 0, result.stderr
    assert "Keys, given as key=value:" in result.stdout and "torch" not in result.stderr


@pytest.mark.parametrize("script", ["train.py", "eval.py", "predict.py"])
def test_help_of_a_script_lists_its_keys(script: str) -> None:
    result = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0 and "Keys, given as key=value:" in result.stdout


def test_help_shows_the_comments_and_choices_of_the_configs() -> None:
    text = help_text("Train.", "train")
    assert "# 0 to 4, or all" in text and "umamba_enc" in text and Path(CONFIGS, "train.yaml").is_file()
