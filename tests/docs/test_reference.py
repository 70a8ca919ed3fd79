"""The reference shows every config file, and troubleshooting quotes what the program says."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest
from pages import ROOT

DOCS = ROOT / "docs"
SHOWN = re.findall(r'^--8<-- "(.+)"$', (DOCS / "reference" / "configuration.md").read_text(), re.MULTILINE)
# Messages that others' code writes.
FOREIGN = ("Could not override", "Key ", " is not in struct", "Could not find 'model/", "mismatched input '='",
           "token recognition error", "CUDA out of memory", "Python >= 3.11 is needed")  # fmt: skip


def test_the_reference_shows_every_config_file() -> None:
    assert len(SHOWN) == len(set(SHOWN))
    existing = {path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml")}
    examples = {name for name in existing if name.startswith("configs/experiment/")}
    assert existing - examples <= set(SHOWN), "show the file in docs/reference/configuration.md"
    assert set(SHOWN) <= existing


def test_the_reference_names_every_experiment() -> None:
    text = (DOCS / "reference" / "configuration.md").read_text()
    section = text.partition("\n## experiment\n")[2].partition("\n## ")[0]
    named = re.findall(r"`(\w+)`", section)
    settings = [name for name in named if not name.startswith("_")]
    networks = [name for name in named if name.startswith("_")]
    expected = {setting + network for setting in settings for network in networks} | {"demo"}
    assert expected == {path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml")}


API = [
    (page.name, name)
    for page in sorted((DOCS / "reference" / "api").glob("*.md"))
    for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.MULTILINE)
]


@pytest.mark.parametrize(("page", "name"), API)
def test_the_api_pages_name_what_is_defined_there(page: str, name: str) -> None:
    module, _, child = name.rpartition(".")
    described = getattr(importlib.import_module(module), child)
    assert isinstance(described, ModuleType) or described.__module__ == module
    assert described.__doc__


def quoted() -> list[str]:
    """The messages in the first column of the tables of troubleshooting."""
    cells = re.findall(r"^\| (.+?) \| ", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    return [message for cell in cells for message in re.findall(r"`([^`]{12,})`", cell)]


def spoken() -> str:
    """All strings of the program, joined; what a message fills in is an ellipsis."""

    class Strings(ast.NodeVisitor):
        def __init__(self) -> None:
            self.found: list[str] = []

        def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
            self.found.append("".join(v.value if isinstance(v, ast.Constant) else "..." for v in node.values))

        def visit_Constant(self, node: ast.Constant) -> None:
            if isinstance(node.value, str):
                self.found.append(re.sub(r"%\.?\d*[sdf]", "...", node.value))

    strings = Strings()
    for path in [*(ROOT / "src").rglob("*.py"), *ROOT.glob("*.py")]:
        strings.visit(ast.parse(path.read_text(encoding="utf-8")))
    return "\n".join(strings.found)


@pytest.fixture(scope="module")
def program() -> str:
    return spoken()


@pytest.mark.parametrize("message", quoted())
def test_troubleshooting_quotes_the_program(message: str, program: str) -> None:
    for part in message.split("..."):
        if len(part.strip()) >= 4 and not any(part.strip() in foreign or foreign in part for foreign in FOREIGN):
            assert part.strip() in program, part


def test_the_makefile_says_what_troubleshooting_quotes_of_it() -> None:
    assert "Python >= 3.11 is needed" in Path(ROOT / "Makefile").read_text()
