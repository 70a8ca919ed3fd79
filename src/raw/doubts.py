"""What is odd about a raw file and no reason to refuse it: other programs may see its size or its turn otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from umamba.raw.grids import close
from umamba.raw.nifti_header import is_nifti, sizes_of_voxel, unit_of
from umamba.raw.pictures import shown_otherwise
from umamba.raw.readers import is_picture
from umamba.raw.right_angles import places, rounded_by
from umamba.raw.text_header import TextHeader

_ROUNDED = 1e-4  # product of two axes' directions: above what ITK passes over
_OTHER_PLACE = 0.5  # voxels
_SIZES_TOLERANCE = 1e-2  # between pixdim and sform, which other programs round differently


def file_doubts(path: Path) -> Iterator[tuple[str, str]]:
    """Kind (see `umamba.raw.checks.log_doubts`) and message of each, of a file that can be read."""
    if is_picture(path):
        if how := shown_otherwise(path):
            yield (
                "picture",
                f"{path} says that it is to be shown {how}, as some programs do; it is taken as it is stored. Look "
                "whether image and label lie upon each other, and write the picture as it is meant.",
            )
    elif is_nifti(path):
        if fault := _sizes_fault(path):
            yield "spacing", fault
        if unit := unit_of(path):
            yield (
                "spacing",
                f"{path} states its sizes in {unit} (xyzt_units): they are turned into mm, as by all programs on ITK; "
                "others (nibabel) take the numbers for mm. Write them in mm.",
            )
        apart, used = places(path)
        if apart > _OTHER_PLACE:
            yield (
                "place",
                f"{path} lies {apart:.3g} voxels elsewhere by its qform than by its sform; the {used} is "
                "used, as by all programs on ITK, others (nibabel, FSL) take the sform. Make both equal.",
            )
        if (off := rounded_by(path)) > _ROUNDED:
            yield (
                "axes",
                f"{path} has axes {off:.1e} off right angles (sform), as programs write that round them; they are put "
                "at right angles, also in its label map.",
            )
    elif (header := TextHeader.read(path)) and header.states_no_size:
        yield "spacing", f"{path} does not state the size of its voxels, or not of all axes: 1 mm is taken. Write it."


def _sizes_fault(path: Path) -> str | None:
    """What is odd about the voxel size of a header; SimpleITK takes pixdim's for the spacing."""
    by_pixdim, by_sform = sizes_of_voxel(path)
    if min(by_pixdim) < 0:
        return (
            f"{path} has a negative voxel size, {by_pixdim} mm (pixdim, x, y, z): programs on ITK mirror that axis, "
            "others (nibabel) leave out the sign. Its label map lies as ITK sees it; write the size without the sign."
        )
    if by_sform is None or close(by_pixdim, by_sform, tolerance=_SIZES_TOLERANCE):
        return None
    return (
        f"{path} gives the voxel size twice: {by_pixdim} mm by pixdim, {tuple(round(size, 4) for size in by_sform)} by "
        "sform (x, y, z). The first one is used; correct the header if it is wrong."
    )
