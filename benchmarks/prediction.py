"""How far the planner's time and memory are from what runs take: a calibration, then the same job several times.

    python -m benchmarks prediction

`scail2 calibrate` measures this machine into a folder of its own, and each run teaches it: the later ones are predicted better.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.jobs import write_material
from benchmarks.results import Figure, child


def figures(runs: int = 3, frames: int = 81) -> Iterator[Figure]:
    """Measured over predicted of every run with the embedded model and given masks: 1 is right, 0.8 to 1.2 is asked for."""
    kept = os.environ.get("SCAIL2_HOME")
    with tempfile.TemporaryDirectory(prefix="scail2-benchmark-") as name:
        folder = Path(name)
        os.environ["SCAIL2_HOME"] = str(folder / "home")
        try:
            child(["-m", "scail2", "calibrate", "--device", "cpu"])
            options = write_material(folder, frames)
            for number in range(1, runs + 1):
                film, run = folder / f"{number}.mp4", folder / f"{number}.run"
                named = ["--output", str(film), "--run-dir", str(run), "--device", "cpu", "--seed", str(number)]
                child(["-m", "scail2", "animate", *options, *named])
                yield from _outcome(number, json.loads((run / "budget.json").read_text()))
        finally:
            os.environ.pop("SCAIL2_HOME")
            if kept is not None:
                os.environ["SCAIL2_HOME"] = kept


def _outcome(number: int, outcome: dict) -> Iterator[Figure]:
    total, memory = outcome["total"], outcome["memory"]["main_memory_gib"]
    told = "of the prediction"
    yield Figure(name=f"run {number}: seconds", value=total["measured_seconds"], unit="s by the clock")
    yield Figure(name=f"run {number}: time", value=total["measured_seconds"] / total["predicted_seconds"], unit=told)
    for name, stage in outcome["stages"].items():
        value = stage["measured_seconds"] / max(stage["predicted_seconds"], 1e-9)
        yield Figure(name=f"run {number}: {name}", value=value, unit=told)
    yield Figure(name=f"run {number}: main memory", value=memory["measured"] / memory["predicted"], unit=told)
