"""GIF and animated WebP, and which form keeps what: read back by Pillow and FFmpeg, not by the code that wrote them."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from scail2.errors import InputError
from scail2.video import Codec, VideoReader, VideoWriter, codec_for
from scail2.video.formats import check_form

HEIGHT, WIDTH = 48, 65
RED = (220, 40, 40)


def moving_disk(count: int) -> tuple[np.ndarray, np.ndarray]:
    """A red disk that moves over a gradient: RGB uint8 (T, H, W, 3), and where it is, bool (T, H, W)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    disks = np.stack([(x - 14 - 3 * t) ** 2 + (y - 24) ** 2 < 120 for t in range(count)])
    ground = np.stack([x * 255 // WIDTH, y * 255 // HEIGHT, np.full_like(x, 90)], axis=-1)
    return np.where(disks[..., None], RED, ground).astype(np.uint8), disks


def by_pillow(path) -> tuple[np.ndarray, list[int]]:
    """Frames uint8 (T, H, W, 4) and their durations in milliseconds."""
    with Image.open(path) as film:
        frames, durations = [], []
        for index in range(film.n_frames):
            film.seek(index)
            frames.append(np.asarray(film.convert("RGBA")))
            durations.append(film.info["duration"])
        assert film.info["loop"] == 0
    return np.stack(frames), durations


@pytest.mark.parametrize(("name", "tick"), [("o.gif", 10), ("o.webp", 1)])
@pytest.mark.parametrize("fps", [Fraction(16), Fraction(30000, 1001)])
def test_an_animation_has_every_frame_at_its_time_in_its_colours(tmp_path, name, tick, fps):
    rgb, disks = moving_disk(12)
    with VideoWriter(tmp_path / name, fps, (HEIGHT, WIDTH), codec_for(name), total_frames=12) as writer:
        writer.write(rgb[:5])
        writer.write(rgb[5:])
    read, durations = by_pillow(tmp_path / name)
    assert read.shape == (12, HEIGHT, WIDTH, 4)
    assert (read[..., 3] == 255).all()
    begins = np.cumsum([0, *durations[:-1]])
    assert np.abs(begins - np.arange(12) * float(1000 / fps)).max() <= tick / 2 + 1e-9
    # Half of the mean distance of 256 colours on this gradient; WebP at quality 90 is nearer.
    assert np.abs(read[..., :3].astype(int) - rgb).mean() < 4
    inside = np.stack([np.pad(each, 1)[2:, 1:-1] & np.pad(each, 1)[:-2, 1:-1] & each for each in disks])
    assert np.abs(read[..., :3][inside].astype(int) - RED).mean() < 6
    if name == "o.gif":
        with av.open(str(tmp_path / name)) as film:
            other = np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])
        np.testing.assert_array_equal(other, read[..., :3])
    reader = VideoReader(tmp_path / name, fps=fps)
    assert (len(reader), reader.height, reader.width) == (12, HEIGHT, WIDTH)


def test_flat_colours_stay_exact_in_a_gif(tmp_path):
    colours = np.array([(255, 0, 0), (0, 255, 0), (12, 34, 56), (255, 255, 255), (0, 0, 0)], np.uint8)
    frames = np.repeat(np.repeat(colours, 13, axis=0)[None, None], HEIGHT, axis=1).repeat(3, axis=0)
    with VideoWriter(tmp_path / "o.gif", 10, (HEIGHT, WIDTH), "gif") as writer:
        writer.write(frames)
    read, durations = by_pillow(tmp_path / "o.gif")
    np.testing.assert_array_equal(read[..., :3], frames)
    assert durations == [100, 100, 100]


@pytest.mark.parametrize(("name", "soft"), [("o.gif", False), ("o.webp", True)])
def test_transparency_of_an_animation(tmp_path, name, soft):
    rgb, disks = moving_disk(6)
    alpha = np.where(disks, 255, 0).astype(np.uint8)
    alpha[:, 40:] = 100  # nearer to nothing than to all
    with VideoWriter(tmp_path / name, 8, (HEIGHT, WIDTH), codec_for(name, alpha=True)) as writer:
        writer.write(np.concatenate([rgb, alpha[..., None]], axis=-1))
    read, durations = by_pillow(tmp_path / name)
    assert sum(durations) == 750 or not soft
    np.testing.assert_array_equal(read[..., 3], alpha if soft else np.where(alpha < 128, 0, 255))
    seen = alpha == 255
    # WebP's colour planes are half as fine, so colour bleeds over the outline.
    assert np.abs(read[..., :3][seen].astype(int) - rgb[seen]).mean() < (8 if soft else 2)


def test_frames_that_repeat_keep_their_time(tmp_path):
    rgb = moving_disk(3)[0][[0, 0, 0, 1, 2, 2]]
    for name, expected in (("o.gif", [100] * 6), ("o.webp", [300, 100, 200])):
        with VideoWriter(tmp_path / name, 10, (HEIGHT, WIDTH), codec_for(name)) as writer:
            writer.write(rgb)
        assert by_pillow(tmp_path / name)[1] == expected


def test_which_name_keeps_what():
    forms = {"a.gif": Codec.GIF, "a.WEBP": Codec.WEBP, "a.mov": Codec.PRORES4444, "a.webm": Codec.VP9_ALPHA}
    forms |= {"a.mkv": Codec.FFV1, "dir/a": Codec.PNG}
    assert {name: codec_for(name, alpha=True) for name in forms} == forms
    assert all(codec.keeps_alpha for codec in forms.values())
    assert [codec for codec in Codec if not codec.keeps_sound] == [Codec.PNG, Codec.GIF, Codec.WEBP]
    for name in ("a.mp4", "a.m4v"):
        with pytest.raises(InputError, match=r"keep no transparency; name the output \.mov .*\.webm .*\.mkv .*folder"):
            codec_for(name, alpha=True)
    with pytest.raises(InputError, match=r"cannot write \.avi .*\.mp4.*\.webm, \.gif, \.webp, or a folder"):
        codec_for("a.avi")
    with pytest.raises(InputError, match=r"h264 cannot store transparency; name the output \.mov"):
        check_form("a.mkv", Codec.H264, alpha=True)
    with pytest.raises(InputError, match=r"gif files show at most 50 frames a second, not 59.94; .*--fps"):
        check_form("a.gif", Codec.GIF, fps=Fraction(60000, 1001))
    check_form("a.gif", Codec.GIF, fps=Fraction(50))
    with pytest.raises(InputError, match=r"webp files show at most 90 frames a second, not 96"):
        check_form("a.webp", Codec.WEBP, fps=Fraction(96))


@pytest.mark.parametrize(("name", "fps"), [("a.webp", 90), ("a.gif", 50)])
def test_the_fastest_animation_is_shown_as_fast_as_it_is(tmp_path, name, fps):
    with VideoWriter(tmp_path / name, fps, (16, 16), codec_for(name)) as writer:
        writer.write(np.random.default_rng(0).integers(0, 255, (9, 16, 16, 3), dtype=np.uint8))
    with VideoReader(tmp_path / name) as reader:
        assert len(reader) == 9
        assert float(reader.fps) == pytest.approx(fps, rel=0.02)


def test_frames_are_replaced_whatever_their_folder_is_called(tmp_path):
    for level in (10, 200):
        with VideoWriter(tmp_path / "replaced", 16, (16, 16), Codec.PNG) as writer:
            writer.write(np.full((2, 16, 16, 3), level, np.uint8))
    assert VideoReader(tmp_path / "replaced").frames(0, 2).min() == 200
    assert [path.name for path in tmp_path.iterdir()] == ["replaced"]
