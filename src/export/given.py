"""What is to be exported: the networks that a ``checkpoint=...`` names, the rules decided on them, and the licence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from umamba.export.facts import PACKAGE
from umamba.files import content_hash, file_hash
from umamba.inference.bundle import Bundle, Source, bundle_in, read_bundle, rules_as_plain
from umamba.inference.ensemble import find_ensemble, read_ensemble
from umamba.inference.members import check_named_once
from umamba.inference.previous_checkpoints import facts_of_all, previous_checkpoints
from umamba.inference.rules import KEY, load_rules
from umamba.models.checkpoint import check_finite, load_checkpoint, network_weights
from umamba.planning.plan import Plan

_ONE = r"[A-Za-z0-9][A-Za-z0-9.-]*\+?"
_EXPRESSION = re.compile(rf"\(*{_ONE}\)*(?: (?:AND|OR|WITH) \(*{_ONE}\)*)*")
_LARGEST = 1 << 20  # bytes of a text


def read_given(
    checkpoint: str | Sequence[str],
    *,
    postprocessing: str | bool | None = None,
    licence: Mapping[str, str] | None = None,
    trusted: str | Sequence[str] = (),
    previous_stage: object = None,
) -> Bundle:
    """Read all that is named, and see that it belongs together.

    Args:
        checkpoint: A checkpoint, a list of them, a cross-validation's folder, an ensemble.json, or a bundle.
        postprocessing: File of rules; None for those of an ensemble.json or a bundle, False for not those either.
        licence: See `umamba.export.given.read_licence`; None for the one that a bundle has.
        trusted: As of `load_checkpoint`.
        previous_stage: Where the first stage of a cascade lies, if not where it was; see `previous_checkpoints`.

    Raises:
        FileNotFoundError, ValueError: See `load_checkpoint`, `find_ensemble`, `Ensemble.check_unchanged`,
            `read_bundle`, `check_named_once`, `previous_checkpoints` and `load_rules`; or checkpoints of a list have
            other plans or configurations, weights are not finite, or previous_stage would do nothing.
    """
    files, previous = dict[str, Sequence[Path]](), dict[str, Sequence[Source]]()
    groups, rules, mirror, bundle = dict[str, list[Source]](), None, None, bundle_in(checkpoint)
    ensemble = find_ensemble(checkpoint)
    if bundle is not None:
        found = read_bundle(bundle, trusted)
        groups = {name: list(sources) for name, sources in found.groups.items()}
        rules, mirror, licence, previous = found.rules, found.mirror, licence or found.licence, dict(found.previous)
    elif ensemble is not None:
        read = read_ensemble(ensemble)
        read.check_unchanged()
        for number, group in enumerate(read.groups):
            name = group.name if group.name not in groups else f"{group.name} {number}"
            files[name] = group.checkpoints
            groups[name] = [_source(path, trusted) for path in group.checkpoints]
        mirror, rules = read.mirror, read.content[KEY]
        rules = rules_as_plain(read.rules(_plan(groups).foreground))
    else:
        paths = [Path(one) for one in ([checkpoint] if isinstance(checkpoint, (str, Path)) else checkpoint)]
        if not paths:
            raise ValueError("There is no checkpoint to export: checkpoint=[] is an empty list.")
        check_named_once(paths)
        sources = [_source(path, trusted) for path in paths]
        groups = {sources[0].content["configuration"]: sources}
        files = dict.fromkeys(groups, paths)
    if isinstance(postprocessing, bool):
        if postprocessing or rules is None:
            raise ValueError(
                "postprocessing=... is a file of rules, or false to leave out those of an ensemble.json or a bundle, "
                f"which are taken without it; it is {postprocessing} for checkpoints that have none."
            )
        rules, mirror = None, None
    elif postprocessing is not None:
        rules, mirror = rules_as_plain(load_rules(postprocessing, _plan(groups).foreground)), None
    for name, sources in groups.items():
        _check_together(sources)
        if name in files and (before := _before(sources, files[name], previous_stage)):
            previous[name] = [_source(path, trusted) for path in before]
    if previous_stage is not None and (bundle is not None or not previous):
        what = "brings its first stage along" if previous else "sees the image alone"
        raise ValueError(f"previous_stage={previous_stage} would do nothing: {checkpoint} {what}. Leave it out.")
    return Bundle(
        groups=groups, rules=rules, mirror=mirror, licence=licence, made_by=f"{PACKAGE} {_version()}", previous=previous
    )


def check_no_cascade(given: Bundle) -> None:
    """See that networks see the image alone, for a form of file that has no place for a first stage.

    Raises:
        ValueError: Some are the second stage of a cascade.
    """
    if given.previous:
        raise ValueError(
            f"{next(iter(given.groups[next(iter(given.previous))])).name} is the second stage of a cascade: it needs "
            "what the first one segments as channels, for which this format has no place. format=bundle holds both."
        )


def _source(path: Path, trusted: str | Sequence[str]) -> Source:
    content = load_checkpoint(path, trusted)
    check_finite(network_weights(content), path)
    return Source(name=path.name, hash=file_hash(path), content=content)


def _before(sources: Sequence[Source], files: Sequence[Path], given: object) -> list[Path]:
    """The checkpoints of the first stage of a cascade that these are the second of; none of others."""
    content = sources[0].content
    stage = Plan.from_dict(content["plan"]).configuration(content["configuration"]).previous_stage
    if stage is None:
        return []
    facts = facts_of_all([(path, one.content) for path, one in zip(files, sources, strict=True)])
    return list(previous_checkpoints(files[0], facts, given, stage).values())


def _check_together(sources: Sequence[Source]) -> None:
    kinds = {(content_hash(one.content["plan"]), one.content["configuration"]): one.name for one in sources}
    if len(kinds) > 1:
        told = "; ".join(f"{name}: {configuration}, plan {plan}" for (plan, configuration), name in kinds.items())
        raise ValueError(
            f"The checkpoints were trained with other plans or configurations ({told}); their logits cannot be "
            "averaged. Export each by itself, or give the ensemble.json of `umamba best`, which averages probabilities."
        )


def _plan(groups: Mapping[str, Sequence[Source]]) -> Plan:
    return Plan.from_dict(next(iter(groups.values()))[0].content["plan"])


def _version() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "of a checkout"


def read_licence(given: str | None) -> dict[str, str] | None:
    """What ``licence=...`` says, as plain data (else ValueError).

    Args:
        given: A file, whose text is taken, or an SPDX expression such as "CC-BY-NC-4.0"; None for none.

    Returns:
        The keys "name" and "text" of a file, or "identifier".
    """
    if given is None:
        return None
    path = Path(str(given))
    if path.is_file():
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"licence={given} has more than {_LARGEST} bytes, which is no licence's text.")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"licence={given} is no text in UTF-8 ({error}).") from error
        return {"name": path.name, "text": text}
    if not _EXPRESSION.fullmatch(str(given)) or path.suffix.lower() in (".txt", ".md"):
        raise ValueError(
            f"licence={given} is neither a file nor an SPDX identifier, such as CC-BY-NC-4.0, Apache-2.0 or "
            "LicenseRef-Mine (https://spdx.org/licenses)."
        )
    return {"identifier": str(given)}
