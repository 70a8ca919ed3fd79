"""Where a run's patches are augmented: in the workers, or on the GPU, on request or where workers fall short."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from umamba.datamodules.at_work import AtWork
from umamba.datamodules.augmentation.device.chain import DeviceChain
from umamba.datamodules.sampling import EpochSampler

log = logging.getLogger(__name__)

CHOICES = ("auto", "cpu", "cuda")
NEVER = 2**62  # as a sample's number
_UNCOUNTED = 20  # first steps: kernels are built, and the workers have batches in store
_TOO_LONG = {20: 0.5, 80: 0.1}  # steps that are measured then -> share of their time that steps may wait for batches


class Placement:
    """The choice of a run, and from which sample on the device augments.

    Both ways make the same draws, and the same patches but for rounding and for the numbers that noise is made of.
    So the choice is part of a run, and is kept in its checkpoints.

    Args:
        choice: "auto", "cpu" or "cuda".

    Attributes:
        first: Number of the first sample that the device augments, () int64 in shared memory: workers read it.

    Raises:
        ValueError: There is no such choice.
    """

    def __init__(self, choice: str) -> None:
        if choice not in CHOICES:
            raise ValueError(f"data.augment_on is {choice!r}; expected one of {', '.join(CHOICES)}.")
        self.choice = choice
        self.first = torch.tensor(NEVER).share_memory_()
        self._decided = choice == "cpu"
        self._steps, self._waited, self._passed = 0, 0.0, 0.0

    def check(self, device: torch.device) -> None:
        """Raises ValueError if this device cannot do what was chosen."""
        if self.choice == "cuda" and device.type != "cuda":
            raise ValueError(
                f"data.augment_on=cuda needs a run on a CUDA device; this one is on the {device.type}. "
                "Set data.augment_on=auto or cpu."
            )

    def keep_on_cpu(self, reason: str) -> None:
        """Leave the augmentation to the workers, whatever they fall short of.

        Raises:
            ValueError: The device was asked for.
        """
        if self.choice == "cuda":
            raise ValueError(f"data.augment_on=cuda: {reason}. Set data.augment_on=auto or cpu.")
        if self.choice == "auto":
            log.info("Patches are augmented by the workers (data.augment_on=auto): %s.", reason)
        self.choice, self._decided = "cpu", True

    def begin(self, device: torch.device, chain: DeviceChain, *, anew: bool = False) -> None:
        """Decide what needs no measuring, before the workers start; the log says what is unusual (else ValueError).

        Args:
            device: Where the training runs.
            chain: What is to be done.
            anew: Whether the training begins with its first step, so that no earlier one's choice counts.
        """
        self.check(device)
        if anew:
            self._decided, self._steps, self._waited, self._passed = False, 0, 0.0, 0.0
            self.first.fill_(NEVER)
        if not (chain.in_worker or chain.stages):
            self._decided = True
            return
        if device.type != "cuda":
            if int(self.first) != NEVER:
                log.warning("This run augmented on a GPU; there is none here, and noise will be drawn otherwise.")
                self.first.fill_(NEVER)
            self._decided = True
            return
        if chain.without_stage and (self.choice == "cuda" or not self._decided):
            names = ", ".join(dict.fromkeys(transform.name for transform in chain.without_stage))
            log.info(
                "Without a GPU version: %s. The augmentation up to there stays in the workers (%s); on the GPU: %s.",
                names, _listed(chain.in_worker), _listed([s.transform for s in chain.stages]),
            )  # fmt: skip
        if not chain.stages:
            self._decided = True
        elif self.choice == "cuda":
            self._decided = True
            self.first.fill_(0)
            log.info("Patches are augmented on the GPU (data.augment_on=cuda).")

    def watch(self, loader: WatchedLoader, sampler: EpochSampler, trainer: L.Trainer | None) -> None:
        """Have the training's steps measured, if the choice is still to be made.

        It holds from the first batch on that no worker can have begun: that is the same one in every process.
        """
        if self._decided or trainer is None:
            return
        skipped, first_epoch = sampler.skip_batches, sampler.epoch
        ahead = (
            loader.num_workers * (loader.prefetch_factor or 0) + 1
        )  # batches that are asked for before they are used

        def note(number: int, waited: float, passed: float) -> None:
            # All processes of a distributed run come here in the same step
            short = self._falls_short(waited, passed)
            if short is None or not trainer.strategy.reduce_boolean_decision(short, all=False):
                return
            self._decided = True
            begun = number + (skipped if sampler.epoch == first_epoch else 0) + 1
            batch = sampler.epoch * sampler.num_batches + min(begun + ahead, sampler.num_batches)
            self.first.fill_(batch * sampler.batch_size)
            log.info("From batch %d on patches are augmented on the GPU (data.augment_on=auto).", batch)

        loader.note = note

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: plain values."""
        first = int(self.first)
        return {
            "augment_on": self.choice,
            "decided": self._decided,
            "device_from_sample": None if first == NEVER else first,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the run that wrote the checkpoint."""
        if self.choice == "auto" and state.get("augment_on") == "auto":
            first = state["device_from_sample"]
            self._decided = state["decided"]
            self.first.fill_(NEVER if first is None else first)

    def _falls_short(self, waited: float, passed: float) -> bool | None:
        """Count a step; where so many are counted that it can be told, whether the workers fall short, else None."""
        self._steps += 1
        if self._decided or self._steps <= _UNCOUNTED:
            return None
        self._waited += waited
        self._passed += passed
        counted = self._steps - _UNCOUNTED
        if counted not in _TOO_LONG:
            return None
        self._decided = counted == max(_TOO_LONG)
        share = self._waited / self._passed
        if self._decided or share > _TOO_LONG[counted]:
            log.info("%d steps waited %.0f %% of their time for batches of the workers.", counted, 100 * share)
        return share > _TOO_LONG[counted]


class WatchedLoader(DataLoader):
    """A loader that tells how long its user waits for each batch.

    Attributes:
        note: Called with a batch's number in this iteration, the seconds waited for it and the seconds since the batch
            before; None to leave it.
        at_work: Is told of the worker processes; None to leave it.
    """

    note: Callable[[int, float, float], None] | None = None
    at_work: AtWork | None = None

    def __iter__(self) -> Any:
        """Begin an epoch."""
        iterator = super().__iter__()  # at once, and not with the first batch: workers begin to draw
        if self.at_work is not None:
            self.at_work.processes = getattr(iterator, "_workers", ())
        return iterator if self.note is None else self._watched(iterator, self.note)

    def _watched(self, iterator: Iterator[Any], note: Callable[[int, float, float], None]) -> Iterator[Any]:
        last = None
        for number in itertools.count():
            asked = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            now = time.perf_counter()
            if last is not None:
                note(number, now - asked, now - last)
            last = now
            yield batch


def _listed(transforms: Iterable[Any]) -> str:
    return ", ".join(transform.name for transform in transforms) or "none"
