"""The first stage in a training of the second: checked before any case is preprocessed, then its maps are made."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from umamba.cascade.previous_folds import open_folds, read_previous
from umamba.datamodules.base import SegmentationDataModule
from umamba.files import content_hash
from umamba.inference.ensemble import Ensemble
from umamba.inference.pipeline import CasesFailedError, each_case
from umamba.inference.previous_facts import KEY, PreviousFacts
from umamba.inference.previous_stage import PreviousStage
from umamba.inference.sliding_window import STEP
from umamba.machine import usable_cpus
from umamba.planning.cascade import CASCADE, LOW
from umamba.planning.locking import locked
from umamba.planning.preprocess import CaseProperties
from umamba.planning.previous_maps import PreviousMaps
from umamba.planning.store import read_meta
from umamba.raw.checks import read_sound_images
from umamba.raw.dataset import RawCase
from umamba.raw.readers import Geometry
from umamba.run.compare import ResumeError, in_lines
from umamba.run.folder import Run
from umamba.run.resume import read_checkpoint

log = logging.getLogger(__name__)

_VERSION = 1  # of how maps are made; raised when others come out


def check_asked(config: DictConfig) -> None:
    """Refuse what is known to be wrong before there is a plan; `find_previous` refuses the rest.

    Raises:
        FileNotFoundError, ValueError: See `open_folds`; or previous_stage is missing, or would do nothing.
    """
    name, given = config.data.configuration, config.get(KEY)
    if name == CASCADE and given is None:
        raise ValueError(_needs(name, LOW))
    if name == "2d" and given is not None:
        raise ValueError(_idle(given, name))
    if given is not None:
        open_folds(given)


def find_previous(run: Run, datamodule: SegmentationDataModule) -> TrainingMaps | None:
    """The first stage that a run is given, and that its checkpoints will tell of; None where there is none.

    Args:
        run: Its metadata get what the first stage was.
        datamodule: With its plan made.

    Raises:
        FileNotFoundError, ValueError: See `open_folds` and `read_previous`; or previous_stage is missing, or would do
            nothing.
        ResumeError: The run goes on from a checkpoint that was trained with another first stage.
    """
    given, name, stage = run.config.get(KEY), datamodule.configuration, datamodule.plan_configuration.previous_stage
    if stage is None:
        if given is not None:
            raise ValueError(_idle(given, name))
        return None
    if given is None:
        raise ValueError(_needs(name, stage))
    ensemble = open_folds(given)
    facts, paths = read_previous(ensemble, datamodule, run.last.parent)
    if run.resume_from is not None:
        _check_same(run.resume_from, facts)
    run.metadata[KEY] = facts.to_plain()
    return TrainingMaps(ensemble=ensemble, facts=facts, checkpoints=paths)


def _needs(name: str, stage: str) -> str:
    return (
        f"data.configuration={name} is the second stage of a cascade: its network also sees what {stage} segments. "
        "`python train.py --config-name=cascade data=... model=...` trains both; or give the folder of a finished "
        f"cross-validation of {stage} with previous_stage=..."
    )


def _idle(given: object, name: str) -> str:
    return f"previous_stage={given} would do nothing: a network of data.configuration={name} sees the image alone."


def _check_same(path: Path, facts: PreviousFacts) -> None:
    then = PreviousFacts.of(read_checkpoint(path), path)
    told = [one if one is None else (one.hashes, one.held_out, one.mirror) for one in (then, facts)]
    if told[0] != told[1]:
        hashes = {} if then is None else then.hashes
        differing = {
            f"fold {fold}": (hashes.get(fold, "(absent)"), facts.hashes.get(fold, "(absent)"))
            for fold in sorted({*hashes, *facts.hashes})
            if hashes.get(fold) != facts.hashes.get(fold)
        } or {"held out, or mirrored": ("as then", "otherwise")}
        raise ResumeError(
            f"{path} was trained with other networks of the previous stage than there are now (hashes, then -> now):"
            f"{in_lines(differing)}\nPut those back, or start a new run with another run_dir."
        )


@dataclass(frozen=True, kw_only=True)
class TrainingMaps:
    """What the first stage segments in the cases of a training, each by the network that did not see it.

    Attributes:
        ensemble: Its cross-validation.
        facts: For the checkpoints.
        checkpoints: Fold -> file.
    """

    ensemble: Ensemble
    facts: PreviousFacts
    checkpoints: dict[int, Path]

    def give(self, datamodule: SegmentationDataModule, device: torch.device, trusted: Sequence[str] = ()) -> None:
        """Make the maps that are missing or damaged, and give the data module's store all of them.

        Raises:
            CasesFailedError: Cases could not be segmented; the others are kept.
            OSError: The disk is full or cannot be written to.
        """
        maps = PreviousMaps(self._folder(datamodule), datamodule.plan.foreground_labels)
        names = [*dict.fromkeys([*datamodule.train_ids, *datamodule.val_ids])]
        with locked(maps.folder):  # another one may make them, or has made them by now
            if missing := maps.missing(names, usable_cpus()):
                self._make(maps, missing, datamodule, device, trusted)
        datamodule.store = dataclasses.replace(datamodule.store, previous=maps)

    def _folder(self, datamodule: SegmentationDataModule) -> Path:
        """Named after the networks, what each of them has not seen, and the grids of the stored cases."""
        store = datamodule.store
        grids = {name: read_meta(store.folder / name).get("key") for name in store.identifiers}
        key = content_hash([_VERSION, self.facts.hashes, self.facts.held_out, self.facts.mirror, grids])
        return datamodule.prepared_dir / f"{datamodule.plan_configuration.data_identifier}-previous-{key}"

    def _make(
        self,
        maps: PreviousMaps,
        names: Sequence[str],
        datamodule: SegmentationDataModule,
        device: torch.device,
        trusted: Sequence[str],
    ) -> None:
        log.info(
            "%d case(s) are segmented by %s, each by the network that did not see it, into %s.",
            len(names), self.facts.configuration, maps.folder,
        )  # fmt: skip
        stage = PreviousStage.load(
            self.checkpoints, self.facts.held_out, device, mirror=self.facts.mirror, trusted=trusted
        )
        stage.only_unseen(names)
        cases = {case.identifier: case for case in datamodule.raw.training_cases}
        failures: dict[str, str] = {}

        def read(case: RawCase) -> tuple[np.ndarray, Geometry, CaseProperties, str]:
            image, geometry = read_sound_images(case.images, stage.plan.channel_names)
            return image, geometry, datamodule.store.case(case.identifier).properties, case.identifier

        each_case(
            [cases[name] for name in names],
            read=read,
            preprocess=lambda *given: given,
            segment=partial(stage.segment, step=STEP),
            write=lambda case, made: maps.write(case.identifier, made, datamodule.plan_configuration.patch_size),
            failures=failures,
        )
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if failures:
            raise CasesFailedError(failures, [maps.folder / name for name in set(names) - failures.keys()], [])
