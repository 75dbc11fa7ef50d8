"""Kills workers and commands that fill a folder with shards, at random moments: no shard twice, none lost, none half.

    python tests/fuzz/synthesis_kills.py [MOMENTS] [SEED] [-- WORDS OF scail2 …]

WORDS (default: puppets by `scail2 synthesize`) are a command that takes `--out` and `--resume`. It is run once undisturbed;
then, for every moment, by a command with two workers, of which one worker or the command itself is killed at a random
time; every third time a second command works in the same folder. What is left is looked at before the command is
repeated, and compared byte for byte afterwards.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCAIL2 = (sys.executable, "-m", "scail2")
PUPPETS = ("synthesize", "--pairs", "16", "--pairs-per-shard", "2", "--frames", "5", "--size", "64")
# Files that say when something happened.
DIARIES = ("journal", "log", "figures", "report")


@dataclass(frozen=True)
class Seen:
    """What was left by a kill: shards that are whole, and those that are not."""

    whole: dict[str, str]
    half: list[str]


def content(folder: Path) -> dict[str, str]:
    """Hash of every file, by name, but for diaries."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(word in path.relative_to(folder).as_posix() for word in DIARIES)
    }


def shards(folder: Path) -> Seen:
    """Every shard under its own name is read to its end, without its index."""
    whole, half = {}, []
    for path in sorted(folder.glob("shard-*.tar")):
        try:
            with tarfile.open(path) as tar:
                keys = {Path(name).name.partition(".")[0] for name in tar.getnames()}
            stated = json.loads(path.with_name(f"{path.stem}.index.json").read_text())
            assert stated["bytes"] == path.stat().st_size
            assert {each["key"] for each in stated["samples"]} == keys
            whole[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        except (AssertionError, OSError, ValueError, tarfile.TarError) as error:
            half.append(f"{path.name}: {error!r}")
    return Seen(whole, half)


def begin(words: Sequence[str], folder: Path, workers: int) -> subprocess.Popen:
    command = [*SCAIL2, *words, "--out", str(folder), "--workers", str(workers), "--resume"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def children(parent: int) -> list[int]:
    """Processes that work for another one, by the kernel's list; not the one that tracks their semaphores."""
    found = Path(f"/proc/{parent}/task/{parent}/children")
    numbers = map(int, found.read_text().split()) if found.exists() else ()
    return [each for each in numbers if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]


def kill_after(command: subprocess.Popen, seconds: float, victim: str, chance: random.Random) -> str:
    """Kills the command or one of its workers; what was killed, "nobody" where the work was done sooner."""
    time.sleep(seconds)
    if command.poll() is not None:
        return "nobody"
    target = command.pid
    if victim == "worker":
        try:
            found = children(command.pid)
        except OSError:
            found = []
        if not found:
            return "nobody"
        target = chance.choice(found)
    os.kill(target, signal.SIGKILL)
    return victim


def campaign(words: Sequence[str], moments: int, seed: int, place: Path) -> dict[str, object]:
    began = time.monotonic()
    first = begin(words, place / "whole", 2)
    said, _ = first.communicate()
    assert first.returncode == 0, said
    lasted = time.monotonic() - began
    expected, complete = content(place / "whole"), shards(place / "whole").whole
    counted, wrong = Counter(), []
    for number in range(moments):
        chance, folder = random.Random(f"{seed} {number}"), place / f"kill-{number}"
        victim = ("worker", "command")[number % 2]
        command = begin(words, folder, 2)
        beside = begin(words, folder, 1) if number % 3 == 2 else None
        killed = kill_after(command, chance.uniform(0.2, 1.0) * lasted, victim, chance)
        counted[killed] += 1
        for each in filter(None, (command, beside)):
            said, _ = each.communicate()
            if each.returncode != 0 and not (each is command and killed == "command"):
                wrong.append(f"{number}: a command that was not killed failed: {said[-300:]}")
        left = shards(folder)
        counted["shards left whole"] += len(left.whole)
        counted["moments with shards left to make"] += len(left.whole) < len(complete)
        wrong += [f"{number}: half a shard, {each}" for each in left.half]
        wrong += [f"{number}: another {name}" for name, digest in left.whole.items() if complete.get(name) != digest]
        last = begin(words, folder, 2)
        said, _ = last.communicate()
        if last.returncode != 0:
            wrong.append(f"{number}: cannot be continued: {said[-300:]}")
        now = content(folder)
        different = sorted(name for name in now.keys() | expected.keys() if now.get(name) != expected.get(name))
        wrong += [f"{number}: {name} differs" for name in different]
        sys.stdout.write(f"{number + 1} of {moments}: {dict(counted)}, {len(wrong)} wrong\n")
        sys.stdout.flush()
    return {"undisturbed_s": round(lasted, 1), "shards": len(complete), "moments": moments, **counted, "wrong": wrong}


def main() -> None:
    """Runs the rounds and prints what was seen."""
    given = sys.argv[1:]
    words = given[given.index("--") + 1 :] if "--" in given else list(PUPPETS)
    numbers = given[: given.index("--")] if "--" in given else given
    moments, seed = (int(numbers[place]) if len(numbers) > place else default for place, default in ((0, 20), (1, 0)))
    with tempfile.TemporaryDirectory() as place:
        sys.stdout.write(json.dumps(campaign(words, moments, seed, Path(place)), indent=1) + "\n")


if __name__ == "__main__":
    main()
