"""Names from files of strangers: they stay names. Nothing outside is read, written or removed; pages escape them."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from harness import in_words, run, train_line
from PIL import Image
from test_attack_by_image import dataset, normal

TINY = ("trainer.max_epochs=1", "data=custom")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder that belongs to somebody else, beside everything that the commands are given."""
    folder = tmp_path / "victim" / "precious"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    return folder


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return dataset(tmp_path / "root" / "data" / "raw" / "Dataset800_Hostile", normal)


def unharmed(victim: Path) -> None:
    assert (victim / "thesis.txt").read_text() == "years of work"
    assert [path.name for path in victim.iterdir()] == ["thesis.txt"]


def commands(raw: Path, tmp_path: Path) -> dict[str, tuple[str, ...]]:
    at = ("data=custom", f"data.dataset_dir={raw}")
    run_line = train_line(tmp_path / "run", *TINY, f"data.dataset_dir={raw}", "fold=0")
    return {
        "train": run_line,
        "planning": ("-m", "umamba.planning", *at, "preprocess=3d_fullres", "workers=1", "base_features=2"),
        "doctor": ("-m", "umamba.datamodules.doctor", *at, "data.num_workers=0"),
    }


CASE_NAMES = ["../../victim/precious", "../victim", "..", "", "/etc/passwd", "a/b", ".hidden", "a\nb", "x" * 300]


@pytest.mark.parametrize("command", ["planning", pytest.param("train", marks=pytest.mark.slow)])
def test_case_names_in_the_description(raw: Path, victim: Path, tmp_path: Path, command: str) -> None:
    """dataset.json may list its cases by name."""
    content = json.loads((raw / "dataset.json").read_text())
    files = sorted(path.name.removesuffix("_0000.nii.gz") for path in (raw / "imagesTr").iterdir())
    for name in CASE_NAMES if command == "train" else CASE_NAMES[:2]:
        listed = {
            name if index == 0 else file: {
                "images": [f"imagesTr/{file}_0000.nii.gz"],
                "label": f"labelsTr/{file}.nii.gz",
            }
            for index, file in enumerate(files)
        }
        (raw / "dataset.json").write_text(json.dumps(content | {"dataset": listed}))
        output = run(*commands(raw, tmp_path)[command], ok=False, folder=raw.parent.parent.parent)
        in_words(output)
        assert "dataset.json" in output, output[-3000:]
        unharmed(victim)


@pytest.mark.parametrize(
    "identifier", ["../home", pytest.param("", marks=pytest.mark.slow), pytest.param("..", marks=pytest.mark.slow)]
)
def test_the_store_of_an_edited_plan(raw: Path, tmp_path: Path, identifier: str) -> None:
    root = raw.parent.parent.parent
    line = commands(raw, tmp_path)["planning"]
    run(*line, folder=root)
    prepared = root / "data" / "prepared" / raw.name
    neighbour = prepared.parent / "home" / "project"
    neighbour.mkdir(parents=True)
    (neighbour / "thesis.txt").write_text("years of work")
    plan = json.loads((prepared / "plan.json").read_text())
    for configuration in plan["configurations"].values():
        configuration["data_identifier"] = identifier
    (prepared / "plan.json").write_text(json.dumps(plan))
    stores = sorted(path for path in prepared.iterdir() if path.is_dir())
    output = run(*line, ok=False, folder=root)
    in_words(output)
    assert "data_identifier" in output, output[-3000:]
    assert (neighbour / "thesis.txt").is_file()
    assert sorted(path for path in prepared.iterdir() if path.is_dir()) == stores


@pytest.mark.slow
@pytest.mark.parametrize(
    "split",
    [
        {"train": ["../../victim/precious"], "val": ["sound_0x"]},
        {"train": ["sound_0x", "sound_1x"], "val": ["sound_1x", "sound_2x"]},
        {"train": ["sound_0x", "sound_0x"], "val": ["sound_2x"]},
        {"train": [], "val": ["sound_2x"]},
        {"train": [["sound_1x"]], "val": [3]},
    ],
    ids=["path", "both", "twice", "none", "types"],
)
def test_names_in_the_splits(raw: Path, victim: Path, tmp_path: Path, split: dict) -> None:
    (raw / "splits_final.json").write_text(json.dumps([split]))
    output = run(*commands(raw, tmp_path)["train"], ok=False, folder=raw.parent.parent.parent)
    assert "splits_final.json" in output, output[-3000:]
    in_words(output)
    assert not (tmp_path / "run" / "checkpoints").exists()
    unharmed(victim)


