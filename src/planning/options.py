"""What a user can choose about planning, and the budgets behind the presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from umamba.typed import has_type

RULES = ("2.1", "2.8")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Budget of a planner.

    Attributes:
        memory_gb: GPU memory at which the reference values hold.
        reference: By number of spatial dimensions, the largest cost estimate at that memory.
        max_share: Largest share of the data set's voxels in one batch.
        residual: Whether the estimate is that of a residual encoder.
    """

    memory_gb: float
    reference: dict[int, float]
    max_share: float
    residual: bool


PRESETS = {
    "default": Preset(memory_gb=8, reference={2: 85e6, 3: 560e6}, max_share=0.05, residual=False),
    "resenc_m": Preset(memory_gb=8, reference={2: 135e6, 3: 680e6}, max_share=1.0, residual=True),
    "resenc_l": Preset(memory_gb=24, reference={2: 380e6, 3: 2100e6}, max_share=1.0, residual=True),
    "resenc_xl": Preset(memory_gb=40, reference={2: 560e6, 3: 3600e6}, max_share=1.0, residual=True),
}


@dataclass(frozen=True, kw_only=True)
class PlannerOptions:
    """What a user can choose about planning.

    Attributes:
        rule: "2.1" (the paper's) or "2.8" (larger 2D patches).
        preset: "default", "resenc_m", "resenc_l" or "resenc_xl".
        memory_gb: GPU memory to plan for; None is the preset's (8, 8, 24 and 40).
        base_features: Channels of the first stage; nnU-Net's is 32.
        plans: An existing plan to take instead of planning: a plan.json of ours or an nnUNetPlans.json.

    Raises:
        ValueError: An option has no allowed value.
    """

    rule: str = "2.1"
    preset: str = "default"
    memory_gb: float | None = None
    base_features: int = 32
    plans: str | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The options of a configuration's `data.planning`; what it leaves out has its default.

        Raises:
            ValueError: There is no such option, or it has no allowed value.
        """
        allowed = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(values.keys() - set(allowed))
        if unknown:
            raise ValueError(f"data.planning has unknown keys {unknown}; allowed are {allowed}.")
        return cls(**values)

    def __post_init__(self) -> None:
        # YAML and the command line read 2.1 as a number.
        object.__setattr__(self, "rule", str(self.rule))
        if self.rule not in RULES:
            raise ValueError(f"planning.rule = {self.rule!r}: expected one of {', '.join(RULES)}.")
        if not isinstance(self.preset, str) or self.preset not in PRESETS:
            raise ValueError(f"planning.preset = {self.preset!r}: expected one of {', '.join(PRESETS)}.")
        if not has_type(self.memory_gb, float | None) or (self.memory_gb is not None and self.memory_gb <= 0):
            raise ValueError(f"planning.memory_gb = {self.memory_gb}: expected GB > 0, or null for the preset's.")
        if not has_type(self.base_features, int) or self.base_features < 1:
            raise ValueError(f"planning.base_features = {self.base_features}: expected a whole number > 0.")
