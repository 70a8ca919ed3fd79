"""A network as a graph of torch.export: of any size where it allows that, checked against the network itself."""

from __future__ import annotations

import copy
import json
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from umamba.export.facts import facts_of
from umamba.export.given import check_no_cascade
from umamba.export.place import facts_beside
from umamba.files import atomic_file, write_json
from umamba.inference.bundle import Bundle
from umamba.models.checkpoint import network_from_checkpoint
from umamba.models.mamba.block import Mamba
from umamba.models.mamba.ssd import SSD

TOLERANCE = 1e-4  # of outputs, relative to the largest of them
FACTS = "umamba.json"  # name of the facts inside a .pt2

log = logging.getLogger(__name__)


def write_torch_export(given: Bundle, output: Path, *, fixed_size: bool = False) -> None:
    """Write a .pt2 of torch.export, and a JSON file beside it.

    Raises:
        ValueError: Several networks; the network cannot be traced, or the graph's outputs are others.
        OSError: The file cannot be written.
    """
    traced = Traced(given, fixed_size=fixed_size)

    def write(path: Path, facts: dict[str, Any]) -> Callable[[Tensor], Tensor]:
        torch.export.save(traced.program, path, extra_files={FACTS: json.dumps(facts)})
        try:
            program: Any = torch.export.load(path).module()
        except Exception as error:  # torch writes graphs that it cannot read, and raises whatever it meets
            raise ValueError(
                f"torch.export cannot read the graph that it has written ({error!s:.200}). Try fixed_size=true; a "
                "bundle (format=bundle) takes any network."
            ) from error
        return program

    traced.write(output, {"format": "torch.export", "torch": torch.__version__}, write)


class Traced:
    """A network, traced.

    Args:
        given: One network.
        fixed_size: Only for the plan's patch, also where the network takes any size.

    Attributes:
        program: The graph; float32, on the CPU, deep supervision off.
        shapes: What it takes, as plain data.

    Raises:
        ValueError: Several networks; torch cannot trace it.
    """

    def __init__(self, given: Bundle, *, fixed_size: bool = False) -> None:
        check_no_cascade(given)
        sources = given.sources
        if len(sources) > 1:
            raise ValueError(
                f"A graph is of one network, and these are {len(sources)}. Export each checkpoint by itself and "
                "average their logits, or export a bundle, which predict.py averages."
            )
        self.facts = facts_of(given, sources[0])
        self.network, plan = network_from_checkpoint(sources[0].content)
        self.patch = plan.configuration(sources[0].content["configuration"]).patch_size
        self.channels = len(plan.channel_names)
        self.divisor: tuple[int, ...] = tuple(getattr(self.network, "required_divisor", (1,) * len(self.patch)))
        network = copy.deepcopy(self.network)
        mixers = [module for module in network.modules() if isinstance(module, (Mamba, SSD))]  # cut by their length
        for mixer in mixers:
            if isinstance(mixer, Mamba):
                mixer.backend = "unrolled"
        inner = getattr(self.network, "network", self.network)
        bound = mixers or getattr(self.network, "fixed_patch_size", None) or not getattr(inner, "any_size_graph", True)
        self.any_size = not (fixed_size or bound)
        self.program = self._trace(network.requires_grad_(False))

    @property
    def shapes(self) -> dict[str, Any]:
        """What the graph takes."""
        if not self.any_size:
            return {"any_size": False, "size": list(self.patch)}
        return {"any_size": True, "multiple_of": list(self.divisor), "at_least": self._smallest()}

    def _smallest(self) -> list[int]:
        return [min(2 * d, size) for d, size in zip(self.divisor, self.patch, strict=True)]

    def _trace(self, network: nn.Module) -> ExportedProgram:
        sizes: dict[int, Any] = {}
        if self.any_size:
            for axis, (d, least) in enumerate(zip(self.divisor, self._smallest(), strict=True)):
                dim = Dim(f"size_{axis}", min=least // d)
                sizes[2 + axis] = dim if d == 1 else d * dim
        image = torch.zeros(2, self.channels, *self.patch)
        try:
            with torch.no_grad():
                return torch.export.export(
                    network, (image,), dynamic_shapes=({0: Dim("batch", min=1), **sizes},), strict=False
                )
        except Exception as error:  # torch raises whatever its tracer meets
            reason = f"{type(error).__name__}: {error!s:.300}"
            if self.any_size:
                log.warning("The network is traced for %s only; torch cannot trace any size: %s", self.patch, reason)
                self.any_size = False
                return self._trace(network)
            raise ValueError(
                f"torch.export cannot trace {type(network).__name__}: {reason}. A bundle (format=bundle) takes any "
                "network."
            ) from error

    def write(
        self,
        output: Path,
        of_format: dict[str, Any],
        write: Callable[[Path, dict[str, Any]], Callable[[Tensor], Tensor]],
    ) -> None:
        """Write a file, check it, and give it its name; and its facts beside it.

        Args:
            output: The file.
            of_format: Facts of the format.
            write: Writes the facts and the graph to a path, and gives back what was written, read in again.

        Raises:
            ValueError: The outputs differ.
            OSError: The file cannot be written.
        """
        facts = {**of_format, **self.facts}
        facts["input"] = {**facts["input"], **self.shapes}
        facts["checked"] = {"tolerance": TOLERANCE, "relative_to": "the largest output", "sizes": self._check_sizes()}
        with atomic_file(output) as beside:
            read = write(beside, facts)
            differences = [self._difference(read, size) for size in self._check_sizes()]
            largest = max(differences, key=lambda each: (math.isnan(each), each))  # NaN is more than any number
            if not largest <= TOLERANCE:
                raise ValueError(
                    f"{output.name}: outputs of the exported graph differ from the network's by {largest:.1e} of the "
                    f"largest, more than {TOLERANCE}. Nothing was written; please report this, with the configuration."
                )
            facts_beside(output).unlink(missing_ok=True)  # of an earlier file, which has its name no longer
        write_json({**facts, "checked": {**facts["checked"], "largest_difference": largest}}, facts_beside(output))
        log.info(
            "%s takes %s; outputs differ from the network's by %.1e of the largest.",
            output.name,
            self.in_words(),
            largest,
        )

    def in_words(self) -> str:
        """What it takes, in words."""
        if not self.any_size:
            return f"images of {' x '.join(map(str, self.patch))} alone, any number at once"
        multiple, least = (" x ".join(map(str, axes)) for axes in (self.divisor, self._smallest()))
        return f"any number of images of any size that is a multiple of {multiple} and at least {least}"

    def _check_sizes(self) -> list[list[int]]:
        """Batch and size of the inputs that outputs are compared on."""
        if not self.any_size:
            return [[1, *self.patch], [2, *self.patch]]
        other = [
            least + d * (axis == 0) for axis, (d, least) in enumerate(zip(self.divisor, self._smallest(), strict=True))
        ]
        return [[1, *self.patch], [2, *other]]

    def _difference(self, read: Callable[[Tensor], Tensor], size: Sequence[int]) -> float:
        batch, *spatial = size
        image = torch.randn(batch, self.channels, *spatial, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected, found = self.network(image), read(image)
        return float((found - expected).abs().max() / expected.abs().max())
