"""Have `wandb sync` find the files of an offline record whose run's folder was copied or moved.

    python -m umamba.run.wandb_moved logs/.../fold_0/<time>     # then: wandb sync logs/.../wandb/offline-run-*

W&B writes down where the files of its tables lie by their full paths, which a copied folder does not have. They are in
the folder, below wandb/artifacts, and here their paths become those of the place where they are now.
"""

from __future__ import annotations

import logging
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from umamba.files import atomic_file

log = logging.getLogger(__name__)

# A .wandb file is a log as LevelDB writes it (doc/log_format.md there), with a magic number in front.
_MAGIC, _BLOCK = b":W&B", 1 << 15
_START = 7  # bytes: magic, identifier, version
_HEADER = struct.Struct("<IHB")  # checksum of kind and content, length, kind
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def follow_moved(folder: Path) -> int:
    """Correct the offline records below a run's folder.

    Args:
        folder: of the run; what W&B has written is in its wandb/.

    Raises:
        FileNotFoundError: there is no offline record, or a file that one names is not in the folder.
        ValueError: a record cannot be read.
    """
    records = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    if not records:
        raise FileNotFoundError(f"{folder} has no offline record of W&B: no wandb/offline-run-*/*.wandb is in it.")
    return sum(_correct(path, (folder / "wandb").absolute()) for path in records)


def _correct(path: Path, wandb_dir: Path) -> int:
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # made at import by protobuf

    content = path.read_bytes()
    if content[: len(_MAGIC)] != _MAGIC:
        raise ValueError(f"{path} is no record of W&B: it does not begin with {_MAGIC.decode()}.")
    changed, entries = 0, []
    for data in _entries(content, path):
        record = Record.FromString(data)
        if record.WhichOneof("record_type") == "artifact":
            before = changed
            for entry in record.artifact.manifest.contents:
                found = _now_at(entry.local_path, wandb_dir)
                changed += found != entry.local_path
                entry.local_path = found
            data = record.SerializeToString() if changed > before else data
        entries.append(data)
    if changed:
        with atomic_file(path) as beside:
            beside.write_bytes(content[:_START] + _as_log(entries))
    return changed


def _now_at(given: str, wandb_dir: Path) -> str:
    """Where a file of W&B's is that was `given` below a folder "wandb"; as it was if it is there or of elsewhere."""
    inner = given.rpartition("/wandb/artifacts/")[2]
    if not given or inner == given or Path(given).is_relative_to(wandb_dir):
        return given
    place = wandb_dir / "artifacts" / inner
    if not place.is_file():
        raise FileNotFoundError(f"{place} is missing, which the table of W&B is made of. Copy the folder as a whole.")
    return str(place)


def _entries(content: bytes, path: Path) -> Iterator[bytes]:
    position, parts = _START, b""
    while position + _HEADER.size <= len(content):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER.size:
            position += left
            continue
        checksum, length, kind = _HEADER.unpack_from(content, position)
        part = content[position + _HEADER.size : position + _HEADER.size + length]
        if len(part) < length:  # the process was killed while it wrote this
            return
        if zlib.crc32(bytes([kind]) + part) != checksum:
            raise ValueError(f"{path} is damaged at byte {position}, and is left as it is. Copy it again.")
        position += _HEADER.size + length
        parts += part
        if kind in (_FULL, _LAST):
            yield parts
            parts = b""


def _as_log(entries: list[bytes]) -> bytes:
    made = bytearray()
    for data in entries:
        rest, first = data, True
        while first or rest:
            left = _BLOCK - (_START + len(made)) % _BLOCK
            if left < _HEADER.size:
                made += bytes(left)
                continue
            part, rest = rest[: left - _HEADER.size], rest[left - _HEADER.size :]
            kind = (_FULL if first else _LAST) if not rest else (_FIRST if first else _MIDDLE)
            made += _HEADER.pack(zlib.crc32(bytes([kind]) + part), len(part), kind) + part
            first = False
    return bytes(made)


def main() -> None:
    """See the module."""
    if len(sys.argv) != 2 or sys.argv[1] in ("-h", "--help"):
        sys.stdout.write(f"{(__doc__ or '').strip()}\n")
        raise SystemExit(len(sys.argv) != 2)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    folder = Path(sys.argv[1])
    count = follow_moved(folder)
    log.info("%d path(s) corrected. Upload it: wandb sync %s", count, folder / "wandb" / "offline-run-*")


if __name__ == "__main__":
    from umamba.run.errors import explained  # takes a second, which help need not

    with explained():
        main()
