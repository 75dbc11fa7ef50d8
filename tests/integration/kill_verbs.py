"""Kills every writing verb with SIGKILL at seeded random moments and repeats the command; prints what became of each as JSON.

Started by `test_kill_verbs` as a process of its own: it forks once per attempt, before any thread exists. A moment is an
operation on files (a file opened for writing, a rename, a folder made, a name removed), counted by an audit hook; with
``--clock`` every second moment is an instant of the command's running time instead, which also falls inside an operation.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

# What the verbs load only when they work is loaded here, once, before the forks.
import matplotlib.backends.backend_agg  # noqa: F401
import torch
import torch.utils.tensorboard
import transformers  # noqa: F401
from run_material import make_material, save_model
from training_material import configuration, make_world

import scail2.data.puppet_source
import scail2.evaluation.protocols
import scail2.loading.conversion
import scail2.perception.checks.preflight
import scail2.runs.task
import scail2.training.session  # noqa: F401
from scail2.cli.app import main as command
from scail2.training.recipes import RECIPES

_CHANGING = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
# Hours of the day and machine: whoever writes them says so by the file's name.
_DIARIES = re.compile(r"journal\.jsonl|log\.jsonl|tensorboard(/.*)?|\.lock")


@dataclasses.dataclass(frozen=True)
class Verb:
    """A command (words, where OUT is the output's place) and the one that goes on after a kill, if it is another."""

    words: tuple[str, ...]
    again: tuple[str, ...] = ()


def verbs(inputs: Path) -> dict[str, Verb]:
    job = ["--reference", inputs / "reference.png", "--driving", inputs / "driving.mkv"]
    job += ["--reference-mask", inputs / "reference_mask.png", "--driving-mask", inputs / "driving_mask.mkv"]
    pairs = ["synthesize", "--out", "OUT/pairs", "--pairs", 4, "--pairs-per-shard", 2, "--frames", 5, "--size", 32]
    cache = ["cache", "--out", "OUT/cache", "--samples", 4, "--samples-per-shard", 2, "--frames", 5, "--size", 32]
    cache += ["--autoencoder", inputs / "world" / "model" / "vae"]
    brief = ["--clips", 1, "--frames", 5, "--size", 32, "--steps", 1, "--task", "animation_single"]
    made = {
        "animate": ["animate", *job, "--model", inputs / "model", "--steps", 1, "--output", "OUT/film.mp4"],
        "masks": ["masks", *job, "--output", "OUT/masks"],
        "masks over older ones": ["masks", *job, "--output", "OUT/masks", "--width", 16, "--height", 16],
        "synthesize": [*pairs, "--workers", 1],
        "preferences": ["preferences", "--out", "OUT/pairs", *pairs[3:], "--workers", 1],
        "cache": [*cache, "--workers", 1],
        "train": ["train", "nano", "--output", "OUT/run", "--device", "cpu"],
        "convert": ["convert", inputs / "model" / "transformer", "--out", "OUT/model"],
        "convert to one file": ["convert", inputs / "model", "--to", "official", "--out", "OUT/model.safetensors"],
        "evaluate": ["evaluate", inputs / "model", *brief, "--json", "OUT/m.json", "--out", "OUT/sheets"],
    }
    plain = {name: tuple(map(str, words)) for name, words in made.items()}
    return {
        name: Verb(words, (*words, "--resume") if name in ("synthesize", "preferences", "cache") else words)
        for name, words in plain.items()
    }


class Killer:
    """Counts operations that change something below a folder, and ends the process before number ``at``."""

    def __init__(self, folder: Path, at: int | None):
        self.folder, self.at, self.count = os.fsencode(folder), at, 0

    def __call__(self, event: str, given: tuple) -> None:
        if event == "open":
            path, _, flags = given
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in _CHANGING:
            path = given[0]
        else:
            return
        if isinstance(path, str | bytes | os.PathLike) and os.fsencode(path).startswith(self.folder):
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.count += 1


def attempt(folder: Path, words: tuple[str, ...], *, kill_at: int | None = None, after: float | None = None) -> dict:
    """Runs a command in a forked process; returns how it ended, what it said, and its operations and seconds."""
    notes = folder.with_name(f"{folder.name}.notes")
    notes.write_text("{}")
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _work(folder, words, kill_at, notes)
    if after is not None:
        with contextlib.suppress(ChildProcessError):
            while (
                time.monotonic() - began < after
                and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
            ):
                time.sleep(0.001)
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    facts = json.loads(notes.read_text())
    notes.unlink()
    ended = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    return {"ended": ended, "seconds": time.monotonic() - began, "said": "", "operations": 0} | facts


def _work(folder: Path, words: tuple[str, ...], kill_at: int | None, notes: Path) -> None:
    code = 70
    try:
        torch.set_num_threads(1)
        RECIPES["nano"] = lambda: configuration(folder.parent / "inputs" / "world", steps=4, accumulation=1)
        killer = Killer(folder, kill_at)
        sys.addaudithook(killer)
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            try:
                command([word.replace("OUT", str(folder)) for word in words])
            except SystemExit as end:
                code = end.code or 0
        notes.write_text(json.dumps({"said": said.getvalue()[-2000:], "operations": killer.count}))
    finally:
        os._exit(code)


def _stable(path: Path) -> bytes:
    """A file's bytes without what differs each time: how long a segment took, how pickle shares equal objects."""
    if path.name == "segment.json":
        return json.dumps(json.loads(path.read_bytes()) | {"timings": None, "seal": None}).encode()
    if path.name == "stages.json":  # holds the segments' records, too
        return json.dumps(_timeless(json.loads(path.read_bytes()))).encode()
    if path.suffix == ".pt":
        with contextlib.suppress(Exception):  # a part of one, where the command was killed
            return _spelled(torch.load(path, weights_only=True)).encode()
    return path.read_bytes()


def _timeless(value: object) -> object:
    """Without times, and without what stood at the output's place when the command was given (again)."""
    if isinstance(value, dict):
        return {name: _timeless(each) for name, each in value.items() if name not in ("timings", "seal", "asked")}
    return value


def _spelled(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{_spelled(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_spelled, value)) + "]"
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{list(value.shape)}{value.numpy().tobytes().hex()}"
    return repr(value)


def content(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder, by name; of diaries the name only, of what was measured nothing."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name == "budget.json":  # predicted beside measured, where the command lived to measure it
            continue
        diary = any(_DIARIES.fullmatch(part) for part in Path(name).parts)
        if path.is_file() and not diary:
            found[name] = hashlib.sha256(_stable(path)).hexdigest()
        elif "tensorboard" not in Path(name).parts[:-1]:
            found[name] = "folder" if path.is_dir() else "diary"
    return found


def prepare(folder: Path, name: str, inputs: Path) -> None:
    """A new place for a verb's output; with older masks in it, where they are to be replaced."""
    folder.mkdir()
    if name == "masks over older ones":
        shutil.copytree(inputs / "older", folder / "masks")


def scenario(place: Path, name: str, verb: Verb, inputs: Path, moments: list[dict]) -> dict:
    prepare(place, name, inputs)
    ends = [attempt(place, verb.again, **moment)["ended"] for moment in moments]
    left = content(place)
    last = attempt(place, verb.again)
    return {"ends": ends, "left": left, "last": last["ended"], "said": last["said"], "content": content(place)}


def main(folder: Path, *, seed: int, kills: int, clock: bool, only: list[str]) -> dict:
    inputs = folder / "inputs"
    child = os.fork()
    if child == 0:  # makes what starts threads
        try:
            make_material(inputs, frames=9)
            save_model(inputs / "model")
            make_world(inputs / "world")
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
                command([word.replace("OUT/masks", str(inputs / "older")) for word in verbs(inputs)["masks"].words])
            os._exit(0)
        finally:
            os._exit(70)
    assert os.waitpid(child, 0)[1] == 0, "the material could not be made"
    rng = random.Random(seed)
    outcome = {}
    for name, verb in verbs(inputs).items():
        if only and name not in only:
            continue
        place = folder / "place"  # the same for all: outputs may hold their own path
        prepare(place, name, inputs)
        whole = attempt(place, verb.words)
        result = {"whole": whole, "content": content(place), "killed": []}
        shutil.rmtree(place)
        for number in range(kills):
            moments = [{"kill_at": rng.randrange(whole["operations"])}]
            if clock and number % 2:
                moments = [{"after": rng.uniform(0, whole["seconds"])}]
            if number % 5 == 4:  # killed again before it can recover
                moments.append({"kill_at": rng.randrange(5)})
            result["killed"].append({"moments": moments} | scenario(place, name, verb, inputs, moments))
            shutil.rmtree(place)
        outcome[name] = result
    return outcome


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--clock", action="store_true")
    parser.add_argument("--only", action="append", default=[])
    given = parser.parse_args()
    outcome = main(given.folder, seed=given.seed, kills=given.kills, clock=given.clock, only=given.only)
    sys.stdout.write(json.dumps(outcome))
