"""The house rules that a machine can check: one direction of imports, ceilings on size, nothing printed, no drawers."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from import_graph import Graph, circles, floors, grouped, import_graph
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
    "render",  # puppets.render
    "evaluate_pipeline",
}
DRAWERS = {"utils", "util", "common", "misc", "helpers"}

# Each room may import from the rooms before it in this chain (and from itself); rooms of one step not from each other.
# Imports for type checkers and inside functions count. A room that is on no step fails the test.
CHAIN = [
    {"errors"},
    {"files"},
    {"modes", "segments", "devices", "video", "puppets", "drift", "execution"},
    {"masks", "request", "checkpoints"},
    {"conditions", "models", "perception"},
    {"pipeline", "budget"},
    {"loading"},
    {"data", "runs"},
    {"evaluation", "synthesis", "training", "serving"},
    {"cli"},
    {"__init__", "__main__"},
]
STEP = {room: step for step, rooms in enumerate(CHAIN) for room in rooms}
# Inside a room likewise: files and folders of a step import only from the steps before (and folders from themselves).
INSIDE = {
    "perception": [
        {"tracks", "refitting"},
        {"binding"},
        {"bound_masks", "driving_video"},
        {"segmenters"},
        {"matte"},
        {"store_folder", "stored_facts"},
        {"store"},
        {"preview"},
        {"checks"},
        {"make"},
        {"reused"},
        {"stage"},
    ],
    "pipeline": [
        {
            "magnitudes",
            "step_caches",
            "hub_files",
            "output",
            "stages",
            "mistaken",
            "parts",
            "call_state",
            "beside",
            "visiting",
        },
        {"inputs", "settings"},
        {"sampling", "options", "embeds", "lora_loader", "saved"},
        {"arguments", "guidance"},
        {"call"},
        {"driving"},
        {"segment"},
        {"pipeline"},
    ],
}
# The network itself and the small autoencoder: nothing of the package but these.
NETWORK = {"transformer", "autoencoder", "pixel_refiner", "blocks", "rope", "condition_embedder"}
NETWORK_IMPORTS = {"errors", "modes", "devices", "models"}
MAX_ROOMS, MAX_FLOORS = 24, 10
# Capabilities that came after the house was laid out, each a room of its own as it foresaw.
ADDED = {"budget", "serving", "execution", "synthesis"}
# A service speaks requests and run directories, and holds no model code.
SERVING_NEVER_IMPORTS = {"pipeline", "models", "conditions", "loading", "training", "data", "evaluation"}


def room_of(module: str) -> str:
    return module.split(".")[0]


@pytest.fixture(scope="module")
def graph() -> Graph:
    """Importing module -> imported modules."""
    return import_graph(SOURCE)


def test_every_room_is_on_a_step_of_the_chain(graph):
    assert {room_of(module) for module in graph} == set(STEP)


def test_rooms_import_only_what_comes_before(graph):
    wrong = [
        f"{importer} imports {imported}"
        for importer, found in graph.items()
        for imported in found
        if room_of(importer) != room_of(imported) and STEP[room_of(imported)] >= STEP[room_of(importer)]
    ]
    assert not wrong


@pytest.mark.parametrize("room", INSIDE)
def test_the_inside_of_a_room_points_one_way_too(graph, room):
    step = {name: number for number, names in enumerate(INSIDE[room]) for name in names}
    inner = {module: module.split(".")[1] for module in graph if module.startswith(f"{room}.")}
    assert set(inner.values()) == set(step)
    wrong = [
        f"{importer} imports {imported}"
        for importer, place in inner.items()
        for imported in graph[importer]
        if imported in inner and inner[imported] != place and step[inner[imported]] >= step[place]
    ]
    assert not wrong


def test_the_network_knows_nothing_of_files_and_pipelines(graph):
    wrong = [
        f"models.{name} imports {imported}"
        for name in NETWORK
        for imported in graph[f"models.{name}"]
        if room_of(imported) not in NETWORK_IMPORTS
    ]
    assert not wrong


def test_a_service_holds_no_model_code(graph):
    imported = {room_of(each) for module, found in graph.items() if room_of(module) == "serving" for each in found}
    assert not imported & SERVING_NEVER_IMPORTS


def test_no_modules_import_each_other_in_a_circle(graph):
    assert circles(graph) == []


def test_the_house_is_easy_to_see(graph):
    rooms = [path for path in SOURCE.iterdir() if path.name not in ("__pycache__", "py.typed")]
    assert len([path for path in rooms if path.name not in ADDED]) <= MAX_ROOMS
    heights = floors(grouped(graph, {module: room_of(module) for module in graph}))
    assert max(heights.values()) <= MAX_FLOORS


def test_the_mask_stage_is_written_once(graph):
    """Whoever wants masks asks the stage: only it puts segmenters, binding, checks and the store together."""
    users = {name for name, imported in graph.items() if "perception.make" in imported}
    assert users == {"perception.stage", "perception.reused"}  # the stage's own, for masks of an earlier run
    assert {name for name, imported in graph.items() if "perception.reused" in imported} == {"perception.stage"}
    callers = {name for name, imported in graph.items() if "perception.stage" in imported}
    assert callers == {"cli.masks", "runs.masking", "runs.preparation"}


def test_the_drawing_of_the_house_is_true():
    drawing = (ROOT / "docs" / "architecture.md").read_text()
    steps = re.findall(r"^\| (\d+) \| (.+?) \|", drawing, re.MULTILINE)
    drawn = [{name.strip(" `/").removesuffix(".py") for name in names.split(",")} for _, names in steps]
    assert drawn == [{room for room in rooms if not room.startswith("__")} for rooms in CHAIN[:-1]]


def test_the_guard_sees_every_kind_of_import(tmp_path):
    package = tmp_path / "house"
    (package / "room").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "room" / "__init__.py").write_text("")
    (package / "room" / "a.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .b import B\n"
    )
    (package / "room" / "b.py").write_text("def f():\n    import house.room.c as c\n    return c\n")
    (package / "room" / "c.py").write_text("from house.room import a\nfrom house import VERSION\n")
    (package / "door.py").write_text("from importlib import import_module\nimport_module('house.room.a')\n")
    seen = import_graph(package)
    assert seen["room.a"] == {"room.b"}
    assert seen["room.b"] == {"room.c"}
    assert seen["room.c"] == {"room.a", "__init__"}
    assert seen["door"] == {"room.a"}
    assert circles(seen) == [["room.a", "room.b", "room.c"]]


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
            in_a_verb = path.parent.name == "cli"
            if parameters(function) > MAX_PARAMETERS and name not in WIDE_FUNCTIONS and not in_a_verb:
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
