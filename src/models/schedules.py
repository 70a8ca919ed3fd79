"""Learning-rate schedules of the benchmark: the rate is a function of the epoch and of the run's present length."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from umamba.plain import with_plain_arguments
from umamba.typed import is_whole


class EpochSchedule(LRScheduler):
    """Learning rate ``rate(epoch, lr0)``, stepped once per epoch.

    torch's own schedules keep their length and the rate of the epoch before in the checkpoint: a run resumed with
    another ``max_epochs`` goes on with the old one's rates, or with none at all after its end. Of a checkpoint this
    one takes the epoch alone, also of one that a torch schedule wrote.

    Args:
        optimizer: whose parameter groups' learning rates at this moment are their lr0.
        rate: (epoch, lr0) -> learning rate of that epoch.
    """

    def __init__(self, optimizer: Optimizer, rate: Callable[[int, float], float]) -> None:
        self.rate = rate
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Learning rate of the present epoch, one per parameter group."""
        return [self.rate(self.last_epoch, float(base)) for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """The epoch; everything else follows from the configuration."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a checkpoint's epoch; the optimizer gets that epoch's learning rate."""
        self.last_epoch = state_dict["last_epoch"]
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr


def poly(optimizer: Optimizer, *, max_epochs: int, power: float = 0.9) -> EpochSchedule:
    """lr0 * (1 - epoch / max_epochs) ** power, 0 from `max_epochs` on: nnU-Net's schedule.

    Args:
        optimizer: Whose learning rates at this moment are lr0.
        max_epochs: Length of the run, in epochs.
        power: nnU-Net's is 0.9.

    Returns:
        The schedule, to be stepped once per epoch.

    Raises:
        ValueError: `max_epochs` is no length, or `power` is negative, with which the rate would rise.
    """
    _check_length(max_epochs)
    if power < 0:
        raise ValueError(f"power is {power}; expected 0 (a constant rate) or more.")
    return EpochSchedule(optimizer, lambda epoch, lr0: lr0 * (1 - _done(epoch, max_epochs)) ** power)


def cosine(optimizer: Optimizer, *, max_epochs: int, min_lr: float = 1e-6) -> EpochSchedule:
    """Half a cosine from lr0 to `min_lr` (Loshchilov & Hutter, arXiv 1608.03983), without restarts.

    Args:
        optimizer: Whose learning rates at this moment are lr0.
        max_epochs: Length of the run, in epochs; from there on the rate is `min_lr`.
        min_lr: Lowest learning rate.

    Returns:
        The schedule, to be stepped once per epoch.

    Raises:
        ValueError: `max_epochs` is no length, or `min_lr` is negative or above a learning rate, which would rise.
    """
    _check_length(max_epochs)
    first = min(float(group["lr"]) for group in optimizer.param_groups)
    if not 0 <= min_lr <= first:
        raise ValueError(f"min_lr is {min_lr}; expected 0 or more, and at most the learning rate {first}.")

    def rate(epoch: int, lr0: float) -> float:
        return min_lr + (lr0 - min_lr) * (1 + math.cos(math.pi * _done(epoch, max_epochs))) / 2

    return EpochSchedule(optimizer, rate)


def warm_up(schedule: LRScheduler, epochs: int) -> EpochSchedule:
    """Linearly from lr0 / `epochs` to lr0 in so many epochs, then the schedule from its beginning.

    Args:
        schedule: of this module, for the epochs that are left after the warm-up.
        epochs: of the warm-up, 1 or more.

    Raises:
        ValueError: it is another kind of schedule, whose rate is not a function of the epoch.
    """
    if not isinstance(schedule, EpochSchedule):
        raise ValueError(
            f"warmup_epochs goes with umamba.models.schedules (poly, cosine) alone, not with {type(schedule).__name__}."
        )
    after = schedule.rate

    def rate(epoch: int, lr0: float) -> float:
        return lr0 * (epoch + 1) / epochs if epoch < epochs else after(epoch - epochs, lr0)

    return EpochSchedule(schedule.optimizer, rate)


def make_optimizer_and_schedule(
    make_optimizer: Callable[..., Optimizer],
    make_schedule: Callable[..., LRScheduler],
    parameters: Sequence[nn.Parameter],
    max_epochs: int | None,
    warmup_epochs: int = 0,
) -> tuple[Optimizer, LRScheduler]:
    """Build both, for a training of `max_epochs` of which the first `warmup_epochs` warm up.

    Raises:
        ValueError: One of them does not take the values that it was given, or no epoch is left after the warm-up.
    """
    if not is_whole(warmup_epochs):
        raise ValueError(f"warmup_epochs is {warmup_epochs!r}; expected a whole number, 0 or more, or null.")
    make_optimizer, make_schedule = with_plain_arguments(make_optimizer), with_plain_arguments(make_schedule)
    try:
        _check_values(make_optimizer)
        _check_values(make_schedule)
        optimizer = make_optimizer(parameters)
        rates = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
        if rates and not any(rates):
            raise ValueError(
                "lr is 0, so nothing would be trained; trainer.max_epochs=0 keeps and tests a network as it was made."
            )
        if not warmup_epochs:
            return optimizer, make_schedule(optimizer, max_epochs=max_epochs)
        if max_epochs is None or max_epochs <= warmup_epochs:
            raise ValueError(f"warmup_epochs={warmup_epochs} leaves no epoch of trainer.max_epochs={max_epochs}.")
        return optimizer, warm_up(make_schedule(optimizer, max_epochs=max_epochs - warmup_epochs), warmup_epochs)
    except (ValueError, TypeError, IndexError) as error:
        made = {**getattr(make_optimizer, "keywords", {}), **getattr(make_schedule, "keywords", {})}
        text = "".join(f" {key} is {value!r}, a text." for key, value in made.items() if isinstance(value, str))
        text += "".join(f" {key} is null." for key, value in made.items() if value is None)
        given = ", ".join(f"{key}={value!r}" for key, value in made.items())
        raise ValueError(
            f"The optimiser or its schedule (model.optimizer, model.scheduler) does not take its values:{text} {error} "
            f"({given})"
        ) from error


def _check_values(make: Callable[..., object]) -> None:
    """Refuse what would be taken for something else: a text for true, true for 1, and numbers that are none."""
    given = getattr(make, "keywords", {})
    defaults = inspect.signature(getattr(make, "func", make)).parameters
    for name, value in given.items():
        default = defaults[name].default if name in defaults else None
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be true or false.")
        elif isinstance(default, (int, float)) and isinstance(value, bool):
            raise ValueError(f"{name} must be a number, it is {str(value).lower()}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, it is {value}.")
        elif name == "momentum" and isinstance(value, (int, float)) and value >= 1:
            raise ValueError(f"momentum is {value}; expected less than 1, for a share of a step that fades.")


def _done(epoch: int, max_epochs: int) -> float:
    return min(epoch / max(max_epochs, 1), 1.0)


def _check_length(max_epochs: int | None) -> None:
    if max_epochs is None or max_epochs < 0:
        raise ValueError(
            f"The learning rate falls from the first epoch to the last, so trainer.max_epochs must be their number; it "
            f"is {max_epochs}. To stop at a number of steps, set trainer.max_steps beside it."
        )
