"""The text header of a MetaImage or NRRD file: where its voxels are, and what in it SimpleITK passes over."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from umamba.raw.description import DatasetError

_ENDINGS = (".mha", ".mhd", ".nrrd")
_HEADER_BYTES = 1 << 20  # in which the header ends
_LAST = "elementdatafile"  # line of a MetaImage's header; that of a NRRD is followed by an empty one
_UNITS = ("spaceunits", "units", "distanceunits")
_MILLIMETRES = ("mm", "millimeter", "millimeters", "millimetre", "millimetres", "", "?", "???")  # or said by nobody
_SCALE = (("elementtointensityfunctionslope", 1.0), ("elementtointensityfunctionoffset", 0.0))
_SIZES = ("spacings", "spacedirections", "ElementSpacing", "ElementSize")
_NO_SIZE = re.compile(r"\bnan\b|\bnone\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class TextHeader:
    """What a MetaImage or NRRD file says of itself.

    Attributes:
        path: The file.
        is_nrrd: Or else it is a MetaImage.
        fields: Values by name, both without blanks around them, names in lower case without any.
        end: Byte at which the header ends, where the voxels may follow; None if it does not.
        compressed: Whether the voxels are.
        compressed_size: Bytes of the compressed voxels, where a MetaImage states them.
        states_no_size: Whether it leaves out the size of a voxel, which is then read as 1 mm.
    """

    path: Path
    is_nrrd: bool
    fields: Mapping[str, str]
    end: int | None
    compressed: bool
    compressed_size: int | None
    states_no_size: bool

    @classmethod
    def read(cls, path: Path) -> Self | None:
        """None of a file of another kind."""
        if path.suffix not in _ENDINGS:
            return None
        fields: dict[str, str] = {}
        exact: dict[str, str] = {}  # as SimpleITK knows them, which minds the case of a MetaImage's names
        with open(path, "rb") as file:
            is_nrrd, end = file.read(4) == b"NRRD", None
            file.seek(0)
            follows = False  # a line without a value, to which ITK adds the next one's name
            while end is None and file.tell() < _HEADER_BYTES and (line := file.readline(_HEADER_BYTES)):
                # ITK takes a colon for an equals sign
                name, *value = re.split(": " if is_nrrd else "[=:]", line.decode("utf-8", "replace"), maxsplit=1)
                name = name.strip()
                if value and not name.startswith("#"):
                    fields[name.replace(" ", "").lower()] = value[0].strip()
                    if not follows:
                        exact[name] = value[0].strip()
                follows = bool(name and not value)
                if not line.strip() if is_nrrd else value and name.lower() == _LAST:
                    end = file.tell()
        if is_nrrd:
            compressed, size = fields.get("encoding", "").lower() in ("gz", "gzip"), None
        else:  # of a yes it looks at the first letter
            compressed = exact.get("CompressedData", "")[:1] in ("T", "t", "1")
            number = re.match(r"\d+", exact.get("CompressedDataSize", ""))
            size = int(number[0]) if number else None
        stated = [value for name, value in (fields if is_nrrd else exact).items() if name in _SIZES]
        return cls(
            path=path, is_nrrd=is_nrrd, fields=fields, end=end, compressed=compressed, compressed_size=size,
            states_no_size=not stated or any(_NO_SIZE.search(sizes) for sizes in stated),
        )  # fmt: skip

    @property
    def voxel_file(self) -> Path:
        """The file that holds the voxels: itself, or one beside it that need not be there."""
        named = self.fields.get("datafile" if self.is_nrrd else _LAST, "")
        return self.path.parent / named if named and (self.is_nrrd or named.upper() != "LOCAL") else self.path

    def file_bytes(self, voxel_bytes: int) -> int | None:
        """What a file in one piece takes, if its voxels take so many bytes; None where the header does not tell."""
        if self.end is None or self.voxel_file != self.path:
            return None
        if self.compressed:
            return None if self.compressed_size is None else self.end + self.compressed_size
        return None if self.is_nrrd and self.fields.get("encoding", "").lower() != "raw" else self.end + voxel_bytes

    def check(self) -> None:
        """See that the image is whole, in mm and without a scale.

        Raises:
            DatasetError: It is not, and would be read as if it were.
        """
        named = self.fields.get("datafile" if self.is_nrrd else _LAST, "")
        if named.startswith("LIST") or "%" in named:
            raise DatasetError(
                f"{self.path} has its voxels in several files ({named}), of which a change would not be noticed. "
                "Write it as one file."
            )
        for name in _UNITS:
            said = self.fields.get(name, "")
            other = [unit for unit in re.findall(r'"([^"]*)"', said) or [said] if unit.lower() not in _MILLIMETRES]
            if other:
                raise DatasetError(
                    f"{self.path} states its voxel size in {other[0]!r}, which would be read as mm. Write spacing and "
                    "origin in mm, and the unit too."
                )
        for name, none in _SCALE:
            if self.fields.get(name, none) not in (none, f"{none:g}", str(none)):
                raise DatasetError(
                    f"{self.path} has a scale of its values in its header ({name} = {self.fields[name]}), which is not "
                    "applied when it is read. Write the values that are meant, and no scale."
                )
