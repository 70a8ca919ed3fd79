"""What the report knows of one scored run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from umamba.evaluation.identity import facts_of
from umamba.evaluation.pairs import Pair
from umamba.evaluation.postprocessing import POSTPROCESSED
from umamba.files import read_json
from umamba.inference.mixture import changed_since


@dataclass(frozen=True, kw_only=True)
class ScoredRun:
    """A run.json and the scores beside it; one that holds post-processed scores too makes two of these.

    Attributes:
        folder: Where run.json and scores.csv lie.
        record: What run.json holds, see `umamba.evaluation.record.run_record`.
        scores: A row per case and class, see `umamba.evaluation.evaluate.evaluate`.
        processed: Whether the scores are those after post-processing.
        modified: When run.json was written, in seconds.
        suffix: What tells the network apart from others of its name or data set, see `name_apart`.
        setting: Name of the data set in the list of runs that it was made from; None of a single run.
    """

    folder: Path
    record: dict[str, Any]
    scores: pd.DataFrame
    processed: bool = False
    modified: float = 0.0
    suffix: str = ""
    setting: str | None = None

    @property
    def dataset(self) -> str:
        """Name of the data set, and which of its cases were scored if not the test set."""
        if self.setting is not None:
            return self.setting
        kind = {"validation": ", validation", "training": ", cases trained on",
                "out_of_fold": ", cross-validation"}  # fmt: skip
        return self.record["dataset"] + kind.get(self.record["scored"], "")

    @property
    def network(self) -> str:
        """Name of the model config, what tells it apart, and what was done beyond the plain prediction."""
        return self.record["network"] + self.suffix + self.extras

    @property
    def extras(self) -> str:
        """What was done beyond the plain prediction."""
        members = len(self.record["members"])
        extras = ["mirrored"] if self.record["options"].get("mirror") else []
        extras += [f"ensemble of {members}"] if members > 1 and self.record["scored"] != "out_of_fold" else []
        return "".join(f", {extra}" for extra in [*extras, *(["post-processed"] if self.processed else [])])

    @property
    def facts(self) -> dict[str, Any]:
        """What replicates have in common, see `facts_of`."""
        return facts_of(self.record, self.processed)

    @property
    def pairs(self) -> list[Pair]:
        """The scored files that are still where they were, as they were written, and have images."""
        pairs: list[Pair] = []
        for entry in self.record.get("pairs", ()):
            prediction, reference = Path(entry["prediction"]), Path(entry["reference"])
            if self.processed:
                prediction = prediction.parent.with_name(POSTPROCESSED) / prediction.name
            images = tuple(map(Path, entry["images"]))
            if images and all(path.is_file() for path in (prediction, reference, *images)):
                pairs.append(Pair(case=entry["case"], images=images, prediction=prediction, reference=reference))
        changed = changed_since({pair.case: pair.prediction for pair in pairs})
        return [pair for pair in pairs if pair.case not in changed]

    @property
    def provenance(self) -> list[dict[str, Any]]:
        """Commit, time and versions of the trainings, as train.py left them beside tables or checkpoints.

        Empty where there is none.
        """
        checkpoints = [Path(path) for path in self.record.get("checkpoints", ())]
        beside = _provenance(self.folder.parent)
        return [beside] if beside else [_provenance(checkpoint.parent.parent) for checkpoint in checkpoints]

    @property
    def folds(self) -> tuple[str, ...]:
        """Folds of its checkpoints, each once."""
        return tuple(sorted({str(member["fold"]) for member in self.record["members"]}))

    @property
    def training_sets(self) -> tuple[tuple[str, int], ...]:
        """Hash and number of the cases of each split that its checkpoints are of; empty where it is unknown."""
        data = [member.get("data") for member in self.record["members"]]
        return tuple(sorted({(one["set"], one["set_cases"]) for one in data if one})) if all(data) else ()

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Hashes of the cases that its checkpoints were trained on, each once; empty where it is unknown."""
        data = [member.get("data") for member in self.record["members"]]
        return tuple(sorted({one["trained_on"] for one in data})) if all(data) else ()

    @property
    def replicate(self) -> str:
        """What tells runs of one network apart."""
        seeds = sorted({str(m["seed"]) for m in self.record["members"] if m["seed"] is not None})
        weights = sorted({m["imported"][:6] for m in self.record["members"] if m["imported"]})
        parts = [("fold", self.folds), ("seed", seeds), ("weights", weights)]
        return ", ".join(f"{name}{'s' * (len(v) > 1 and name != 'weights')} {' + '.join(v)}" for name, v in parts if v)


def _provenance(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / "provenance.json")
    except OSError:  # no reason to be without a report
        return {}
