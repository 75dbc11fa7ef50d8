"""Films written and read back: exact pixels, exact counts, exact sound, and nothing left of what failed."""

import errno
import logging
import os
import subprocess
import sys
import textwrap
from fractions import Fraction

import av
import numpy as np
import pytest
from film_samples import add_sound, decode_sound, numbered_frame, read_numbers, stepped_tone, write_film

from scail2.errors import InputError
from scail2.video import Codec, VideoReader, VideoWriter, codec_for, probe
from scail2.video.writer import writing_errors

COUNT = 21
OUTPUTS = [("h264", "o.mp4"), ("h264", "o.mov"), ("h264", "o.mkv"), ("ffv1", "o.mkv"), ("png", "o")]
OUTPUTS += [("prores4444", "o.mov"), ("vp9-alpha", "o.webm")]


def numbered(count: int = COUNT, height: int = 48, width: int = 64) -> np.ndarray:
    return np.stack([numbered_frame(i, height, width) for i in range(count)])


@pytest.mark.parametrize(("codec", "name"), OUTPUTS)
@pytest.mark.parametrize("fps", [16, Fraction(30000, 1001)])
def test_exact_number_of_frames_in_order(tmp_path, codec, name, fps):
    frames = numbered()
    with VideoWriter(tmp_path / name, fps, (48, 64), codec, total_frames=COUNT) as writer:
        writer.write(frames[:5])
        writer.write(frames[5:5])
        assert not (tmp_path / name).exists()
        writer.write(frames[5:])
    assert os.listdir(tmp_path) == [name]
    with VideoReader(tmp_path / name) as reader:
        assert len(reader) == COUNT
        assert read_numbers(reader.frames(0, COUNT)) == list(range(COUNT))
        if codec != "png":  # a folder has no rate of its own
            assert reader.fps == fps
            assert abs(reader.source_info.duration - COUNT / fps) < Fraction(2, 1000)
            assert reader.source_info.start == 0


@pytest.mark.parametrize(("codec", "name"), [("ffv1", "o.mkv"), ("png", "o")])
@pytest.mark.parametrize("channels", [3, 4])
def test_lossless_is_bit_exact(tmp_path, codec, name, channels):
    noise = np.random.default_rng(0).integers(0, 256, size=(5, 33, 47, channels), dtype=np.uint8)
    with VideoWriter(tmp_path / name, 16, (33, 47), codec) as writer:
        writer.write(noise)
    with VideoReader(tmp_path / name) as reader:
        assert reader.has_alpha == (channels == 4)
        read = reader.frames_rgba(0, 5)
    np.testing.assert_array_equal(read[..., :channels], noise)


@pytest.mark.parametrize(("codec", "name", "tolerance"), [("prores4444", "o.mov", 1), ("vp9-alpha", "o.webm", 3)])
def test_alpha_survives(tmp_path, codec, name, tolerance):
    y, x = np.mgrid[0:48, 0:64]
    rgba = np.dstack([x * 2, y * 3, np.full_like(x, 90), np.where(x < 32, 255, y * 5)]).astype(np.uint8)
    with VideoWriter(tmp_path / name, 16, (48, 64), codec) as writer:
        writer.write(np.repeat(rgba[None], 6, axis=0))
    with VideoReader(tmp_path / name) as reader:
        assert reader.has_alpha
        read = reader.frames_rgba(0, 6).astype(int)
        np.testing.assert_array_equal(reader.frames_rgba(4, 5), read[4:5])
    assert np.abs(read[..., 3] - rgba[..., 3]).mean() <= tolerance
    assert (read[:, :, :30, 3] == 255).all()
    assert np.abs(read[..., :3] - rgba[..., :3]).mean() <= tolerance


