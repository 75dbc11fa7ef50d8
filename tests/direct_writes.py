"""Where the package writes to the disk by itself, read from its text: every call that opens, saves, renames or copies."""

import ast
from collections.abc import Iterator
from pathlib import Path

# Calls that write to their first argument (`np.save(path, …)`, `picture.save(path)`), or to what they are a method of.
_TO_ARGUMENT = {"save", "savez", "savez_compressed", "savefig", "save_pretrained", "save_config", "dump"}
_TO_ITSELF = {"write_text", "write_bytes", "touch"}
_MOVES = {"rename", "move", "copy2", "copyfile", "copytree", "copy"}
_OPENS = {"open", "fdopen"}
_MAKING = {"O_CREAT", "O_WRONLY", "O_RDWR"}


def direct_writes(package: Path, *, rooms_left_out: frozenset[str] = frozenset()) -> set[tuple[str, str]]:
    """(module below ``package``, function) of every call that writes elsewhere than to memory or to a place of `files/`.

    Such places are what `Staging` hands out (``….place``) and files that `atomic_file` opened.
    """
    found = set()
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[0] not in rooms_left_out:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found |= {(".".join(parts), function) for function in _writers(tree, _handed_out(tree))}
    return found


def _handed_out(tree: ast.AST) -> set[str]:
    """Names bound to a file of `atomic_file` or to a buffer in memory."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.withitem) and _called(node.context_expr) == "atomic_file":
            names |= {node.optional_vars.id} if isinstance(node.optional_vars, ast.Name) else set()
        elif isinstance(node, ast.Assign) and _called(node.value) == "BytesIO":
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _writers(tree: ast.AST, handed_out: set[str], inside: str = "") -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        place = f"{inside}.{node.name}".lstrip(".") if named else inside
        if isinstance(node, ast.Call) and (target := _target(node)) is not None and not _is_safe(target, handed_out):
            yield inside
        yield from _writers(node, handed_out, place)


def _target(call: ast.Call) -> ast.AST | None:
    """What a call writes to; None where it does not write."""
    name, first = _called(call), call.args[0] if call.args else None
    method = call.func.value if isinstance(call.func, ast.Attribute) else None
    owner = method.id if isinstance(method, ast.Name) else ""
    if name in _OPENS and _opens_for_writing(call):
        return method if isinstance(method, ast.expr) and owner not in ("av", "os", "tarfile", "io") else first
    if name == "save_file" or (owner in ("torch", "json") and name in _TO_ARGUMENT):
        return call.args[1] if len(call.args) > 1 else first
    if name in _TO_ARGUMENT and method is not None and first is not None:
        return first
    if name in _TO_ITSELF and method is not None:
        return method
    if name in _MOVES and owner in ("os", "shutil"):
        return call.args[1] if len(call.args) > 1 else first
    if name == "replace" and owner == "os":
        return call.args[1]
    return None


def _opens_for_writing(call: ast.Call) -> bool:
    given = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    modes = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    flags = {node.attr for each in given for node in ast.walk(each) if isinstance(node, ast.Attribute)}
    return bool(flags & _MAKING) or any(len(mode) <= 3 and set(mode) & set("wax+") for mode in modes)


def _is_safe(target: ast.AST, handed_out: set[str]) -> bool:
    if _called(target) == "BytesIO" or (isinstance(target, ast.Name) and target.id in handed_out):
        return True
    return any(isinstance(node, ast.Attribute) and node.attr in ("place", "devnull") for node in ast.walk(target))


def _called(node: ast.AST | None) -> str:
    function = node.func if isinstance(node, ast.Call) else None
    return getattr(function, "attr", getattr(function, "id", ""))
