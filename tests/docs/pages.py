"""The documentation as data: pages, their links, anchors, code blocks and command lines."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = tuple(
    sorted(
        [
            *(p for name in ("README", "CONTRIBUTING", "CHANGELOG") if (p := ROOT / f"{name}.md").is_file()),
            *(ROOT / "docs").rglob("*.md"),
        ]
    )
)
_FENCE = re.compile(r"^( *)(`{3,})([\w-]*)[^\n]*\n(.*?)^ *\2 *$", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?:(?<=\n\n)|\A)((?: {4}[^\n]*\n| *\n(?= {4}))+)", re.MULTILINE)
_INLINE = re.compile(r"(`+)([^`]+)\1")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A code block.

    Attributes:
        language: As written behind the fence; empty for an indented block.
        text: Its lines, without the indentation of the fence.
        title: The path of a file whose content the block is, where the line above ends with that; else empty.
    """

    language: str
    text: str
    title: str


def name_of(page: Path) -> str:
    """The page's path from the top of the project, for the names of tests."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """All fenced and indented code blocks of a page, in the order of the page but for the kinds."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        title = re.search(r"`([^`\n]+)`:\n+\Z", text[: match.start()])
        body = re.sub(rf"^{match[1]}", "", match[4], flags=re.MULTILINE)
        found.append(Block(language=match[3], text=body, title=title[1] if title else ""))
    for match in _INDENTED.finditer(_FENCE.sub("", text)):
        found.append(Block(language="", text=re.sub(r"^ {4}", "", match[1], flags=re.MULTILINE), title=""))
    return found


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return _INDENTED.sub("", _FENCE.sub("", page.read_text(encoding="utf-8")))


def inline_code(page: Path) -> list[str]:
    """What stands in backquotes within the prose."""
    return [re.sub(r"\s+", " ", match[2]) for match in _INLINE.finditer(prose(page))]


def links(page: Path) -> list[str]:
    """Targets of links and pictures, as written."""
    text = _INLINE.sub("", prose(page))
    return re.findall(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)", text)


def anchors(page: Path) -> set[str]:
    """Anchors of the headings, as GitHub and the site make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", prose(page), re.MULTILINE):
        slug = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        found.add(re.sub(r"[^\w\- ]", "", slug).strip().replace(" ", "-"))
    return found


def commands(page: Path) -> Iterator[list[str]]:
    """Every ``python ...`` command line of a page, in code blocks and in backquotes, as its arguments.

    ``<placeholders>`` become the word `somewhere`; bare dots that stand for more arguments are left out.
    """
    lines: list[str] = []
    for block in blocks(page):
        if block.language in ("", "bash", "sh", "console", "text"):
            lines += block.text.replace("\\\n", " ").splitlines()
    lines += inline_code(page)
    for line in lines:
        line = re.sub(r"<[^>\n]+>", "somewhere", line.strip().removeprefix("$ "))
        line = re.sub(r"^(?:[A-Za-z_]+=\S+ +)+(?=python )", "", line)  # variables of the environment
        if line.startswith("python ") and line != "python ...":
            yield [word for word in shlex.split(line, comments=True)[1:] if word != "..."]