def test_h264_flags_and_colours(tmp_path):
    colours = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (16, 128, 240)], np.uint8)
    frames = np.repeat(colours, 20, axis=0).reshape(1, 1, 100, 3).repeat(48, axis=1)
    with VideoWriter(tmp_path / "o.mp4", 16, (48, 100)) as writer:
        writer.write(frames)
    with av.open(str(tmp_path / "o.mp4")) as film:
        context = film.streams.video[0].codec_context
        assert context.pix_fmt == "yuv420p"
        tags = (context.color_primaries, context.color_trc, context.colorspace, context.color_range)
        assert [int(tag) for tag in tags] == [1, 1, 1, 1]  # BT.709 three times, limited range
        plane = next(film.decode(video=0)).planes[0]
        luma = np.frombuffer(plane, np.uint8).reshape(48, plane.line_size)[24, 10:100:20].astype(int)
    # ITU-R BT.709: Y' = 16 + 219 (0.2126 R' + 0.7152 G' + 0.0722 B')
    expected = 16 + 219 * (colours / 255 @ np.array([0.2126, 0.7152, 0.0722]))
    assert np.abs(luma - expected).max() <= 2
    content = (tmp_path / "o.mp4").read_bytes()
    assert 0 < content.find(b"moov") < content.find(b"mdat")  # faststart
    read = VideoReader(tmp_path / "o.mp4").frames(0, 1)[0, 24, 10::20].astype(int)
    assert np.abs(read - colours).max() <= 4


def test_odd_sizes_are_padded_for_h264_and_kept_for_lossless(tmp_path):
    frames = numbered(3, 49, 65)
    for codec, name, size in (
        ("h264", "o.mp4", (50, 66)),
        ("ffv1", "o.mkv", (49, 65)),
        ("prores4444", "o.mov", (49, 65)),
    ):
        with VideoWriter(tmp_path / name, 16, (49, 65), codec) as writer:
            writer.write(frames)
        info = probe(tmp_path / name)
        assert (info.height, info.width) == size
    read = VideoReader(tmp_path / "o.mp4").frames(0, 3).astype(int)
    assert np.abs(read[:, :49, :65] - frames).mean() < 3
    assert np.abs(read[:, 49] - read[:, 48]).mean() < 3


# Sound


def shift_in_seconds(path, begin: float, place: float = 0.5) -> float:
    """How much later than it should a film's sound comes around ``place``, if the film begins at ``begin`` of its source."""
    sound, rate, _ = decode_sound(path)
    reference = stepped_tone(6, rate)[0]
    window = slice(int(place * rate), int((place + 0.3) * rate))
    reach = int(0.1 * rate)
    first = window.start + int(begin * rate) - reach
    around, piece = reference[first : first + 2 * reach + window.stop - window.start], sound[window]
    # Correlation by Fourier transform: np.correlate makes a BLAS call per shift, which crawls on a busy machine.
    length = len(around) + len(piece)
    spectrum = np.fft.rfft(around, length) * np.conj(np.fft.rfft(piece, length))
    match = np.fft.irfft(spectrum, length)[: 2 * reach + 1]
    return (reach - int(match.argmax())) / rate


@pytest.mark.parametrize(
    ("source", "output", "codec", "carried"),
    [
        ("aac.mp4", "o.mp4", "h264", "aac"),
        ("aac.mp4", "o.mkv", "ffv1", "aac"),
        ("aac.mkv", "o.mp4", "h264", "aac"),
        ("opus.mkv", "o.mp4", "h264", "aac"),
        ("opus.mkv", "o.webm", "vp9-alpha", "opus"),
        ("pcm.mov", "o.mp4", "h264", "aac"),
        ("pcm.mov", "o.mov", "prores4444", "pcm_s16le"),
        ("aac.mp4", "o.webm", "vp9-alpha", "opus"),
    ],
)
@pytest.mark.parametrize("begin", [0, 0.7])
def test_sound_is_in_step_and_cut_to_length(tmp_path, source, output, codec, carried, begin):
    silent = write_film(tmp_path / f"silent.{source[-3:]}", 48, options={"bf": "2"})
    name = {"opus": "libopus", "pcm": "pcm_s16le", "aac": "aac"}[source.split(".")[0]]
    driving = add_sound(silent, tmp_path / source, seconds=4, rate=48_000, codec=name)
    frames = numbered(27)
    with VideoWriter(tmp_path / output, 16, (48, 64), codec, driving, 27, audio_start=begin) as writer:
        for frame in frames:
            writer.write(frame[None])
    info = probe(tmp_path / output)
    assert (info.audio_codec, info.frames, info.fps, info.start) == (carried, 27, 16, 0)
    _, _, end = decode_sound(tmp_path / output)
    assert abs(end - 27 / 16) <= 1024 / 48_000 + 0.001  # one audio frame, and Matroska's millisecond
    assert abs(shift_in_seconds(tmp_path / output, begin)) <= 0.002


