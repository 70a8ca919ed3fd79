"""The list of wanted runs: data sets x networks x seeds, each with the overrides of train.py that make it.

    overrides: [logger=csv]                      # of every run
    datasets:
      hippocampus:
        title: Hippocampus, MR, 3D
        overrides: [data=hippocampus, trainer.max_epochs=20]
        seconds: 240                             # of a run with a network of cost 1, to pack by
        networks: [nnunet, umamba_enc]           # left out: all
    networks:
      nnunet: {overrides: [model=nnunet], seeds: [1, 2, 3], cost: 1}
      umamba_enc: {overrides: [model=umamba_enc], seeds: [1, 2, 3], cost: 2}

A run's overrides are those of all runs, of its data set and of its network, in this order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from umamba.locations import CONFIGS
from umamba.names import name_fault
from umamba.typed import has_type, is_whole

FOLDER = CONFIGS / "evidence"
_KEYS = {
    "": ("overrides", "datasets", "networks"),
    "datasets": ("title", "overrides", "seconds", "networks"),
    "networks": ("overrides", "seeds", "cost"),
}
_OF_THE_RUNNER = ("seed", "run_dir", "paths.raw", "paths.prepared", "data.num_workers", "resume", "test", "train")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A run that is wanted.

    Attributes:
        dataset: Its name in the manifest, with the configuration if there are several: "cardiac_3d".
        title: What tables call the data set.
        network: Its name in the manifest.
        seed: Seed of the training.
        overrides: What train.py is told on the command line, without seed and folders.
        seconds: About how long it takes, alone or packed as usual.
    """

    dataset: str
    title: str
    network: str
    seed: int
    overrides: tuple[str, ...]
    seconds: float

    @property
    def cell(self) -> str:
        """The cell of the table that it belongs to: all seeds of a network on a data set."""
        return f"{self.dataset}/{self.network}"

    @property
    def key(self) -> str:
        """Its name, and where its files are below the folders of states and of records."""
        return f"{self.cell}_{self.seed}"


def read_manifest(manifest: Path | str) -> list[Wanted]:
    """Read a manifest.

    Args:
        manifest: A file, or the name of one in configs/evidence/.

    Returns:
        The wanted runs in its order, seeds innermost.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It has another form; the message names the key.
    """
    path = _find(str(manifest))
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))  # with what stands for the run's own values as it is
    except (YAMLError, OmegaConfBaseException, ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML file: {error}") from error
    top = _mapping(content, _KEYS[""], "", path)
    shared = _overrides(top, "overrides", path)
    networks = {name: _network(name, entry, path) for name, entry in _named(top, "networks", path)}
    runs = []
    for dataset, entry in _named(top, "datasets", path):
        where = f"datasets.{dataset}"
        of_dataset = _overrides(entry, f"{where}.overrides", path)
        seconds = _positive(entry.get("seconds", 0), f"{where}.seconds", path)
        title = entry.get("title", dataset)
        if not isinstance(title, str) or not title.strip():
            raise ValueError(f"{path}: {where}.title must be a text, it is {title!r}.")
        for network in _chosen(entry, where, networks, path):
            of_network, seeds, cost = networks[network]
            runs += [
                Wanted(
                    dataset=dataset,
                    title=title,
                    network=network,
                    seed=seed,
                    overrides=(*shared, *of_dataset, *of_network),
                    seconds=seconds * cost,
                )
                for seed in seeds
            ]
    first: dict[tuple[tuple[str, ...], int], str] = {}
    for run in runs:
        same = first.setdefault((run.overrides, run.seed), run.key)
        if same != run.key:
            raise ValueError(f"{path}: {same} and {run.key} are one run, with the same overrides. Leave one out.")
    return runs


def _find(manifest: str) -> Path:
    if "/" not in manifest and not manifest.endswith((".yaml", ".yml")):
        path = FOLDER / f"{manifest}.yaml"
        if not path.is_file():
            names = ", ".join(sorted(known.stem for known in FOLDER.glob("*.yaml"))) or "none"
            raise FileNotFoundError(f"manifest={manifest}: there is no {path}; those there: {names}. Or give a file.")
        return path
    if not Path(manifest).is_file():
        raise FileNotFoundError(f"manifest={manifest}: there is no such file.")
    return Path(manifest)


def _mapping(content: Any, allowed: Sequence[str], where: str, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"{path}: {where or 'it'} must be a mapping with {', '.join(allowed)}, it is {content!r:.80}.")
    unknown = [str(key) for key in content if key not in allowed]
    if unknown:
        raise ValueError(f"{path}: {where or 'it'} has {', '.join(unknown)}; allowed are {', '.join(allowed)}.")
    return {str(key): value for key, value in content.items()}


def _named(top: Mapping[str, Any], part: str, path: Path) -> list[tuple[str, dict[str, Any]]]:
    entries = top.get(part)
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f"{path}: {part} must name at least one, with its overrides.")
    found = []
    for name, entry in entries.items():
        fault = name_fault(name)
        if fault:
            raise ValueError(f"{path}: {part}.{name!r} names folders and files, but {fault}.")
        found.append((name, _mapping(entry, _KEYS[part], f"{part}.{name}", path)))
    return found


def _network(name: str, entry: Mapping[str, Any], path: Path) -> tuple[tuple[str, ...], list[int], float]:
    where = f"networks.{name}"
    seeds = entry.get("seeds")
    whole = isinstance(seeds, list) and all(is_whole(seed) and seed < 2**32 for seed in seeds)
    if not isinstance(seeds, list) or not whole or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"{path}: {where}.seeds must be a list of different whole numbers below 2 to the 32nd, it is {seeds!r}."
        )
    cost = _positive(entry.get("cost", 1), f"{where}.cost", path)
    return _overrides(entry, f"{where}.overrides", path), seeds, cost


def _chosen(entry: Mapping[str, Any], where: str, networks: Mapping[str, Any], path: Path) -> list[str]:
    chosen = entry.get("networks", list(networks))
    names = [str(name) for name in chosen] if isinstance(chosen, list) else []
    if not names or not set(names) <= set(networks) or len(set(names)) < len(names):
        raise ValueError(
            f"{path}: {where}.networks must be a list of different names among {', '.join(networks)}; it is {chosen!r}."
        )
    return names


def _overrides(entry: Mapping[str, Any], where: str, path: Path) -> tuple[str, ...]:
    overrides = entry.get("overrides", [])
    if not isinstance(overrides, list) or not all(isinstance(one, str) and "=" in one for one in overrides):
        raise ValueError(f"{path}: {where} must be a list of key=value as train.py takes them, it is {overrides!r}.")
    keys = [override.partition("=")[0].lstrip("+~") for override in overrides]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"{path}: {where} sets {key} twice. Leave one out.")
        if key in _OF_THE_RUNNER:
            raise ValueError(f"{path}: {where} sets {key}, which the runner gives to each run itself.")
    return tuple(overrides)


def _positive(value: Any, where: str, path: Path) -> float:
    if not has_type(value, float) or value < 0:
        raise ValueError(f"{path}: {where} must be a number of at least 0, it is {value!r}.")
    return float(value)
