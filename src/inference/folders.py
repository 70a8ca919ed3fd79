"""A plain folder of images in, a folder of label maps out: which files are one case, and what must not be replaced."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from umamba.raw.dataset import OF_A_DATA_SET, RawCase, warn_of_other_endings
from umamba.raw.description import PICTURE_ENDINGS, DatasetError
from umamba.raw.volume_files import read_in_place_of

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})", re.DOTALL)


def cases_in_folder(
    folder: Path, file_ending: str, num_channels: int, faults: dict[str, str] | None = None
) -> list[RawCase]:
    """Group the images of a plain folder into cases, by nnU-Net's ``NAME_0000`` suffixes where they are used.

    Four digits at the end of a name are a channel's number only if the files of that name begin with ``_0000``: of one
    channel, amos_0507 and patient_2023 are names of cases.

    Args:
        folder: Where the images lie.
        file_ending: Ending of the images' names, with its dot.
        num_channels: How many files a case needs: the channels that the network was trained with.
        faults: A dict that gets name -> what is wrong, for each group of files that is no case, so that the others can
            be predicted; with None the first such group refuses the whole folder.

    Raises:
        FileNotFoundError: The folder is missing or holds no file with this ending.
        DatasetError: A case lacks channels or has too many, two files would be one case, or its name cannot be that of
            a label map; with `faults` if this is so of all.
    """
    if not file_ending.startswith("."):
        raise ValueError(f"file_ending is {file_ending!r}; expected the ending with its dot, such as .nii.gz or .png.")
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{folder} {what}; expected a folder with the images, *{file_ending}.")
    files = sorted(p for p in folder.iterdir() if p.name.endswith(file_ending) and not p.name.startswith("."))
    if not files:
        found = sorted({"".join(p.suffixes[-2:]) for p in folder.iterdir() if p.is_file()})
        below = sorted(p.name for p in folder.iterdir() if p.is_dir() and any(p.glob(f"*{file_ending}")))
        found += [f"the folder(s) {', '.join(below)} with such files"] if below else []
        raise FileNotFoundError(
            f"{folder} holds no *{file_ending} file; it holds: {', '.join(found) or 'nothing'}. Give the folder "
            "in which the images lie, and file_ending=... for images with another ending than the training's."
        )
    warn_of_other_endings(folder, file_ending)
    names = {path.name.removesuffix(file_ending): path for path in files}
    groups: dict[str, list[Path]] = {}
    for name, path in names.items():
        match = _CHANNEL.fullmatch(name)
        case = match["case"] if match is not None and f"{match['case']}_0000" in names else name
        groups.setdefault(case, []).append(path)
    cases = []
    for number, (name, images) in enumerate(groups.items(), start=1):
        try:
            cases.append(_case(folder, name, images, names, file_ending, num_channels))
        except DatasetError as error:
            if faults is None or (number == len(groups) and not cases):
                raise
            faults[name] = str(error)
    return cases


def _case(
    folder: Path, name: str, images: list[Path], names: Mapping[str, Path], file_ending: str, num_channels: int
) -> RawCase:
    case = RawCase(identifier=name, images=tuple(images), label=None)
    if name in names and len(images) > 1:
        others = ", ".join(path.name for path in images if path != names[name])
        raise DatasetError(f"{folder}: {names[name].name} and {others} would both be case {name}. Rename one.")
    if file_ending in PICTURE_ENDINGS and len(images) == 1:
        return case  # one picture may hold all channels
    found = [path.name.removesuffix(file_ending) for path in images]
    expected = [f"{name}_{channel:04d}" for channel in range(num_channels)]
    if found != expected and not (num_channels == 1 and found == [name]):
        raise DatasetError(
            f"{folder}: case {name} has {len(images)} file(s), the network needs {num_channels} channels: "
            f"{expected[0]}{file_ending} to {expected[-1]}{file_ending}; found {', '.join(found[:5])}"
            f"{', ...' if len(found) > 5 else ''}. (Numbers that are no channels must not end in _0000.)"
        )
    return case


def check_apart(images: Path, output: Path) -> None:
    """See that label maps do not go where the images are, nor where a data set's are, through links neither.

    Raises:
        ValueError: One folder is the other or lies in it, or the output is one of the folders of a raw data set.
    """
    check_no_data_set(output)
    source, target = images.resolve(), output.resolve()
    if source == target or source in target.parents or target in source.parents:
        relation = "is" if source == target else "lies in" if source in target.parents else "holds"
        raise ValueError(
            f"output={output} {relation} the folder of the images, input={images} ({source}): label maps there could "
            "replace images, or be taken for some. Give a folder of its own, such as output=predictions."
        )


def check_no_data_set(output: Path) -> None:
    """See that label maps do not replace those of a raw data set, imagesTr, labelsTs and kin beside dataset.json.

    Raises:
        ValueError: They would.
    """
    target = output.resolve()
    if target.name.startswith(OF_A_DATA_SET) and (target.parent / "dataset.json").is_file():
        raise ValueError(
            f"output={output} is a folder of the data set {target.parent}: predictions there would replace its files, "
            "or be taken for them. Give a folder of its own, such as output=predictions."
        )


def check_not_an_input(cases: Sequence[RawCase], outputs: Mapping[str, Path]) -> None:
    """See that no label map replaces an image that is to be read, or the label map of a case (else ValueError).

    Nor may it lie beside an uncompressed NIfTI file of its name, which SimpleITK reads in its place.
    """
    inputs = [path for case in cases for path in (*case.images, case.label) if path is not None]
    taken = {path.resolve() for path in inputs} | {path.parent.resolve() / path.name for path in inputs}
    for name, path in outputs.items():
        check_no_data_set(path.parent)
        if path.parent.resolve() / path.name in taken:
            raise ValueError(
                f"The label map of case {name} would replace the image or label {path}. Give another output folder."
            )
        if plain := read_in_place_of(path):
            raise ValueError(
                f"{plain} lies where {path.name} is to be written, and SimpleITK would read it in place of that. "
                "Move it away, or give another output folder."
            )
