"""The package's imports as a graph, read from its text: all of them, those for type checkers and inside functions too."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

Graph = dict[str, set[str]]


def modules(package: Path) -> dict[str, Path]:
    """Module name below ``package`` (``video.reader``; ``video`` for its ``__init__``; ``__init__`` for the root) -> file."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


def import_graph(package: Path) -> Graph:
    """Importing module -> imported modules of the same package."""
    known = modules(package)
    return {name: {*_imports(path, package, known)} - {name} for name, path in known.items()}


def _imports(path: Path, package: Path, known: Mapping[str, Path]) -> Iterator[str]:
    above = [package.name, *path.relative_to(package).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = above[: len(above) + 1 - node.level] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _loads_by_name(path):
            # Modules that are imported by their name at run time: a table of names, or `import_module("package.module")`.
            names = [node.value] if re.fullmatch(rf"{package.name}(\.\w+)+", node.value) else []
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == package.name:
                yield _module(rest, known)


def _loads_by_name(path: Path) -> bool:
    return re.search(r"\b(import|run)_module\b", path.read_text(encoding="utf-8")) is not None


def _module(parts: list[str], known: Mapping[str, Path]) -> str:
    """The module that a dotted name is, or is defined in."""
    while parts and ".".join(parts) not in known:
        parts = parts[:-1]
    return ".".join(parts) or "__init__"


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Every group of nodes that reach each other (Tarjan's strongly connected components of more than one node)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def grouped(graph: Mapping[str, Iterable[str]], group_of: Mapping[str, str]) -> Graph:
    """The same arrows between groups of modules; those inside a group fall away."""
    arrows: Graph = {group: set() for group in group_of.values()}
    for name, imported in graph.items():
        arrows[group_of[name]] |= {group_of[other] for other in imported} - {group_of[name]}
    return arrows


def floors(arrows: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """Height of every group above the ground: one more than the highest group it imports. Needs a graph without circles."""
    heights: dict[str, int] = {}

    def height(group: str) -> int:
        if group not in heights:
            heights[group] = 1 + max((height(other) for other in arrows.get(group, ())), default=0)
        return heights[group]

    for group in arrows:
        height(group)
    return heights
