"""What the page on exports has AOTInductor compile refuses shapes that it would compute wrongly."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.export.made import save
from umamba.export.given import read_given
from umamba.export.traced import write_torch_export
from umamba.locations import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt" or shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler"),
]
ASK = """
for shape in {shapes}:
    try:
        print(len(network(torch.zeros(shape))))
    except RuntimeError:
        print("refused")
"""


@pytest.mark.parametrize(
    ("fixed_size", "shapes"),
    [
        (True, [(1, 2, 32, 32), (2, 2, 32, 32), (1, 2, 40, 32), (1, 1, 32, 32), (1, 2, 32, 31)]),
        (False, [(1, 2, 32, 32), (2, 2, 48, 32), (1, 2, 33, 32), (1, 1, 32, 32), (1, 2, 32, 31)]),
    ],
)
def test_the_pages_code_checks_its_input(fixed_size: bool, shapes: list[tuple[int, ...]], tmp_path: Path) -> None:
    source = read_given(str(save(tmp_path / "net.ckpt", "model=nnunet", configuration="2d", patch=(32, 32))))
    write_torch_export(source, tmp_path / "liver.pt2", fixed_size=fixed_size)
    page = (ROOT / "docs" / "how_to" / "export.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n((?:(?!```).)*aoti_compile(?:(?!```).)*)```", page, re.DOTALL)
    (tmp_path / "page.py").write_text(code + ASK.format(shapes=shapes))
    done = subprocess.run(
        [sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.stdout.split() == ["1", "2", "refused", "refused", "refused"], f"{done.stdout}\n{done.stderr[-3000:]}"
