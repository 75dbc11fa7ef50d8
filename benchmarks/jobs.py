"""Whole commands as a user gives them, in processes of their own: CPU seconds, peak memory, and seconds of each stage."""

import json
import resource
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.results import Figure, child
from scail2.puppets.domain import domain_named
from scail2.puppets.example import color_mask, make_example
from scail2.video import VideoWriter

PUPPET = 3  # an example of the split that nothing was trained on
_FULL_HD, _FPS = (1080, 1920), 30


def spent(command: list[str]) -> float:
    """CPU seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    child(command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def start_up(runs: int = 3) -> Iterator[Figure]:
    """Until `--help` is shown, torch is imported, the pipeline's classes are there, and the embedded model is loaded."""
    for name, command in {
        "help": ["-m", "scail2", "--help"],
        "import torch": ["-c", "import torch"],
        "import the pipeline": ["-c", "import scail2; scail2.SCAIL2Pipeline"],
        "load the embedded model": ["-c", "import scail2; scail2.load_pipeline()"],
    }.items():
        yield Figure(name=name, value=statistics.median(spent(command) for _ in range(runs)), unit="CPU s")


def write_material(folder: Path, frames: int) -> list[str]:
    """A puppet's picture and driving video with their masks, 128x128; the options that name them."""
    example = make_example(PUPPET, domain=domain_named("nano"), frames=frames, size=(128, 128))
    Image.fromarray(example.reference.frames[0]).save(folder / "reference.png")
    Image.fromarray(color_mask(example.reference.masks, 255)[0]).save(folder / "reference_mask.png")
    with VideoWriter(folder / "driving.mp4", 16, (128, 128)) as film:
        film.write(example.driving.frames)
    with VideoWriter(folder / "driving_mask.mkv", 16, (128, 128), codec="ffv1") as film:
        film.write(color_mask(example.driving.masks, 0))
    given = {"reference": "reference.png", "driving": "driving.mp4"}
    given |= {"reference-mask": "reference_mask.png", "driving-mask": "driving_mask.mkv"}
    return [part for name, file in given.items() for part in (f"--{name}", str(folder / file))]


def whole_job(frames: int) -> Iterator[Figure]:
    """`scail2 animate` with the embedded model and given masks, from the command to the finished film."""
    with tempfile.TemporaryDirectory(prefix="scail2-benchmark-") as name:
        folder = Path(name)
        options = write_material(folder, frames)
        command = [
            "-m",
            "scail2",
            "animate",
            *options,
            "--output",
            str(folder / "film.mp4"),
            "--run-dir",
            str(folder / "run"),
        ]
        yield Figure(name="whole command", value=spent(command), unit="CPU s")
        records = [json.loads(path.read_text()) for path in sorted((folder / "run").glob("segments/*/segment.json"))]
        for stage in ("conditions", "denoise", "decode"):
            yield Figure(name=stage, value=sum(each["timings"][stage] for each in records), unit="s by the clock")


def plan(seconds: int = 10) -> Iterator[Figure]:
    """`scail2 plan` of a drawn 1080p film of 30 frames a second, masks to be found; 60 s of it in proportion."""
    with tempfile.TemporaryDirectory(prefix="scail2-benchmark-") as name:
        folder = Path(name)
        small = (_FULL_HD[0] // 8, _FULL_HD[1] // 8)
        example = make_example(PUPPET, domain=domain_named("nano"), frames=seconds * _FPS, size=small, fps=_FPS)
        size = (_FULL_HD[1], _FULL_HD[0])
        Image.fromarray(example.reference.frames[0]).resize(size, Image.Resampling.NEAREST).save(
            folder / "reference.png"
        )
        with VideoWriter(folder / "driving.mp4", _FPS, _FULL_HD) as film:
            for frame in example.driving.frames:
                film.write(np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))[None])
        given = ["--reference", str(folder / "reference.png"), "--driving", str(folder / "driving.mp4")]
        whole = spent(["-m", "scail2", "plan", *given])
        one = spent(["-m", "scail2", "plan", *given, "--frames", "1"])
        yield Figure(name=f"{seconds} s", value=whole, unit="CPU s")
        yield Figure(name="one frame", value=one, unit="CPU s")
        yield Figure(name="60 s in proportion", value=one + (whole - one) * 60 / seconds, unit="CPU s")
