"""Graphs of torch.export and ONNX give the network's outputs, say what they take, and are refused where they do not."""

from __future__ import annotations

import dataclasses
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.export.made import save, save_folds
from tests.miniatures import run
from umamba.export import onnx_file, traced
from umamba.export.given import read_given
from umamba.export.onnx_file import PACKAGES, check_packages, write_onnx
from umamba.export.place import check_suffix
from umamba.export.traced import FACTS, Traced, write_torch_export
from umamba.models.checkpoint import load_checkpoint, network_from_checkpoint

missing = [name for name in PACKAGES if find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed (extra `export`)")

# Overrides, configuration, patch, whether any size is taken
ANY = [
    ("model=nnunet", "2d", None),
    ("model=resenc", "3d_fullres", None),
    ("model=umamba_enc model.network.mixer=gated_conv", "2d", None),
]
FIXED = [
    ("model=umamba_bot", "3d_fullres", None),
    ("model=umamba_enc model.network.variant=repo", "2d", None),
    pytest.param("model=umamba_enc model.network.mixer=ssd", "2d", None, marks=pytest.mark.slow),
    pytest.param("model=umamba_enc model.network.order=tri_oriented", "2d", None, marks=pytest.mark.slow),
    pytest.param(
        "model=unetr +model.network.hidden_size=24 +model.network.mlp_dim=32", "2d", (32, 32), marks=pytest.mark.slow
    ),
    pytest.param("model=swinunetr +model.network.feature_size=12", "3d_fullres", (64, 64, 64), marks=pytest.mark.slow),
]
SSD_IN_3D = ("model=umamba_bot model.network.mixer=ssd", "3d_fullres", None)


def given(path: Path, overrides: str, configuration: str, patch: tuple[int, ...] | None) -> Any:
    return read_given(str(save(path, *overrides.split(), configuration=configuration, patch=patch)))


@pytest.mark.parametrize(("overrides", "configuration", "patch"), ANY)
def test_of_any_size(overrides: str, configuration: str, patch: Any, tmp_path: Path) -> None:
    source = given(tmp_path / "last.ckpt", overrides, configuration, patch)
    write_torch_export(source, tmp_path / "net.pt2")
    extra = {FACTS: ""}
    graph = torch.export.load(tmp_path / "net.pt2", extra_files=extra).module()
    network, plan = network_from_checkpoint(load_checkpoint(tmp_path / "last.ckpt"))
    dims = plan.configuration(configuration).spatial_dims
    facts = json.loads(extra[FACTS])
    assert facts["input"]["any_size"] and facts["input"]["multiple_of"] == [4] * dims
    for size in (facts["input"]["at_least"], [12, 20, 16][:dims]):
        image = torch.randn(3, 2, *size)
        with torch.no_grad():
            torch.testing.assert_close(graph(image), network(image), rtol=0, atol=1e-4)
    beside = json.loads((tmp_path / "net.pt2.json").read_text())
    assert beside["checked"]["largest_difference"] < 1e-4 and beside["input"] == facts["input"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "net.pt2", "net.pt2.json"]


@pytest.mark.parametrize(("overrides", "configuration", "patch"), FIXED)
def test_of_the_patch_alone(overrides: str, configuration: str, patch: Any, tmp_path: Path) -> None:
    source = given(tmp_path / "last.ckpt", overrides, configuration, patch)
    made = Traced(source)
    assert not made.any_size and made.shapes == {"any_size": False, "size": list(made.patch)}
    assert not any("umamba" in str(node.target) for node in made.program.graph.nodes)  # nothing of ours is needed
    image = torch.randn(2, 2, *made.patch)
    with pytest.raises(AssertionError, match="Guard failed"):  # of another size nothing is computed
        made.program.module()(torch.randn(2, 2, *(2 * size for size in made.patch)))
    with torch.no_grad():
        torch.testing.assert_close(made.program.module()(image), made.network(image), rtol=0, atol=1e-4)


def test_what_it_says_of_itself(tmp_path: Path) -> None:
    source = given(tmp_path / "last.ckpt", "model=nnunet", "3d_fullres", None)
    facts = Traced(dataclasses.replace(source, licence={"identifier": "MIT"}), fixed_size=True).facts
    assert [channel["name"] for channel in facts["input"]["channels"]] == ["MR", "MR2"]
    assert facts["input"]["channels"][0]["normalization"] == "ZScoreNormalization"
    assert facts["input"]["preprocessing"]["spacing_mm"] == [1.0, 1.0, 1.0]
    assert facts["output"]["classes"] == ["background", "ball", "cube"]
    assert facts["licence"] == {"identifier": "MIT"} and len(facts["hashes"]["weights_sha256"]) == 64


def test_a_graph_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = given(tmp_path / "last.ckpt", "model=nnunet", "2d", None)
    difference = Traced._difference
    monkeypatch.setattr(Traced, "_difference", lambda self, read, size: 2e-4 + difference(self, read, size))
    with pytest.raises(ValueError, match=r"differ from the network's by 2\.0e-04 of the largest, more than 0\.0001"):
        write_torch_export(source, tmp_path / "net.pt2", fixed_size=True)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("found", [[float("nan"), 0.0], [0.0, float("nan")]])
def test_a_graph_that_gives_nan_for_one_size_is_not_written(found: list[float], tmp_path: Path, monkeypatch) -> None:
    source, left = given(tmp_path / "last.ckpt", "model=nnunet", "2d", None), iter(found)
    monkeypatch.setattr(Traced, "_difference", lambda self, read, size: next(left))
    with pytest.raises(ValueError, match=r"differ from the network's by nan of the largest"):
        write_torch_export(source, tmp_path / "net.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_graph_never_lies_beside_the_facts_of_an_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = given(tmp_path / "last.ckpt", "model=nnunet", "2d", None)
    write_torch_export(source, tmp_path / "net.pt2", fixed_size=True)
    earlier = (tmp_path / "net.pt2").read_bytes()

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(traced, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        write_torch_export(
            dataclasses.replace(source, licence={"identifier": "MIT"}), tmp_path / "net.pt2", fixed_size=True
        )
    assert (tmp_path / "net.pt2").read_bytes() != earlier and not (tmp_path / "net.pt2.json").exists()


def test_a_graph_that_cannot_be_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = given(tmp_path / "last.ckpt", "model=nnunet", "2d", None)

    def broken(*args: Any) -> None:
        raise RuntimeError("We ran into an error")

    monkeypatch.setattr(torch.export, "load", broken)
    with pytest.raises(ValueError, match=r"cannot read the graph that it has written \(We ran.*fixed_size=true"):
        write_torch_export(source, tmp_path / "net.pt2")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_what_is_no_graph(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"A graph is of one network, and these are 2"):
        Traced(read_given(str(save_folds(tmp_path / "cv", "model=nnunet"))))
    with pytest.raises(ValueError, match=r"does not end in \.onnx"):
        check_suffix(tmp_path / "net.pt2", ".onnx", overwrite=False)
    (tmp_path / "net.onnx.json").touch()
    with pytest.raises(ValueError, match=r"net\.onnx\.json is there already"):
        check_suffix(tmp_path / "net.onnx", ".onnx", overwrite=False)


def test_onnx_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs onnx, onnxscript, onnxruntime.*umamba-lightning\[export\]"):
        check_packages()


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize(("overrides", "configuration", "patch"), [*ANY, *FIXED[:3], SSD_IN_3D])
def test_onnx_gives_the_same(overrides: str, configuration: str, patch: Any, tmp_path: Path) -> None:
    import onnx

    source = given(tmp_path / "last.ckpt", overrides, configuration, patch)
    write_onnx(source, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": onnx_file.OPSET}
    facts = json.loads({entry.key: entry.value for entry in model.metadata_props}["umamba"])
    assert facts["opset"] == onnx_file.OPSET and facts["input"]["any_size"] == (overrides in [each[0] for each in ANY])
    assert json.loads((tmp_path / "net.onnx.json").read_text())["checked"]["largest_difference"] < 1e-4
    network, plan = network_from_checkpoint(load_checkpoint(tmp_path / "last.ckpt"))
    image = torch.randn(1, 2, *plan.configuration(configuration).patch_size)
    with torch.no_grad():
        expected = network(image)
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(onnx_file._session(tmp_path / "net.onnx")(image), expected, rtol=0, atol=1e-4 * scale)


def test_the_command_writes_a_graph(tmp_path: Path) -> None:
    save(tmp_path / "last.ckpt", "model=nnunet", configuration="2d")
    asked = ("src/__main__.py", "export", "checkpoint=last.ckpt", "format=torch_export")
    said = run(*asked, "output=net.pt2", "fixed_size=true", folder=tmp_path)
    assert "net.pt2 takes images of 16 x 16 alone" in said and (tmp_path / "net.pt2.json").is_file()
    said = run(*asked, "output=net.onnx", folder=tmp_path, ok=False)
    assert said == "output=net.onnx does not end in .pt2, by which this format is known. Add it.\n"
