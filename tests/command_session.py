"""Runs commands as a terminal would, one process each, without paying for the imports each time.

    python command_session.py SESSION.json

Fresh from the start, this process runs the first command in itself, so that everything a library says while it is loaded is
seen once; the others run in copies of it. The list of commands gets their exit codes, what they wrote, and their CPU time.
"""

import importlib
import json
import os
import pkgutil
import resource
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any


def run_session(path: Path) -> None:
    """Fills in the outcomes of ``path``: ``{"embedded": FOLDER, "commands": [{"words": …, "folder": …}, …]}``."""
    session = json.loads(path.read_text())
    first, *others = session["commands"]
    first |= _captured(first, _with_slow_imports)
    _replace_embedded(Path(session["embedded"]))
    for each in others:
        each |= _captured(each, _in_a_copy)
    path.write_text(json.dumps(session))


def _replace_embedded(folder: Path) -> None:
    """Another folder is the embedded model from now on: ``folder`` is called ``…/assets/nano``."""
    from scail2.files.public import embedded

    embedded.__file__ = str(folder.parents[1] / "files" / "public" / "embedded.py")
    assert embedded.embedded_model_path() == folder


def _captured(command: dict[str, Any], run: Any) -> dict[str, Any]:
    kept = os.dup(1), os.dup(2)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            code, seconds = run(command)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, number)
                os.close(copy)
        told = []
        for file in (out, err):
            file.seek(0)
            told.append(file.read().decode(errors="replace"))
    return {"code": code, "out": told[0], "err": told[1], "seconds": seconds}


def _in_this_process(command: dict[str, Any]) -> tuple[int, float]:
    from scail2.cli.app import main

    before = _seconds(resource.RUSAGE_SELF)
    os.chdir(command["folder"])
    try:
        main(command["words"])
    except SystemExit as end:
        return end.code or 0, _seconds(resource.RUSAGE_SELF) - before
    raise AssertionError("the command did not exit")


def _with_slow_imports(command: dict[str, Any]) -> tuple[int, float]:
    """Runs a command, and loads what the others would load each for itself."""
    outcome = _in_this_process(command)
    import scail2
    from scail2.cli.libraries import quiet_libraries

    with quiet_libraries():
        for module in pkgutil.walk_packages(scail2.__path__, "scail2."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
        for name in ("matplotlib.pyplot", "peft", "psutil", "cv2"):  # imported within functions
            importlib.import_module(name)
    return outcome


def _in_a_copy(command: dict[str, Any]) -> tuple[int, float]:
    before = _seconds(resource.RUSAGE_CHILDREN)
    child = os.fork()
    if child == 0:
        try:
            code, _ = _in_this_process(command)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), _seconds(resource.RUSAGE_CHILDREN) - before


def _seconds(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    run_session(Path(sys.argv[1]))
