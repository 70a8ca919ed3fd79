"""Every command line of the documentation names a program that exists, with options and keys that it knows."""

from __future__ import annotations

import fnmatch
import importlib.util
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from omegaconf import DictConfig, OmegaConf
from pages import PAGES, ROOT, blocks, commands, inline_code, name_of

from umamba.models.import_weights import ARGUMENTS
from umamba.resolvers import register_resolvers
from umamba.run.habits import in_own_words

CONFIGS = ROOT / "configs"
SCRIPTS_OF_MODULES = {"eval.py": "src/evaluation/__main__.py", "predict.py": "src/inference/__main__.py"}
CONFIG_NAME = re.compile(r"config_name=\"(\w+)\"")


def source_of(words: list[str]) -> tuple[Path | None, list[str]]:
    """File that a command line runs, None if it is another package's; and the arguments after it."""
    if words[0] != "-m":
        return ROOT / SCRIPTS_OF_MODULES.get(words[0], words[0]), words[1:]
    module, rest = words[1], words[2:]
    if module.split(".")[0] not in ("src", "umamba"):
        assert importlib.util.find_spec(module), module
        return None, rest
    path = ROOT / "src" / Path(*module.split(".")[1:])
    return (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")), rest


def first_of_sweep(override: Override) -> str:
    """An override that stands for one job: of a sweep, its first."""
    if not override.is_sweep_override():
        return override.input_line
    value = override.value()
    if isinstance(value, Glob):
        names = sorted(path.stem for path in (CONFIGS / override.key_or_group).glob("*.yaml"))
        chosen = [n for n in names if any(fnmatch.fnmatch(n, pattern) for pattern in value.include)]
        assert chosen, override.input_line
        return f"{override.key_or_group}={chosen[0]}"
    return f"{override.key_or_group}={next(override.sweep_string_iterator())}"


def compose_as_the_program_would(source: Path, words: list[str], extra: Path) -> None:
    """Compose the configuration of a command line.

    Args:
        source: The program.
        words: Its arguments.
        extra: A folder of further configs, those that the page tells its reader to write.
    """
    words = in_own_words(words) if source.name == "train.py" else words
    flags = [word for word in words if word.startswith("-") and not word.startswith("-m")]
    names = [flag.partition("=")[2] for flag in flags if flag.startswith("--config-name=")]
    known = ("--config-name=", "--multirun", "--help", "--cfg", "--resolve", "--info", "--package", "job", "hydra")
    assert all(flag.startswith(known) or flag == "-m" for flag in flags), words
    name = names[0] if names else CONFIG_NAME.search(source.read_text(encoding="utf-8"))[1]
    values = [w for w in words if (w not in flags and "=" in w) or w.startswith("~")]
    stray = [w for w in words if w not in flags and w not in values and w not in ("job", "hydra", "all", "status")]
    if name == "sweep":  # takes its folder as it is
        stray = stray[1:]
    assert not stray, f"not an override: {stray}"
    values = [w for w in values if w.partition("=")[2] not in ("...", "somewhere") or "=" not in w]
    values = [w for w in values if not w.startswith("hparams_search=")]  # its sweeper need not be installed
    needs_data = "- data: ???" in (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    if needs_data and not any(value.startswith("data=") for value in values):  # the page speaks of the program as such
        values.append("data=phantom")
    overrides = [first_of_sweep(one) for one in OverridesParser.create().parse_overrides(values)]
    if extra.is_dir():
        overrides.append(f"hydra.searchpath=[file://{extra}]")
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        compose(name, overrides)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_run_what_exists_with_what_it_knows(page: Path, tmp_path: Path) -> None:
    register_resolvers()
    for block in blocks(page):
        if block.title.startswith("configs/"):
            path = tmp_path / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
    for words in {tuple(words): words for words in commands(page)}.values():
        source, rest = source_of(words)
        if source is None:
            continue
        assert source.is_file(), " ".join(words)
        text = source.read_text(encoding="utf-8")
        if CONFIG_NAME.search(text):
            try:
                compose_as_the_program_would(source, rest, tmp_path / "configs")
            except Exception as error:
                raise AssertionError(f"python {' '.join(words)}: {error}") from error
        elif source.name == "import_weights.py":
            assert {word.partition("=")[0] for word in rest} <= set(ARGUMENTS), words
        else:
            options = [word.partition("=")[0] for word in rest if word.startswith("--")]
            assert all(f'"{option}"' in text for option in options), words


PROGRAMS = (
    "train",
    "cross_validation",
    "cascade",
    "best",
    "predict",
    "eval",
    "planning",
    "prepare",
    "doctor",
    "report",
    "evidence",
    "export",
    "sweep",
)


@pytest.fixture(scope="module")
def composed() -> list[DictConfig]:
    """The configurations of all programs, with the data sets that have keys of their own."""
    register_resolvers()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        data_sets = [compose("train", [f"data={name}"]) for name in ("custom", "decathlon", "joint")]
        others = [compose(name, ["data=phantom"] if name in ("prepare", "doctor") else []) for name in PROGRAMS]
        launchers = [compose("train", [f"hydra/launcher={n}"], return_hydra_config=True) for n in ("gpus", "slurm")]
    return data_sets + others + launchers


def knows(config: DictConfig, key: str) -> bool:
    parent, _, child = key.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    return isinstance(node, DictConfig) and child in list(node.keys())  # also where the value is still to be given


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_arguments_in_backquotes_exist(page: Path, composed: list[DictConfig]) -> None:
    """`key=value` in the text: a key of one of the programs, or a choice of a group."""
    arguments = [code for code in inline_code(page) if re.fullmatch(r"[+~]?[a-z_]+(\.[\w]+)*=\S*", code)]
    arguments = [a for a in arguments if a != "key=value" and not a.endswith(("=True", "=False"))]  # Python's
    unknown = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        choices = [path.stem for path in (CONFIGS / key).glob("*.yaml")]
        if choices and re.fullmatch(r"\w+", value):
            written = {Path(b.title).stem for b in blocks(page) if b.title.startswith(f"configs/{key}/")}
            if value not in {*choices, *written, "null"}:
                unknown.append(argument)
        elif (
            not key.startswith("+")
            and not choices
            and not any(knows(config, known) for config in composed for known in (key, f"trainer.{key}"))
        ):
            unknown.append(argument)
    assert not unknown


def test_the_commands_of_a_page_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Run `python train.py data=phantom`.\n\n```bash\nA=1 python eval.py \\\n  output=<folder>  # why\n```\n"
    )
    page.write_text(page.read_text() + "\nand\n\n    python predict.py ... input=images\n")
    assert list(commands(page)) == [
        ["eval.py", "output=somewhere"],
        ["predict.py", "input=images"],
        ["train.py", "data=phantom"],
    ]


def test_a_wrong_key_in_a_command_is_noticed(tmp_path: Path) -> None:
    register_resolvers()
    compose_as_the_program_would(
        ROOT / "train.py", ["--multirun", "experiment=glob(flare_*)", "seed=1,2"], tmp_path / "no"
    )
    with pytest.raises(Exception, match="max_epoch"):
        compose_as_the_program_would(ROOT / "train.py", ["trainer.max_epoch=3"], tmp_path / "no")
