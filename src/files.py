"""Files that are whole or absent: written beside their place, then renamed, which the file system does in one step."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

log = logging.getLogger(__name__)

# in which outputs are written
OUTPUT_FOLDERS = ("", "predictions", "probabilities", "postprocessed", "tables", "figures")
_WRITERS = ".writers"  # file by which writers into a folder know of each other
_TRIES, _PAUSE = 20, 0.1  # s
_held: set[str] = set()  # output folders that this process holds
UNFINISHED = ".writing-"  # how the name of a file begins until it is whole
FULL = (errno.ENOSPC, errno.EDQUOT)
_PROBE_BYTES = 1 << 20  # more than the last blocks of a full disk take by chance


@contextmanager
def atomic_file(path: Path | str) -> Iterator[Path]:
    """Path to write to; it becomes `path` when the block ends, and is removed if the block raises.

    The name beside ends like `path`, for writers that choose the format by it, and is no other writer's: of two
    processes that write the same file the last one wins, whole. A writer that does not report a full disk (SimpleITK)
    needs a check of its own before the block ends; one that reports it in words of its own (torch, NumPy) does not.

    Raises:
        OSError: the disk is full or cannot be written to; the error names `path` and, of a full disk, says how much
            of the file it had room for.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{UNFINISHED}{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    try:
        yield beside
        _sync(beside)
        os.replace(beside, path)
    except (OSError, RuntimeError) as error:
        room = _room(beside)
        refusal = error if isinstance(error, OSError) and error.errno is not None else _refusal(beside)
        # Say the name that the user knows.
        if refusal is not None and refusal.errno is not None and refusal.filename in (None, str(beside)):
            reason = os.strerror(refusal.errno) + (room if refusal.errno in FULL else "")
            raise type(refusal)(refusal.errno, reason, str(path)) from error
        raise
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Folder to write into; it becomes `path`, which must not hold anything, when the block ends.

    If the block raises, nothing is left of it.

    Raises:
        OSError: the disk is full or cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{UNFINISHED}{os.getpid()}-{secrets.token_hex(4)}-{path.name}")
    beside.mkdir()
    try:
        yield beside
        os.replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_text(text: str, path: Path | str) -> None:
    """Write a text file (UTF-8) whole or not at all."""
    with atomic_file(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(content: object, path: Path | str) -> None:
    """Write JSON whole or not at all."""
    write_text(json.dumps(content, indent=2) + "\n", path)


def load_json(path: Path | str, fault: type[ValueError] = ValueError, advice: str = "Correct the file.") -> Any:
    """What a JSON file holds.

    Raises:
        FileNotFoundError: It is not there.
        ValueError: It is no JSON, or says something twice; a `fault`, which names the file and ends with `advice`.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"), object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise fault(f"{path} is not valid JSON ({error}). {advice}") from error


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Of a key that stands twice Python's reader takes the last in silence."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return content


def read_json(path: Path | str) -> dict[str, Any]:
    """The JSON object in a file that may be missing, cut off or something else, which all give an empty one.

    Raises:
        OSError: The file is there and cannot be read.
    """
    try:
        content = load_json(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def refuse_input(output: Path | str, inputs: Mapping[str, Path | str | None]) -> None:
    """See that a file to be written is none of those that are read, through links neither (else ValueError)."""
    output = Path(output)
    if output.is_dir():
        raise ValueError(f"output={output} is a folder; expected the name of a file.")
    for name, path in inputs.items():
        if path is None:
            continue
        same = output.samefile(path) if output.exists() and Path(path).exists() else False
        if same or output.resolve() == Path(path).resolve():
            raise ValueError(f"output={output} would replace {name}={path}. Give another output.")


def check_takes_files(folder: Path | str, key: str) -> None:
    """See that a folder can be made, or is there and can be written to (else ValueError); nothing is left.

    A full disk is none of the faults: there may be room by the time that something is written.
    """
    folder = Path(os.path.abspath(folder))
    there = next(one for one in (folder, *folder.parents) if os.path.lexists(one))
    reason = f"{there} is no folder"
    if there.is_symlink() and not there.exists():
        reason = f"{there} is a link to nothing"
    elif there.is_dir():
        probe = there / f"{UNFINISHED}{os.getpid()}-{secrets.token_hex(4)}"
        try:
            probe.mkdir()
            probe.rmdir()
            return
        except OSError as error:
            if error.errno in FULL:
                return
            reason = f"nothing can be made in {there} ({os.strerror(error.errno or 0)})"
    raise ValueError(f"{key}={folder} cannot be written to: {reason}. Give another place.")


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes were writing into a folder; only for one who holds the folder's lock."""
    for beside in folder.glob(f"{UNFINISHED}*"):
        if beside.is_file():
            beside.unlink(missing_ok=True)


@contextmanager
def writing_into(folder: Path, *, alone: bool = False) -> Iterator[None]:
    """Hold an output folder, made if need be, together with others who write there.

    One who finds nobody else there clears away what killed writers left. Where the file system or the platform has no
    locks nothing is cleared.

    Args:
        folder: Of label maps, scores and figures, in itself or in the usual folders within.
        alone: Wait for the others: what is written are several files, which two would mix.

    Raises:
        OSError: The folder cannot be written to.
    """
    name = str(folder.resolve())
    if fcntl is None or name in _held:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = _share(folder, alone=alone)
    _held.add(name)
    try:
        yield
    finally:
        _held.remove(name)
        with suppress(OSError):  # the last one leaves nothing behind
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / _WRITERS).unlink()
        os.close(descriptor)


def _share(folder: Path, *, alone: bool) -> int:
    """Descriptor of a folder's file of writers, locked, by many if not alone; the kernel gives it back at the end."""
    while True:
        descriptor = os.open(folder / _WRITERS, os.O_RDWR | os.O_CREAT, 0o666)
        free = is_alone(descriptor)
        if free and os.fstat(descriptor).st_nlink:
            for part in OUTPUT_FOLDERS:
                remove_unfinished(folder / part)
        if alone and not free:
            log.info("Another process writes into %s: waiting for it.", folder)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # its last holder has just removed it


def is_alone(descriptor: int) -> bool:
    """Whether nobody else holds a file; workers of a killed program end within the seconds that this waits."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_PAUSE)
        except OSError:  # the file system has no locks
            return False
    return False


def content_hash(content: object) -> str:
    """First 16 hexadecimal digits of the SHA-256 of the content's canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """32 hexadecimal digits of the BLAKE2b of all that a file holds; about 1.5 s per GB beside reading it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def amount(size: float) -> str:
    """Bytes in words, in the unit that fits: 12.3 kB, 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.95:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _room(path: Path) -> str:
    """What there was room for, in words: the part that was written and what is free beside it."""
    try:
        room = shutil.disk_usage(path.parent).free + (path.stat().st_size if path.exists() else 0)
    except OSError:  # the folder is gone
        return ""
    return f" (there is room for {amount(room)}, the file needs more)"


def _refusal(path: Path) -> OSError | None:
    """Why the disk takes no more, if it does not: torch, NumPy and SimpleITK fail without saying so.

    More is written to the end of a file that is given up anyway; quotas refuse that too, which no free space shows.
    """
    try:
        with open(path, "ab") as file:
            file.write(bytes(_PROBE_BYTES))
        _sync(path)
    except OSError as error:
        return error
    return None


def _sync(path: Path) -> None:
    """Wait until the disk has the file; only now does a network file system say that it is full."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
