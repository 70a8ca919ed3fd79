"""Where an export goes: what must not be replaced, and what may be."""

from __future__ import annotations

import mmap
import re
import shutil
from pathlib import Path

from umamba.export.facts import PACKAGE
from umamba.files import check_takes_files
from umamba.inference.bundle import bundle_in

SUFFIXES = {"torch_export": ".pt2", "onnx": ".onnx"}  # of the files that are no bundles
_OF_A_MODEL_FOLDER = re.compile(
    r"plans\.json|dataset\.json|export\.json|LICENSE|fold_(?:\d+|all)/checkpoint_final\.pth"
)


def check_place(output: Path, checkpoint: str | list[str], *, folder: bool, overwrite: bool) -> None:
    """See that the output can be written, before anything is read.

    Raises:
        ValueError: It is what is read, is there already, is of the other kind, or is no export's; or the folder that it
            goes into cannot be written to.
    """
    for one in [checkpoint] if isinstance(checkpoint, str) else checkpoint:
        if output.resolve() == Path(one).resolve():
            raise ValueError(f"output={output} would replace checkpoint={one}. Give another output.")
    if output.is_dir() != folder and output.exists():
        kind, other = ("a folder", "a file") if folder else ("a file", "a folder")
        raise ValueError(f"output={output} is {other}; this format writes {kind}. Give another name.")
    if output.exists() and not overwrite and not (folder and not any(output.iterdir())):
        raise ValueError(f"output={output} is there already. Give another name, or overwrite=true to replace it.")
    if not folder and output.exists() and not is_export(output):
        raise ValueError(f"output={output} is none that an export has written, and is not replaced. Give another name.")
    if folder and output.exists() and (others := _others(output)):
        raise ValueError(
            f"output={output} holds what no export has left there ({others[0]}), and is not replaced. Give "
            "another name."
        )
    check_takes_files(output.absolute().parent, "the folder of output")


def check_suffix(output: Path, suffix: str, *, overwrite: bool) -> None:
    """See that a graph's file has the ending of its format, and that the facts beside it replace nothing.

    Raises:
        ValueError: It has not, or they would.
    """
    if output.suffix != suffix:
        raise ValueError(f"output={output} does not end in {suffix}, by which this format is known. Add it.")
    facts = facts_beside(output)
    if facts.exists() and not overwrite:
        raise ValueError(f"{facts} is there already. Give another name, or overwrite=true to replace it.")
    if facts.exists() and not _names_us(facts):
        raise ValueError(f"{facts} is none that an export has written, and is not replaced. Give another name.")


def facts_beside(output: Path) -> Path:
    """Of an exported graph the file with its facts."""
    return output.with_name(f"{output.name}.json")


def is_export(file: Path) -> bool:
    """Whether an export has written a file, which says so itself."""
    return _names_us(file) if file.suffix in SUFFIXES.values() else bundle_in(str(file)) is not None


def _names_us(file: Path) -> bool:
    """Whether a file holds this program's name; no graph, facts or checkpoint of an export is compressed."""
    if not file.is_file() or file.stat().st_size == 0:  # of which there is no map
        return False
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(PACKAGE.encode()) >= 0


def clear_folder(output: Path) -> None:
    """Remove the model folder of an earlier export, that a new one takes its place; nothing else is touched.

    Raises:
        ValueError: It holds more by now.
    """
    if not output.exists():
        return
    if others := _others(output):
        raise ValueError(f"output={output} holds {others[0]}, which no export has left there.")
    shutil.rmtree(output)


def _others(folder: Path) -> list[str]:
    """Files that no export of a model folder has left there, as its checkpoints say."""
    names = [
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    ]
    ours = {name for name in names if name.endswith(".pth") and _names_us(folder / name)}
    others = [
        name for name in names if name not in ours and (name.endswith(".pth") or not _OF_A_MODEL_FOLDER.fullmatch(name))
    ]
    return others or ([] if ours else names)
