"""Where burned-in text is (subtitles, logos, time stamps): what the loss must not look at.

Nothing finds text by itself here: whoever brings a video says where its text is, in pixels of the file, for all of it or from
one second to another; or gives a picture or film that is white there.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from scail2.errors import InputError, short
from scail2.files.user_paths import expanded
from scail2.video import ArrayFrames, Interpolation, VideoInfo, VideoReader, read_image, resize_cover
from scail2.video.images import is_film

Array = np.ndarray
Side = Literal["driving", "target"]
FORM = "driving:X0,Y0,X1,Y1 or target:X0,Y0,X1,Y1, with @FROM-TO (seconds) where it is not always there, or target:MASK-FILE"
_BOX = re.compile(r"(-?[\d.]+),(-?[\d.]+),(-?[\d.]+),(-?[\d.]+)(?:@([\d.]+)-([\d.]+))?")
# A mask says text from this level on.
_WHITE = 127


@dataclass(frozen=True, slots=True)
class TextRegion:
    """Text in one of a source's videos.

    Attributes:
        side: whose.
        box: x0, y0, x1, y1 in pixels of the file, as it is shown (turned upright); None where `mask` says it.
        seconds: from when to when it is there.
        mask: a picture or film of the file's size, white where text is.
    """

    side: Side
    box: tuple[float, float, float, float] | None = None
    seconds: tuple[float, float] = (0.0, math.inf)
    mask: Path | None = None

    @classmethod
    def parse(cls, text: str, folder: Path = Path()) -> "TextRegion":
        """``target:0,300,640,360@2-4.5`` or ``target:text.png``, relative paths from ``folder``; `InputError` else."""
        side, _, rest = text.strip().partition(":")
        if side not in get_args(Side) or not rest.strip():
            raise InputError(f"cannot read the text region {short(text)}: write it as {FORM}.")
        match = _BOX.fullmatch(rest.replace(" ", ""))
        if match is None:
            path = folder / expanded(rest.strip())
            if not path.exists():
                raise InputError(f"text region {short(text)}: there is no file {path}; boxes are written as {FORM}.")
            return cls(side, mask=path)  # type: ignore[arg-type]
        try:
            x0, y0, x1, y1, *times = (float(each) for each in match.groups() if each is not None)
        except ValueError:
            raise InputError(f"cannot read the text region {short(text)}: write it as {FORM}.") from None
        if x1 <= x0 or y1 <= y0 or (times and times[1] <= times[0]):
            raise InputError(f"text region {short(text)} is empty: its second corner or second lies before the first.")
        return cls(side, box=(x0, y0, x1, y1), seconds=(times[0], times[1]) if times else (0.0, math.inf))  # type: ignore[arg-type]


def excluded_pixels(
    regions: tuple[TextRegion, ...], info: VideoInfo, size: tuple[int, int], frames: range, fps: Fraction
) -> Array | None:
    """Where frames of a video show text, bool (T, H, W) at ``size`` (height, width, cover and centre crop); None for no regions.

    Args:
        regions: of this video.
        info: of its file.
        frames: which frames of the video at rate ``fps``.
    """
    if not regions:
        return None
    out = np.zeros((len(frames), *size), bool)
    for region in regions:
        _refuse_outside(region, info)
        if region.mask is not None:
            out |= _masked(region.mask, info, size, frames, fps)
        elif region.box is not None:
            times = np.array([float(number / fps) for number in frames])
            shown = (times >= region.seconds[0]) & (times < region.seconds[1])
            x0, y0, x1, y1 = _scaled(region.box, info, size)
            out[shown, y0:y1, x0:x1] = True
    return out


def _refuse_outside(region: TextRegion, info: VideoInfo) -> None:
    """A box beside the picture was measured in another size, and text would be trained on."""
    if region.box is None:
        return
    x0, y0, x1, y1 = region.box
    if x0 >= info.width or y0 >= info.height or x1 <= 0 or y1 <= 0:
        raise InputError(
            f"the text region {x0:g},{y0:g},{x1:g},{y1:g} lies outside {info.path.name}, which is {info.width}x{info.height}: "
            "boxes are in pixels of that file."
        )


def _scaled(box: tuple[float, ...], info: VideoInfo, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box of the file in pixels of the clip, every pixel it touches: x0, y0, x1, y1."""
    height, width = size
    scale = max(height / info.height, width / info.width)
    middle, goal = np.array([info.width, info.height] * 2) / 2, np.array([width, height] * 2) / 2
    x0, y0, x1, y1 = (np.array(box) - middle) * scale + goal
    left, top = max(0, math.floor(x0 + 1e-6)), max(0, math.floor(y0 + 1e-6))
    return left, top, max(left, math.ceil(x1 - 1e-6)), max(top, math.ceil(y1 - 1e-6))


def _masked(path: Path, info: VideoInfo, size: tuple[int, int], frames: range, fps: Fraction) -> Array:
    if is_film(path):
        with VideoReader(path, fps=fps) as film:
            if len(film) < frames.stop:
                raise InputError(
                    f"the text mask {path} has {len(film)} frames at {float(fps):g} fps: too few for its video."
                )
            white = ArrayFrames(film.frames(frames.start, frames.stop)).array
    else:
        white = read_image(path)[None, ..., :3]
    if white.shape[1:3] != (info.height, info.width):
        raise InputError(
            f"the text mask {path} is {white.shape[2]}x{white.shape[1]}, its video {info.width}x{info.height}: give one of "
            "the same size."
        )
    fitted = np.stack([resize_cover(each, *size, interpolation=Interpolation.NEAREST) for each in white])
    return np.asarray((fitted[..., :3] > _WHITE).any(axis=-1))
