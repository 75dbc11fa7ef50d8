"""From a decoded frame to upright RGB: colour matrix, bit depth, rotation, pixel aspect."""

import re
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from av.video.reformatter import Interpolation as Scaler

from scail2.errors import InputError
from scail2.video.colour import as_stored, conversion
from scail2.video.resize import Interpolation, resize_stretch

# Full-resolution chroma and exact rounding: the same bytes on every processor.
EXACT = Scaler.BICUBIC | Scaler.ACCURATE_RND | Scaler.FULL_CHR_H_INT | Scaler.BITEXACT
# Luma and chroma of 8 to 16 bits: FFmpeg makes planes of them in a third of the time of packed pixels, the same bytes.
_TO_PLANES = re.compile(r"(yuvj?4[0-4]{2}p|nv12|nv21|p010|p016)\d*(le|be)?")
# FFmpeg takes every grey for one of full range, whatever the film says.
_GREY = re.compile(r"(gray|ya)\d*(le|be)?")
# Times that a shrunken picture stays larger than it will be: how it looks is decided by what resizes it.
_SPARE = 2.0
# Layouts of 16 bits for those of 8.
_DEEP = {"rgb24": "rgb48le", "rgba": "rgba64le"}
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
        self._factor = 1
        self._reformatter = VideoReformatter()

    def shrink(self, height: int, width: int, *, covers: bool) -> None:
        """Pictures that will be fitted into ``height × width`` may come smaller, by a whole number that divides their sides.

        FFmpeg shrinks planes of luma and chroma in a fifth of the time that it takes to resize RGB, and at least `_SPARE`
        times the size is left to resize: on 1080p frames for 128x128 no byte was off by more than two levels.

        Args:
            covers: whether they will cover that size, or else lie within it.
        """
        if self._interpolation is Interpolation.NEAREST:
            return
        limit = (min if covers else max)(self._size[0] / height, self._size[1] / width) / _SPARE
        sides = range(2, int(limit) + 1)
        self._factor = max((n for n in sides if self._size[0] % n == self._size[1] % n == 0), default=1)

    def convert(self, frame: av.VideoFrame) -> np.ndarray:
        """A frame upright; smaller if `shrink` allowed it."""
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
        size, factor = self._size, 1
        if shown is None:
            factor = self._factor if self._is_divisible(frame) else 1
            size = size[0] // factor, size[1] // factor
            picture = self._to_rgb(frame, "rgba" if alpha else "rgb24", factor)
        else:
            picture = shown(self._to_rgb(frame, "rgba64le" if alpha else "rgb48le"))
        return resize_stretch(self._turn.apply(picture), *size, interpolation=self._interpolation)

    def _is_divisible(self, frame: av.VideoFrame) -> bool:
        """Whether FFmpeg can shrink a frame by the factor: planes of square pixels, of which none is left over."""
        upright = (frame.width, frame.height) if self._turn.transpose else (frame.height, frame.width)
        whole = not (frame.height % self._factor or frame.width % self._factor)
        return whole and upright == self._size and _TO_PLANES.fullmatch(frame.format.name) is not None

    def _to_rgb(self, frame: av.VideoFrame, layout: str, factor: int = 1) -> np.ndarray:
        if _GREY.fullmatch(frame.format.name) and int(frame.color_range) == ColorRange.MPEG:
            grey = _stretched(self._reformatted(frame, _DEEP.get(layout, layout)))
            return as_stored(grey) if layout in _DEEP else grey
        if layout == "rgb24" and _TO_PLANES.fullmatch(frame.format.name):
            layout = "gbrp"
        return self._reformatted(frame, layout, factor)

    def _reformatted(self, frame: av.VideoFrame, layout: str, factor: int = 1) -> np.ndarray:
        matrix = None
        if int(frame.colorspace) == _UNSPECIFIED:
            matrix = Colorspace.ITU709 if frame.height >= _HD_HEIGHT else Colorspace.ITU601
        converted = self._reformatter.reformat(
            frame,
            width=frame.width // factor,
            height=frame.height // factor,
            format=layout,
            src_colorspace=matrix,
            dst_color_range=ColorRange.JPEG,
            interpolation=EXACT,
            threads=1,
        )
        return _of_planes(converted) if layout == "gbrp" else converted.to_ndarray()


def _stretched(picture: np.ndarray) -> np.ndarray:
    """Grey of limited range in uint16 RGB(A): 16 … 235 (of eight bits, the rest is their fractions) become black and white."""
    share = (picture[..., :3] / 256.0 - 16) / 219
    picture[..., :3] = np.rint(np.clip(share, 0, 1) * 65_535)
    return picture


def _of_planes(frame: av.VideoFrame) -> np.ndarray:
    """RGB ``(H, W, 3)`` of planes of green, blue and red; in steps of four bytes, from which it is resized without a copy."""
    picture = np.empty((frame.height, frame.width, 4), np.uint8)
    for channel, plane in zip((1, 2, 0), frame.planes, strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        picture[..., channel] = rows[: frame.height, : frame.width]
    return picture[..., :3]
