"""What is to be exported: the networks that a ``checkpoint=...`` names, with the rules decided on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from umamba.export.facts import PACKAGE
from umamba.files import content_hash, file_hash
from umamba.inference.bundle import Bundle, Source, bundle_in, read_bundle, rules_as_plain
from umamba.inference.ensemble import find_ensemble, read_ensemble
from umamba.inference.members import check_finite, check_named_once
from umamba.inference.rules import KEY, load_rules
from umamba.models.checkpoint import load_checkpoint, network_weights
from umamba.planning.plan import Plan


def read_given(
    checkpoint: str | Sequence[str],
    *,
    postprocessing: str | bool | None = None,
    licence: Mapping[str, str] | None = None,
    trusted: str | Sequence[str] = (),
) -> Bundle:
    """Read all that is named, and see that it belongs together.

    Args:
        checkpoint: A checkpoint, a list of them, a cross-validation's folder, an ensemble.json, or a bundle.
        postprocessing: File of rules; None for those of an ensemble.json or a bundle, False for not those either.
        licence: See `umamba.export.licence.read_licence`; None for the one that a bundle has.
        trusted: As of `load_checkpoint`.

    Raises:
        FileNotFoundError, ValueError: See `load_checkpoint`, `find_ensemble`, `Ensemble.check_unchanged`,
            `read_bundle`, `check_named_once` and `load_rules`; or checkpoints of a list have other plans or
            configurations, weights are not finite, or a network is one of a cascade.
    """
    groups, rules, mirror, bundle = dict[str, list[Source]](), None, None, bundle_in(checkpoint)
    ensemble = find_ensemble(checkpoint)
    if bundle is not None:
        found = read_bundle(bundle, trusted)
        groups = {name: list(sources) for name, sources in found.groups.items()}
        rules, mirror, licence = found.rules, found.mirror, licence or found.licence
    elif ensemble is not None:
        read = read_ensemble(ensemble)
        read.check_unchanged()
        for number, group in enumerate(read.groups):
            name = group.name if group.name not in groups else f"{group.name} {number}"
            groups[name] = [_source(path, trusted) for path in group.checkpoints]
        mirror, rules = read.mirror, read.content[KEY]
        rules = rules_as_plain(read.rules(_plan(groups).foreground))
    else:
        paths = [checkpoint] if isinstance(checkpoint, (str, Path)) else list(checkpoint)
        if not paths:
            raise ValueError("There is no checkpoint to export: checkpoint=[] is an empty list.")
        check_named_once(paths)
        sources = [_source(Path(path), trusted) for path in paths]
        groups = {sources[0].content["configuration"]: sources}
    if isinstance(postprocessing, bool):
        if postprocessing or rules is None:
            raise ValueError(
                "postprocessing=... is a file of rules, or false to leave out those of an ensemble.json or a bundle, "
                f"which are taken without it; it is {postprocessing} for checkpoints that have none."
            )
        rules, mirror = None, None
    elif postprocessing is not None:
        rules, mirror = rules_as_plain(load_rules(postprocessing, _plan(groups).foreground)), None
    for sources in groups.values():
        _check_together(sources)
    return Bundle(groups=groups, rules=rules, mirror=mirror, licence=licence, made_by=f"{PACKAGE} {_version()}")


def _source(path: Path, trusted: str | Sequence[str]) -> Source:
    content = load_checkpoint(path, trusted)
    check_finite(network_weights(content), path)
    return Source(name=path.name, hash=file_hash(path), content=content)


def _check_together(sources: Sequence[Source]) -> None:
    kinds = {(content_hash(one.content["plan"]), one.content["configuration"]): one.name for one in sources}
    if len(kinds) > 1:
        told = "; ".join(f"{name}: {configuration}, plan {plan}" for (plan, configuration), name in kinds.items())
        raise ValueError(
            f"The checkpoints were trained with other plans or configurations ({told}); their logits cannot be "
            "averaged. Export each by itself, or give the ensemble.json of `umamba best`, which averages probabilities."
        )
    plan = Plan.from_dict(sources[0].content["plan"])
    previous = plan.configuration(sources[0].content["configuration"]).previous_stage
    if previous is not None:
        raise ValueError(
            f"{sources[0].name} is the second stage of a cascade: it needs the segmentation of {previous} as channels, "
            "which one network's file does not bring along. Hand over the checkpoints of both stages."
        )


def _plan(groups: Mapping[str, Sequence[Source]]) -> Plan:
    return Plan.from_dict(next(iter(groups.values()))[0].content["plan"])


def _version() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "of a checkout"
