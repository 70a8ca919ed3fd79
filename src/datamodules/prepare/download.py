"""Downloads that survive an interruption: resumed where they stopped, checked before they are used."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

log = logging.getLogger(__name__)

CHUNK = 1 << 20  # bytes
TIMEOUT = 60.0  # seconds without a byte
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)  # trying again does not help
ATTEMPTS = 5  # broken connections in a row before giving up
HEADERS = {"User-Agent": "umamba-lightning"}  # some servers refuse urllib's own name
ZENODO = "https://zenodo.org/api/records/{record}"


class DownloadError(OSError):
    """A file could not be fetched, or is not what its owner published."""


def checksum(path: Path, algorithm: str) -> str:
    """Hex digest of a file; `algorithm` as hashlib names it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def verify(path: Path, expected: str) -> None:
    """See that a file has a checksum, "algorithm:hex digest" such as "md5:9d24..." (else DownloadError)."""
    algorithm, digest = expected.split(":")
    found = checksum(path, algorithm)
    if found != digest.lower():
        raise DownloadError(
            f"{path}: expected {algorithm} {digest}, got {found}: the file is damaged or another version. "
            "Remove it and fetch it again"
        )


def download(url: str, target: Path, *, expected: str | None = None) -> Path:
    """Fetch `url` into `target` unless it is there; what an earlier attempt left in `<target>.part` is kept.

    Args:
        url: http(s) address.
        target: file to make; it appears only once complete and verified.
        expected: "algorithm:hex digest" of the whole file, e.g. "md5:9d24...", or None if its owner gives none.

    Raises:
        DownloadError: no connection, an answer other than the file, or another checksum. What has arrived is kept
            for the next attempt, except after a wrong checksum.
        OSError: the disk is full or cannot be written to.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        task = progress.add_task(target.name, total=None)
        failures = 0
        while True:
            before = part.stat().st_size if part.exists() else 0
            try:
                _fetch_rest(url, part, progress, task)
                break
            except urllib.error.HTTPError as error:
                raise DownloadError(
                    f"{url} answered {error.code} {error.reason}: fetch it by hand to {target}"
                ) from error
            except (OSError, http.client.HTTPException) as error:  # dropped, timed out, no route, no name
                if isinstance(error, OSError) and error.errno in DISK_ERRORS:
                    raise
                arrived = part.stat().st_size if part.exists() else 0
                failures = 0 if arrived > before else failures + 1
                if failures >= ATTEMPTS:
                    raise DownloadError(
                        f"{url} could not be fetched ({error}); {arrived} bytes are kept in {part}. "
                        f"Run the command again to go on, or fetch it by hand to {target}"
                    ) from error
                time.sleep(min(2**failures - 1, 30))
    if expected is not None:
        try:
            verify(part, expected)
        except DownloadError:
            part.unlink()
            raise
    os.replace(part, target)
    return target


def _fetch_rest(url: str, part: Path, progress: Progress, task: TaskID) -> None:
    """Append what `part` lacks; restart it if the server cannot resume.

    Raises:
        OSError: the connection broke before the announced number of bytes had come.
    """
    offset = part.stat().st_size if part.exists() else 0
    resume = {"Range": f"bytes={offset}-"} if offset else {}
    request = urllib.request.Request(url, headers={**HEADERS, **resume})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        size = error.headers.get("Content-Range", "").rpartition("/")[2]
        if error.code == 416 and size == str(offset):
            return  # nothing left: all of it had arrived
        if error.code == 416:
            part.unlink()  # longer than the file is now: start anew
            raise ConnectionError("the file on the server has changed") from error
        raise
    with response:
        resumed = response.status == 206
        length = response.headers.get("Content-Length")
        total = None if length is None else int(length) + (offset if resumed else 0)
        done = offset if resumed else 0
        progress.update(task, total=total, completed=done)
        with part.open("ab" if resumed else "wb") as file:
            while block := response.read(CHUNK):
                file.write(block)
                done += len(block)
                progress.update(task, completed=done)
    if total is not None and done < total:
        raise ConnectionError(f"the connection ended after {done} of {total} bytes")


def source_or_zenodo(source: Path | None, target: Path, record: int, names: list[str], how: str) -> Path:
    """What a data set is made from: the source as given; for "zenodo" a record's files, fetched beside the data set.

    Args:
        source: what the user gave.
        target: the data set to make; downloads go to `downloads/` beside it.
        record: number in the record's address.
        names: files of the record.
        how: what to get where, for the message.

    Returns:
        The source; or the downloaded file, of several their folder.

    Raises:
        FileNotFoundError: no source was given.
        DownloadError: the download failed.
    """
    if source is None:
        raise FileNotFoundError(f"{target} is missing. {how}")
    if str(source) != "zenodo":
        return source
    files = download_from_zenodo(record, names, target.parent / "downloads")
    return files[0] if len(files) == 1 else files[0].parent


def download_from_zenodo(record: int, names: list[str], folder: Path, *, api: str = ZENODO) -> list[Path]:
    """Fetch files of a public Zenodo record, verified with the checksums that the record lists.

    Raises:
        DownloadError: the record cannot be read, lacks a file, or a download fails.
    """
    url = api.format(record=record)
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=HEADERS), timeout=TIMEOUT) as response:
            files = {entry["key"]: entry for entry in json.load(response)["files"]}
    except (OSError, ValueError, KeyError) as error:
        raise DownloadError(f"{url} could not be read ({error}): fetch {', '.join(names)} by hand") from error
    absent = [name for name in names if name not in files]
    if absent:
        raise DownloadError(f"{url} has no {', '.join(absent)}; it lists {', '.join(sorted(files))}")
    return [download(files[name]["links"]["self"], folder / name, expected=files[name]["checksum"]) for name in names]
