"""The shape of the sources: sizes, floors, names, and a test file beside each."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"spikgpt": ROOT / "spikgpt", "spikgpt_onnx": ROOT / "export" / "spikgpt_onnx"}
SOURCES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))
FOLDERS = sorted({path.parent for path in SOURCES})
# The floors of spikgpt/, lowest first. What stands on one imports lower ones, and its own floor only further left.
HOUSE = (
    "errors types version files sampling",
    "options labels cells",
    "embedding reference scgpt report",
    "engines pipeline",
    "sources training sharing building",
    "testing api benchmark cli",
)
# In any other folder: the longest chain of modules that import one another.
FLOORS = 6
# Where each of these may be imported at module level. Everywhere else it is not there, or comes on use.
HEAVY = {
    "torch": (
        "spikgpt/engines/scgpt/",
        "spikgpt/training/",
        *(f"spikgpt/engines/{name}.py" for name in ("model", "thread", "torch")),
    ),
    "scanpy": ("spikgpt/training/",),
    "sklearn": ("spikgpt/training/",),
    "matplotlib": (),
    "numba": ("spikgpt/embedding/tokens.py",),
    "spikgpt_onnx": ("export/",),
    "onnx": (
        "export/spikgpt_onnx/graph/",
        *(f"export/spikgpt_onnx/{name}.py" for name in ("exporter", "parity", "reading", "rebuilt")),
    ),
}
# Source files without a test file of their own, and why.
UNTESTED = {
    "spikgpt/types.py": "only names",
    "spikgpt/embedding/base.py": "only protocols, which the tests of what fulfils them use",
    **dict.fromkeys(
        (
            f"spikgpt/benchmark/methods/packages/{name}.py"
            for name in ("celltypist", "harmony", "scanvi", "singlecellnet", "symphony")
        ),
        "tests/rivals.py runs it with its package",
    ),
    "spikgpt/benchmark/methods/embeddings/scgpt.py": "tests/rivals.py runs it, and the tests of scGPT what it calls",
    **dict.fromkeys(
        (f"spikgpt/benchmark/methods/rscripts/{name}.py" for name in ("garnett", "seurat", "singler_r")),
        "tests/rivals.py runs it where R and its packages are",
    ),
    "spikgpt/version.py": "one line, which tests of the command line see",
    "export/spikgpt_onnx/contract.py": "only names, which the tests of the graphs use",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def each(paths: Sequence[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Make one test of a check of each path, which says all that fail: a test for each takes longer than the check."""

    def checked(check: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            wrong = []
            for path in paths:
                try:
                    check(path)
                except AssertionError as error:
                    wrong.append(f"{named(path)}: {error}")
            assert not wrong, "\n".join(wrong)

        return test

    return checked


each_source = each(SOURCES)
each_folder = each(FOLDERS)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions(node: ast.AST) -> Iterator[Function]:
    """Give the outermost functions, methods among them; a function counts with all that is nested in it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield child
        else:
            yield from functions(child)


def assigned(node: ast.stmt) -> list[str]:
    """Return the names that a statement of a module gives a value."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def imported(node: ast.AST, path: Path) -> list[str]:
    """Return what an import names, in full and with each name that it takes; relative ones too."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        package = module_of(path).split(".")
        package = package if path.name == "__init__.py" else package[:-1]
        base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
    return [f"{base}.{alias.name}" for alias in node.names]


def module_of(path: Path) -> str:
    package = next(folder for folder in PACKAGES.values() if path.is_relative_to(folder))
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@each_source
def test_files_are_short(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= 400


@each_source
def test_functions_are_short(path: Path) -> None:
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions(tree(path))}
    assert {name: length for name, length in lengths.items() if length > 60} == {}


@each_source
def test_signatures_are_short_and_say_what_they_take(path: Path) -> None:
    wrong = []
    for node in ast.walk(tree(path)):
        if not isinstance(node, Function | ast.Lambda):
            continue
        names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        names += [arg.arg for arg in (node.args.vararg, node.args.kwarg) if arg]
        count = len(names) - (names[:1] in (["self"], ["cls"]))
        private = isinstance(node, ast.Lambda) or node.name.startswith("_")
        rest = node.args.kwarg
        vague = not private and rest and rest.annotation and ast.unparse(rest.annotation) in ("Any", "object")
        if count > 8 or vague:
            wrong.append(f"line {node.lineno}: {count} parameters{', any keywords' if vague else ''}")
    assert wrong == []


def imports_within(folder: Path) -> dict[str, set[str]]:
    """Return which children of a folder import which; a subfolder is one, and imports inside functions count."""
    prefix = module_of(folder / "__init__.py") + "."
    graph: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        node = path.relative_to(folder).parts[0].removesuffix(".py")
        names = [name for found in ast.walk(tree(path)) for name in imported(found, path)]
        below = {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
        modules = {one for one in below if Path(folder, one).is_dir() or Path(folder, f"{one}.py").is_file()}
        # Other names are those of the folder's __init__.py.
        below = modules | ({"__init__"} if below > modules else set())
        graph.setdefault(node, set()).update(below - {node})
    return graph


def test_the_house_has_six_floors() -> None:
    order = [*" ".join(HOUSE).split(), "__init__"]
    graph = imports_within(PACKAGES["spikgpt"])
    assert set(graph) <= set(order), "a new module needs a place in HOUSE"
    upward = {(node, one) for node in graph for one in graph[node] if order.index(one) > order.index(node)}
    assert upward == set()


@each([folder for folder in FOLDERS if folder != PACKAGES["spikgpt"]])
def test_folders_have_six_floors_at_most(folder: Path) -> None:
    graph, floors = imports_within(folder), dict[str, int]()
    try:
        for node in TopologicalSorter(graph).static_order():
            floors[node] = 1 + max((floors[one] for one in graph.get(node, ())), default=0)
    except CycleError as error:
        msg = f"imports go in a circle: {' <- '.join(error.args[1])}"
        raise AssertionError(msg) from error
    highest = max(floors, key=lambda node: floors[node])
    assert floors[highest] <= FLOORS, f"{highest} stands on floor {floors[highest]}"


@each_source
def test_a_test_file_mirrors_each_source_file(path: Path) -> None:
    if path.name == "__init__.py":
        return
    parts = path.relative_to(ROOT).parts
    # tests/cells/test_align.py for spikgpt/cells/align.py; tests/spikgpt_onnx/ for export/spikgpt_onnx/.
    test = Path(ROOT, "tests", *parts[1:-1], f"test_{parts[-1]}")
    there, excepted = test.is_file(), named(path) in UNTESTED
    assert there or excepted, f"{named(test)} is missing"
    assert not (there and excepted), f"{named(path)} has a test and needs no exception"


@each_source
def test_shared_names_have_one_home(path: Path) -> None:
    home = PACKAGES["spikgpt"] / "types.py"
    shared = {name for node in tree(home).body for name in assigned(node)} | {"NetworkOutput", "InputReport"}
    # A number that six modules mean six things by.
    shared.add("MINIMUM_CELLS")
    found = {name for node in tree(path).body for name in assigned(node)}
    found |= {node.name for node in tree(path).body if isinstance(node, ast.ClassDef)}
    assert path == home or found & shared == set()


@each_source
def test_what_is_listed_as_public_is_there(path: Path) -> None:
    values = {name: node for node in tree(path).body for name in assigned(node)}
    listed = getattr(values.get("__all__"), "value", None)
    if not isinstance(listed, ast.List | ast.Tuple):
        return  # none, or made of the stub, which a test of the public names reads
    names = ast.literal_eval(listed)
    there = set(values) | {getattr(node, "name", "") for node in tree(path).body}
    there |= {alias.asname or alias.name for node in tree(path).body for alias in getattr(node, "names", ())}
    assert len(names) == len(set(names))
    assert set(names) <= there


def test_the_stub_lists_what_it_imports() -> None:
    stub = ast.parse((PACKAGES["spikgpt"] / "__init__.pyi").read_text()).body
    names = next(ast.literal_eval(node.value) for node in stub if isinstance(node, ast.Assign))
    assert names == sorted(alias.name for node in stub if isinstance(node, ast.ImportFrom) for alias in node.names)


@each_source
def test_heavy_packages_are_imported_where_they_may(path: Path) -> None:
    functions_inside = {inner for node in functions(tree(path)) for inner in ast.walk(node)}
    for_checkers = {
        inner
        for node in ast.walk(tree(path))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    nodes = (node for node in ast.walk(tree(path)) if node not in functions_inside and node not in for_checkers)
    found = {name.split(".")[0] for node in nodes for name in imported(node, path)}
    assert [name for name in found & HEAVY.keys() if not named(path).startswith(HEAVY[name])] == []


def test_no_committed_text_names_places_of_one_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    wrong = []
    for name in listed.stdout.decode().split("\0")[:-1]:
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() and not name.startswith("tests/") else b""
        if b"\0" not in content and re.search(rb"(?<![\w.~:/-])/(work|tmp|root|home)\b", content):
            wrong.append(name)
    assert wrong == []
