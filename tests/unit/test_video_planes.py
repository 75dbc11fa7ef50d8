"""Frames are converted over planes where that is quicker: the bytes are those of packed pixels."""

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from scail2.video.pixels import EXACT, PixelConverter, Turn
from scail2.video.resize import Interpolation, resize_cover

FORMATS = [
    "yuv420p",
    "yuvj420p",
    "yuv422p",
    "yuv444p",
    "yuv411p",
    "nv12",
    "yuv420p10le",
    "yuv444p12le",
    "p010le",
    "gray",
    "bgr0",
]
SIZES = [(64, 96), (50, 70), (34, 1918), (36, 8)]


def noise(height: int, width: int, layout: str) -> av.VideoFrame:
    """Every value that a picture may hold, and edges everywhere."""
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    pixels[: height // 2] = np.repeat(np.repeat(pixels[: height // 2 : 8, ::8], 8, axis=0), 8, axis=1)[
        : height // 2, :width
    ]
    return VideoReformatter().reformat(av.VideoFrame.from_ndarray(pixels, format="rgb24"), format=layout)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("matrix", [Colorspace.ITU709, Colorspace.ITU601])
def test_planes_give_the_bytes_of_packed_pixels(layout, matrix):
    for height, width in SIZES:
        frame = noise(height, width, layout)
        frame.colorspace = matrix
        packed = VideoReformatter().reformat(
            frame, format="rgb24", dst_color_range=ColorRange.JPEG, interpolation=EXACT, threads=1
        )
        converter = PixelConverter(
            "film",
            height=height,
            width=width,
            rotation=Turn(False, False, False),
            interpolation=Interpolation.BICUBIC,
        )
        found = converter.convert(frame)
        np.testing.assert_array_equal(found, packed.to_ndarray())
        assert np.ptp(found) > 200
        plain = np.ascontiguousarray(found)
        for size in [(16, 24), (height, max(8, width // 2)), (200, 90)]:
            np.testing.assert_array_equal(resize_cover(found, *size), resize_cover(plain, *size))
            np.testing.assert_array_equal(resize_cover(found[:, ::-1], *size), resize_cover(plain[:, ::-1], *size))
            np.testing.assert_array_equal(resize_cover(found[4:], *size), resize_cover(plain[4:], *size))


@pytest.mark.parametrize("turn", [Turn(True, False, True), Turn(False, True, True), Turn(True, True, False)])
def test_turned_pictures_are_the_packed_ones_turned(turn):
    frame = noise(50, 70, "yuv420p")
    upright = PixelConverter(
        "film", height=50, width=70, rotation=Turn(False, False, False), interpolation=Interpolation.BICUBIC
    )
    height, width = (70, 50) if turn.transpose else (50, 70)
    turned = PixelConverter("film", height=height, width=width, rotation=turn, interpolation=Interpolation.BICUBIC)
    expected = turn.apply(np.ascontiguousarray(upright.convert(frame)))
    found = turned.convert(frame)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(resize_cover(found, 32, 32), resize_cover(expected, 32, 32))
