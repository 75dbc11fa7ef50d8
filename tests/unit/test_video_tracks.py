"""The right track: the film and not its cover, the default sound and not the first; what was passed over is said."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from av.stream import Disposition
from film_samples import numbered_frame, read_numbers, write_film

from scail2.errors import InputError
from scail2.video import VideoReader, probe

COUNT = 12


def write_tracks(path, tracks):
    """A file with several tracks: each (kind, pictures, disposition) with kind ``"film"``, ``"cover"`` or a tone's pitch."""
    with av.open(str(path), "w") as film:
        streams = []
        for kind, pictures, disposition in tracks:
            if isinstance(kind, str):
                codec, pixels = ("mjpeg", "yuvj420p") if kind == "cover" else ("libx264", "yuv420p")
                stream = film.add_stream(codec, rate=16, options={"bf": "0"} if kind == "film" else {})
                stream.height, stream.width, stream.pix_fmt = (48, 64, pixels) if kind == "film" else (96, 96, pixels)
            else:
                stream = film.add_stream("aac", rate=48_000)
                stream.codec_context.layout = "mono"
            stream.disposition = disposition
            streams.append((stream, kind, pictures))
        packets = []
        for stream, kind, pictures in streams:
            packets += _pictures(stream, pictures) if isinstance(kind, str) else _tone(stream, kind)
        for packet in sorted(packets, key=lambda p: (p.dts or 0) * p.time_base):
            film.mux(packet)
    return path


def _pictures(stream, count):
    packets = []
    for number in range(count):
        frame = av.VideoFrame.from_ndarray(numbered_frame(number, stream.height, stream.width), format="rgb24")
        frame = frame.reformat(format=stream.pix_fmt)
        frame.pts, frame.time_base = number, Fraction(1, 16)
        packets += stream.encode(frame)
    return packets + stream.encode()


