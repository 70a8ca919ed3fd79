"""What `make lint` and the commit hooks rely on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent


def pinned(extra: str = "lint") -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return dict(requirement.split("==") for requirement in project["optional-dependencies"][extra])


def test_the_hooks_run_the_pinned_ruff() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    found = {hook["id"]: hook.get("additional_dependencies") for repo in hooks["repos"] for hook in repo["hooks"]}
    pin = [f"ruff=={pinned()['ruff']}"]
    assert found["ruff-check"] == found["ruff-format"] == pin


def test_the_documentation_is_formatted_by_the_same_ruff() -> None:
    assert pinned("docs")["ruff"] == pinned()["ruff"]


def test_constraints_have_the_pinned_versions() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    constraints = dict(line.split("==") for line in lines)
    assert pinned().items() <= constraints.items()


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_linting_with_another_checkouts_environment_leaves_its_project_there(tmp_path: Path) -> None:
    def commands(target: str, *settings: str) -> str:
        call = ["make", "--dry-run", "--always-make", target, *settings]
        outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "VENV")}
        return subprocess.run(call, cwd=ROOT, env=outside, capture_output=True, text=True, check=True).stdout

    tools = " ".join(f"{name}=={version}" for name, version in pinned().items())
    for target in ("lint", "types"):
        there = commands(target, f"VENV={tmp_path / 'other'}")
        assert f"pip install --quiet  {tools}\n" in there and "--editable" not in there
        assert "--editable" in commands(target)


def test_integration_lints_before_it_tests() -> None:
    commands = re.findall(r"^make (\w+)$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert commands == ["lint", "test"]


def test_every_dependency_has_a_lower_bound_that_is_tested() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "lowest_versions.py"], capture_output=True, text=True, check=True
    )
    versions = dict(line.split("==") for line in done.stdout.splitlines())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = project["dependencies"] + project["optional-dependencies"]["test"]
    assert {re.split("[>=]=", requirement)[0] for requirement in needed} == set(versions)
    assert versions["surface-distance"] == "0.1" and versions["omegaconf"] == "2.3"  # pinned; with an upper bound


@pytest.mark.parametrize(
    ("message", "accepted"),
    [
        ("planning: cap the batch at 5 % of the voxels\n\nWhy.\n", True),
        ("x" * 72, True),
        ("x" * 73, False),
        ("ö" * 72 + "\n", True),  # characters, not bytes
        ("Mend it.\n", False),
        ("# only a comment\n", False),
        ("\nno title\n", False),
        ("fixup! " + "x" * 72 + "\n", True),
    ],
)
def test_titles(message: str, accepted: bool, tmp_path: Path) -> None:
    file = tmp_path / "COMMIT_EDITMSG"
    file.write_text(message, encoding="utf-8")
    done = subprocess.run([ROOT / ".ci" / "check_title", file], capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is accepted
    assert accepted or "expected 1 to 72" in done.stderr
