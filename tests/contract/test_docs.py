"""The snippets of docs/diffusers-contract.md run as written, and the tests it names exist."""

import re
from pathlib import Path

from tiny import footage, tiny_pipeline

PAGE = Path(__file__).parents[2] / "docs" / "diffusers-contract.md"


def test_every_snippet_runs():
    names = {"pipe": tiny_pipeline()} | footage(13)
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(snippets) == 3
    for snippet in snippets:
        exec(snippet, names)
    assert names["result"].frames.shape == (1, 13, 32, 32, 3)
    assert len(names["segments"]) == 2


def test_every_test_the_page_names_exists():
    folder = Path(__file__).parents[1]
    sources = "\n".join(path.read_text() for path in (*folder.glob("contract/*.py"), *folder.glob("integration/*.py")))
    named = re.findall(r"`(test_\w+?)(?:\.\.\.)?`", PAGE.read_text())
    assert len(named) > 15
    for name in named:
        assert f"def {name}" in sources, name
