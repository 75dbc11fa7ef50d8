"""Kills runs of a tiny model with SIGKILL at chosen events and finishes them; prints what became of each as JSON.

Started by `test_kill_resume` as a process of its own: it forks once per attempt, before any thread exists.
"""

import json
import os
import random
import signal
import sys
from pathlib import Path

import torch
from run_material import make_request
from tiny import SIZE, bare_pipeline

# What a run loads only when it works is loaded here, once, before the forks.
import scail2.runs.executor
import scail2.runs.moved
import scail2.runs.task  # noqa: F401
from scail2.runs import RunDirectory
from scail2.runs.segment_store import SegmentStore

FRAMES = 23


def attempt(folder: Path, *, kill_at: int | None) -> tuple[int, list[str]]:
    """Works on the run in a forked process that kills itself at its event number ``kill_at``.

    Returns the wait status and the names of the events so far.
    """
    log = folder / "events.txt"
    log.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(folder, log, kill_at)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return status, log.read_text().split()


def work(folder: Path, log: Path, kill_at: int | None) -> None:
    torch.set_num_threads(1)
    pipe = bare_pipeline(native_height=SIZE, native_width=SIZE)
    count = 0

    def watch(event) -> None:
        nonlocal count
        with log.open("a") as file:
            file.write(event.name + "\n")
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1

    path = folder / "film.run"
    if (path / "request.json").exists():
        RunDirectory.open(path).resume(pipe, events=watch)
    else:
        RunDirectory.create(path, make_request(folder, frames=FRAMES, seed=5)).execute(pipe, events=watch)


def result(folder: Path) -> dict:
    """Everything that must be the same however often the run was killed, and what must not be left over."""
    store = SegmentStore(folder / "film.run")
    return {
        "segments": {
            index: [store.record(index).frames_sha256, store.state(index).identity()] for index in store.finished()
        },
        "film": (folder / "film.mp4").read_bytes().hex(),
        "leftovers": [str(path) for path in folder.rglob(".*") if "part" in path.name],
        "superseded": (folder / "film.run" / "superseded").exists(),
    }


def scenario(folder: Path, kills: list[int]) -> dict:
    """Kills the same run at each of ``kills`` (event numbers of that attempt), then lets it finish."""
    folder.mkdir()
    signals = []
    for kill_at in kills:
        status, _ = attempt(folder, kill_at=kill_at)
        signals.append(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)
    status, events = attempt(folder, kill_at=None)
    return {"signals": signals, "status": status, "last_events": events} | result(folder)


def main(folder: Path, seed: int) -> dict:
    (folder / "whole").mkdir()
    status, events = attempt(folder / "whole", kill_at=None)
    whole = {"status": status, "events": events} | result(folder / "whole")
    rng = random.Random(seed)
    first = {name: events.index(name) for name in ("masks_progress", "segment_saving", "output_progress")}
    kills = {name: [number] for name, number in first.items()}
    kills |= {f"random {number}": [number] for number in rng.sample(range(len(events) - 1), 3)}
    # An attempt after a kill has at least these many events left, wherever the ones before it stopped.
    kills["again and again"] = [rng.randrange(12), rng.randrange(8), rng.randrange(4)]
    return {
        "whole": whole,
        "killed": {name: scenario(folder / name.replace(" ", "_"), numbers) for name, numbers in kills.items()},
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
