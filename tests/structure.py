"""Check the structure of the sources: ``python -m tests.structure``.

The checks cover sizes, imports between folders, heavy packages, test files, names and the wording of texts. The output
has one line for each finding. The exit code is 1 if there are findings.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "spikgpt": ROOT / "spikgpt",
    "spikgpt_onnx": ROOT / "export" / "spikgpt_onnx",
    "spikgpt_recipes": ROOT / "hub_cards" / "spikgpt_recipes",
}
SOURCES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))
# All Python files of the repository: the tests, benchmarks and examples too.
PYTHON_FILES = sorted(
    path
    for name in ("spikgpt", "export", "hub_cards", "benchmarks", "docs", "examples", "tests")
    for path in (ROOT / name).rglob("*.py")
    if "node_modules" not in path.parts
)
FOLDERS = sorted({path.parent for path in SOURCES})
# The layers of spikgpt/, lowest first. A module imports lower layers, and the modules left of it in its own layer.
LAYERS = (
    "constants errors types version imports arguments files sampling kernels threads tables",
    "options scoring cells",
    "embedding reference scgpt",
    "engines explain report pipeline several shards",
    "training pl sharing testing",
    "api choice service app cli",
)
# Longest chain of imports between the modules of any other folder.
LONGEST_CHAIN = 6
# Heavy packages, and the files that may import each of them at module level. Other files import them inside functions.
HEAVY = {
    "torch": (
        "spikgpt/engines/scgpt/",
        "spikgpt/training/",
        *(f"spikgpt/engines/{name}.py" for name in ("model", "thread", "torch")),
    ),
    "scanpy": ("spikgpt/training/",),
    "sklearn": ("spikgpt/training/",),
    "matplotlib": (),
    "gradio": ("spikgpt/app/page.py",),
    "numba": ("spikgpt/embedding/tokens.py", "spikgpt/kernels/"),
    "spikgpt_onnx": ("export/",),
    "spikgpt_recipes": ("hub_cards/",),
    "onnx": (
        "export/spikgpt_onnx/graph/",
        *(f"export/spikgpt_onnx/{name}.py" for name in ("exporter", "parity", "rebuild_graph", "triton")),
        "spikgpt/engines/read_graph.py",
    ),
}
# Docstrings, messages and comments start with their subject, not with one of these words.
VAGUE_OPENINGS = ("What ", "Whether ", "That ", "Of ", "Where ", "How ")
# Names that do not tell a reader what they hold.
VAGUE_NAMES = frozenset(
    ("asked", "begun", "doing", "found", "here", "of", "one", "others", "place", "places", "room_for", "said", "take")
    + ("there", "told", "tried", "what")
)
# Source files without a test file of their own, and why.
UNTESTED = {
    "spikgpt/constants.py": "only numbers, which the tests of the modules that use them check",
    "spikgpt/types.py": "only names",
    "spikgpt/embedding/base.py": "only protocols, which the tests of their implementations use",
    "spikgpt/version.py": "one line, which tests of the command line see",
    "spikgpt/service/messages.py": "only fields, which the tests of the workers send",
    "spikgpt/engines/contract.py": "only names, which the tests of the graphs use",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = Function | ast.ClassDef | ast.Module
# The registered checks; each returns its findings.
CHECKS: list[Callable[[], list[str]]] = []


def relative_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def check_repository(check: Callable[[], None]) -> Callable[[], None]:
    """Register a check of the whole repository."""

    def findings() -> list[str]:
        try:
            check()
        except AssertionError as error:
            return [f"{check.__name__}: {error}"]
        return []

    CHECKS.append(findings)
    return check


def check_each(paths: Sequence[Path]) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Register a check of each path."""

    def register(check: Callable[[Path], None]) -> Callable[[Path], None]:
        def findings() -> list[str]:
            failures = []
            for path in paths:
                try:
                    check(path)
                except AssertionError as error:
                    failures.append(f"{relative_name(path)}: {check.__name__}: {error}")
            return failures

        CHECKS.append(findings)
        return check

    return register


each_source = check_each(SOURCES)
each_python_file = check_each(PYTHON_FILES)
each_folder = check_each([folder for folder in FOLDERS if folder != PACKAGES["spikgpt"]])


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def functions(node: ast.AST) -> Iterator[Function]:
    """Yield the outermost functions and methods; nested functions count as part of the outer function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield child
        else:
            yield from functions(child)


def docstring_lines(node: ast.AST) -> int:
    """Return the number of lines of the docstring of a module, class or function."""
    if not isinstance(node, Documented) or ast.get_docstring(node) is None:
        return 0
    return (node.body[0].end_lineno or 0) - node.body[0].lineno + 1


def assigned(node: ast.stmt) -> list[str]:
    """Return the names that a statement assigns."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]


