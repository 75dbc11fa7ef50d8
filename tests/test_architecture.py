"""The house rules that a machine can check: one direction of imports, ceilings on size, nothing printed, no drawers."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from tolerances import TOLERANCES

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "scail2"
FILES = sorted(SOURCE.rglob("*.py"))

MAX_FILE_LINES = 400
MAX_BODY_LINES = 60
MAX_PARAMETERS = 8
# The public surface, where many named arguments are the point. Command-line verbs declare their options likewise.
WIDE_FUNCTIONS = {
    "SCAIL2Transformer3DModel.__init__",
    "SCAIL2Transformer3DModel.forward",
    "SCAIL2Pipeline.__init__",
    "SCAIL2Pipeline.__call__",
    "SCAIL2Pipeline.stream",
    "build",  # conditions.build: the one constructor of model inputs
    "render",  # data.puppets.render
    "evaluate_pipeline",
}
DRAWERS = {"utils", "util", "common", "misc", "helpers"}

# Each part may import from the parts before it in this chain (and from itself); parts of one step not from each other.
CHAIN = [
    {"errors"},
    {"limits"},
    {"documents"},
    {"modes", "devices", "lora_argument"},
    {"masks", "segments", "presets"},
    {"video"},
    {"perception", "models"},
    {"conditions"},
    {"pipeline"},
    {"hub"},
    {"request"},
    {"data"},
    {"evaluation"},
    {"runs", "training"},
    {"cli"},
]
STEP = {part: step for step, parts in enumerate(CHAIN) for part in parts}
# These make whole pipelines from files, so they stand above the pipeline although they lie beside the loaders.
HUB = {"models/hub.py", "models/components.py", "models/conversion.py", "models/inventory.py"}


def part_of(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    return "hub" if relative.as_posix() in HUB else relative.parts[0].removesuffix(".py")


def imported_modules(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Modules of scail2 that a file imports, as paths below scail2; imports for type checkers do not count."""
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ["scail2", *package][: len(package) + 2 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (tuple(name.split(".")[1:]) for name in names if name.split(".")[0] == "scail2")


def imported_parts(path: Path) -> set[str]:
    package = path.relative_to(SOURCE).parts[:-1]
    parts = set()
    for module in imported_modules(ast.parse(path.read_text()), package):
        file = "/".join(module[:2]) + ".py"
        name = "hub" if file in HUB else module[0] if module else ""
        # Names that are no file or folder are what the package itself exports.
        if (SOURCE / f"{name}.py").exists() or (SOURCE / name).is_dir() or name == "hub":
            parts.add(name)
    return parts - {part_of(path), ""}


@pytest.fixture(scope="module")
def imports() -> dict[str, dict[str, str]]:
    """Importing part -> imported part -> a file that does so."""
    graph: dict[str, dict[str, str]] = {}
    for path in FILES:
        for part in imported_parts(path):
            graph.setdefault(part_of(path), {})[part] = path.relative_to(SOURCE).as_posix()
    return graph


def test_parts_of_the_chain_import_only_what_comes_before(imports):
    wrong = [
        f"{file}: {importer} imports {imported}"
        for importer, found in imports.items()
        for imported, file in found.items()
        if importer in STEP and imported in STEP and STEP[imported] >= STEP[importer]
    ]
    assert not wrong


def test_no_parts_import_each_other_in_a_circle(imports):
    try:
        tuple(TopologicalSorter(imports).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_command_line_starts_without_torch():
    code = "import sys, scail2, scail2.cli.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- size and habits ------------------------------------------------------------------------------------------------


def functions(tree: ast.AST, owner: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield owner + node.name, node
            yield from functions(node)
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{node.name}.")
        else:
            yield from functions(node, owner)


def body_lines(function: ast.FunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def parameters(function: ast.FunctionDef) -> int:
    named = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")])


def test_no_file_is_too_long():
    lengths = {path.relative_to(SOURCE).as_posix(): len(path.read_text().splitlines()) for path in FILES}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_no_function_is_too_long_or_too_wide():
    wrong = []
    for path in FILES:
        for name, function in functions(ast.parse(path.read_text())):
            where = f"{path.relative_to(SOURCE)}::{name}"
            if body_lines(function) > MAX_BODY_LINES:
                wrong.append(f"{where} has {body_lines(function)} lines")
            if parameters(function) > MAX_PARAMETERS and name not in WIDE_FUNCTIONS and part_of(path) != "cli":
                wrong.append(f"{where} has {parameters(function)} parameters")
    assert not wrong


def test_nothing_is_printed():
    printing = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not printing


def test_every_module_has_a_name_and_says_what_it_is():
    assert not [path for path in SOURCE.rglob("*") if path.stem in DRAWERS]
    silent = [
        path.relative_to(SOURCE).as_posix() for path in FILES if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent


def test_no_work_is_left_in_comments():
    left = [
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in FILES
        for line in path.read_text().splitlines()
        if re.search(r"#.*\b(TODO|FIXME|XXX|HACK)\b", line)
    ]
    assert not left


def test_the_numerics_document_states_the_tolerances_in_use():
    rows = re.findall(r"^\| `(\w+)` \| ([\d.e-]+) \|", (ROOT / "docs" / "numerics.md").read_text(), re.MULTILINE)
    assert {name: float(value) for name, value in rows} == TOLERANCES