def _tone(stream, pitch):
    packets, size = [], 1024
    for first in range(0, 48_000 * COUNT // 16, size):
        time = (first + np.arange(size)) / 48_000
        wave = (0.4 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)[None]
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.rate, frame.pts, frame.time_base = 48_000, first, Fraction(1, 48_000)
        packets += stream.encode(frame)
    return packets + stream.encode()


FILM = ("film", COUNT, Disposition.default)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize(
    "tracks",
    [
        [("cover", 1, Disposition.default), FILM],
        [("cover", 1, Disposition(0)), FILM],
        [("cover", 1, Disposition(0)), ("cover", 1, Disposition(0)), ("film", COUNT, Disposition(0))],
        [("cover", 3, Disposition(0)), FILM],  # more than one picture, but not the default
        [FILM, ("cover", 5, Disposition(0))],
    ],
    ids=["default_cover", "cover", "two_covers", "slides", "film_first"],
)
def test_the_film_is_found(tmp_path, tracks, suffix):
    with VideoReader(write_tracks(tmp_path / f"film{suffix}", tracks)) as reader:
        assert (len(reader), reader.height, reader.width) == (COUNT, 48, 64)
        assert read_numbers(reader.frames(0, COUNT)) == list(range(COUNT))
        (note,) = reader.source_info.notes
    place = next(i for i, track in enumerate(tracks) if track[0] == "film")
    assert note.code == "track"
    assert f"track {place} (h264, {COUNT} pictures) is the film" in note.message
    assert all(f"track {i} (mjpeg" in note.message for i in range(len(tracks)) if i != place)


def test_one_track_needs_no_word_and_one_picture_is_a_film(tmp_path):
    assert probe(write_tracks(tmp_path / "film.mkv", [FILM, (440, 0, Disposition.default)])).notes == ()
    assert probe(write_tracks(tmp_path / "one.mkv", [("film", 1, Disposition.default)])).frames == 1


def without_jpeg_headers(path) -> bytes:
    """The file with the frame header of each JPEG (its size and planes) made into a comment."""
    return path.read_bytes().replace(b"\xff\xc0\x00\x11\x08", b"\xff\xfe\x00\x11\x08")


def test_a_track_that_cannot_be_decoded_is_passed_over(tmp_path):
    """The default track's pictures are noise; the other film is taken, and the file without another one refused."""
    path = write_tracks(tmp_path / "film.mkv", [("cover", 12, Disposition.default), ("film", COUNT, Disposition(0))])
    (tmp_path / "broken.mkv").write_bytes(without_jpeg_headers(path))
    with VideoReader(tmp_path / "broken.mkv") as reader:
        assert reader.height == 48
        assert read_numbers(reader.frames(0, COUNT)) == list(range(COUNT))
    alone = write_tracks(tmp_path / "alone.mkv", [("cover", 12, Disposition.default)])
    alone.write_bytes(without_jpeg_headers(alone))
    with pytest.raises(InputError, match="no picture can be decoded"):
        VideoReader(tmp_path / "alone.mkv")


def _with_clean_aperture(path, width: tuple[int, int], height: tuple[int, int]):
    """An mp4 of one track whose sample entry says which part of the picture is clean."""
    data = path.read_bytes()
    box = struct.pack(">I4s8I", 40, b"clap", *width, *height, 0, 1, 0, 1)
    at = 0
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        at = data.index(name, at) - 4
        (size,) = struct.unpack_from(">I", data, at)
        data = data[:at] + struct.pack(">I", size + len(box)) + data[at + 4 :]
        at += 8
    end = at - 8 + size
    path.write_bytes(data[:end] + box + data[end:])  # moov is the last box: no place in the file moves


def _with_crop(path, right: int):
    """A Matroska film with columns cropped, in the place of the unit of its display's size."""
    data, unit = path.read_bytes(), b"\x54\xb2\x81\x04"
    assert data.count(unit) == 1
    path.write_bytes(data.replace(unit, b"\x54\xdd\x81" + bytes([right])))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("width", [48, 64])
def test_a_part_that_the_container_has_players_show_is_said(tmp_path, suffix, width):
    """Nothing is cut off, as nothing was before FFmpeg 7.1; who made the masks may have seen less."""
    path = write_film(tmp_path / f"film{suffix}", 4)
    if suffix == ".mp4":
        _with_clean_aperture(path, (2 * width, 2), (48, 1))
    else:
        _with_crop(path, 64 - width)
    with VideoReader(path) as reader:
        assert (reader.width, reader.height) == (64, 48)
        told = [note.message for note in reader.source_info.notes if note.code == "cropped_by_container"]
        assert read_numbers(reader.frames(0, 4)) == [0, 1, 2, 3]
    assert told == (["its container shows only 48×48 of its 64×48 pixels: all of them are read"] if width == 48 else [])


def test_a_recording_that_lost_its_headers_is_passed_over_and_alone_refused_as_undecodable(tmp_path):
    """A transport stream that was cut: nothing says how large its pictures are."""
    head, lost = b"\0\0\1\x67", b"\0\0\1\x6c"  # a sequence's header, made into filling
    both = write_tracks(tmp_path / "both.ts", [FILM, FILM])
    both.write_bytes(both.read_bytes().replace(head, lost, 1))
    with VideoReader(both) as reader:
        assert "passed over: track 0 (h264" in reader.source_info.notes[0].message
        assert read_numbers(reader.frames(0, COUNT)) == list(range(COUNT))
    alone = write_tracks(tmp_path / "alone.ts", [FILM])
    alone.write_bytes(alone.read_bytes().replace(head, lost))
    with pytest.raises(InputError, match="no picture can be decoded"):
        VideoReader(alone)


def test_the_cover_of_a_real_file(pytestconfig):
    with VideoReader(pytestconfig.rootpath / "tests/media/cover_unflagged_first.mkv") as reader:
        assert (len(reader), reader.height) == (24, 128)