def named_by(node: ast.AST) -> list[str]:
    """Return the names of the variable, attribute, parameter, function or class that a node defines."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
            return [name]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
    return []


def imported(node: ast.AST, path: Path) -> list[str]:
    """Return the full names of all modules and objects that an import statement imports."""
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
def files_are_short(path: Path) -> None:
    texts = sum(docstring_lines(node) for node in ast.walk(tree(path)) if isinstance(node, Documented))
    lines = len(path.read_text().splitlines()) - texts
    assert lines <= 400, f"{lines} lines without docstrings; at most 400"


@each_source
def functions_are_short(path: Path) -> None:
    lengths = {
        node.name: (node.end_lineno or 0) - node.lineno + 1 - docstring_lines(node) for node in functions(tree(path))
    }
    long = {name: length for name, length in lengths.items() if length > 60}
    assert not long, f"{long}; at most 60 lines without the docstring"


@each_source
def public_functions_name_their_keywords(path: Path) -> None:
    vague = []
    for node in ast.walk(tree(path)):
        if not isinstance(node, Function) or node.name.startswith("_"):
            continue
        rest = node.args.kwarg
        if rest and rest.annotation and ast.unparse(rest.annotation) in ("Any", "object"):
            vague.append(f"line {node.lineno}: {node.name} takes any keywords")
    assert not vague, vague


def imports_within(folder: Path) -> dict[str, set[str]]:
    """Return the children of a folder that each child imports; imports inside functions count."""
    prefix = module_of(folder / "__init__.py") + "."
    graph: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        node = path.relative_to(folder).parts[0].removesuffix(".py")
        names = [name for part in ast.walk(tree(path)) for name in imported(part, path)]
        below = {name.removeprefix(prefix).split(".")[0] for name in names if name.startswith(prefix)}
        modules = {name for name in below if Path(folder, name).is_dir() or Path(folder, f"{name}.py").is_file()}
        # Imported names that are no modules are defined in the folder's __init__.py.
        below = modules | ({"__init__"} if below > modules else set())
        graph.setdefault(node, set()).update(below - {node})
    return graph


@check_repository
def imports_go_to_lower_layers() -> None:
    order = [*" ".join(LAYERS).split(), "__init__"]
    graph = imports_within(PACKAGES["spikgpt"])
    assert set(graph) <= set(order), f"{set(graph) - set(order)} must be listed in LAYERS"
    upward = {(node, other) for node in graph for other in graph[node] if order.index(other) > order.index(node)}
    assert not upward, f"imports of higher layers: {sorted(upward)}"


@each_folder
def chains_of_imports_are_short(folder: Path) -> None:
    graph, depth = imports_within(folder), dict[str, int]()
    try:
        for node in TopologicalSorter(graph).static_order():
            depth[node] = 1 + max((depth[child] for child in graph.get(node, ())), default=0)
    except CycleError as error:
        msg = f"imports go in a circle: {' <- '.join(error.args[1])}"
        raise AssertionError(msg) from error
    highest = max(depth, key=lambda node: depth[node])
    assert depth[highest] <= LONGEST_CHAIN, f"{highest} ends a chain of {depth[highest]} imports"


@each_source
def a_test_file_mirrors_each_source_file(path: Path) -> None:
    if path.name == "__init__.py":
        return
    parts = path.relative_to(ROOT).parts
    # The test of spikgpt/cells/align.py is tests/cells/test_align.py. Tests of export/spikgpt_onnx are in
    # tests/spikgpt_onnx.
    test = Path(ROOT, "tests", *parts[1:-1], f"test_{parts[-1]}")
    exists, excepted = test.is_file(), relative_name(path) in UNTESTED
    assert exists or excepted, f"{relative_name(test)} is missing"
    assert not (exists and excepted), f"{relative_name(path)} has a test and needs no exception"


@each_source
def shared_names_are_defined_once(path: Path) -> None:
    home = PACKAGES["spikgpt"] / "types.py"
    shared = {name for node in tree(home).body for name in assigned(node)} | {"NetworkOutput", "InputReport"}
    # Six modules once had a constant of this name, each with another meaning.
    shared.add("MINIMUM_CELLS")
    defined = {name for node in tree(path).body for name in assigned(node)}
    defined |= {node.name for node in tree(path).body if isinstance(node, ast.ClassDef)}
    assert path == home or not defined & shared, f"{defined & shared} belong to {relative_name(home)}"


@each_source
def public_names_are_defined(path: Path) -> None:
    values = {name: node for node in tree(path).body for name in assigned(node)}
    listed = getattr(values.get("__all__"), "value", None)
    if not isinstance(listed, ast.List | ast.Tuple):
        return  # no list, or a list from the stub, which tests/test_exported_members.py checks
    names = ast.literal_eval(listed)
    defined = set(values) | {getattr(node, "name", "") for node in tree(path).body}
    defined |= {alias.asname or alias.name for node in tree(path).body for alias in getattr(node, "names", ())}
    assert len(names) == len(set(names)), "__all__ lists a name twice"
    assert set(names) <= defined, f"__all__ lists {set(names) - defined}, which the module does not define"


@check_repository
def the_stub_lists_what_it_imports() -> None:
    stub = ast.parse((PACKAGES["spikgpt"] / "__init__.pyi").read_text()).body
    names = next(ast.literal_eval(node.value) for node in stub if isinstance(node, ast.Assign))
    imports = sorted(alias.name for node in stub if isinstance(node, ast.ImportFrom) for alias in node.names)
    assert names == imports, f"{names} are listed, {imports} imported"


@check_repository
def the_entry_point_stays_small() -> None:
    lines = len((PACKAGES["spikgpt"] / "__init__.py").read_text().splitlines())
    assert lines <= 15, f"{lines} lines; at most 15"


@each_source
def heavy_packages_are_imported_inside_functions(path: Path) -> None:
    functions_inside = {inner for node in functions(tree(path)) for inner in ast.walk(node)}
    for_checkers = {
        inner
        for node in ast.walk(tree(path))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    nodes = (node for node in ast.walk(tree(path)) if node not in functions_inside and node not in for_checkers)
    packages = {name.split(".")[0] for node in nodes for name in imported(node, path)}
    misplaced = [name for name in packages & HEAVY.keys() if not relative_name(path).startswith(HEAVY[name])]
    assert not misplaced, f"{misplaced} imported at module level"


@each_source
def texts_open_with_their_subject(path: Path) -> None:
    """Check docstrings, messages, help texts and comments."""
    texts = [
        (node.lineno, node.value)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    texts += [
        (number, line.strip().removeprefix("# "))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line.strip().startswith("# ")
    ]
    vague = [f"line {number}: {text[:40]}" for number, text in texts if text.startswith(VAGUE_OPENINGS)]
    assert not vague, vague


@each_python_file
def names_tell_the_content(path: Path) -> None:
    vague = {name for node in ast.walk(tree(path)) for name in named_by(node) if name.strip("_") in VAGUE_NAMES}
    assert not vague, f"{sorted(vague)} do not tell what they hold"


@check_repository
def class_names_are_unique() -> None:
    files: dict[str, list[str]] = {}
    for path in PYTHON_FILES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                files.setdefault(node.name, []).append(relative_name(path))
    repeated = {name: paths for name, paths in files.items() if len(paths) > 1}
    assert not repeated, f"several classes have the same name: {repeated}"


@check_repository
def committed_texts_contain_no_absolute_paths() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        return  # not a git checkout
    with_paths = []
    for name in listed.stdout.decode().split("\0")[:-1]:
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() and not name.startswith("tests/") else b""
        if b"\0" not in content and re.search(rb"(?<![\w.~:/-])/(work|tmp|root|home)\b", content):
            with_paths.append(name)
    assert not with_paths, with_paths


@check_repository
def no_text_installs_this_package_from_a_registry() -> None:
    folders = [ROOT / name for name in ("spikgpt", "export", "docs", "examples", "benchmarks", "hub_cards")]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".py", ".md", ".yaml")]
    assert len(files) > 200, f"only {len(files)} files to read"
    command = re.compile(r"pip install[^`#\n]*[ '\"]spikgpt\b")
    files.append(ROOT / "README.md")
    with_command = [relative_name(path) for path in files if command.search(path.read_text(encoding="utf-8"))]
    assert not with_command, with_command


def main() -> int:
    """Run every check, print the findings, and return 1 if there are any."""
    findings = [finding for check in CHECKS for finding in check()]
    sys.stdout.writelines(f"{finding}\n" for finding in findings)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
