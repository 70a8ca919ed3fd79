"""What makes two runs replicates of one network, and what to call them when it does not.

Everything that a training was told counts, but for what is known to change no weight (folders, workers, loggers, ...):
a setting that is not known here tells runs apart. Replicates differ in seed and fold alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from umamba.evaluation.members import Member
from umamba.files import content_hash
from umamba.raw.instances import grow_pixels
from umamba.usual_loss import USUAL, name_of_loss, with_loss, without_usual_loss

# Of the resolved configuration: what names, places, shows or repeats a training, or is compared elsewhere (the plan,
# the fold, the data set by its cases).
_OUTSIDE = {
    "": ("augmentation", "callbacks", "compile", "data_name", "debug", "experiment", "fold", "hydra", "logger",
         "model_name", "optimizer", "paths", "previous_stage", "resume", "run_dir", "seed", "tags", "task_name", "test",
         "train", "trusted"),
    "model": ("optimizer", "precision", "patch_multiple"),
    "data": ("_target_", "augment_on", "batch_size", "configuration", "dataset_dir", "decathlon_task", "fold",
             "grow", "images", "nsd_tolerance", "num_workers", "patch_multiple", "patch_size", "planning",
             "prepared_dir", "seed", "sources", "task", "val_iterations"),
    "trainer": ("_target_", "accelerator", "barebones", "benchmark", "callbacks", "check_val_every_n_epoch",
                "default_root_dir", "detect_anomaly", "deterministic", "devices", "enable_autolog_hparams",
                "enable_checkpointing", "enable_model_summary", "enable_progress_bar", "inference_mode",
                "limit_predict_batches", "limit_test_batches", "limit_val_batches", "log_every_n_steps", "logger",
                "num_nodes", "num_sanity_val_steps", "plugins", "profiler", "strategy", "use_distributed_sampler",
                "val_check_interval"),
}  # fmt: skip
# Of the trainer: values that are the same as none given.
_NEUTRAL = {"accumulate_grad_batches": 1, "fast_dev_run": False, "limit_train_batches": 1.0, "max_steps": -1,
            "overfit_batches": 0.0, "sync_batchnorm": False}  # fmt: skip
_WATCHERS = ("umamba.callbacks.", *(f"lightning.pytorch.callbacks.{name}" for name in (
    "DeviceStatsMonitor", "LearningRateMonitor", "ModelCheckpoint", "RichProgressBar", "TQDMProgressBar",
)))  # fmt: skip
# Of the plan's configuration: its name (compared by itself), what explains it, and where data are kept.
_REMARKS = ("name", "batch_reason", "data_identifier", "estimate", "median_shape", "patch_reason", "reference")
_OF_PLAN = ("channel_names", "intensities", "regions", "transpose_forward")
_LOSS = "loss._target_"
_EPOCHS = "epochs"  # trained; left out where it is all that the trainer was to train
# Facts that no entry of a configuration may hide, which may be called anything: it is then told as config.<name>.
_TAKEN = ("configuration", "grow", "labels", "members", "mirror", "network", "plan", "rules")
# The order in names
_FIRST = ("configuration", "imported", "model.network", "model", "optimizer", "loss", "data", "trainer", "", "plan")


def training_of(member: Member) -> dict[str, Any]:
    """What decided a checkpoint's weights beside the plan, the data, fold and seed, as plain data."""
    config = {_named(key, (_EPOCHS, "imported")): value for key, value in member.config.items()}
    kept = _prune({key: value for key, value in config.items() if key not in _OUTSIDE[""]})
    if member.init_from is not None:
        kept["init_from"] = member.init_from  # what it held, wherever it lay
    if member.previous is not None:
        kept["previous_stage"] = member.previous.training
    kept["optimizer"] = config.get("optimizer") or config["model"].get("optimizer")
    callbacks = {key: value for key, value in (config.get("callbacks") or {}).items() if value}
    kept["callbacks"] = {k: v for k, v in callbacks.items() if not str(v.get("_target_")).startswith(_WATCHERS)}
    if member.imported is not None:  # the rest of its configuration was never used
        kept = {"model": {"network": config["model"]["network"]}, "imported": member.imported["trainer"]}
    if member.epochs != kept.get("trainer", {}).get("max_epochs"):
        kept[_EPOCHS] = "best" if member.epochs is None else member.epochs
    return kept


