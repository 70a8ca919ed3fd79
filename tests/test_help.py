"""Help of every command: what it does, examples, every key with its meaning, at once."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from umamba.help import help_text
from umamba.locations import CONFIGS, ROOT

PROGRAMS = {
    "train.py": "train", "eval.py": "eval", "predict.py": "predict", "umamba.planning": "planning",
    "umamba.datamodules.doctor": "doctor", "umamba.datamodules.prepare": "prepare",
    "umamba.evaluation.report": "report", "umamba.evidence": "evidence", "umamba.export": "export",
    "umamba.models.import_weights": None, "umamba.benchmark": "epochs", "umamba.sweep": "sweep",
    "umamba.cross_validation": "best",
}  # fmt: skip
HEAVY = ("torch", "lightning", "hydra", "matplotlib", "pandas")


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_comes_at_once_with_examples(program: str) -> None:
    line = [str(ROOT / program)] if program.endswith(".py") else ["-m", program]
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", *line, "--help"], capture_output=True, text=True, cwd=ROOT
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    imported = set(re.findall(r"\| +(\w+)$", ended.stderr, re.MULTILINE))
    assert not imported & set(HEAVY)  # what takes seconds; without it a tenth of one
    examples = re.findall(r"^ *(?:python |umamba )\S.*$", ended.stdout, re.MULTILINE)
    assert len(examples) >= 3, ended.stdout


@pytest.mark.parametrize("config", sorted({name for name in PROGRAMS.values() if name}))
def test_every_key_has_its_meaning(config: str) -> None:
    text = help_text("", config).partition("Keys, given as")[2]
    own, _, groups = text.partition("Groups,")
    keys = re.findall(r"^  (\w+:.*(?:\n {3,}#.*)?)$", own, re.M)  # of a long one it stands below
    assert keys
    keys += re.findall(r"^ {2,}([a-z]\w*:.*(?:\n {3,}#.*)?)$", groups.partition("Keys of")[2], re.M)
    assert [key for key in keys if "#" not in key] == []


def test_examples_are_called_as_the_command_is() -> None:
    text = help_text("umamba plan: plan a data set.", "planning", "umamba plan")
    assert "    umamba plan data=hippocampus" in text and "python" not in text.partition("Keys")[0]
    assert "    python -m umamba.planning data=hippocampus" in help_text("Plan.", "planning")
    example = "umamba best runs=[logs/a/cross_validation,logs/b/cross_validation] output=best"
    assert help_text(f"Best.\n\n    {example}", "best").count(f"    {example}\n") == 1


def test_the_choice_of_the_command_line_shows_its_own_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = help_text("Train.", "train")
    assert "Of data=custom," in plain and "\n  nsd_tolerance: 2.0" in plain
    monkeypatch.setattr("sys.argv", ["train.py", "data=joint", "model=unetr", "trainer=nothing", "--help"])
    text = help_text("Train.", "train")
    assert "Of data=joint," in text and "Of data=custom," not in text and "\n  sources: ???" in text
    assert "Of model=unetr," in text and "Of trainer=" not in text


def test_a_config_on_top_of_the_commands_own_shows_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = help_text("Train.", "train")
    for argument, configs in {
        "--config-name=cross_validation": ["cross_validation"],
        "-cn cascade": ["cascade", "cross_validation"],
    }.items():
        monkeypatch.setattr("sys.argv", ["train.py", *argument.split(), "--help"])
        text = help_text("Train.", "train")
        assert re.findall(r"^Keys of --config-name=(\w+)", text, re.M) == configs
        assert "per_gpu: 1         # folds" in text and "per_gpu: 1         # folds" not in plain
    monkeypatch.setattr("sys.argv", ["train.py", "--config-name=nothing", "--help"])
    assert help_text("Train.", "train") == plain


@pytest.mark.parametrize("config", sorted({name for name in PROGRAMS.values() if name}))
@pytest.mark.parametrize("columns", [60, 80, 140])
def test_keys_fit_the_terminal_and_lose_no_word(monkeypatch: pytest.MonkeyPatch, config: str, columns: int) -> None:
    def shown() -> str:
        return help_text("", config).partition("Keys, given as")[2].rpartition("\n\n")[0]

    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setattr("umamba.help._WIDTH", 1000)
    whole = shown()
    monkeypatch.undo()
    monkeypatch.setenv("COLUMNS", str(columns))
    fitted = shown()
    cut = [line for line in fitted.splitlines() if len(line) > columns and " # " in line]
    assert [line for line in cut if len(line.split()) > 2] == []  # one long word has nowhere to be broken
    words = [[word for word in text.split() if word != "#"] for text in (whole, fitted)]
    assert words[0] == words[1]


def test_keys_of_groups_and_their_choices_are_shown() -> None:
    text = help_text("Train.", "train")
    for part in (
        "max_epochs: 1000",
        "iterations_per_epoch: 250",
        "lr: 0.01",
        "early_stopping",
        "raw: ${oc.env:nnUNet_raw",
    ):
        assert part in text, part
    assert "_target_: " not in text and max(map(len, text.splitlines())) < 160
    assert (CONFIGS / "train.yaml").is_file()
