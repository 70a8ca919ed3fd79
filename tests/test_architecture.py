"""The floors of the house: a lower one never imports from a higher one, and no two files import each other."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

SRC = Path(__file__).resolve().parent.parent / "src"

# From the ground up; a folder (or file) may import from its own floor's folder and from all floors below.
FLOORS = [
    [
        "files",
        "locations",
        "machine",
        "names",
        "plain",
        "processes",
        "help",
        "resolvers",
        "targets",
        "target_check",
        "typed",
        "usual_loss",
        "words",
    ],
    ["raw", "parallel", "drawing"],
    ["planning"],
    ["callbacks"],
    ["models"],
    ["inference"],
    ["datamodules"],
    ["evaluation"],
    ["trainer", "run"],
    ["benchmark", "cross_validation", "evidence", "export", "sweep"],
    ["cascade"],
    ["__main__", "__init__"],
]


@cache
def modules() -> dict[str, Path]:
    return {".".join(path.relative_to(SRC).with_suffix("").parts): path for path in sorted(SRC.rglob("*.py"))}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports_of(path: Path) -> set[str]:
    """Modules of the project that a file imports, wherever in the file; names are dotted, without the package's own."""
    known, found = modules(), set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom):
            base = list(path.relative_to(SRC).parts[: -node.level]) if node.level else []
            parts = base + (node.module.split(".") if node.module else [])
            if not node.level:
                if parts[:1] != ["umamba"]:
                    continue
                parts = parts[1:]
            for alias in node.names:
                as_module = ".".join([*parts, alias.name])
                found.add(as_module if as_module in known else ".".join(parts) or alias.name)
    return found & set(known)


def floor_of(module: str) -> int:
    names = module.split(".")
    top = names[-1] if names[-1] == "__main__" else names[0]  # a folder's program stands above all that it may need
    return next(number for number, floor in enumerate(FLOORS) if top in floor)


def test_every_folder_has_a_floor() -> None:
    placed = {name for names in FLOORS for name in names}
    assert {module.split(".")[0] for module in modules()} <= placed


def test_no_import_from_a_higher_floor() -> None:
    higher = [
        f"{module} (floor {floor_of(module)}) imports {name}"
        for module, path in modules().items()
        for name in sorted(imports_of(path))
        if floor_of(name) > floor_of(module)
    ]
    assert higher == []


def test_no_circles() -> None:
    graph = {name: imports_of(path) - {name} for name, path in modules().items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_names_are_imported_from_the_file_that_defines_them() -> None:
    defined: dict[str, set[str]] = {}
    for name, path in modules().items():
        names: set[str] = set()
        for node in tree_of(path).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif not isinstance(node, (ast.Import, ast.ImportFrom)):
                names |= {leaf.id for leaf in ast.walk(node) if isinstance(leaf, ast.Name)}
        defined[name] = names
    wrong = []
    for path in [*SRC.rglob("*.py"), *SRC.parent.glob("*.py"), *(SRC.parent / "tests").rglob("*.py")]:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("umamba."):
                module = node.module.removeprefix("umamba.")
                packages = {name.rpartition(".")[0] for name in defined} | {""}
                assert module in defined or module in packages, f"{path.name}: there is no {node.module}"
                missing = [a.name for a in node.names if module in defined and a.name not in defined[module]]
                wrong += [f"{path.name}: {node.module}.{name}" for name in missing]
    assert not wrong, wrong


# Outside the kernels, whose arguments are the arrays and sizes of one launch, nothing takes more than this.
MOST_PARAMETERS = 10


def parameters(path: Path) -> dict[str, int]:
    """Qualified name -> how many parameters, without self and cls, of each function of a file.

    The constructor that `dataclass` writes is none of them: its parameters are the fields, which are the definition.
    """
    found: dict[str, int] = {}

    def visit(node: ast.AST, way: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            inside = (*way, child.name) if named else way
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                a = child.args
                names = [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if arg]
                found[".".join(inside)] = len([name for name in names if name not in ("self", "cls")])
            visit(child, inside)

    visit(tree_of(path), ())
    return found


def test_no_long_parameter_lists() -> None:
    counts = {
        f"{module}.{name}": count
        for module, path in modules().items()
        if ".kernels." not in module
        for name, count in parameters(path).items()
    }
    assert {name for name, count in counts.items() if count > MOST_PARAMETERS} == set()


def test_the_page_about_the_architecture_names_what_there_is() -> None:
    page = (SRC.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:src|configs|tests|benchmarks|docs)/[\w./]*)`", page))
    assert sorted(path for path in named if not (SRC.parent / path).exists()) == []
    folders = {f"src/{path.parent.relative_to(SRC)}/" for path in SRC.rglob("__init__.py") if path.parent != SRC}
    ground = {f"src/{path.name}" for path in SRC.glob("*.py")} - {"src/__init__.py"}
    assert sorted((folders | ground) - named) == []


def test_test_files_have_names_of_their_own() -> None:
    """Tests lie in no packages, and pytest takes one of two files of one name for the other."""
    names = [path.name for path in SRC.with_name("tests").rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []
