"""The cells of the notebooks run in order, and say what their text says; they are kept without outputs."""

from __future__ import annotations

import ast
import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from miniatures import TINY
from pages import ROOT, blocks

from tests import warm_start
from tests.inference.small import make_plan, save_checkpoint, write_image

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TRACKED = {"execution_count": None, "outputs": []}


def code_of(notebook: Path) -> list[str]:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def run(cells: list[str], names: dict) -> list:
    """Execute cells; the values of those that end with an expression."""
    shown = []
    for cell in cells:
        tree = ast.parse(cell)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), names)
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
    return shown


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_not_kept(notebook: Path) -> None:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert content["nbformat"] == 4 and len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            assert {key: cell[key] for key in TRACKED} == TRACKED


@pytest.mark.parametrize("channels", [("CT",), ("T1", "T2")])
def test_an_array_is_segmented(channels: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a checkpoint of one and of two channels."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "MPLBACKEND", "Agg")
    save_checkpoint(tmp_path / "last.ckpt", make_plan(channels, classes=3))
    names: dict = {}
    shown = run(code_of(ROOT / "notebooks" / "segment_an_array.ipynb"), names)
    plan, shape, volumes, same, share = shown
    assert plan[:2] == (channels, {"background": 0, "class_1": 1, "class_2": 2})
    assert shape == ((24, 40, 44), np.dtype(np.uint8)) and len(np.unique(names["label"])) > 1
    assert sum(volumes.values()) == pytest.approx(24 * 40 * 44 * 1.6 / 1000)
    assert same == (True, True) and 0.5 < share < 1
    assert names["probabilities"].shape == (3, 24, 40, 44) and names["probabilities"].dtype == np.float16
    written = sitk.ReadImage(tmp_path / "segmented.nii.gz")
    np.testing.assert_allclose(written.GetSpacing(), (0.8, 0.8, 2.5), rtol=1e-6)
    names["plt"].close("all")


def forked(line: list, check: bool, stdout: int) -> None:
    """In the place of subprocess.run, with imports that are there."""
    ended = warm_start.run(*line[1:])
    assert check and stdout == subprocess.DEVNULL and ended.returncode == 0, ended.stderr


def test_two_mixers_are_trained_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With networks and epochs of a few seconds."""
    (tmp_path / "train.py").symlink_to(ROOT / "train.py")
    monkeypatch.chdir(tmp_path)
    for name, value in {"MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "UMAMBA_ROOT": str(tmp_path)}.items():
        monkeypatch.setitem(os.environ, name, value)
    first, *others = code_of(ROOT / "notebooks" / "compare_two_mixers.ipynb")
    names: dict = {}
    run([first], names)
    names |= {"checkout": ROOT, "subprocess": SimpleNamespace(run=forked, DEVNULL=subprocess.DEVNULL)}
    with_pictures = [setting for setting in TINY if not setting.startswith("callbacks.")]
    names["settings"] = ["data=phantom", *with_pictures, "data.patch_size=[16,32,32]"]
    files, _, scores, difference, page = run(others, names)
    assert {"metrics.csv", "tables", "train.log", "progress.png"} <= set(files)
    assert len(scores) == 4 and set(scores) == {"s6", "gated_conv", "difference"}
    assert difference[0] == pytest.approx((names["scores"]["gated_conv"] - names["scores"]["s6"]).mean())
    assert {len(curve) for curve in names["curves"].values()} == {2}
    text = page.read_text(encoding="utf-8")
    assert "gated_conv" in text and "s6" in text
    names["plt"].close("all")


def test_the_lines_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the README and of the page on prediction, which say the same."""
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "last.ckpt", make_plan(classes=3))
    image = write_image(tmp_path / "images" / "a.nii.gz")
    array = sitk.GetArrayFromImage(sitk.ReadImage(image))
    (three,) = [block.text for block in blocks(ROOT / "README.md") if "import Predictor" in block.text]
    names: dict = {"array": array}
    run([three], names)
    assert len(three.strip().splitlines()) <= 4 and names["label"].shape == array.shape
    (page,) = [block.text for block in blocks(ROOT / "docs/how_to/predict.md") if "import Predictor" in block.text]
    more: dict = {"array": array, "image": sitk.ReadImage(image)}
    run([page], more)
    assert more["label"].GetSize() == more["image"].GetSize()
    assert more["probabilities"].GetNumberOfComponentsPerPixel() == 3
    assert (tmp_path / "predictions" / "a.nii.gz").is_file()
