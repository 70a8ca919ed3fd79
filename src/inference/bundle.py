"""A bundle: one file with all that a prediction needs, made by `umamba export` to be handed over.

Weights, plan and configuration of one network or of several, the rules of post-processing that were decided on them,
hashes of each part and the licence; plain data, read as checkpoints are. A bundle of one network is a checkpoint with
one key more, so that whatever reads checkpoints reads it; one of several networks is for predictions.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from umamba.files import atomic_file, content_hash
from umamba.inference.members import weights_hash
from umamba.inference.previous_facts import KEY as PREVIOUS
from umamba.inference.rules import KEY, Rule, rules_of, rules_to_plain
from umamba.models.checkpoint import BUNDLE, check_checkpoint, load_plain, network_weights
from umamba.words import in_words

VERSION = 1
WITH_PREVIOUS = 2  # version of a bundle that holds a cascade's first stage too, which readers of version 1 do not know
KEPT = (
    "state_dict", "plan", "configuration", "config", "provenance", "cases", "epoch", "global_step", "loops", PREVIOUS,
)  # fmt: skip
_MEMBERS = "members"  # key of the networks' contents where there are several
_MARK = "umamba bundle"
# What says which configuration of the plan the network is of, and which cases it has seen
_ORIGIN = ("configuration", "cases", "provenance", "epoch", "global_step", PREVIOUS)
_SINCE_VERSION_1 = ("origin",)  # hashes that bundles of this version lack which were made before there were these


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint of a bundle.

    Attributes:
        name: Of its file.
        hash: `umamba.files.file_hash` of that file.
        content: As `umamba.models.checkpoint.load_checkpoint` returns it.
    """

    name: str
    hash: str
    content: Mapping[str, Any]

    def record(self) -> dict[str, Any]:
        """Its hashes."""
        return {"checkpoint": self.name, "hash": self.hash} | _hashes(self.content)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What a bundle holds.

    Attributes:
        groups: Name -> networks of one plan and configuration, whose logits are averaged; of several groups the
            probabilities are.
        rules: Of post-processing, as plain data; None if none were decided, which is not the same as no rule.
        mirror: Whether the rules were decided on predictions averaged over mirrored inputs; None if unknown.
        licence: As `umamba.export.given` reads it; None if whoever made it named none.
        made_by: The program and its version.
        previous: Group that is the second stage of a cascade -> the networks of the first one's folds.
    """

    groups: Mapping[str, Sequence[Source]]
    rules: Sequence[Mapping[str, Any]] | None
    mirror: bool | None
    licence: Mapping[str, str] | None
    made_by: str
    previous: Mapping[str, Sequence[Source]] = field(default_factory=dict)

    @property
    def sources(self) -> list[Source]:
        """All networks, in the order of the file: of each group its own, then those of its first stage."""
        return [one for name, own in self.groups.items() for one in (*own, *self.previous.get(name, ()))]

    def rules_for(self, labels: Mapping[str, int | Sequence[int]], path: Path) -> list[Rule]:
        """The rules, if they fit the labels, see `rules_of`; `path` is that of the bundle (else ValueError)."""
        return rules_of({KEY: self.rules or []}, labels, path)


def write_bundle(bundle: Bundle, path: Path) -> None:
    """Write it whole or not at all (else OSError)."""
    record = {
        "mark": _MARK,
        "version": WITH_PREVIOUS if bundle.previous else VERSION,
        "made_by": bundle.made_by,
        "groups": [
            {"name": name, _MEMBERS: [source.record() for source in sources]}
            | ({PREVIOUS: [source.record() for source in bundle.previous[name]]} if name in bundle.previous else {})
            for name, sources in bundle.groups.items()
        ],
        KEY: None if bundle.rules is None else [dict(rule) for rule in bundle.rules],
        "mirror": bundle.mirror,
        "licence": None if bundle.licence is None else dict(bundle.licence),
    }
    contents = [{key: source.content[key] for key in KEPT if key in source.content} for source in bundle.sources]
    record["hash"] = content_hash(record)
    content = {**contents[0], BUNDLE: record} if len(contents) == 1 else {BUNDLE: record, _MEMBERS: contents}
    with atomic_file(path) as beside, open(beside, "wb") as file:
        torch.save(content, file)


def bundle_in(checkpoint: object) -> Path | None:
    """The bundle that a ``checkpoint=...`` names; None for anything else, of which several in a list are one.

    Nothing in the file is loaded, and `read_bundle` checks it.

    Raises:
        ValueError: Bundles in a list, whose rules were decided on each by itself.
    """
    if isinstance(checkpoint, (list, tuple)):
        if bundles := [str(one) for one in checkpoint if _looks_like_one(Path(one))]:
            raise ValueError(
                f"{', '.join(bundles)} in a list of checkpoints: a bundle is predicted with by itself, with its own "
                "rules. Give the checkpoints that it was made of, or make one bundle of all (umamba export)."
            )
        return None
    path = Path(str(checkpoint))
    return path if _looks_like_one(path) else None


def _looks_like_one(path: Path) -> bool:
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            plain = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")][:1]
            # torch.save compresses nothing; a file that does could grow to any size
            return any(one.compress_type == zipfile.ZIP_STORED and _MARK.encode() in archive.read(one) for one in plain)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        return False  # a damaged file is the reader's to explain


def read_bundle(path: Path, trusted: str | Sequence[str] | None = ()) -> Bundle:
    """Read a bundle on the CPU, without running any code stored in it.

    Raises:
        ValueError: It is none, of another version, or was changed after it was made; see `load_checkpoint`.
    """
    content = load_plain(path)
    try:
        record = dict(content[BUNDLE])
        if record["version"] not in (VERSION, WITH_PREVIOUS):
            raise ValueError(f"its version is {record['version']!r}, this program reads {VERSION} and {WITH_PREVIOUS}")
        known = record.pop("hash")
        if known != content_hash(record):
            raise ValueError("its record was changed")
        listed = {
            str(group["name"]): (list(group[_MEMBERS]), list(group.get(PREVIOUS, ()))) for group in record["groups"]
        }
        found, count = content.get(_MEMBERS, [content]), sum(len(own) + len(first) for own, first in listed.values())
        if not listed or not all(own for own, _ in listed.values()) or count != len(found):
            raise ValueError(f"it lists {count} networks and holds {len(found)}")
        left = iter(found)
        groups, previous = dict[str, list[Source]](), dict[str, list[Source]]()
        for name, (own, first) in listed.items():
            groups[name] = [_checked(next(left), entry, path, trusted) for entry in own]
            if first:
                previous[name] = [_checked(next(left), entry, path, trusted) for entry in first]
        return Bundle(
            groups=groups,
            rules=record[KEY],
            mirror=record["mirror"],
            licence=record["licence"],
            made_by=str(record["made_by"]),
            previous=previous,
        )
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ValueError(f"{path} is no bundle of `umamba export` ({in_words(error)}).") from error
    except ValueError as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(
            f"{path} is no bundle that can be used: {error}. Ask for it again, or export it anew."
        ) from error


def rules_as_plain(rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """Rules as a bundle holds them."""
    return [{key: list(v) if isinstance(v, tuple) else v for key, v in rule.items()} for rule in rules_to_plain(rules)]


def _checked(content: Any, entry: Mapping[str, Any], path: Path, trusted: str | Sequence[str] | None) -> Source:
    given = {key: value for key, value in content.items() if key != BUNDLE} if isinstance(content, dict) else content
    checked = check_checkpoint(given, path, trusted)  # before hashes: a view can make one number look like many
    found = _hashes(checked)
    compared = [key for key in found if key in entry or key not in _SINCE_VERSION_1]
    if changed := [key for key in compared if entry[key] != found[key]]:
        verb = "were" if len(changed) > 1 else "was"
        raise ValueError(f"{', '.join(changed)} of {entry['checkpoint']} {verb} changed after it was made")
    return Source(name=str(entry["checkpoint"]), hash=str(entry["hash"]), content=checked)


def _hashes(content: Mapping[str, Any]) -> dict[str, str]:
    return {
        "weights_sha256": weights_hash(network_weights(content)),
        "plan": content_hash(content["plan"]),
        "config": content_hash(content["config"]),
        "origin": content_hash({key: content[key] for key in _ORIGIN if key in content}),
    }


def said_of(licence: Mapping[str, str] | None) -> str:
    """A licence in words, in one line."""
    if licence is None:
        return "no licence is named in it"
    return f"licence {licence.get('identifier') or licence.get('name')}"
