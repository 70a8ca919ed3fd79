"""What a training begins with: weights of another one, if it is asked to, and what those have seen."""

from __future__ import annotations

from typing import Any

from umamba.datamodules.base import SegmentationDataModule
from umamba.evaluation.held_out import add_source, source_of
from umamba.models.initial_weights import read_initial_weights
from umamba.models.segmentation_module import SegmentationModule
from umamba.run.folder import Run
from umamba.run.resume import read_checkpoint

KEY = "init_from"  # of the configuration, and of the checkpoints: what was taken


def take_over(run: Run, cases: dict[str, Any]) -> None:
    """Of a run that goes on: keep what it began with, for the source is not read again.

    Args:
        run: Its metadata get what was taken then.
        cases: Of `cases_of_training`; get those that the source was trained on.
    """
    if run.resume_from is None:
        return
    checkpoint = read_checkpoint(run.resume_from)
    if KEY in checkpoint:
        run.metadata[KEY] = checkpoint[KEY]
    cases["trained_on"] |= source_of(checkpoint.get("cases") or {})


def begin(run: Run, module: SegmentationModule, datamodule: SegmentationDataModule, cases: dict[str, Any]) -> None:
    """Of a run that begins: take the weights that `init_from` has for the network.

    Args:
        run: That begins, or goes on: then nothing is done.
        module: Its network gets the weights, its metadata what was taken.
        datamodule: With its raw data open.
        cases: Of the checkpoints to come; get those that the source was trained on.

    Raises:
        FileNotFoundError, ValueError: See `read_initial_weights`, `InitialWeights.refuse_frozen` and `add_source`.
    """
    path = run.config.get(KEY)
    if path is None or run.resume_from is not None or not run.config.train:
        return
    initial = read_initial_weights(path, module.network, module.plan)
    add_source(cases, datamodule, initial.trained_on)
    initial.refuse_frozen(module.network)
    initial.load_into(module.network)
    initial.say()
    module.metadata[KEY] = initial.facts()
