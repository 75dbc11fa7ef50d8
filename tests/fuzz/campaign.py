"""``python tests/fuzz/campaign.py COUNT [FIRST]``: damaged inputs for every reader in turn; exits with 1 if anything failed.

A thousand inputs share a process, which is ended when it takes too long: an input that hangs is found, too.
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from mutate import mutated  # noqa: E402
from readers import Reader, make_readers  # noqa: E402

from scail2.errors import InputError  # noqa: E402

SECONDS = 10.0


@dataclass
class Outcome:
    """Inputs read, refused (with a sentence), and what should not have happened."""

    read: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    leftovers: list[str] = field(default_factory=list)


def try_one(reader: Reader, number: int, place: Path, outcome: Outcome) -> None:
    """Damages one file in a copy of its folder and reads it."""
    folder = place / "copy"
    shutil.copytree(reader.folder, folder)
    path = folder / reader.file
    path.write_bytes(mutated(path.read_bytes(), number, text=reader.text))
    before, started = sorted(os.listdir(folder)), time.monotonic()
    try:
        reader.read(path)
        outcome.read += 1
    except InputError as error:
        outcome.refused += 1
        if len(str(error).splitlines()) != 1:
            outcome.faults.append(f"{reader.name} {number}: not one line: {error}")
    except (Exception, SystemExit) as error:
        told = traceback.extract_tb(error.__traceback__)[-1]
        outcome.faults.append(
            f"{reader.name} {number}: {type(error).__name__}: {error} ({told.filename}:{told.lineno})"
        )
    if time.monotonic() - started > SECONDS:
        outcome.slow.append(f"{reader.name} {number}")
    if sorted(os.listdir(folder)) != before:
        outcome.leftovers.append(f"{reader.name} {number}")
    shutil.rmtree(folder)


def run(count: int, first: int, place: Path) -> Outcome:
    """Inputs ``first`` to ``first + count``, the readers in turn, in this process."""
    readers, outcome = list(make_readers(place)), Outcome()
    for number in range(first, first + count):
        try_one(readers[number % len(readers)], number, place, outcome)
    return outcome


def _part(count: int, first: int, results: "multiprocessing.Queue") -> None:
    with tempfile.TemporaryDirectory(prefix="scail2-fuzz-") as place:
        outcome = run(count, first, Path(place))
        results.put((outcome.read, outcome.refused, outcome.faults, outcome.slow, outcome.leftovers))


def main() -> None:
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    context, totals, batch = multiprocessing.get_context("spawn"), Outcome(), 1000
    for start in range(first, first + count, batch):
        results = context.Queue()
        length = min(batch, first + count - start)
        process = context.Process(target=_part, args=(length, start, results))
        process.start()
        process.join(60 + length * 0.5)
        if process.exitcode is None:
            totals.slow.append(f"one of {start} to {start + length} hangs")
            process.kill()
        elif process.exitcode:
            totals.faults.append(f"one of {start} to {start + length} ended the process ({process.exitcode})")
        else:
            read, refused, faults, slow, leftovers = results.get(timeout=10)
            totals.read, totals.refused = totals.read + read, totals.refused + refused
            totals.faults, totals.slow = totals.faults + faults, totals.slow + slow
            totals.leftovers += leftovers
    for line in (*totals.faults, *totals.slow, *totals.leftovers):
        sys.stdout.write(line[:600] + "\n")
    sys.stdout.write(
        f"{totals.read} read, {totals.refused} refused; {len(totals.faults)} tracebacks, {len(totals.slow)} over "
        f"{SECONDS:g} s, {len(totals.leftovers)} leftovers\n"
    )
    sys.exit(bool(totals.faults or totals.slow or totals.leftovers))


if __name__ == "__main__":
    main()
