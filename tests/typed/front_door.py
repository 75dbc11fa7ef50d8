"""The front door as type checkers see it: checked by `make types`, never run.

What is right must pass. What is wrong carries the error it must be reported as: where that is missing, mypy reports the
comment instead (``warn_unused_ignores``), so neither half can go unnoticed.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

import scail2
from scail2 import AnimationRequest, RunDirectory, SCAIL2Pipeline, VideoReader, VideoWriter, load_pipeline, read_image


def segments(pipe: SCAIL2Pipeline, driving: VideoReader, mask: np.ndarray) -> Iterator[torch.Tensor]:
    for segment in pipe.stream(mask, driving, mask, driving, mode="animation", num_inference_steps=2, seed=3):  # type: ignore[call-arg]
        yield segment.frames
    for segment in pipe.stream(mask, driving, mask, driving, mode="replacement", black_out_reference=False):
        yield segment.history
        yield segment.picture  # type: ignore[attr-defined]


def whole_films(mask: np.ndarray) -> Iterator[object]:
    pipe = load_pipeline(device="cpu")
    driving = VideoReader("driving.mp4", size=(128, 128), fps=Fraction(16))
    yield pipe(mask, driving, mask, driving, mode="animation", output_type="uint8").frames[0]
    (frames,) = pipe(mask, driving, mask, driving, mode="animation", return_dict=False)
    yield frames
    pipe(mask, driving, mask, driving)  # type: ignore[call-overload]
    pipe(mask, driving, mask, driving, mode="animation", output_type="gif")  # type: ignore[call-overload]
    pipe(mask, driving, mask, driving, mode="animation", num_inference_step=2)  # type: ignore[call-overload]
    pipe.stream(mask, driving, mask, driving, num_inference_steps=2)  # type: ignore[call-arg]
    pipe.stream(mask, driving, mask, driving, mode="animation", height="512")  # type: ignore[arg-type]
    pipe.stream(mask, driving, mask, mode="animation")  # type: ignore[call-arg]


def files() -> None:
    picture: np.ndarray = read_image("reference.png")
    read_image(3)  # type: ignore[arg-type]
    with VideoWriter(Path("film.mkv"), Fraction(16), (64, 96)) as writer:
        writer.write(picture[None])
    VideoReader("driving.mp4", seize=(64, 96))  # type: ignore[call-arg]
    load_pipeline(devise="cpu")  # type: ignore[call-arg]
    scail2.load_pipelines()  # type: ignore[attr-defined]


def runs() -> Path:
    request = AnimationRequest(
        mode=scail2.AnimationMode.ANIMATION,
        reference=Path("hero.png"),
        driving=Path("dance.mp4"),
        output=Path("film.mp4"),
        num_inference_steps=4,
    )
    AnimationRequest(reference=Path("hero.png"), driving=Path("dance.mp4"), steps=4)  # type: ignore[call-arg]
    return RunDirectory.create("film.run", request.with_changes(seed=3)).execute()
