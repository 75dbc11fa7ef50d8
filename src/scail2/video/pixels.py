"""From a decoded frame to upright RGB: colour matrix, bit depth, rotation, pixel aspect."""

import re
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.reformatter import Interpolation as Scaler

from scail2.errors import InputError
from scail2.video.colour import conversion
from scail2.video.resize import Interpolation, resize_stretch

# Full-resolution chroma and exact rounding: the same bytes on every processor.
EXACT = Scaler.BICUBIC | Scaler.ACCURATE_RND | Scaler.FULL_CHR_H_INT | Scaler.BITEXACT
# Luma and chroma of 8 to 16 bits: FFmpeg makes planes of them in a third of the time of packed pixels, the same bytes.
_TO_PLANES = re.compile(r"(yuvj?4[0-4]{2}p|nv12|nv21|p010|p016)\d*(le|be)?")
_UNSPECIFIED = 2  # AVCOL_SPC_UNSPECIFIED
_HD_HEIGHT = 720  # players take untagged video of this height and more for BT.709, smaller for BT.601


@dataclass(frozen=True, slots=True)
class Turn:
    """A multiple of a quarter turn, perhaps mirrored: transpose first, then flip."""

    transpose: bool
    flip_vertical: bool
    flip_horizontal: bool

    @property
    def degrees(self) -> int:
        """Clockwise rotation in degrees (a mirror counts with the turn it is combined with)."""
        if self.transpose:
            return 90 if self.flip_horizontal else 270
        return 180 if self.flip_vertical and self.flip_horizontal else 0

    def apply(self, picture: np.ndarray) -> np.ndarray:
        if self == _UPRIGHT:
            return picture
        if self.transpose:
            picture = picture.swapaxes(0, 1)
        if self.flip_vertical:
            picture = picture[::-1]
        if self.flip_horizontal:
            picture = picture[:, ::-1]
        return np.ascontiguousarray(picture)


_UPRIGHT = Turn(False, False, False)


def rotation_of(frame: av.VideoFrame) -> Turn | None:
    """The frame's display matrix as a turn; None if it is not one.

    The matrix ``[a b u; c d v; x y w]`` (16.16 fixed point) maps a pixel (x, y), y downwards, to (a·x + c·y, b·x + d·y).
    """
    matrices = [data for data in frame.side_data if "DISPLAYMATRIX" in str(data.type)]
    if not matrices:
        return _UPRIGHT
    values = np.frombuffer(bytes(matrices[0]), dtype=np.int32)
    if values.size < 5:
        return None
    a, b, c, d = (int(v) for v in (values[0], values[1], values[3], values[4]))
    if a and d and not b and not c:
        return Turn(False, flip_vertical=d < 0, flip_horizontal=a < 0)
    if b and c and not a and not d:
        return Turn(True, flip_vertical=b < 0, flip_horizontal=c < 0)
    return None


def squared(pixel_aspect: Fraction) -> Fraction:
    """The pixel aspect (width over height) to correct: 1 for one beyond 1:4 … 4:1, which no camera has."""
    return pixel_aspect if Fraction(1, 4) <= pixel_aspect <= 4 else Fraction(1)


def upright_size(height: int, width: int, turn: Turn, pixel_aspect: Fraction) -> tuple[int, int]:
    """(height, width) with square pixels after turning: the stored width is stretched, cut to whole pixels (as FFmpeg's
    ``scale=iw*sar:ih`` does), then the picture is turned."""
    width = max(1, int(width * squared(pixel_aspect)))
    return (width, height) if turn.transpose else (height, width)


class PixelConverter:
    """Decoded frames to uint8 RGB ``(height, width, 3)``, or RGBA where the format has alpha.

    Args:
        name: begins the sentence of an error.
        height, width: of the upright picture with square pixels.
        rotation: how to turn it upright.
        interpolation: how pixels that are not square are stretched; with ``"nearest"`` (masks, whose colours carry
            meaning) wide gamut and high dynamic range are left alone too.
    """

    def __init__(self, name: object, *, height: int, width: int, rotation: Turn, interpolation: Interpolation):
        self._name, self._size, self._turn, self._interpolation = name, (height, width), rotation, interpolation
        self._coded: tuple[int, int] | None = None
        self._reformatter = VideoReformatter()

    def convert(self, frame: av.VideoFrame) -> np.ndarray:
        self._coded = self._coded or (frame.height, frame.width)
        if self._coded != (frame.height, frame.width):
            raise InputError(
                f"{self._name}: the picture size changes in mid-film "
                f"({self._coded[1]}×{self._coded[0]} to {frame.width}×{frame.height}); "
                "encode the video at one size first"
            )
        alpha = any(component.is_alpha for component in frame.format.components)
        shown = None
        if self._interpolation is not Interpolation.NEAREST:
            shown = conversion(int(frame.color_primaries), int(frame.color_trc))
        if shown is None:
            picture = self._to_rgb(frame, "rgba" if alpha else "rgb24")
        else:
            picture = shown(self._to_rgb(frame, "rgba64le" if alpha else "rgb48le"))
        return resize_stretch(self._turn.apply(picture), *self._size, interpolation=self._interpolation)

    def _to_rgb(self, frame: av.VideoFrame, layout: str) -> np.ndarray:
        matrix = None
        if int(frame.colorspace) == _UNSPECIFIED:
            matrix = Colorspace.ITU709 if frame.height >= _HD_HEIGHT else Colorspace.ITU601
        if layout == "rgb24" and _TO_PLANES.fullmatch(frame.format.name):
            layout = "gbrp"
        converted = self._reformatter.reformat(
            frame,
            format=layout,
            src_colorspace=matrix,
            dst_color_range=ColorRange.JPEG,
            interpolation=EXACT,
            threads=1,
        )
        return _of_planes(converted) if layout == "gbrp" else converted.to_ndarray()


def _of_planes(frame: av.VideoFrame) -> np.ndarray:
    """RGB ``(H, W, 3)`` of planes of green, blue and red; in steps of four bytes, from which it is resized without a copy."""
    picture = np.empty((frame.height, frame.width, 4), np.uint8)
    for channel, plane in zip((1, 2, 0), frame.planes, strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        picture[..., channel] = rows[: frame.height, : frame.width]
    return picture[..., :3]
