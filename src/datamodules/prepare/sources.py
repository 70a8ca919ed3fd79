"""Data as their owners distribute them: folders or archives, perhaps nested, perhaps incomplete."""

from __future__ import annotations

import logging
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from rich.progress import track

from umamba.files import atomic_file

log = logging.getLogger(__name__)

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


def is_hidden(path: PurePosixPath | Path) -> bool:
    """Whether macOS or an editor left this: `._name`, `.DS_Store`, anything below `__MACOSX`."""
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in path.parts)


def unpack(archive: Path, folder: Path, wanted: Callable[[str], bool] = lambda name: True) -> Path:
    """Unpack the wanted files of a zip or tar into `folder`; files already there with the right size are kept.

    Args:
        archive: .zip, .tar, .tar.gz or .tgz.
        folder: where the files go, under their paths in the archive.
        wanted: whether a member, given its path in the archive, is needed. Hidden files never are.

    Raises:
        ValueError: the archive is truncated or damaged, or a member would land outside `folder`.
    """
    try:
        if archive.name.endswith(".zip"):
            with zipfile.ZipFile(archive) as zipped:
                sizes = {info.filename: info.file_size for info in zipped.infolist() if not info.is_dir()}
                _extract(sizes, zipped.open, folder, wanted, archive.name)
        else:
            with tarfile.open(archive) as tarred:
                members = {member.name: member for member in tarred.getmembers() if member.isfile()}
                sizes = {name: member.size for name, member in members.items()}
                _extract(sizes, lambda name: tarred.extractfile(members[name]), folder, wanted, archive.name)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, tarfile.TarError):
            raise  # the disk's fault, not the archive's
        raise ValueError(f"{archive} is truncated or damaged ({error}): fetch it again") from error
    return folder


def _extract(sizes: dict[str, int], open_member: Callable, folder: Path, wanted: Callable, title: str) -> None:
    names = [name for name in sizes if wanted(name) and not is_hidden(PurePosixPath(name))]
    for name in track(names, f"unpacking {title}"):
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{title}: member {name} points outside the archive; do not trust this file")
        if path.is_file() and path.stat().st_size == sizes[name]:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as beside, open_member(name) as member, beside.open("wb") as file:
            shutil.copyfileobj(member, file, 1 << 20)


@contextmanager
def opened(
    source: Path, scratch: Path, archives: Sequence[str] = ("*",), wanted: Callable[[str], bool] = lambda name: True
) -> Iterator[list[Path]]:
    """The folders that hold the data: `source` itself, and its archives unpacked into `scratch` (removed after use).

    Args:
        source: folder with the data or with archives of them, or one archive.
        scratch: folder for what is unpacked; stays if the block fails, so that the next attempt need not unpack again.
        archives: patterns of the archive names to unpack. An archive whose unpacked folder lies beside it is left.
        wanted: as for `unpack`.

    Raises:
        FileNotFoundError: `source` does not exist.
        ValueError: `source` is a file but no archive, or an archive is damaged.
    """
    if not source.exists():
        raise FileNotFoundError(f"source={source} does not exist: give the folder or archive that you downloaded")
    if source.is_file():
        if not source.name.endswith(ARCHIVES):
            raise ValueError(f"source={source} is a file but none of {', '.join(ARCHIVES)}")
        found, roots = [source], []
    else:
        found = sorted(
            path
            for path in source.iterdir()
            if path.name.endswith(ARCHIVES)
            and any(fnmatch(path.name.lower(), f"{pattern.lower()}.*") for pattern in archives)
            and not (source / path.name.split(".")[0]).is_dir()
        )
        roots = [source]
    for archive in found:
        roots.append(unpack(archive, scratch / archive.name.split(".")[0], wanted))
    yield roots
    shutil.rmtree(scratch, ignore_errors=True)


def find_files(roots: Sequence[Path], *patterns: str) -> list[Path]:
    """Files below `roots` whose path ends like one of `patterns` (e.g. "images/*.nii.gz"), sorted, hidden ones left."""
    found = {
        path
        for root in roots
        for pattern in patterns
        for path in root.rglob(pattern)
        if path.is_file() and not is_hidden(path.relative_to(root))
    }
    return sorted(found)


def check_count(found: int, expected: int, what: str, source: Path, *, incomplete: bool = False) -> None:
    """Refuse a set that lacks files, the usual fault of a download (else ValueError)."""
    if found == expected:
        return
    message = f"{source}: expected {expected} {what}, found {found}"
    if found == 0 or not incomplete:
        raise ValueError(f"{message}. Is the download complete? incomplete=true takes what is there")
    log.warning("%s; going on as incomplete=true asks", message)
