"""Several of a user's data sets trained as one: `data=joint data.sources=[FOLDER,FOLDER] data.dataset_dir=NEW`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from umamba.datamodules.base import SegmentationDataModule
from umamba.datamodules.prepare.joint.join import join
from umamba.datamodules.prepare.joint.labels import LabelWishes


class JointDataModule(SegmentationDataModule):
    """Raw data sets made into one, with labels that are the same where they are called the same.

    Args:
        sources: Raw data sets: folders, called as they are without DatasetNNN_, or name -> folder. Scoring needs none.
        classes: Names of the classes, in order; other labels become background. None takes those of all.
        missing: What the background of a data set that lacks a class means: "ignore", "absent", one of them for each
            data set by name, or None, which refuses. See `umamba.datamodules.prepare.joint.labels.LabelWishes`.
        rename: Name of a data set -> {its name of a label: the shared one}.
        images: "link" to the images of the data sets, or "copy" them.
        nsd_tolerance: Of the normalised surface Dice, in mm (2D: px); a number, or one per class name.
        arguments: As for `SegmentationDataModule`.
    """

    def __init__(
        self,
        *,
        sources: Sequence[str] | Mapping[str, str] | None = None,
        classes: Sequence[str] | None = None,
        missing: str | Mapping[str, str] | None = None,
        rename: Mapping[str, Mapping[str, str]] | None = None,
        images: str = "link",
        nsd_tolerance: float | dict[str, float] = 2.0,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self.sources = None if sources is None else _named(sources)
        self.wishes = LabelWishes(
            classes=classes if classes is None or isinstance(classes, str) else [str(name) for name in classes],
            missing=missing,
            rename={source: _texts(names) for source, names in (rename or {}).items()},
        )
        self.images = images
        self.nsd_tolerance = nsd_tolerance

    def make_raw(self, source: Path | None = None, *, incomplete: bool = False) -> None:
        """Join the data sets, or see that what is there is what would be joined.

        Raises:
            ValueError: `source` or `incomplete` was given; or see `join`.
        """
        if source is not None or incomplete:
            raise ValueError(
                "source= and incomplete= are for data sets as their owners distribute them; give data.sources."
            )
        if self.sources is None:
            super().make_raw()
        else:
            join(self.sources, self.dataset_dir, self.wishes, images=self.images, workers=self.num_workers)

    def open_raw(self) -> None:
        """As the base; a joint data set whose data sets were changed since is refused."""
        if self.sources is not None:
            self.make_raw()
        super().open_raw()


def _texts(names: Mapping[str, str]) -> dict[str, str]:
    """Names as text: a command line takes a class that is called 1 for a number."""
    return {str(own): str(shared) for own, shared in names.items()}


def _named(sources: Sequence[str] | Mapping[str, str]) -> dict[str, Path]:
    if isinstance(sources, Mapping):
        return {str(name): Path(folder) for name, folder in sources.items()}
    if isinstance(sources, str):
        raise ValueError(f"data.sources is a list of folders or {{name: folder}}, it is {sources!r}.")
    folders = [Path(str(folder)) for folder in sources]
    names = [re.sub(r"^Dataset\d+_", "", folder.name) for folder in folders]
    if len(set(names)) < len(names):
        raise ValueError(
            f"Two of data.sources would be called alike ({', '.join(names)}). Name them: "
            "data.sources={a: folder, b: folder}."
        )
    return dict(zip(names, folders, strict=True))