@pytest.mark.slow
def test_other_stores_and_foreign_files_stay(raw: Path, tmp_path: Path) -> None:
    """What the project did not write into the prepared folder is not removed by a preparation."""
    root, line = raw.parent.parent.parent, commands(raw, tmp_path)["planning"]
    run(*line, folder=root)
    prepared = root / "data" / "prepared" / raw.name
    (store,) = {path.parent.parent for path in prepared.glob("*/*/case.json")}
    foreign = [prepared / "notes" / "a.txt", store / "mine" / "b.txt", store / "c.txt"]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    (raw / "imagesTr" / "hostile_0000.nii.gz").unlink()  # a case goes: the preparation has to tidy up
    (raw / "labelsTr" / "hostile.nii.gz").unlink()
    run(*line, folder=root)
    assert all(path.is_file() for path in foreign)


SCRIPT = "<script>alert(1)</script>"


@pytest.mark.slow
def test_html_in_names(raw: Path, tmp_path: Path) -> None:
    """Classes, cases, data set and network with HTML in their names: escaped in the report, or refused before."""
    content = json.loads((raw / "dataset.json").read_text())
    content |= {"labels": {"background": 0, "<img src=x onerror=alert(2)>": 1}, "name": SCRIPT.replace("/", "")}
    (raw / "dataset.json").write_text(json.dumps(content))
    for image in ("imagesTr/sound_0x_0000", "labelsTr/sound_0x"):
        (raw / f"{image}.nii.gz").rename(raw / f"{image.replace('sound_0x', 'a<b onload=x>&')}.nii.gz")
    root = raw.parent.parent.parent
    line = list(commands(raw, tmp_path)["train"])
    output = run(*line[:-1], "model_name='<b>mine</b>'", f"data_name='{SCRIPT}'", line[-1], ok=None, folder=root)
    if not (tmp_path / "run" / "tables" / "run.json").is_file():
        in_words(output)
        assert "onerror" in output or "onload" in output, output[-3000:]
        return
    run("-m", "umamba.evaluation.report", f"runs={tmp_path / 'run'}", f"output={tmp_path / 'report'}", folder=root)
    page = (tmp_path / "report" / "report.html").read_text()
    for raw_name in (SCRIPT, "<img src=x", "<b>mine", "<b onload"):
        assert raw_name not in page, f"{raw_name} stands unescaped in the report"
    assert "&lt;script&gt;" in page


def picture(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), value, np.uint8)).save(stream, "png")
    return stream.getvalue()


def evil_zip(path: Path, name: str, link: str | None = None) -> None:
    """An archive of nuclei with one member of a hostile name, perhaps a link."""
    with zipfile.ZipFile(path, "w") as archive:
        for case in ("one", "two"):
            for part in ("images", "masks"):
                archive.writestr(f"stage1_train/{case}/{part}/{case}.png", picture(255 if part == "masks" else 90))
        member = zipfile.ZipInfo(name)
        if link:
            member.external_attr = 0o120777 << 16
        archive.writestr(member, link or "owned")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("../../victim/precious/thesis.txt", None), ("stage1_train/../../../victim/precious/new.png", None),
        ("{root}/victim/precious/new.png", None), ("stage1_train/link", "{root}/victim"),
        ("stage1_train/one/images/evil.png", "{root}/victim/precious/thesis.txt"),
        ("..\\..\\victim\\precious\\thesis.txt", None),
    ],
)  # fmt: skip
def test_archives_do_not_reach_outside(victim: Path, tmp_path: Path, name: str, link: str | None) -> None:
    archive, root = tmp_path / "stage1_train.zip", tmp_path / "root"
    root.mkdir()
    evil_zip(archive, name.format(root=tmp_path), link.format(root=tmp_path) if link else None)
    line = (
        "-m",
        "umamba.datamodules.prepare",
        "data=nuclei",
        f"source={archive}",
        "incomplete=true",
        "data.num_workers=0",
    )
    output = run(*line, ok=None, folder=root)
    in_words(output)
    unharmed(victim)
    assert not any("years" in path.read_text(errors="ignore") for path in root.rglob("*") if path.is_file())


@pytest.mark.slow
def test_tar_archives_do_not_reach_outside(victim: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    archive = tmp_path / "Task04_Hippocampus.tar"
    with tarfile.open(archive, "w") as tar:
        for name, link in (("Task04_Hippocampus/imagesTr", str(victim)), ("../victim/precious/new.txt", None)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = (tarfile.SYMTYPE, link) if link else (tarfile.REGTYPE, "")
            tar.addfile(member)
        member = tarfile.TarInfo("Task04_Hippocampus/imagesTr/thesis.txt")
        tar.addfile(member)
    line = ("-m", "umamba.datamodules.prepare", "data=hippocampus", f"source={archive}", "incomplete=true")
    in_words(run(*line, ok=False, folder=root))
    unharmed(victim)
    shutil.rmtree(root)
