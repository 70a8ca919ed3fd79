"""The Python examples of the documentation compile and import what exists; those without files of their own run."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest
import torch
from pages import PAGES, ROOT, Block, blocks, name_of

EXAMPLES = [(page, block) for page in PAGES for block in blocks(page) if block.language == "python"]
# Sizes that a user would take -> sizes for a test.
SMALLER = {"(32, 64, 128, 256, 320)": "(4, 4, 6, 6, 8)", "64, 96, 96": "16, 16, 32", "32, 32, 32": "16, 16, 32"}


def label(example: tuple[Path, Block]) -> str:
    return f"{name_of(example[0])}-{example[1].text.splitlines()[0][:30]}"


@pytest.mark.parametrize("example", EXAMPLES, ids=label)
def test_examples_compile_and_import_what_exists(example: tuple[Path, Block]) -> None:
    page, block = example
    for node in ast.walk(ast.parse(block.text, name_of(page))):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)


def run(page: str, first_line: str) -> dict:
    (block,) = [b for p, b in EXAMPLES if name_of(p) == page and first_line in b.text]
    text = block.text
    for large, small in SMALLER.items():
        text = text.replace(large, small)
    names: dict = {}
    exec(compile(text, page, "exec"), names)
    return names


@pytest.mark.parametrize("page", ["README.md", "docs/networks.md"])
def test_the_network_alone(page: str) -> None:
    names = run(page, "import UMamba")
    assert names["logits"].shape == (1, 14, 16, 16, 32)


def test_the_block_alone() -> None:
    assert run("docs/reference/api/mamba.md", "import Mamba")["y"].shape == torch.Size((2, 100, 32))


def test_the_metrics_alone() -> None:
    names = run("docs/reference/api/evaluation.md", "count_overlap")
    assert names["dice"] == pytest.approx(7 / 8) and names["nsd"] == 1.0
    assert "1.0" in (ROOT / "docs/reference/api/evaluation.md").read_text()