def test_sound_that_begins_late_stays_late(tmp_path):
    silent = write_film(tmp_path / "silent.mkv", 48)
    driving = add_sound(silent, tmp_path / "late.mkv", seconds=3, rate=48_000, start=0.4)
    for name, codec in (("copied.mp4", "h264"), ("encoded.webm", "vp9-alpha")):
        with VideoWriter(tmp_path / name, 16, (48, 64), codec, driving) as writer:
            writer.write(numbered(27))
        sound, rate, _ = decode_sound(tmp_path / name)
        assert np.abs(sound[: int(0.35 * rate)]).max() < 0.01
        assert abs(shift_in_seconds(tmp_path / name, -0.4)) <= 0.002


def test_a_hole_in_the_sound_becomes_silence(tmp_path):
    """Two pieces of sound with a second between them; encoded anew, what follows the hole is still in step."""
    silent = write_film(tmp_path / "silent.mkv", 48)
    whole = add_sound(silent, tmp_path / "whole.mkv", seconds=3, rate=48_000, codec="pcm_s16le")
    with av.open(str(whole)) as film, av.open(str(tmp_path / "holed.mkv"), "w") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in film.streams}
        for packet in film.demux():
            is_sound = packet.stream.type == "audio"
            if packet.size and not (is_sound and 0.5 < float(packet.pts * packet.time_base) < 1.5):
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    with VideoWriter(tmp_path / "o.webm", 16, (48, 64), "vp9-alpha", tmp_path / "holed.mkv") as writer:
        for frame in numbered(40):
            writer.write(frame[None])
    sound, rate, end = decode_sound(tmp_path / "o.webm")
    assert abs(end - 2.5) < 0.03
    assert np.abs(sound[int(0.6 * rate) : int(1.4 * rate)]).max() < 0.01
    for place in (0.15, 1.7, 2.1):
        assert abs(shift_in_seconds(tmp_path / "o.webm", 0, place)) <= 0.002


def test_sound_shorter_than_the_film_ends_early(tmp_path):
    driving = add_sound(write_film(tmp_path / "silent.mp4", 8), tmp_path / "short.mp4", seconds=0.5)
    with VideoWriter(tmp_path / "o.mp4", 16, (48, 64), audio_from=driving) as writer:
        writer.write(numbered(27))
    _, _, end = decode_sound(tmp_path / "o.mp4")
    assert abs(end - 0.5) < 0.05
    assert probe(tmp_path / "o.mp4").frames == 27


def test_source_without_sound_gives_a_silent_film_and_folders_say_so(tmp_path, caplog):
    silent = write_film(tmp_path / "silent.mp4", 8)
    with VideoWriter(tmp_path / "o.mp4", 16, (48, 64), audio_from=silent) as writer:
        writer.write(numbered(3))
    assert not probe(tmp_path / "o.mp4").has_audio
    driving = add_sound(silent, tmp_path / "loud.mp4", seconds=0.5)
    with caplog.at_level(logging.WARNING), VideoWriter(tmp_path / "o", 16, (48, 64), "png", driving) as writer:
        writer.write(numbered(3))
    assert "has no sound" in caplog.text


# Failures


@pytest.mark.parametrize(("codec", "name"), OUTPUTS)
def test_a_failure_leaves_nothing_and_keeps_the_older_film(tmp_path, codec, name):
    with VideoWriter(tmp_path / name, 16, (48, 64), codec) as writer:
        writer.write(numbered(2))

    def fail_half_way():
        with VideoWriter(tmp_path / name, 16, (48, 64), codec) as writer:
            writer.write(numbered(4))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_half_way()
    assert os.listdir(tmp_path) == [name]
    assert len(VideoReader(tmp_path / name)) == 2


