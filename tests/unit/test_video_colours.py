"""Colours of video: matrix and range as tagged, wide gamut and high dynamic range to sRGB, and what is not converted is said."""

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from scail2.perception.checks import findings
from scail2.video import VideoReader, colour, probe
from scail2.video.pixels import PixelConverter, Turn
from scail2.video.resize import Interpolation

PATCHES = [(200, 30, 30), (30, 180, 40), (40, 60, 200), (220, 170, 140)]


@pytest.mark.parametrize(
    ("name", "tolerance", "code"),
    [
        ("bt2020_sdr_10bit.mp4", 2, "wide_gamut"),
        ("phone_hlg_10bit.mov", 2, "high_dynamic_range"),
        # Its maker rounded in 8 bits: next to the border of sRGB that is worth ten steps.
        ("p3_sdr.mp4", 10, "wide_gamut"),
    ],
)
def test_wide_gamut_patches(pytestconfig, name, tolerance, code):
    with VideoReader(pytestconfig.rootpath / "tests/media" / name) as reader:
        frame = reader.frames(0, 1)[0].astype(int)
        assert code in [note.code for note in reader.source_info.notes]
    shown = [frame[reader.height // 4, reader.width * (2 * i + 1) // 8] for i in range(4)]
    assert np.abs(np.array(shown) - PATCHES).max() <= tolerance


def srgb_light(colour):
    values = np.asarray(colour, float) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def test_pq_shows_diffuse_white_as_white_and_greys_as_greys():
    """SMPTE ST 2084's own formula, the other way round."""
    light = srgb_light([[255, 255, 255], [128, 128, 128], [20, 20, 20], [4, 4, 4]]) * 203 / 10_000
    power = light ** (2610 / 16384)
    signal = ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    picture = np.rint(signal * 65535).astype(np.uint16)[None]
    shown = colour.conversion(9, colour.PQ)(picture)[0].astype(int)
    assert np.abs(shown - [[255] * 3, [128] * 3, [20] * 3, [4] * 3]).max() <= 1


@pytest.mark.parametrize("primaries", [9, 11, 12])
def test_white_and_black_stay_what_they_are(primaries):
    ends = np.array([[[0, 0, 0], [65535, 65535, 65535]]], np.uint16)
    np.testing.assert_array_equal(colour.conversion(primaries, 1)(ends), [[[0] * 3, [255] * 3]])


def test_ordinary_film_is_shown_as_stored():
    assert all(colour.conversion(primaries, 1) is None for primaries in (1, 2, 5, 6, 7))
    assert colour.notes_on(1, 1, 1) == colour.notes_on(2, 2, 2) == []


def write_patches(path, matrix, full_range, tags, *, height=48):
    """Lossless 4:4:4 film of the patches with this matrix and range; ``tags`` are (matrix, range) as the file says them."""
    picture = np.repeat(np.array(PATCHES, np.uint8), 16, axis=0)[None].repeat(height, axis=0)
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=16, options={"qp": "0", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = height, 64, "yuv444p"
        context = stream.codec_context
        if tags is not None:
            context.colorspace, context.color_range = tags
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format="yuv444p",
            dst_colorspace=matrix,
            dst_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
        )
        if tags is not None:
            frame.colorspace, frame.color_range = tags
        frame.pts = 0
        film.mux(stream.encode(frame))
        film.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("matrix", "tag"),
    [
        (Colorspace.ITU709, 1),
        (Colorspace.ITU601, 5),
        (Colorspace.ITU601, 6),
        (Colorspace.FCC, 4),
        (Colorspace.SMPTE240M, 7),
        (Colorspace.BT2020, 9),
    ],
)
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_matrix_and_range_as_tagged(tmp_path, matrix, tag, full_range, suffix):
    film = write_patches(tmp_path / f"film{suffix}", matrix, full_range, (tag, 2 if full_range else 1))
    frame = VideoReader(film).frames(0, 1)[0].astype(int)
    assert np.abs(frame[24, [8, 24, 40, 56]] - PATCHES).max() <= 2


@pytest.mark.parametrize(("height", "matrix"), [(576, Colorspace.ITU601), (720, Colorspace.ITU709)])
def test_untagged_film_by_its_height(tmp_path, height, matrix):
    film = write_patches(tmp_path / "film.mp4", matrix, False, None, height=height)
    frame = VideoReader(film).frames(0, 1)[0].astype(int)
    assert np.abs(frame[24, [8, 24, 40, 56]] - PATCHES).max() <= 2


@pytest.mark.parametrize("interpolation", ["bicubic", "nearest"])
@pytest.mark.parametrize(("pixels", "bits"), [("gray", 8), ("gray10le", 10), ("ya8", 8), ("gray16le", 16)])
@pytest.mark.parametrize(("tag", "shown"), [(1, (0, 51, 255)), (2, (16, 60, 235)), (0, (16, 60, 235))])
def test_grey_films_have_the_range_they_say(pixels, bits, tag, shown, interpolation):
    """HEVC and AV1 without colour are greys; of limited range mostly, as other films."""
    grey = np.full((16, 48), 16 << (bits - 8), np.uint16)
    grey[:, 16:32], grey[:, 32:] = 60 << (bits - 8), 235 << (bits - 8)
    if pixels == "ya8":
        grey |= 77 << 8
    frame = av.VideoFrame(48, 16, pixels)
    rows = np.zeros((16, frame.planes[0].line_size), np.uint8)
    stored = grey.astype("<u2" if bits > 8 or pixels == "ya8" else np.uint8).view(np.uint8)
    rows[:, : stored.shape[1]] = stored
    frame.planes[0].update(rows.tobytes())
    frame.color_range = tag
    turn = Turn(False, False, False)
    converter = PixelConverter("a", height=16, width=48, rotation=turn, interpolation=Interpolation(interpolation))
    picture = converter.convert(frame)
    assert picture[8, [8, 24, 40], 1].tolist() == list(shown)
    assert (picture[..., :3] == picture[..., :1]).all()
    assert pixels != "ya8" or (picture[..., 3] == 77).all()


def test_a_grey_film_of_limited_range_is_read_from_its_file(tmp_path):
    with av.open(str(tmp_path / "grey.mkv"), "w") as film:
        stream = film.add_stream("ffv1", rate=16)
        stream.height, stream.width, stream.pix_fmt = 16, 32, "gray"
        stream.codec_context.color_range = 1
        frame = av.VideoFrame.from_ndarray(
            np.repeat([[16] * 16 + [235] * 16], 16, axis=0).astype(np.uint8), format="gray"
        )
        frame.pts, frame.color_range = 0, 1
        film.mux([*stream.encode(frame), *stream.encode()])
    picture = VideoReader(tmp_path / "grey.mkv").frames(0, 1)[0]
    assert (picture[:, :16] == 0).all()
    assert (picture[:, 16:] == 255).all()


def test_masks_keep_their_colours_whatever_the_tags(pytestconfig):
    name = pytestconfig.rootpath / "tests/media/bt2020_sdr_10bit.mp4"
    stored = VideoReader(name, interpolation="nearest").frames(0, 1)[0, 32, 32].astype(int)
    assert np.abs(stored - (168, 74, 52)).max() <= 1


@pytest.mark.parametrize(
    ("tags", "code", "fixable"),
    [
        ((9, 16, 9), "high_dynamic_range", True),
        ((12, 13, 1), "wide_gamut", False),
        ((4, 1, 1), "wide_gamut", True),
        ((1, 1, 8), "matrix", True),
        ((1, 17, 1), "transfer", True),
    ],
)
def test_what_is_not_converted_is_a_warning(tags, code, fixable):
    note = next(note for note in colour.notes_on(*tags) if note.code == code)
    (found,) = findings.of_file("film.mp4", [note])
    assert found.severity is (findings.Severity.WARNING if fixable else findings.Severity.INFO)
    assert found.message.startswith("film.mp4: its ") or found.message.startswith("film.mp4: it is ")


def test_interlaced_film_is_said(pytestconfig):
    (note,) = probe(pytestconfig.rootpath / "tests/media/interlaced_tff.mp4").notes
    assert note.code == "interlaced"
    assert "ffmpeg -i IN -vf bwdif" in note.fix
