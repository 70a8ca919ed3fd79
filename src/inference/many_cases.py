"""A predictor's way through many cases: images of a folder in, label maps and inference.json in another."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from umamba.files import writing_into
from umamba.inference.claim import claimed
from umamba.inference.export import Export
from umamba.inference.folders import cases_in_folder, check_apart, check_not_an_input
from umamba.inference.going_on import go_on
from umamba.inference.kept import check_kept, kept_files, write_kept
from umamba.inference.mixture import begin
from umamba.inference.one_case import CasePredictor
from umamba.inference.pipeline import CasesFailedError, each_case
from umamba.inference.previous_facts import KEY as PREVIOUS
from umamba.inference.record import Part, Record, identities_of, meaning_of, record_path
from umamba.inference.rules import KEY
from umamba.inference.seen import say_seen
from umamba.inference.sliding_window import STEP
from umamba.raw.checks import log_doubts
from umamba.raw.dataset import RawCase
from umamba.raw.readers import Geometry, write_label
from umamba.words import count

log = logging.getLogger(__name__)


class FilesPredictor(CasePredictor):
    """A predictor of files and of whole folders of them; the constructor is that of `CasePredictor`."""

    def outputs(self, cases: Sequence[RawCase], output_dir: Path) -> dict[str, Path]:
        """Case -> the label map that `predict_cases` writes (else ValueError)."""
        paths = {case.identifier: output_dir / f"{case.identifier}{self.plan.file_ending}" for case in cases}
        check_not_an_input(cases, paths)
        return paths

    def predict_cases(
        self,
        cases: Sequence[RawCase],
        output_dir: Path,
        *,
        keep: Sequence[str] = (),
        nifti: bool = False,
        labels: Sequence[str] | None = None,
        resume: bool = False,
        part: Part = (0, 1),
        refused: Mapping[str, str] | None = None,
    ) -> list[Path]:
        """Segment cases and write ``<output_dir>/<identifier><file ending of the data set>``.

        Files are read ahead of the network and written behind it. What label maps mean, what made them, seconds per
        case and what failed go to ``inference.json`` in the folder.

        Args:
            cases: What to segment: names and image files.
            output_dir: Made if it is not there.
            keep: "probabilities", "logits": written as float16 to ``<identifier>.npz`` under these names.
            nifti: Probabilities as ``probabilities/<identifier>.nii.gz`` instead, (x, y, z, class), which NIfTI has as
                float32.
            labels: Names of the classes of the label maps, the others become background; or of the regions that are
                written, as if there were no others. None for all.
            resume: Leave the cases whose files are there, if the same networks and options made them of these images.
            part: (i, n): of the cases only every n-th from the i-th on; n processes share the work.
            refused: Name -> what is wrong, of what was to be predicted too and is no case: failed from the start.

        Returns:
            The label maps, those that were there included.

        Raises:
            CasesFailedError: Some cases have files that cannot be used, logits that are not finite or too large for the
                memory, or were `refused`; raised when the others are written.
            ValueError: A label map would replace one of the images; there are no such labels; see `go_on` and
                `check_kept`.
            PredictionInUseError: Another prediction is being written there, see `claimed`.
            OSError: The disk is full.
        """
        self._check_kept(keep, nifti=nifti)
        cases = cases[part[0] :: part[1]]
        paths = self.outputs(cases, output_dir)
        self._check_labels(labels)
        made_by = self.made_by(keep, labels) | ({"probabilities": "nifti"} if nifti else {})
        output_dir.mkdir(parents=True, exist_ok=True)
        files = {name: [path, *kept_files(path, name, keep, nifti=nifti)] for name, path in paths.items()}
        path, done = record_path(output_dir, part), set[str]()
        with claimed(output_dir, path.name, made_by):
            if resume:
                done, before = go_on(path, cases, files, made_by)
                log.info("There already: %d of %s.", len(done), count(len(cases), "case"))
            else:
                before = begin(output_dir, path, made_by, paths)
            to_do = [case for case in cases if case.identifier not in done]
            record = Record.begun(
                to_do, files, before, path=path, device=self.device, meaning=meaning_of(self.plan, labels),
                made_by=made_by, failed=dict(refused or {}),
            )  # fmt: skip
            self._predict(to_do, files, record, keep, labels)
            say_seen(record.trained_on, to_do)
            new = sum(case.identifier not in record.failed for case in to_do)
            there = f"; {len(done)} were there already" if resume else ""
            log.info("Wrote %s to %s%s.", count(new, "label map"), output_dir, there)
            written = [path for name, path in paths.items() if name not in record.failed]
            if record.failed:
                failed = [output_dir / f"{name}{self.plan.file_ending}" for name in record.failed]
                raise CasesFailedError(record.failed, written, [path for path in failed if path.exists()])
            return written

    def _predict(
        self,
        cases: Sequence[RawCase],
        files: Mapping[str, Sequence[Path]],
        record: Record,
        keep: Sequence[str],
        labels: Sequence[str] | None,
    ) -> None:
        """Read, segment and write cases, and note in the record what became of them; what is odd about them is said."""
        doubts: dict[str, dict[str, str]] = {case.identifier: {} for case in cases}
        apart = self.previous is not None and self.previous.out_of_fold

        def read(case: RawCase) -> tuple[np.ndarray, Geometry, str]:
            record.images[case.identifier] = identities_of(case.images)
            image, geometry = self._read(case.images, doubts[case.identifier])
            record.trained_on |= self.training_cases.answer(case, image, out_of_fold=apart)
            return image, geometry, case.identifier

        def write(case: RawCase, made: Export) -> None:
            self._write(made, files[case.identifier], labels)
            record.wrote(case.identifier, files[case.identifier])

        record.save()
        with record.saved_when_stopped():
            record.seconds |= each_case(
                cases,
                read=read,
                preprocess=self._preprocess,
                segment=partial(self._segment, keep=keep, labels=None if self.rules else labels),
                write=write,
                failures=record.failed,
            )
        record.replaced = {name: stamps for name, stamps in record.replaced.items() if name in record.failed}
        record.save()
        for kind in sorted({kind for messages in doubts.values() for kind in messages}):
            said = [messages[kind] for messages in doubts.values() if kind in messages]
            log_doubts(kind, len(said), said[0])

    def made_by(self, keep: Sequence[str] = (), labels: Sequence[str] | None = None) -> dict[str, Any]:
        """What tells its outputs from those of others, as plain data; arguments as of `predict_cases`."""
        rules = {KEY: [list(rule.labels) for rule in self.rules]} if self.rules else {}
        return {
            **self._networks_made_by(),
            "labels": None if labels is None else sorted(labels),
            "keep": sorted(keep),
            **rules,
            **({} if self.step == STEP else {"step": self.step}),
        }

    def _networks_made_by(self) -> dict[str, Any]:
        return {
            "networks": [member.made_by() for member in self.members],
            "plan": self.plan.hash(),
            "configuration": self.configuration.name,
            **({} if self.previous is None else {PREVIOUS: self.previous.made_by()}),
        }

    def segment_files(
        self, images: Path | str, output_dir: Path | str, *, file_ending: str | None = None, **options: Any
    ) -> list[Path]:
        """Segment the images of a folder, see `cases_in_folder`, into another one.

        Raises:
            FileNotFoundError, DatasetError: See `cases_in_folder`.
            CasesFailedError: See `predict_cases`; or files of the folder are no case, the others were predicted.
            ValueError, OSError: See `predict_cases`; or the folders are one, see `check_apart`.
        """
        check_apart(Path(images), Path(output_dir))
        folder, unnamed = Path(output_dir), dict[str, str]()
        ending = file_ending or self.plan.file_ending
        cases = cases_in_folder(Path(images), ending, len(self.plan.channel_names), unnamed)
        self.outputs(cases, folder)  # refused before the folder is made
        self._check_labels(options.get("labels"))
        self._check_kept(options.get("keep", ()), nifti=options.get("nifti", False))
        with writing_into(folder):
            return self.predict_cases(cases, folder, refused=unnamed, **options)

    def _write(self, made: Export, files: Sequence[Path], labels: Sequence[str] | None) -> None:
        path, *others = files
        write_kept(made.kept, others, made.geometry)
        label = self._postprocessed(made.label, labels) if self.rules else made.label
        write_label(label, path, made.geometry)

    def _check_kept(self, keep: Sequence[str], *, nifti: bool) -> None:
        check_kept(keep, nifti=nifti, file_ending=self.plan.file_ending)

    def _check_labels(self, labels: Sequence[str] | None) -> None:
        names = self.plan.foreground
        if labels is not None and (isinstance(labels, str) or not labels or not set(labels) <= names.keys()):
            kind = "regions" if self.plan.regions else "classes"
            raise ValueError(
                f"labels is {labels}; expected a list of some {kind} of the network, of {', '.join(names)}. All else "
                "becomes background."
            )