def plan_of(member: Member) -> dict[str, Any]:
    """What a plan decides about data and network, as plain data."""
    configuration = member.plan["configurations"][member.configuration]
    kept = {key: value for key, value in configuration.items() if key not in _REMARKS}
    return kept | {key: member.plan.get(key) for key in _OF_PLAN}


def check_one_network(members: Sequence[Member]) -> None:
    """See that checkpoints are of one network that was trained in one way, in any folds and seeds.

    Raises:
        ValueError: They are not; names two of them and what differs.
    """
    facts = [
        dict(_flat({**_told(training_of(m)), "network": m.network, "labels": m.plan["labels"], "plan": plan_of(m)}))
        for m in members
    ]
    for member, other in zip(members[1:], facts[1:], strict=True):
        apart = differing([facts[0], other])
        if apart:
            raise ValueError(
                f"Post-processing is fitted to one network in several folds; {members[0].path} and {member.path} "
                f"differ in {', '.join(apart[:5])}. Fit it to each by itself."
            )


def facts_of(record: Mapping[str, Any], processed: bool) -> dict[str, Any]:
    """All that replicates have in common, flat: dotted key -> value; what is None is left out."""
    members = [
        dict(_flat({**_told(_prune(member["training"])), "network": member["network"]})) for member in record["members"]
    ]
    members.sort(key=lambda member: repr(sorted(member.items())))
    facts = {}
    for key in sorted({key for member in members for key in member}):
        values = [member.get(key) for member in members]
        facts[key] = values[0] if all(value == values[0] for value in values) else values
    options = {"mirror": record["options"].get("mirror") or None, "grow": grown_by(record) or None}
    options["rules"] = (record["options"].get("rules") or "unknown") if processed else None
    others = {"configuration": record["configuration"], "members": len(members), "plan": record["plan"], **options}
    return facts | dict(_flat(others))


def grown_by(record: Mapping[str, Any]) -> float:
    """Px by which predicted instances were grown; 0 where there were none, whatever a record of classes says.

    Raises:
        ValueError: It is no such number.
    """
    return grow_pixels(record["options"].get("grow") or 0) if record.get("task") == "instances" else 0


def name_apart(variants: Sequence[Mapping[str, Any]], told: Sequence[str] = ()) -> list[str]:
    """For things of one name and different facts, what to put behind the name of each: " (variant=repo)".

    As few facts as tell all of them apart, those of the network first; "" if there is one.

    Args:
        variants: The facts of each.
        told: Keys of facts that every name says, also that of a single one.
    """
    variants = by_loss(variants, told)
    chosen = telling_apart(variants, told)
    if not chosen:
        return ["" for _ in variants]
    labels = _labels(chosen)
    shown = [[key for key in chosen if key in one or not _of_other_loss(key, chosen)] or chosen for one in variants]
    texts = [[f"{labels[key]}={_text(key, one.get(key))}" for key in k] for one, k in zip(variants, shown, strict=True)]
    return [f" ({', '.join(one)})" for one in texts]


def by_loss(variants: Sequence[Mapping[str, Any]], told: Sequence[str] = ()) -> list[Mapping[str, Any]]:
    """The facts with each of the project's losses as one, its name, where others are among them or it is told."""
    if _LOSS not in told and len({_values(one, [_LOSS]) for one in variants}) < 2:
        return list(variants)
    return [_with_named_loss(one) if one.get(_LOSS) == USUAL["_target_"] else one for one in variants]


