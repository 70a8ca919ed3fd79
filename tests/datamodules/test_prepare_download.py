"""Downloads against a local server that can resume, break off, refuse and lie; archives that are damaged or hostile."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from umamba.datamodules.prepare import decathlon
from umamba.datamodules.prepare import download as download_module
from umamba.datamodules.prepare.download import DownloadError, download, download_from_zenodo
from umamba.datamodules.prepare.sources import check_count, find_files, opened, unpack
from umamba.raw.dataset import RawDataset

CONTENT = bytes(range(256)) * 4096  # 1 MiB
MD5 = "md5:" + hashlib.md5(CONTENT).hexdigest()


class Server:
    """Serves its content at /file; keeps the Range headers it was sent."""

    def __init__(self) -> None:
        self.ranges: list[str | None] = []
        self.break_after: list[int] = []  # per request: bytes to send before the connection is dropped
        self.can_resume = True
        self.record: dict = {}
        self.content = CONTENT
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/record":
                    return self.answer(200, json.dumps(server.record).encode())
                if self.path != "/file":
                    return self.send_error(404)
                wanted = self.headers.get("Range")
                server.ranges.append(wanted)
                start = int(re.findall(r"\d+", wanted)[0]) if wanted and server.can_resume else 0
                if start >= len(server.content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(server.content)}")
                    return self.end_headers()
                return self.answer(206 if start else 200, server.content[start:])

            def answer(self, code: int, body: bytes) -> None:
                self.send_response(code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: server.break_after.pop(0)] if server.break_after else body)
                self.close_connection = True

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download_module.time, "sleep", lambda seconds: None)
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_download_verifies_and_is_not_repeated(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.tar"
    assert download(f"{server.url}/file", target, expected=MD5) == target
    assert target.read_bytes() == CONTENT
    download(f"{server.url}/file", target, expected=MD5)
    assert server.ranges == [None]
    assert [path.name for path in target.parent.iterdir()] == ["file.tar"]


def test_a_broken_connection_is_resumed_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.break_after = [1000, 500]
    download(f"{server.url}/file", tmp_path / "file", expected=MD5)
    assert server.ranges == [None, "bytes=1000-", "bytes=1500-"]


def test_a_killed_download_is_resumed_by_the_next_one(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT[:777])
    download(f"{server.url}/file", tmp_path / "file", expected=MD5)
    assert server.ranges == ["bytes=777-"]
    (tmp_path / "file").unlink()
    (tmp_path / "file.part").write_bytes(CONTENT)  # killed after the last byte
    download(f"{server.url}/file", tmp_path / "file", expected=MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_that_cannot_resume_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.can_resume = False
    (tmp_path / "file.part").write_bytes(b"x" * 99)
    download(f"{server.url}/file", tmp_path / "file", expected=MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_longer_rest_than_the_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(b"x" * (len(CONTENT) + 1))
    download(f"{server.url}/file", tmp_path / "file", expected=MD5)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="expected md5 0000.*damaged or another version"):
        download(f"{server.url}/file", tmp_path / "file", expected="md5:0000")
    assert not any(tmp_path.iterdir())


def test_a_missing_file_says_where_to_put_it_by_hand(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="/absent answered 404 .*by hand to .*file"):
        download(f"{server.url}/absent", tmp_path / "file")


def test_no_connection_keeps_what_has_arrived(server: Server, tmp_path: Path) -> None:
    server.break_after = [1000] + [0] * download_module.ATTEMPTS
    with pytest.raises(DownloadError, match="1000 bytes are kept"):
        download(f"{server.url}/file", tmp_path / "file")
    assert (tmp_path / "file.part").stat().st_size == 1000


def test_a_full_disk_is_not_tried_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        download(f"{server.url}/file", tmp_path / "file")
    assert server.ranges == [None]


def test_zenodo_record(server: Server, tmp_path: Path) -> None:
    server.record = {"files": [{"key": "a.zip", "checksum": MD5, "links": {"self": f"{server.url}/file"}}]}
    api = server.url + "/record"
    assert download_from_zenodo(1, ["a.zip"], tmp_path, api=api) == [tmp_path / "a.zip"]
    with pytest.raises(DownloadError, match="has no b.zip; it lists a.zip"):
        download_from_zenodo(1, ["b.zip"], tmp_path, api=api)
    with pytest.raises(DownloadError, match="could not be read.*fetch a.zip by hand"):
        download_from_zenodo(1, ["a.zip"], tmp_path, api=server.url + "/nothing")


def test_hippocampus_from_nothing(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `data=hippocampus` does it, with a small archive at another address, and a connection that breaks once."""
    volume = tmp_path / "volume.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 3), volume)
    meta = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "a", "2": "b"}, "numTraining": 1}
    root = "Task04_Hippocampus"
    members = {
        f"{root}/dataset.json": json.dumps(meta).encode(),
        f"{root}/imagesTr/hippocampus_001.nii.gz": volume.read_bytes(),
        f"{root}/labelsTr/hippocampus_001.nii.gz": volume.read_bytes(),
    }
    server.content = make_tar(tmp_path / "served.tar", members).read_bytes()
    server.break_after = [5000]
    md5 = "md5:" + hashlib.md5(server.content).hexdigest()
    monkeypatch.setattr(decathlon, "published", lambda task: (f"{server.url}/file", md5))
    target = decathlon.prepare(None, tmp_path / "raw" / "Dataset004_Hippocampus")
    assert server.ranges == [None, "bytes=5000-"]
    assert [case.identifier for case in RawDataset.open(target).training_cases] == ["hippocampus_001"]
    assert (tmp_path / "raw" / "downloads" / "Task04_Hippocampus.tar").is_file()


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(("name", "make"), [("a.zip", make_zip), ("a.tar", make_tar), ("a.tar.gz", make_tar)])
def test_unpack_takes_what_is_wanted_and_no_hidden_files(tmp_path: Path, name: str, make) -> None:
    members = {"./top/x.nii.gz": b"x", "top/._x.nii.gz": b"mac", "__MACOSX/top/x.nii.gz": b"mac", "top/y.txt": b"y"}
    archive = make(tmp_path / name, members)
    unpack(archive, tmp_path / "out", lambda member: not member.endswith(".txt"))
    assert [path.relative_to(tmp_path / "out").as_posix() for path in find_files([tmp_path / "out"], "*")] == [
        "top/x.nii.gz"
    ]


