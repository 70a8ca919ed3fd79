"""What SimpleITK passes over in the text header of a MetaImage or NRRD file: units, a scale, that no size is stated."""

from __future__ import annotations

import re
from pathlib import Path

from umamba.raw.description import DatasetError

TEXT_HEADERS = (".mha", ".mhd", ".nrrd")
_HEADER_BYTES = 1 << 16  # in which the header ends
_UNITS = ("spaceunits", "units", "distanceunits")
_MILLIMETRES = ("mm", "millimeter", "millimeters", "millimetre", "millimetres", "", "?", "???")  # or said by nobody
_SCALE = (("elementtointensityfunctionslope", 1.0), ("elementtointensityfunctionoffset", 0.0))
_PARTS = ("elementdatafile", "datafile")
_SIZES = ("spacings", "spacedirections", "elementspacing", "elementsize")
_NO_SIZE = re.compile(r"\bnan\b|\bnone\b", re.IGNORECASE)


def check_text_header(path: Path) -> None:
    """See that a MetaImage or NRRD file is whole, in mm and without a scale; files of other kinds pass.

    Raises:
        DatasetError: They are not, and would be read as if they were.
    """
    fields = _fields(path)
    for name in _PARTS:
        if fields.get(name, "").upper().startswith("LIST") or "%" in fields.get(name, ""):
            raise DatasetError(
                f"{path} has its voxels in several files ({fields[name]}), of which a change would not be noticed. "
                "Write it as one file."
            )
    for name in _UNITS:
        said = fields.get(name, "")
        other = [unit for unit in re.findall(r'"([^"]*)"', said) or [said] if unit.lower() not in _MILLIMETRES]
        if other:
            raise DatasetError(
                f"{path} states its voxel size in {other[0]!r}, which would be read as mm. Write spacing and origin in "
                "mm, and the unit too."
            )
    for name, none in _SCALE:
        if fields.get(name, none) not in (none, f"{none:g}", str(none)):
            raise DatasetError(
                f"{path} has a scale of its values in its header ({name} = {fields[name]}), which is not applied when "
                "it is read. Write the values that are meant, and no scale."
            )


def states_no_size(path: Path) -> bool:
    """Whether it is a MetaImage or NRRD file that leaves out the size of a voxel, which is then read as 1 mm."""
    fields = _fields(path)
    stated = [fields[name] for name in _SIZES if name in fields]
    return bool(fields) and (not stated or any(_NO_SIZE.search(sizes) for sizes in stated))


def _fields(path: Path) -> dict[str, str]:
    """Values by name, both without blanks around them, names in lower case without any; empty for other files."""
    if path.suffix not in TEXT_HEADERS:
        return {}
    with open(path, "rb") as file:
        lines = file.read(_HEADER_BYTES).splitlines()
    separator = b": " if lines and lines[0].startswith(b"NRRD") else b"="
    fields: dict[str, str] = {}
    for line in lines:
        name, found, value = line.partition(separator)
        key = name.replace(b" ", b"").decode("latin-1").lower()
        if found:
            fields[key] = value.strip().decode("latin-1")
        if not line.strip() or key == "elementdatafile":  # the last line of the header
            break
    return fields