def telling_apart(variants: Sequence[Mapping[str, Any]], told: Sequence[str] = ()) -> list[str]:
    """As few keys as tell apart all facts that differ, beside those told anyway; those of the network first."""
    chosen = list(told)
    for key in differing(variants):
        if len({_values(one, [*chosen, key]) for one in variants}) > len({_values(one, chosen) for one in variants}):
            chosen.append(key)
    return sorted(chosen, key=_place)


def names_of(keys: Sequence[str]) -> list[str]:
    """What names call these facts."""
    return list(_labels(keys).values())


def differing(variants: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that do not have one value in all of some facts, those of the network first and the plan's last."""
    keys = {key for one in variants for key in one}
    return sorted((key for key in keys if len({_values(one, [key]) for one in variants}) > 1), key=_place)


def _prune(training: Mapping[str, Any]) -> dict[str, Any]:
    """Without what changes no weight; also of records, which another version may have written."""
    kept = {_named(key, _TAKEN): value for key, value in without_usual_loss(training).items()}
    for part in ("model", "data", "trainer"):
        entries = training.get(part)
        if isinstance(entries, Mapping):
            kept[part] = {key: value for key, value in entries.items() if key not in _OUTSIDE[part]}
    if isinstance(kept.get("trainer"), Mapping):
        kept["trainer"] = {k: v for k, v in kept["trainer"].items() if k not in _NEUTRAL or _NEUTRAL[k] != v}
    return kept


def _told(training: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the numbers of the usual loss too, by which it is told from others; an imported training had its own."""
    return training if "imported" in training else with_loss(training)


def _named(key: str, taken: Sequence[str]) -> str:
    return f"config.{key}" if key in taken else key


def _values(facts: Mapping[str, Any], keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(repr(facts.get(key)) for key in keys)


def _with_named_loss(facts: Mapping[str, Any]) -> dict[str, Any]:
    of_loss = {key: value for key, value in facts.items() if key.startswith("loss.") and key != "loss._partial_"}
    name = name_of_loss({key.removeprefix("loss."): value for key, value in of_loss.items()})
    return {key: value for key, value in facts.items() if key not in of_loss} | {_LOSS: name}


def _of_other_loss(key: str, chosen: Sequence[str]) -> bool:
    """Whether it is a setting of one of several losses: the others have none of that name."""
    return _LOSS in chosen and key.startswith("loss.") and key != _LOSS


def _place(key: str) -> tuple[int, str]:
    places = [i for i, start in enumerate(_FIRST) if start and (key == start or key.startswith(f"{start}."))]
    return (places[0] if places else _FIRST.index(""), key)


def _labels(keys: Sequence[str]) -> dict[str, str]:
    short = {key: _short(key) for key in keys}
    labels = {key: name if list(short.values()).count(name) == 1 else key for key, name in short.items()}
    return labels | ({_EPOCHS: "checkpoint"} if _EPOCHS in labels else {})


def _short(key: str) -> str:
    if key.startswith("loss."):  # as it is said on the command line: "dice" or "gamma" alone may be anything's
        return key.removesuffix("._target_")
    return key.removesuffix("._target_").rpartition(".")[2]


def _text(key: str, value: Any) -> str:
    if key == _EPOCHS and not isinstance(value, list):
        return "last" if value is None else value if value == "best" else f"after epoch {value}"
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:24]}…{content_hash(text)[:6]}"


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    entries = value.items() if isinstance(value, Mapping) else enumerate(value) if _has_parts(value) else None
    if entries is not None:
        for name, entry in entries:
            yield from _flat(entry, f"{key}.{name}" if key else str(name))
    elif value is not None:
        # Six digits: a plan made on another machine differs in the last bits, which no name should show.
        yield key, float(f"{value:.6g}") if isinstance(value, float) else _plain(value)


def _has_parts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(entry, Mapping) for entry in value)


def _plain(value: Any) -> Any:
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
