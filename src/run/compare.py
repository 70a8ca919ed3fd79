"""What may differ between a run and the call that resumes it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from umamba.words import listed

ABSENT = "(absent)"
_SHOWN = 40

# Neither the function that is optimised nor the samples that are drawn depend on these.
MAY_DIFFER = (
    "run_dir", "tags", "compile", "cuda_graph", "callbacks", "logger",
    "previous_stage",  # where it lies; which networks it has is compared by their hashes
    "data.dataset_dir", "data.prepared_dir", "data.num_workers", "data.val_iterations", "data.nsd_tolerance",
    "data.grow", "data.sources", "data.images",
    # how long and on what; the learning rate follows max_epochs, precision is changed to get over NaN
    "trainer.max_epochs", "trainer.max_time", "trainer.max_steps", "trainer.accelerator", "trainer.devices",
    "trainer.num_nodes", "trainer.strategy", "trainer.precision",
    # when it validates and what it says
    "trainer.check_val_every_n_epoch", "trainer.val_check_interval", "trainer.limit_val_batches",
    "trainer.num_sanity_val_steps", "trainer.log_every_n_steps", "trainer.enable_model_summary",
    "trainer.enable_progress_bar", "trainer.enable_checkpointing", "trainer.profiler", "trainer.detect_anomaly",
    "trainer.benchmark", "trainer.deterministic", "trainer.default_root_dir",
)  # fmt: skip

Differences = dict[str, tuple[Any, Any]]  # key -> (stored, asked)


class ResumeError(ValueError):
    """A run cannot go on as asked."""


def may_differ(key: str) -> bool:
    """Whether a run may go on with another value of this key."""
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in MAY_DIFFER)


def differences(stored: Any, asked: Any, scope: Iterable[str] = ("",)) -> Differences:
    """Leaves in which two nested dicts differ, below the keys of `scope` ("" is everything); lists are leaves."""
    old, new = _leaves(stored), _leaves(asked)
    found: Differences = {}
    for key in sorted({*old, *new}):
        within = any(part == "" or key == part or key.startswith(f"{part}.") for part in scope)
        values = (old.get(key, ABSENT), new.get(key, ABSENT))
        if within and values[0] != values[1]:
            found[key] = values
    return found


def in_lines(found: Differences) -> str:
    """Differences for a message, one a line; of very many the first."""
    return "\n  " + listed([f"{key}: {old!r} -> {new!r}" for key, (old, new) in found.items()], _SHOWN, "\n  ")


def _leaves(node: Any, key: str = "") -> dict[str, Any]:
    if isinstance(node, Mapping) and node:
        found: dict[str, Any] = {}
        for name, value in node.items():
            found |= _leaves(value, f"{key}.{name}" if key else str(name))
        return found
    return {key: [*node] if isinstance(node, tuple) else node}