@pytest.mark.parametrize(("name", "make"), [("a.zip", make_zip), ("a.tar", make_tar), ("a.tar.gz", make_tar)])
def test_a_truncated_archive_is_named(tmp_path: Path, name: str, make) -> None:
    archive = make(tmp_path / name, {"x": CONTENT[:100_000], "y": hashlib.sha512(b"y").digest() * 1000})
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"{name} is truncated or damaged .*fetch it again"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("member", ["../evil", "top/../../evil"])
def test_a_member_outside_the_folder_is_refused(tmp_path: Path, member: str) -> None:
    with pytest.raises(ValueError, match="points outside the archive"):
        unpack(make_zip(tmp_path / "a.zip", {member: b"x"}), tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def test_opened_unpacks_beside_folders_and_cleans_up(tmp_path: Path) -> None:
    (tmp_path / "source" / "b").mkdir(parents=True)
    (tmp_path / "source" / "b" / "file").touch()
    make_zip(tmp_path / "source" / "a.zip", {"a/file": b""})
    make_zip(tmp_path / "source" / "b.zip", {"b/file": b""})  # its unpacked folder lies beside it
    make_zip(tmp_path / "source" / "other.zip", {"other/file": b""})
    with opened(tmp_path / "source", tmp_path / "scratch", archives=["a", "b"]) as roots:
        assert sorted(path.parent.name for path in find_files(roots, "file")) == ["a", "b"]
    assert not (tmp_path / "scratch").exists()
    with (
        pytest.raises(FileNotFoundError, match="source=.*absent does not exist"),
        opened(tmp_path / "absent", tmp_path),
    ):
        pass
    (tmp_path / "text.pdf").touch()
    with pytest.raises(ValueError, match="none of .zip, .tar"), opened(tmp_path / "text.pdf", tmp_path):
        pass


def test_counts() -> None:
    check_count(3, 3, "scans", Path("x"))
    with pytest.raises(ValueError, match="x: expected 3 scans, found 2. Is the download complete"):
        check_count(2, 3, "scans", Path("x"))
    check_count(2, 3, "scans", Path("x"), incomplete=True)
    with pytest.raises(ValueError, match="found 0"):
        check_count(0, 3, "scans", Path("x"), incomplete=True)
