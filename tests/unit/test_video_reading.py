"""Exact frame access: whatever the container, codec and order of reading, frame k is frame k."""

import subprocess
import sys
import textwrap
from fractions import Fraction

import av
import numpy as np
import pytest
from film_samples import numbered_frame, read_numbers, write_film
from PIL import Image

from scail2.errors import InputError
from scail2.video import ArrayFrames, FrameSource, VideoReader, VideoWriter, probe

COUNT = 40
NTSC = Fraction(30000, 1001)
FILMS = {
    "b_frames.mp4": {"options": {"bf": "3", "g": "12"}},
    "open_gop.mp4": {"options": {"x264-params": "open-gop=1:keyint=12:bframes=3:b-adapt=0"}},
    "open_gop.mkv": {"options": {"x264-params": "open-gop=1:keyint=12:bframes=3:b-adapt=0"}},
    "intra_refresh.mkv": {"options": {"x264-params": "intra-refresh=1:keyint=12"}},
    "quicktime.mov": {"codec": "mpeg4", "options": {"bf": "2", "g": "10"}},
    "hevc_10bit.mp4": {
        "codec": "libx265",
        "pixels": "yuv420p10le",
        "options": {"x265-params": "keyint=12:bframes=3:log-level=none"},
    },
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "10", "cpu-used": "8"}},
    "hidden_frames_vp8.webm": {
        "codec": "libvpx",
        "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"},
    },
    "no_duration.webm": {"codec": "libvpx", "options": {"g": "10", "cpu-used": "8"}, "muxer": {"live": "1"}},
    "fragmented.mp4": {"options": {"g": "10"}, "muxer": {"movflags": "frag_keyframe+empty_moov"}},
    "starts_at_3s.mp4": {"times": [48 + i for i in range(COUNT)], "options": {"bf": "2"}},
    "odd_444.mp4": {"pixels": "yuv444p", "size": (65, 97)},
    "lossless.mkv": {"codec": "ffv1", "pixels": "bgr0"},
}


@pytest.mark.parametrize("name", FILMS)
def test_frames_are_the_asked_ones_in_any_order(tmp_path, name):
    with VideoReader(write_film(tmp_path / name, COUNT, **FILMS[name])) as reader:
        assert (len(reader), reader.fps) == (COUNT, 16)
        assert not reader.source_info.variable_rate
        everything = reader.frames(0, COUNT)
        assert read_numbers(everything) == list(range(COUNT))
        for start in np.random.default_rng(3).integers(0, COUNT - 2, size=25).tolist():
            np.testing.assert_array_equal(reader.frames(start, start + 2), everything[start : start + 2])
    with VideoReader(tmp_path / name) as fresh:  # the first thing asked is the last frame
        np.testing.assert_array_equal(fresh.frames(COUNT - 1, COUNT)[0], everything[-1])


def test_reader_and_array_are_frame_sources(tmp_path):
    film = write_film(tmp_path / "film.mp4", 10)
    frames = VideoReader(film).frames(0, 10)
    assert isinstance(VideoReader(film), FrameSource)
    source = ArrayFrames(frames)
    assert isinstance(source, FrameSource)
    np.testing.assert_array_equal(source.frames(2, 5), frames[2:5])
    assert source.frames(4, 4).shape == (0, 48, 64, 3)
    for wrong in ((-1, 2), (5, 4), (0, 11)):
        with pytest.raises(IndexError):
            source.frames(*wrong)
        with pytest.raises(IndexError):
            VideoReader(film).frames(*wrong)
    with pytest.raises(InputError, match="no frames"):
        ArrayFrames(frames[:0])
    with pytest.raises(InputError, match="uint8"):
        ArrayFrames(frames.astype(np.float32))


def test_edit_list_hides_the_frames_before_its_start(tmp_path):
    # Negative times at muxing become an edit list in mp4: the first five pictures are decoded but not shown.
    film = write_film(tmp_path / "cut.mp4", 30, times=[i - 5 for i in range(30)], options={"bf": "2", "g": "8"})
    with VideoReader(film) as reader:
        assert read_numbers(reader.frames(0, len(reader))) == list(range(5, 30))
        assert read_numbers(reader.frames(3, 4)) == [8]


