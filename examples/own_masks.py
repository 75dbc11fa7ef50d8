"""Two characters, masked by arrays of one's own: `python examples/own_masks.py duet.mp4`.

Any segmenter will do: it has to give one bool plane for each character, in the same order for the picture and the video.
"""

import sys
from pathlib import Path

import numpy as np

import scail2
from scail2.masks import BINDING_SLOTS, split_mask

EXAMPLE = Path(scail2.__file__).parent / "assets" / "example" / "duet"
SIZE = (128, 128)
FRAMES = 17


def planes(painted: np.ndarray) -> np.ndarray:
    """Stands in for a segmenter: the characters of a painted mask (..., H, W, 3) as bool (2, ..., H, W)."""
    found = split_mask(painted)
    return np.stack([found[slot] for slot in BINDING_SLOTS[:2]])


def main(output: str) -> None:
    pipe = scail2.load_pipeline()
    driving = scail2.VideoReader(EXAMPLE / "driving.mp4", size=SIZE)
    result = pipe(
        scail2.read_image(EXAMPLE / "reference.png"),
        driving.frames(0, FRAMES),
        planes(scail2.read_image(EXAMPLE / "reference_mask.png")),
        planes(scail2.VideoReader(EXAMPLE / "driving_mask.mkv").frames(0, FRAMES)),
        mode=scail2.AnimationMode.ANIMATION,
        output_type="uint8",
    )
    with scail2.VideoWriter(output, driving.fps, SIZE) as film:
        film.write(result.frames[0])


if __name__ == "__main__":
    main(sys.argv[1])
