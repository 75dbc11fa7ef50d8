"""The documentation as a test reads it: pages, their code blocks, and the commands in blocks and in running text.

The first word after a block's fence is its language. A shell block is run as it stands, unless a further word says what it
needs: ```` ```sh needs-weights ````. A comment ``<!-- run: NAME -->`` before it says that the page's own test runs it.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
)
SHELL = ("sh", "bash")
# What a block may need that a test cannot have: files of gigabytes, the network, minutes to days, an installation, videos of
# one's own.
NEEDS = ("needs-weights", "needs-network", "needs-time", "needs-install", "needs-files")
_FENCE = re.compile(r"^(<!-- run: \w+ -->\n)?```([^\n]*)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
_LEFT_OUT = ("…", "...")


@dataclass(frozen=True)
class Block:
    """A code block: the page's name, the line of its fence, the words after it, the code, whether another test runs it."""

    page: str
    line: int
    words: tuple[str, ...]
    code: str
    runs_elsewhere: bool = False

    @property
    def language(self) -> str:
        """The fence's first word, empty without one."""
        return self.words[0] if self.words else ""

    @property
    def needs(self) -> tuple[str, ...]:
        """The fence's further words."""
        return self.words[1:]

    @property
    def runs(self) -> bool:
        """Whether it is to be run as it stands."""
        return not self.needs and not self.runs_elsewhere

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a shell block or of the running text, split as a shell does, without comments."""

    where: str
    words: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """False where the page leaves out a part of it."""
        return not any(mark in word for word in self.words for mark in _LEFT_OUT)

    def __str__(self) -> str:
        return f"{self.where}: {shlex.join(self.words)}"


def blocks(page: Path) -> list[Block]:
    """All code blocks of a page."""
    text = page.read_text(encoding="utf-8")
    name = str(page.relative_to(ROOT))
    return [
        Block(name, text[: found.start(2)].count("\n") + 1, tuple(found[2].split()), found[3], found[1] is not None)
        for found in _FENCE.finditer(text)
    ]


def commands(block: Block) -> list[Command]:
    """The commands of a shell block, lines that end in a backslash joined."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [Command(str(block), tuple(words)) for line in lines if (words := shlex.split(line, comments=True))]


def spans(page: Path) -> Iterator[Command]:
    """What stands between single backticks outside of code blocks and splits into words."""
    text = _FENCE.sub(lambda found: "\n" * found[0].count("\n"), page.read_text(encoding="utf-8"))
    for found in re.finditer(r"(?<!`)`([^`]+)`(?!`)", text):
        line = text[: found.start()].count("\n") + 1
        try:
            words = tuple(shlex.split(found[1].replace("\\|", "|")))
        except ValueError:  # an apostrophe, a quotation
            continue
        if words:
            yield Command(f"{page.relative_to(ROOT)}:{line}", words)
