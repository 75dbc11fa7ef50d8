"""The pictured puppet performs the other's dance: `python examples/animate.py dance.mp4`."""

import sys
from pathlib import Path

import scail2

EXAMPLE = Path(scail2.__file__).parent / "assets" / "example" / "animation"
SIZE = (128, 128)  # height, width; the full-size model takes 512x896


def main(output: str) -> None:
    pipe = scail2.load_pipeline()
    driving = scail2.VideoReader(EXAMPLE / "driving.mp4", size=SIZE)
    masks = scail2.VideoReader(EXAMPLE / "driving_mask.mkv")
    result = pipe(
        scail2.read_image(EXAMPLE / "reference.png"),
        driving.frames(0, 17),  # its first second; `driving` itself is the whole video
        scail2.read_image(EXAMPLE / "reference_mask.png"),
        masks.frames(0, 17),
        mode="animation",
        output_type="uint8",
    )
    with scail2.VideoWriter(output, driving.fps, SIZE) as film:
        film.write(result.frames[0])


if __name__ == "__main__":
    main(sys.argv[1])
