"""A bundle predicts as what it was made of, and says when it was changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.export.made import RULE, save, save_folds
from tests.inference.small import write_image
from tests.miniatures import run
from umamba.export.given import read_given, read_licence
from umamba.files import content_hash, write_json
from umamba.inference.averaged import predictor_of
from umamba.inference.bundle import bundle_in, read_bundle, write_bundle
from umamba.inference.bundled import predictor_of_bundle
from umamba.inference.predictor import Predictor
from umamba.inference.rules import KEY, rules_to_plain
from umamba.models.checkpoint import load_checkpoint
from umamba.raw.readers import read_label


def bundle(checkpoint: Any, path: Path, **options: Any) -> Path:
    write_bundle(read_given(checkpoint, **options), path)
    return path


def images(folder: Path) -> list[Path]:
    return [
        write_image(folder / "images" / f"case_{channel:04d}.nii.gz", (18, 17, 16), seed=channel) for channel in (0, 1)
    ]


def test_one_network_is_a_checkpoint_without_optimiser(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "last.ckpt", "model=umamba_bot")
    path = bundle(str(checkpoint), tmp_path / "out" / "b.ckpt")
    assert path.stat().st_size < 0.6 * checkpoint.stat().st_size
    stored = torch.load(path, weights_only=True)
    assert not {"optimizer_states", "callbacks"} & set(stored) and stored["epoch"] == 7
    load_checkpoint(path)  # what eval.py does
    files = images(tmp_path)
    expected, _ = Predictor.from_checkpoint(checkpoint, "cpu").predict(files)
    predictor, decided = predictor_of_bundle(path, device="cpu")
    assert not decided
    np.testing.assert_array_equal(predictor.predict(files)[0], expected)
    np.testing.assert_array_equal(Predictor.from_checkpoint(path, "cpu").predict(files)[0], expected)


def test_folds_and_their_rules_are_one_file(tmp_path: Path) -> None:
    folder, files = save_folds(tmp_path / "cv", "model=nnunet"), images(tmp_path)
    path = bundle(str(folder), tmp_path / "b.ckpt", licence={"identifier": "CC-BY-4.0"})
    for postprocessing in (True, False):
        options: dict[str, Any] = {"device": "cpu", "postprocessing": postprocessing}
        expected = predictor_of(folder / "ensemble.json", **options)
        found, decided = predictor_of_bundle(path, **options)
        assert decided and found.rules == expected.rules and bool(found.rules) == postprocessing
        np.testing.assert_array_equal(found.predict(files)[0], expected.predict(files)[0])
    assert read_bundle(path).licence == {"identifier": "CC-BY-4.0"}
    again = bundle(str(path), tmp_path / "again.ckpt")
    assert read_bundle(again).licence == {"identifier": "CC-BY-4.0"}
    assert read_bundle(again).rules == read_bundle(path).rules
    with pytest.raises(ValueError, match=r"b\.ckpt is a bundle of several networks, where one is asked for"):
        load_checkpoint(path)


def test_the_command_and_what_reads_its_file(tmp_path: Path) -> None:
    folder, files = save_folds(tmp_path / "cv", "model=nnunet"), images(tmp_path)
    (tmp_path / "LICENSE.txt").write_text("Mine.\n")
    said = run(
        "src/__main__.py", "export", f"checkpoint={folder}", "output=b.ckpt", "licence=LICENSE.txt", folder=tmp_path
    )
    assert "b.ckpt: " in said and "2 networks; licence LICENSE.txt." in said and "Error executing" not in said
    said = run("predict.py", "checkpoint=b.ckpt", "input=images", "output=p", "device=cpu", folder=tmp_path)
    assert "2 of nnunet (3d_fullres), by umamba-lightning" in said and "the largest component is kept of ball" in said
    expected, _ = predictor_of(folder / "ensemble.json", device="cpu").predict(files)
    np.testing.assert_array_equal(read_label(tmp_path / "p" / "case.nii.gz")[0], expected)
    said = run(
        "predict.py", "checkpoint=b.ckpt", "input=images", "output=q", "device=cpu", "postprocessing=false",
        folder=tmp_path,
    )  # fmt: skip
    assert "largest component" not in said
    said = run("src/__main__.py", "export", f"checkpoint={folder}", "output=b.ckpt", folder=tmp_path, ok=False)
    assert said == "output=b.ckpt is there already. Give another name, or overwrite=true to replace it.\n"


def test_rules_from_a_file_and_none(tmp_path: Path) -> None:
    folder = save_folds(tmp_path / "cv", "model=nnunet", folds=1)
    write_json({KEY: rules_to_plain([RULE, RULE])}, tmp_path / "rules.json")
    given = read_given(str(folder), postprocessing=str(tmp_path / "rules.json"))
    assert given.rules is not None and len(given.rules) == 2
    assert read_given(str(folder), postprocessing=False).rules is None
    with pytest.raises(ValueError, match=r"it is False for checkpoints that have none"):
        read_given(str(folder / "fold_0" / "checkpoints" / "last.ckpt"), postprocessing=False)


def changed_weight(content: dict[str, Any]) -> None:
    next(iter(content["state_dict"].values())).flatten()[0] += 1


def changed_plan(content: dict[str, Any]) -> None:
    content["plan"]["intensities"][0]["mean"] = 5.0


def changed_cases(content: dict[str, Any]) -> None:
    content["cases"] = {"trained_on": {}}


def changed_epoch(content: dict[str, Any]) -> None:
    content["epoch"] = 999


def changed_rule(content: dict[str, Any]) -> None:
    content["bundle"][KEY] = []


def newer(content: dict[str, Any]) -> None:
    content["bundle"]["version"] = 3


def one_too_many(content: dict[str, Any]) -> None:
    content["members"] = [dict(content), dict(content)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (changed_weight, r"weights_sha256 of last\.ckpt was changed after it was made"),
        (changed_plan, r"plan of last\.ckpt was changed"),
        (changed_cases, r"origin of last\.ckpt was changed"),
        (changed_epoch, r"origin of last\.ckpt was changed"),
        (changed_rule, r"its record was changed"),
        (newer, r"its version is 3, this program reads 1 and 2"),
        (one_too_many, r"it lists 1 networks and holds 2"),
        (lambda content: content.__setitem__("bundle", [1]), r"is no bundle"),
        (lambda content: content["bundle"].pop("groups"), r"its record was changed"),
    ],
)
def test_a_bundle_that_was_changed_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    path = bundle(str(save(tmp_path / "last.ckpt", "model=nnunet")), tmp_path / "b.ckpt")
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        read_bundle(path)


def test_a_bundle_without_the_hash_of_its_origin_is_read(tmp_path: Path) -> None:
    path = bundle(str(save(tmp_path / "last.ckpt", "model=nnunet")), tmp_path / "b.ckpt")
    content = torch.load(path, weights_only=True)
    record = content["bundle"]
    del record["groups"][0]["members"][0]["origin"], record["hash"]  # as they were once written
    torch.save({**content, "bundle": record | {"hash": content_hash(record)}}, path)
    assert [len(sources) for sources in read_bundle(path).groups.values()] == [1]


def test_only_a_bundle_is_taken_for_one(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "last.ckpt", "model=nnunet")
    path = bundle(str(checkpoint), tmp_path / "b.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(path.read_bytes()[:-100])
    assert bundle_in(str(path)) == path
    assert [bundle_in(str(one)) for one in (checkpoint, tmp_path, tmp_path / "cut.ckpt", None)] == [None] * 4
    assert bundle_in([str(checkpoint)] * 2) is None
    with pytest.raises(ValueError, match=r"b\.ckpt in a list of checkpoints: a bundle is predicted with by itself"):
        bundle_in([str(checkpoint), str(path)])


@pytest.mark.parametrize(
    "text", ["MIT", "CC-BY-NC-4.0", "GPL-2.0+ WITH Classpath-exception-2.0", "(MIT OR Apache-2.0)"]
)
def test_licences_by_identifier(text: str) -> None:
    assert read_licence(text) == {"identifier": text}


@pytest.mark.parametrize("text", ["", "all rights reserved", "LICENCE.md", "no/such/file", "MIT\n"])
def test_licences_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"is neither a file nor an SPDX identifier"):
        read_licence(text)


def test_no_bundle_of_a_diverged_network(tmp_path: Path) -> None:
    checkpoint = save(tmp_path / "last.ckpt", "model=nnunet")
    content = torch.load(checkpoint, weights_only=True)
    next(iter(content["state_dict"].values())).flatten()[0] = float("nan")
    torch.save(content, checkpoint)
    with pytest.raises(ValueError, match=r"holds NaN or infinite weights"):
        read_given(str(checkpoint))
