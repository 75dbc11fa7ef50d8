"""A film written as it is rendered, in the driving video's scene: `python examples/long_video.py film.mp4`."""

import sys
from pathlib import Path

import torch

import scail2
from scail2.video import to_uint8

EXAMPLE = Path(scail2.__file__).parent / "assets" / "example" / "replacement"
SIZE = (128, 128)


def main(output: str, frames: int | None = None) -> None:
    pipe = scail2.load_pipeline()
    driving = scail2.VideoReader(EXAMPLE / "driving.mp4", size=SIZE)
    segments = pipe.stream(
        scail2.read_image(EXAMPLE / "reference.png"),
        driving,
        scail2.read_image(EXAMPLE / "reference_mask.png"),
        scail2.VideoReader(EXAMPLE / "driving_mask.mkv"),
        mode="replacement",
        generator=torch.Generator().manual_seed(7),
    )
    with scail2.VideoWriter(output, driving.fps, SIZE, audio_from=EXAMPLE / "driving.mp4") as film:
        for segment in segments:
            film.write(to_uint8(segment.frames))
            if frames is not None and film.frames_written >= frames:
                break  # what was rendered so far is a whole film


if __name__ == "__main__":
    main(sys.argv[1])
