"""Numbered work without a sample in it, for worker processes: each piece is a file of lines, one for each item."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from scail2.errors import InputError
from scail2.execution.crew import Crew, run_for_rank
from scail2.files.staging import atomic_file

ITEMS = 4


@dataclass(frozen=True)
class Lines:
    """Pieces that may kill or fail who makes them.

    Attributes:
        folder: where the files and a diary of attempts go.
        deadly: items at which the process ends every time.
        accidents: items at which it ends the first time.
        wrong: an item that raises InputError.
    """

    folder: Path
    deadly: tuple[str, ...] = ()
    accidents: tuple[str, ...] = ()
    wrong: str = ""

    def prepare(self) -> None:
        self._note("prepared")

    def place(self, number: int) -> Path:
        return self.folder / f"piece-{number}.txt"

    def is_done(self, number: int) -> bool:
        return self.place(number).exists()

    def perform(self, number: int, watch) -> None:
        lines = []
        for index in range(ITEMS):
            item = f"{number}/{index}"
            reason = watch.begin(item)
            if reason is None:
                self._try(item)
            lines.append(f"{item} {reason or number**2 + index}")
            watch.end(item)
        with atomic_file(self.place(number)) as file:
            file.write("\n".join(lines).encode())
        self._note(f"made {number}")

    def _try(self, item: str) -> None:
        marker = self.folder / f".met-{item.replace('/', '-')}"
        first = item in self.accidents and not marker.exists()
        if item in self.deadly or first:
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if item == self.wrong:
            raise InputError(f"item {item} has no colour")

    def _note(self, text: str) -> None:
        with (self.folder / "diary").open("a") as file:
            file.write(f"{os.getpid()} {text}\n")

    def diary(self) -> list[str]:
        """What happened, in order, without who did it."""
        return [line.partition(" ")[2] for line in (self.folder / "diary").read_text().splitlines()]


def expected(number: int, left_out: str = "", reason: str = "") -> str:
    """What a piece holds."""
    values = [f"{number}/{index} {number**2 + index}" for index in range(ITEMS)]
    return "\n".join(f"{left_out} {reason}" if line.startswith(f"{left_out} ") else line for line in values)


def die_at(folder: Path, count: int) -> None:
    """A command with two workers that is killed when so many items have ended."""
    ended = 0

    def listen(message) -> None:
        nonlocal ended
        ended += type(message).__name__ == "Ended"
        if ended == count:
            os.kill(os.getpid(), signal.SIGKILL)

    run_for_rank(Lines(folder), range(6), Crew(workers=2), listen)


if __name__ == "__main__":
    die_at(Path(sys.argv[1]), int(sys.argv[2]))
