"""Frames are converted over planes where that is quicker: the bytes are those of packed pixels."""

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from scail2.video.pixels import EXACT, PixelConverter, Turn
from scail2.video.resize import Interpolation, resize_cover, resize_letterbox

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


def drawn(height: int, width: int, layout: str) -> av.VideoFrame:
    """A disc with a hard edge on slanted stripes."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns * 255 // width, rows * 255 // height, (rows + 2 * columns) // 24 % 2 * 90], axis=-1)
    pixels[np.hypot(rows - height / 3, columns - width / 2) < height / 5] = (230, 40, 90)
    frame = av.VideoFrame.from_ndarray(pixels.astype(np.uint8), format="rgb24")
    return VideoReformatter().reformat(frame, format=layout)


def converter(height: int, width: int, turn: Turn, interpolation=Interpolation.BICUBIC) -> PixelConverter:
    return PixelConverter("film", height=height, width=width, rotation=turn, interpolation=interpolation)


@pytest.mark.parametrize("layout", ["yuv420p", "nv12", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize(
    ("target", "covers", "factor"), [((90, 60), True, 3), ((96, 100), False, 3), ((140, 140), True, 1)]
)
def test_shrinking_in_the_converter_leaves_the_fitted_picture_as_it_was(layout, transpose, target, covers, factor):
    frame = drawn(540, 720, layout)
    size, target = ((720, 540), target[::-1]) if transpose else ((540, 720), target)
    turn = Turn(transpose, False, transpose)
    fit = resize_cover if covers else resize_letterbox
    whole = converter(*size, turn).convert(frame)
    shrinking = converter(*size, turn)
    shrinking.shrink(*target, covers=covers)
    small = shrinking.convert(frame)
    assert small.shape == (size[0] // factor, size[1] // factor, 3)
    apart = np.abs(fit(small, *target).astype(int) - fit(whole, *target))
    assert apart.max() <= 3
    assert apart.mean() < 0.35


def test_masks_and_sides_that_leave_a_rest_are_not_shrunk():
    upright = Turn(False, False, False)
    mask = converter(540, 720, upright, Interpolation.NEAREST)
    prime = converter(542, 722, upright)  # halves are 271 and 361, and a half is more than is wanted
    for each, frame in ((mask, drawn(540, 720, "yuv420p")), (prime, drawn(542, 722, "yuv420p"))):
        each.shrink(140, 140, covers=True)
        assert each.convert(frame).shape[:2] == (frame.height, frame.width)
    prime.shrink(90, 90, covers=True)
    assert prime.convert(drawn(542, 722, "yuv420p")).shape[:2] == (271, 361)