def test_variable_rate_is_held_onto_the_wanted_rate(tmp_path):
    times = [0, 1, 2, 6, 7, 8, 9, 20, 21, 22]  # thirtieths of a second; the last lasts one
    film = write_film(tmp_path / "uneven.mkv", 10, times=times, time_base=Fraction(1, 30), fps=30)
    with VideoReader(film, fps=30) as reader:
        expected = [max(i for i, t in enumerate(times) if t <= k) for k in range(23)]
        assert read_numbers(reader.frames(0, len(reader))) == expected
        assert reader.source_info.variable_rate
    with VideoReader(film, fps=10) as reader:  # every third of them: k / 10 s falls on tick 3k
        assert read_numbers(reader.frames(0, len(reader))) == expected[::3]
    with VideoReader(film) as reader:
        mean = 10 / (23 / 30)
        assert float(reader.fps) == pytest.approx(mean, rel=0.02)
        assert abs(len(reader) / reader.fps - reader.source_info.duration) <= 1 / (2 * reader.fps)


@pytest.mark.parametrize(("source", "wanted"), [(32, 16), (16, 24), (30, 16), (Fraction(30000, 1001), 30), (24, 25)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_resampling_shows_the_picture_of_its_time(tmp_path, source, wanted, suffix):
    film = write_film(tmp_path / f"film{suffix}", COUNT, fps=source)
    with VideoReader(film, fps=wanted) as reader:
        assert reader.fps == wanted
        assert len(reader) == round(Fraction(COUNT) / source * wanted)
        # floor(k / wanted * source), exactly, although Matroska stores whole milliseconds
        expected = [k * source // wanted for k in range(len(reader))]
        assert read_numbers(reader.frames(0, len(reader))) == [min(e, COUNT - 1) for e in expected]


def test_ntsc_in_milliseconds_is_recognised_as_constant(tmp_path):
    info = probe(write_film(tmp_path / "ntsc.mkv", COUNT, fps=Fraction(30000, 1001)))
    assert (info.fps, info.variable_rate, info.frames) == (Fraction(30000, 1001), False, COUNT)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirror", [False, True])
def test_display_matrix_is_applied(tmp_path, degrees, mirror):
    def turn(stream):
        stream.set_display_rotation(degrees, hflip=mirror)

    # Without macroblock tree: x264 then gives the same picture twice.
    options = {"x264-params": "mbtree=0"}
    upright = write_film(tmp_path / "plain.mp4", 2, options=options)
    stored = VideoReader(upright).frames(0, 1)[0]
    with VideoReader(write_film(tmp_path / "turned.mp4", 2, options=options, prepare=turn)) as reader:
        frame = reader.frames(0, 1)[0]
        assert frame.shape[:2] == (reader.height, reader.width)
    # FFmpeg's angle is counter-clockwise; the mirror is laid over the turned picture.
    expected = np.rot90(stored, degrees // 90)
    expected = expected[:, ::-1] if mirror else expected
    np.testing.assert_array_equal(frame, expected)


def test_oblique_display_matrix_is_refused(tmp_path):
    film = write_film(tmp_path / "oblique.mp4", 2, prepare=lambda stream: stream.set_display_rotation(30))
    with pytest.raises(InputError, match="quarter turn"):
        VideoReader(film)


def test_wide_pixels_become_square(tmp_path):
    def widen(stream):
        stream.sample_aspect_ratio = Fraction(4, 3)

    info = probe(write_film(tmp_path / "anamorphic.mp4", 2, prepare=widen))
    assert (info.height, info.width) == (48, 85)


def test_ten_bits_untagged_and_full_range_colours(tmp_path):
    grey = np.full((48, 64, 3), 200, np.uint8)
    for name, pixels in (("a.mp4", "yuv420p10le"), ("b.mp4", "yuv420p"), ("c.mp4", "yuvj420p")):
        with av.open(str(tmp_path / name), "w") as film:
            stream = film.add_stream("libx264", rate=16, options={"qp": "0"})
            stream.height, stream.width, stream.pix_fmt = 48, 64, pixels
            frame = av.VideoFrame.from_ndarray(grey, format="rgb24").reformat(format=pixels)
            frame.pts = 0
            film.mux(stream.encode(frame))
            film.mux(stream.encode())
        reader = VideoReader(tmp_path / name)
        assert reader.source_info.bit_depth == (10 if "10" in pixels else 8)
        assert np.abs(reader.frames(0, 1).astype(int) - 200).max() <= 2


def test_size_cover_and_letterbox(tmp_path):
    film = write_film(tmp_path / "film.mp4", 3, size=(48, 96))
    with VideoReader(film, size=(32, 32)) as reader:
        assert reader.frames(0, 3).shape == (3, 32, 32, 3)
        assert (reader.height, reader.width) == (32, 32)
    with VideoReader(film, size=(32, 32), fit="letterbox", background=(9, 8, 7)) as reader:
        frame = reader.frames(0, 1)[0]
        assert (frame[:8] == (9, 8, 7)).all()
        assert (frame[-8:] == (9, 8, 7)).all()
        assert not (frame[8:24] == (9, 8, 7)).all()


def test_alpha_is_kept_and_laid_over_the_background(tmp_path):
    pictures = []
    for number in range(3):
        alpha = np.full((48, 64), 128, np.uint8)
        alpha[:, :32] = 255
        pictures.append(Image.fromarray(np.dstack([numbered_frame(number), alpha])))
    pictures[0].save(tmp_path / "clear.webp", save_all=True, append_images=pictures[1:], duration=62, lossless=True)
    with VideoReader(tmp_path / "clear.webp", background=(200, 100, 0)) as reader:
        assert reader.has_alpha
        rgba = reader.frames_rgba(0, 3)
        np.testing.assert_array_equal(rgba[1, ..., 3], np.asarray(pictures[1])[..., 3])
        rgb = reader.frames(0, 3)
    np.testing.assert_array_equal(rgb[:, :, :32], rgba[:, :, :32, :3])
    expected = rgba[:, :, 32:, :3] * (128 / 255) + np.array([200, 100, 0]) * (127 / 255)
    assert np.abs(rgb[:, :, 32:] - expected).max() <= 1
    opaque = VideoReader(write_film(tmp_path / "opaque.mp4", 2))
    assert not opaque.has_alpha
    assert (opaque.frames_rgba(0, 2)[..., 3] == 255).all()


@pytest.mark.parametrize("name", ["moving.gif", "moving.webp", "moving.png"])
def test_animated_pictures(tmp_path, name):
    pictures = [Image.fromarray(numbered_frame(i)) for i in range(8)]
    delays = [60, 60, 120, 60, 60, 60, 60, 60]
    kwargs = {"lossless": True} if name.endswith("webp") else {}
    pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=delays, **kwargs)
    with VideoReader(tmp_path / name, fps=50) as reader:  # 20 ms each, three per 60 ms picture
        numbers = [i for i, delay in enumerate(delays) for _ in range(delay // 20)]
        assert read_numbers(reader.frames(0, len(reader))) == numbers
        assert read_numbers(reader.frames(0, 1)) == [0]  # backwards: starts the animation over
        assert reader.source_info.variable_rate
        assert reader.source_info.duration == Fraction(sum(delays), 1000)


@pytest.mark.parametrize(("suffix", "codec", "pixels"), [("apng", "apng", "rgb24"), ("avif", "libsvtav1", "yuv420p")])
@pytest.mark.parametrize("rate", [24, NTSC, 60])
def test_delays_of_an_animation_that_are_no_whole_milliseconds(tmp_path, suffix, codec, pixels, rate):
    count, path = 120, tmp_path / f"moving.{suffix}"
    with av.open(str(path), "w", format=suffix) as film:
        stream = film.add_stream(codec, rate=rate, options={"preset": "12"} if codec == "libsvtav1" else {})
        stream.height, stream.width, stream.pix_fmt = 64, 64, pixels
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, 64, 64), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = number, 1 / Fraction(rate)
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    with VideoReader(path) as reader:
        assert (reader.fps, reader.source_info.variable_rate) == (rate, False)
        assert abs(reader.source_info.duration - count / Fraction(rate)) <= Fraction(1, 1000)
        assert read_numbers(reader.frames(0, len(reader))) == list(range(count))
    with VideoReader(path, fps=10) as reader:
        assert read_numbers(reader.frames(0, len(reader))) == [k * rate // 10 for k in range(len(reader))]
        assert len(reader) == round(count / rate * 10)


@pytest.mark.parametrize("name", ["moving.gif", "moving.webp", "moving.png"])
def test_animations_in_any_order(tmp_path, name):
    """Pillow goes back in an animated PNG from its last picture only, so the file is begun anew."""
    pictures = [Image.fromarray(numbered_frame(i)) for i in range(40)]
    kwargs = {"lossless": True} if name.endswith("webp") else {}
    pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=50, **kwargs)
    order = np.random.default_rng(6).integers(0, 40, 24).tolist()
    with VideoReader(tmp_path / name) as reader:
        stored = [next(reader._pictures.read([number]))[..., :3] for number in order]
        assert read_numbers(np.stack(stored)) == order
        assert read_numbers(reader.frames(20, 40)) == list(range(20, 40))
        assert read_numbers(reader.frames(0, 4)) == [0, 1, 2, 3]


def test_animated_png_without_its_still(tmp_path):
    still, *pictures = (Image.fromarray(numbered_frame(i)) for i in range(5))
    still.save(tmp_path / "a.png", save_all=True, default_image=True, append_images=pictures, duration=50)
    with VideoReader(tmp_path / "a.png") as reader:
        assert (reader.fps, read_numbers(reader.frames(0, len(reader)))) == (20, [1, 2, 3, 4])


def test_folder_in_natural_order(tmp_path):
    for number in (0, 1, 2, 9, 10, 11, 100):
        Image.fromarray(numbered_frame(number)).save(tmp_path / f"frame_{number}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    with VideoReader(tmp_path) as reader:
        assert reader.fps == 16
        assert read_numbers(reader.frames(0, len(reader))) == [0, 1, 2, 9, 10, 11, 100]
    with VideoReader(tmp_path, fps=8) as reader:
        assert read_numbers(reader.frames(0, len(reader))) == [0, 2, 10, 100]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ("f_00 f_01 f_02 f_05 f_06", "2 numbers are missing among its pictures, the first behind f_02.png"),
        ("7 8 9 11 12 14", "2 numbers are missing among its pictures, the first behind 9.png"),
        ("f_00 f_10 f_20 f_30", None),  # every tenth
        ("f_00 f_01 f_02", None),
        ("a b c d", None),
        ("day1_01 day1_02 day2_07 day2_09", None),
        ("3 9 40 77", None),  # numbers that count nothing
    ],
)
def test_missing_numbers_of_a_folder_are_noted(tmp_path, names, told):
    for name in names.split():
        Image.new("RGB", (16, 16)).save(tmp_path / f"{name}.png")
    notes = probe(tmp_path).notes
    assert [note.code for note in notes] == (["numbering"] if told else [])
    assert not told or notes[0].message.startswith(told)
    assert len(VideoReader(tmp_path)) == len(names.split())


def test_a_film_among_the_pictures_of_a_folder_is_noted(tmp_path):
    for name in ("1.png", "2.png"):
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    assert not probe(tmp_path).notes
    write_film(tmp_path / "dance.mp4", 3)
    (note,) = probe(tmp_path).notes
    assert (note.code, note.fix) == ("folder", "name dance.mp4 itself if it is meant")
    assert len(VideoReader(tmp_path)) == 2


def test_sequential_windows_with_overlap_decode_each_picture_once(tmp_path):
    """The overlap of five frames between segments must not cost a seek back to the last key frame."""
    film = write_film(tmp_path / "one_key_frame.mp4", 60, options={"g": "1000"})
    with VideoReader(film) as reader:
        decoded = []
        read = reader._pictures.read
        reader._pictures.read = lambda indices: decoded.extend(indices) or read(indices)
        windows = [reader.frames(start, start + 17) for start in (0, 12, 24, 36)]
    assert decoded == list(range(53))
    for window, start in zip(windows, (0, 12, 24, 36), strict=True):
        assert read_numbers(window) == list(range(start, start + 17))


def test_memory_does_not_grow_with_length(tmp_path):
    """Peak resident memory of copying a film window by window, decoder and encoder included: 480 frames need what 96 do."""
    script = f"""
        import resource
        from scail2.video import VideoReader, VideoWriter
        for count in (96, 480):
            with VideoReader({str(tmp_path)!r} + f"/{{count}}.mp4", size=(96, 128)) as film:
                with VideoWriter({str(tmp_path)!r} + "/copy.mkv", film.fps, (96, 128), "ffv1") as copy:
                    for start in range(0, count, 16):
                        copy.write(film.frames(start, start + 16))
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    for count in (96, 480):
        write_film(tmp_path / f"{count}.mp4", count, size=(120, 160), options={"g": "48", "preset": "ultrafast"})
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    short, long = (int(line) for line in run.stdout.split())
    frames_kept = (480 - 96) * 96 * 128 * 3 / 1024  # what keeping the frames would add, kB
    assert long - short < 0.2 * frames_kept, (short, long)


def test_real_clip(pytestconfig):
    clip = pytestconfig.rootpath / "tests/media/dance_black.mp4"
    info = probe(clip)
    assert (info.frames, info.fps, info.height, info.width, info.has_audio) == (45, 16, 350, 350, False)
    with VideoReader(clip, size=(128, 160), fps=8) as reader:
        assert len(reader) == 22
        np.testing.assert_array_equal(reader.source_indices, np.arange(22) * 2)
        assert reader.frames(20, 22).std() > 20


@pytest.mark.parametrize("aspect", [Fraction(1, 8), Fraction(9, 2)])
def test_pixels_that_no_camera_makes_are_taken_as_square_and_said(tmp_path, aspect):
    def stretch(stream):
        stream.sample_aspect_ratio = stream.codec_context.sample_aspect_ratio = aspect

    info = probe(write_film(tmp_path / "broken.mp4", 2, prepare=stretch))
    assert (info.height, info.width) == (48, 64)
    (note,) = info.notes
    assert (note.code, bool(note.fix)) == ("pixel_aspect", True)
    assert f"{aspect.numerator}:{aspect.denominator}" in note.message


def test_masks_of_pixels_that_are_not_square_stay_exact(tmp_path):
    """Read for a mask, a stretched film holds the stored colours and no others, each column where it belongs."""

    def widen(stream):
        stream.sample_aspect_ratio = stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    film = write_film(tmp_path / "mask.mov", 2, codec="png", pixels="rgb24", size=(48, 96), prepare=widen)
    with VideoReader(film, interpolation="nearest") as reader:
        frame = reader.frames(1, 2)[0]
    assert frame.shape == (48, 128, 3)
    columns = ((np.arange(128) + 0.5) * 96 / 128).astype(int)
    np.testing.assert_array_equal(frame, numbered_frame(1, 48, 96)[:, columns])


@pytest.mark.parametrize("name", ["o.mkv", "o.mp4"])
@pytest.mark.parametrize(
    ("stored", "asked", "shown"),
    [
        (Fraction(2997, 100), NTSC, list(range(10))),
        (NTSC, Fraction(2997, 100), list(range(10))),
        (Fraction(2997, 100), 2 * NTSC, [k // 2 for k in range(20)]),
        (Fraction(2997, 100), NTSC / 2, [0, 2, 4, 6, 8]),
        (Fraction(24), Fraction(25), [0, *range(9)]),  # no rounding: the first picture is still on show
    ],
)
def test_a_rate_rounded_otherwise_is_the_same_rate(tmp_path, name, stored, asked, shown):
    with VideoWriter(tmp_path / name, stored, (48, 64), "h264") as writer:
        writer.write(np.stack([numbered_frame(k, 48, 64) for k in range(10)]))
    with VideoReader(tmp_path / name, fps=asked) as reader:
        assert reader.source_indices.tolist() == shown
