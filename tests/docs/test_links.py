"""Links, anchors, pictures and paths of the documentation lead somewhere; the navigation knows every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from pages import PAGES, ROOT, anchors, blocks, inline_code, links, name_of

FOLDERS = ("src", "umamba", "configs", "tests", "benchmarks", "docs")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_resolve(page: Path) -> None:
    broken = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", [p for p in PAGES if p.is_relative_to(ROOT / "docs")], ids=name_of)
def test_links_of_the_site_stay_within_it(page: Path) -> None:
    """MkDocs publishes docs/ alone: a relative link out of it works in a checkout and is broken on the site."""
    paths = [link.partition("#")[0] for link in links(page) if not re.match(r"[a-z]+:", link)]
    assert [p for p in paths if p and not (page.parent / p).resolve().is_relative_to(ROOT / "docs")] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_in_backquotes_exist(page: Path) -> None:
    made_here = {block.title for block in blocks(page)}  # a file that the reader is told to write
    missing = []
    for code in inline_code(page):
        if code.split("/")[0] not in FOLDERS or "/" not in code or re.search(r"[\s<>{}$=]", code) or code in made_here:
            continue
        pattern = code.split("#")[0].replace("umamba/", "src/", 1) if code.startswith("umamba/") else code.split("#")[0]
        if not any(ROOT.glob(pattern.rstrip("/"))):
            missing.append(code)
    assert not missing


def test_the_navigation_lists_every_page_once() -> None:
    class Loader(yaml.SafeLoader):
        """Takes the tags with which MkDocs names Python objects for what they are not: plain data."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)
    site = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    navigation, left_out = site["nav"], set(site["exclude_docs"].split())

    def pages(node: object) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [page for child in (node.values() if isinstance(node, dict) else node) for page in pages(child)]

    listed = pages(navigation)
    assert len(listed) == len(set(listed))
    existing = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert set(listed) == existing - left_out, "add the page to `nav` in mkdocs.yml, or take out what is gone"
