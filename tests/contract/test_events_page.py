"""The events that docs/quickstart.md lists are those that runs emit, and those it calls passing are not in the journal."""

import ast
import re
from pathlib import Path

import scail2.runs
from scail2.runs.journal import TRANSIENT
from scail2.serving.dispatch import PASSING

PAGE = Path(__file__).parents[2] / "docs" / "quickstart.md"


def emitted() -> set[str]:
    """Names that the source gives to `Journal.emit` or `RunEvent.now`, or to `RunDirectory._work` as its last argument."""
    names = set()
    for path in Path(scail2.runs.__file__).parent.glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.args):
                continue
            given = {"emit": call.args[0], "now": call.args[0], "_work": call.args[-1]}.get(call.func.attr)
            if isinstance(given, ast.Constant):
                names.add(given.value)
    return names


def test_the_page_lists_every_event_and_no_other():
    section = PAGE.read_text().split("## For programs")[1]
    table, rest = section.split("\n\n", 3)[2:]
    listed = [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert len(listed) == len(set(listed))
    assert set(listed) == emitted()
    passing = rest.split("The journal has the same lines but for ")[1].split(",", 2)
    assert set(re.findall(r"`(\w+)`", " ".join(passing).split("which")[0])) == TRANSIENT == PASSING
