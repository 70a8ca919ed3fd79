"""What a checkpoint says about its training, apart from the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, Self

from umamba.files import content_hash
from umamba.inference.previous_facts import PreviousFacts
from umamba.models.checkpoint import load_plain
from umamba.raw.image_marks import of_cases, of_files
from umamba.targets import present_names


@dataclass(frozen=True, kw_only=True)
class Member:
    """A checkpoint that is scored, alone or in an ensemble.

    Attributes:
        path: The checkpoint's file.
        config: The resolved configuration of the training.
        plan: The plan, as plain data.
        configuration: Which of the plan's was trained: "2d", "3d_fullres", ...
        epochs: Trained epochs; None for the best one of a training, which is another in every run.
        global_step: Optimizer steps done; None where it is unknown.
        imported: Of a checkpoint that was trained elsewhere: {"trainer": ..., "sha256": ...}.
        trained_on: Case -> mark of its first image (see `umamba.raw.image_marks`); None in older checkpoints.
        files: Case -> marks of its other files; None in older checkpoints.
        validated_with: Cases of the validation fold; None in older checkpoints.
        init_from: Hash of the checkpoint whose weights the training began with; None if it began anew.
        data: What it was trained on, see `data_of`; None in older checkpoints.
        previous: Of a cascade's second stage, what the first one was.
    """

    path: Path
    config: Mapping[str, Any]
    plan: Mapping[str, Any]
    configuration: str
    epochs: int | None = None
    global_step: int | None = None
    imported: Mapping[str, str] | None = None
    trained_on: Mapping[str, str] | None = None
    files: Mapping[str, Any] | None = None
    validated_with: tuple[str, ...] | None = None
    init_from: str | None = None
    data: Mapping[str, Any] | None = None
    previous: PreviousFacts | None = None

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """Read a checkpoint and drop its weights; nothing is built of it.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It cannot be read as plain data.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"No checkpoint at {path}.")
        return cls.of(path, load_plain(path))

    @classmethod
    def of(cls, path: Path, checkpoint: Mapping[str, Any]) -> Self:
        """What a checkpoint that has been read says (else ValueError)."""
        provenance, cases = (_dict_of(checkpoint, key, path) for key in ("provenance", "cases"))
        trained_on, validated_with = cases.get("trained_on"), cases.get("validated_with")
        if not isinstance(trained_on, (dict, NoneType)) or not isinstance(validated_with, (list, tuple, NoneType)):
            raise ValueError(f"{path}: cases.trained_on must be a dictionary, and cases.validated_with a list.")
        imported = {key: str(provenance.get(key, "")) for key in ("trainer", "sha256")}
        return cls(
            path=path,
            config=present_names(checkpoint["config"]),
            plan=checkpoint["plan"],
            configuration=checkpoint["configuration"],
            epochs=None if path.stem.startswith("best") else _epochs(checkpoint),
            global_step=checkpoint.get("global_step"),
            imported=imported if "imported_from" in provenance else None,
            trained_on=trained_on,
            files=cases.get("files"),
            validated_with=None if validated_with is None else tuple(validated_with),
            init_from=_dict_of(checkpoint, "init_from", path).get("hash"),
            data=data_of(trained_on, cases.get("files")),
            previous=PreviousFacts.of(checkpoint, path),
        )

    @property
    def marks(self) -> dict[str, str]:
        """Case that it was trained on -> mark by which it is known; none where nothing is said of them."""
        return of_cases(self.trained_on or {}, self.files)

    @property
    def fold(self) -> int | Literal["all"] | None:
        """Which fold of the cross-validation it held out; "all" for none, None where it is unknown."""
        return self.config.get("fold", self.config["data"].get("fold"))

    @property
    def seed(self) -> int | None:
        """Seed of the training; None where it is unknown."""
        return self.config.get("seed")

    @property
    def network(self) -> str:
        """Name of the model config, of the foreign trainer, or at last of the file."""
        elsewhere = (self.imported or {}).get("trainer")
        return self.config.get("model_name") or elsewhere or self.config.get("task_name") or self.path.stem


def _dict_of(checkpoint: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    entry = checkpoint.get(key) or {}
    if not isinstance(entry, dict):
        raise ValueError(f"{path}: {key} must be a dictionary, it is a {type(entry).__name__}.")
    return entry


def _epochs(checkpoint: Mapping[str, Any]) -> int | None:
    """How many epochs are done; Lightning's "epoch" is another number at the end of a validation and of an epoch."""
    if "fit_loop" not in checkpoint.get("loops", {}):
        return checkpoint.get("epoch")
    loop = checkpoint["loops"]["fit_loop"]
    epochs, batches = loop["epoch_progress"]["current"], loop["epoch_loop.batch_progress"]
    done = epochs["processed"] == epochs["started"] or batches["is_last_batch"]
    return epochs["started"] if done else epochs["processed"]


def data_of(trained_on: object, files: object) -> dict[str, Any] | None:
    """What a checkpoint's cases say of its training data, as plain data; None where it does not say all.

    Args:
        trained_on: Case -> mark of its first image; those of `init_from` are not among `files`.
        files: Case, trained on or validated with -> marks of its other files.

    Of the marks only what earlier versions have is told, so that their networks are not told apart.

    Returns:
        cases: How many were trained on.
        trained_on: Hash of their names, images and labels.
        set: Hash of names and labels of all cases of the split, the same in all of its folds.
        set_cases: How many these are.
    """
    if not isinstance(trained_on, dict) or not isinstance(files, dict) or not files:
        return None
    images, others = of_files(trained_on), of_files(files)
    own = {name: [images[name], others[name]] for name in others if name in images}
    return {
        "cases": len(own), "trained_on": content_hash(own), "set": content_hash(others), "set_cases": len(others),
    }  # fmt: skip
