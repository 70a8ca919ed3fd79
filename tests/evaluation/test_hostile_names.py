"""Names that may hold anything: in file names, tables, figures and the page of a report."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation import scored_runs
from umamba.evaluation.report.__main__ import make_report
from umamba.evaluation.table_text import to_latex, to_markdown
from umamba.names import file_names

make_run = scored_runs.make_run

OF_FILES = [
    "a/b", "../../x", "x" * 200, "flare", "Flare", "FLARE", "line\nbreak", "C:\\x", "..", "nul\0byte",
]  # fmt: skip
OF_TEXT = [
    'quo"te\'s', "<script>alert(1)</script>", "Müller Übung", "with blank", "🫀 heart", "$x_{", "_hidden", "|",
    "50 % & more #1", '<b onclick="x">bold</b>',
]  # fmt: skip
STRANGE = [*OF_FILES, *OF_TEXT]


@given(st.lists(st.one_of(st.text(max_size=300), st.sampled_from(STRANGE)), max_size=12))
def test_file_names_are_safe_and_distinct(names):
    made = file_names(names)
    assert made.keys() == set(names)
    assert len({name.lower() for name in made.values()}) == len(made)
    assert all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,79}", name) for name in made.values())


def test_plain_names_are_kept():
    names = ["flare", "amos_mr_2d", "Dataset004_Hippocampus", "set-1.2"]
    assert file_names(names) == {name: name for name in names}
    assert file_names(["a/b"]) == {"a/b": "a_b-c14cddc0"}  # sha256("a/b")


class Page(HTMLParser):
    """Collects the tags, attributes and texts of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.attributes, self.text = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_report_of_strange_names(tmp_path, undrawn):
    for index, name in enumerate(OF_FILES):
        classes = (name, '"><img src=x onerror=alert(1)>')
        for network in ("nnunet", OF_TEXT[index % len(OF_TEXT)]):
            make_run(tmp_path / "runs" / f"{index}_{network == 'nnunet'}", dataset=name, network=network, cases=2,
                     classes=classes)  # fmt: skip
    path = make_report([tmp_path / "runs"], tmp_path / "report")
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert not {*page.tags} & {"iframe", "object"} and page.tags.count("script") == 1
    html = path.read_text(encoding="utf-8")
    script = html[html.index("<script>") + 8 : html.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search('Content-Security-Policy" content="([^"]*)"', html)
    assert (
        policy is not None
        and f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" == policy[1]
    )
    assert not {name for name in page.attributes if name.startswith("on")}
    text = "".join(page.text)
    assert not [name for name in STRANGE if "\0" not in name and name not in text]
    assert len([*(tmp_path / "report" / "tables").glob("*_results.csv")]) == len(OF_FILES)
    assert {file.parent.parent.name for file in tmp_path.rglob("report.html")} == {tmp_path.name}


@pytest.mark.filterwarnings("ignore:Glyph")
def test_figures_of_strange_names(tmp_path):
    """A data set, classes and networks with all of them."""
    for index, network in enumerate((*OF_TEXT[::3], "nnunet")):
        folder = tmp_path / "runs" / str(index)
        make_run(folder, dataset="../$y_{", network=network, cases=2, classes=(*OF_TEXT, "nul\0byte"))
    make_report([tmp_path / "runs"], tmp_path / "report")
    figures = [*tmp_path.rglob("*.png")]
    assert len(figures) > 1 and {path.parent for path in figures} == {tmp_path / "report" / "figures"}


def test_tables_hold_any_text():
    text = pd.DataFrame({"a": ["x|y<script>\nz", r"50 % ~ ^ \input{x} < 1"]})
    assert to_markdown(text).splitlines()[2:] == [
        r"| x\|y\<script> z |", r"| 50 % ~ ^ \input{x} < 1 |"
    ]  # fmt: skip
    row = to_latex(text, "").splitlines()[-4]
    assert row == r"50 \% \textasciitilde{} \textasciicircum{} \textbackslash{}input\{x\} \textless{} 1 \\"