def test_the_planned_number_is_kept(tmp_path):
    writer = VideoWriter(tmp_path / "o.mp4", 16, (48, 64), total_frames=5)
    writer.write(numbered(4))
    with pytest.raises(ValueError, match="5 were planned"):
        writer.close()
    with (
        pytest.raises(ValueError, match="5 were planned"),
        VideoWriter(tmp_path / "p.mp4", 16, (48, 64), total_frames=5) as writer,
    ):
        writer.write(numbered(6))
    with pytest.raises(ValueError, match="no frames"), VideoWriter(tmp_path / "q.mp4", 16, (48, 64)):
        pass
    with pytest.raises(ValueError, match="must be uint8"), VideoWriter(tmp_path / "r.mp4", 16, (48, 64)) as writer:
        writer.write(numbered(3, 48, 66))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("codec", "name", "sentence"),
    [
        ("h264", "o.webm", "is written to .mp4"),
        ("ffv1", "o.mp4", "is written to .mkv"),
        ("png", "o.mp4", "a name without .mp4"),
        ("mpeg1", "o.mp4", "codec must be one of"),
    ],
)
def test_unsuitable_names_are_refused_at_once(tmp_path, codec, name, sentence):
    with pytest.raises(InputError, match=sentence):
        VideoWriter(tmp_path / name, 16, (48, 64), codec)
    assert os.listdir(tmp_path) == []


def test_other_refusals(tmp_path):
    with pytest.raises(InputError, match="frame rate"):
        VideoWriter(tmp_path / "o.mp4", float("nan"), (48, 64))
    with pytest.raises(InputError, match="too small"):
        VideoWriter(tmp_path / "o.mp4", 16, (1, 1))
    with pytest.raises(InputError, match="transparency"), VideoWriter(tmp_path / "o.mp4", 16, (48, 64)) as writer:
        writer.write(np.zeros((1, 48, 64, 4), np.uint8))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"writing failed|exists"):
        VideoWriter(tmp_path / "file" / "o.mp4", 16, (48, 64))
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").write_text("precious")
    with pytest.raises(InputError, match="holds other things"):
        VideoWriter(tmp_path / "holiday", 16, (48, 64), "png")
    with pytest.raises(InputError, match="no such file"):
        VideoWriter(tmp_path / "o.mp4", 16, (48, 64), audio_from=tmp_path / "none.mp4")
    assert sorted(os.listdir(tmp_path)) == ["file", "holiday"]


@pytest.mark.parametrize(
    ("codec", "name"), [("h264", "o.mp4"), ("ffv1", "o.mkv"), ("png", "o"), ("gif", "o.gif"), ("webp", "o.webp")]
)
def test_full_disk_is_one_sentence(tmp_path, codec, name):
    """A real refusal by the kernel: the process may not grow any file beyond 20 kB."""
    script = f"""
        import resource, signal, numpy as np
        from scail2.errors import InputError
        from scail2.video import VideoWriter
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        noise = np.random.default_rng(0).integers(0, 256, (12, 96, 96, 3), dtype=np.uint8)
        try:
            with VideoWriter({str(tmp_path / name)!r}, 16, (96, 96), {codec!r}) as writer:
                writer.write(noise)
        except InputError as error:
            raise SystemExit(str(error))
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.strip().endswith("nothing finished is lost")
    assert "is full" in run.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "sentence"), [(errno.ENOSPC, "is full"), (errno.EROFS, "permission"), (errno.EIO, "writing failed")]
)
def test_system_errors_name_the_wanted_file(tmp_path, number, sentence):
    with pytest.raises(InputError, match=f"film.mp4.*{sentence}"), writing_errors(tmp_path / "film.mp4"):
        raise OSError(number, os.strerror(number))


def test_codec_for_names():
    names = {
        "a.mp4": Codec.H264,
        "a.MOV": Codec.H264,
        "a.mkv": Codec.FFV1,
        "a.webm": Codec.VP9_ALPHA,
        "dir/a": Codec.PNG,
    }
    assert {name: codec_for(name) for name in names} == names
    with pytest.raises(InputError, match="cannot write"):
        codec_for("a.avi")
