"""Times that cannot be believed: of decoding instead of showing, missing, shared, jumping. Pictures keep their order."""

from fractions import Fraction

import av
import numpy as np
import pytest
from film_samples import read_numbers, write_film

from scail2.errors import InputError
from scail2.video import VideoReader, probe

COUNT = 40
B_FRAMES = {"codec": "mpeg4", "options": {"bf": "2", "g": "10"}}


def remuxed(path, target, retime):
    """The packets of a film with other times: ``retime(number in decoding order, pts, dts)`` gives (pts, dts)."""
    with av.open(str(path)) as film, av.open(str(target), "w") as out:
        stream = film.streams.video[0]
        copy = out.add_stream_from_template(stream)
        copy.time_base = stream.time_base
        for number, packet in enumerate(p for p in film.demux(stream) if p.size):
            packet.pts, packet.dts = retime(number, packet.pts, packet.dts)
            packet.stream = copy
            out.mux(packet)
    return target


def in_any_order(reader):
    everything = reader.frames(0, len(reader))
    for start in (COUNT - 1, 3, 20, 0):
        np.testing.assert_array_equal(reader.frames(start, start + 1)[0], everything[start])
    return read_numbers(everything)


@pytest.mark.parametrize("codec", [B_FRAMES, {"options": {"bf": "2", "g": "12", "x264-params": "b-adapt=0"}}])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_times_of_decoding_are_not_believed(tmp_path, codec, suffix):
    """What a stream copy from AVI makes: each picture carries the time at which it is decoded."""
    film = write_film(tmp_path / "film.mp4", COUNT, **codec)
    step = 1024

    def by_decoding(number, pts, dts):
        return number * step, number * step

    with VideoReader(remuxed(film, tmp_path / f"wrong{suffix}", by_decoding)) as reader:
        assert (len(reader), reader.fps) == (COUNT, 16)
        assert in_any_order(reader) == list(range(COUNT))
        assert [note.code for note in reader.source_info.notes] == ["times"]
    assert probe(film).notes == ()


@pytest.mark.parametrize("codec", [B_FRAMES, {"codec": "mjpeg", "pixels": "yuvj420p"}, {"options": {"bf": "2"}}])
def test_avi(tmp_path, codec):
    with VideoReader(write_film(tmp_path / "film.avi", COUNT, **codec)) as reader:
        assert (len(reader), reader.fps) == (COUNT, 16)
        assert in_any_order(reader) == list(range(COUNT))
        assert reader.source_info.start == 0


@pytest.mark.parametrize("name", ["film.ts", "film.mp4", "film.m2ts"])
@pytest.mark.parametrize(
    "codec",
    [{"options": {"bf": "3", "g": "12"}}, {"codec": "mpeg2video", "options": {"bf": "2", "g": "12"}, "fps": 25}],
)
def test_transport_streams_under_any_films_name(tmp_path, name, codec):
    m2ts = {"mpegts_m2ts_mode": "1"} if name.endswith("m2ts") else {}
    film = write_film(tmp_path / name, COUNT, metadata_format="mpegts", muxer=m2ts, **codec)
    with VideoReader(film) as reader:
        assert (len(reader), reader.fps) == (COUNT, codec.get("fps", 16))
        assert in_any_order(reader) == list(range(COUNT))


def test_pictures_that_share_a_time_are_all_shown(tmp_path):
    """A clock too coarse for the film: every second picture has its neighbour's time."""
    film = write_film(tmp_path / "film.mp4", COUNT, options={"bf": "0"})
    coarse = remuxed(film, tmp_path / "coarse.mkv", lambda number, pts, dts: (pts // 2048 * 2048,) * 2)
    with VideoReader(coarse) as reader:
        assert in_any_order(reader) == list(range(COUNT))
        assert float(reader.fps) == pytest.approx(16, rel=0.02)


def test_times_that_turn_false_late_are_refused_with_a_command(tmp_path):
    """Two neighbours far in the film have each other's times: nothing can be found by them any more."""
    options = {"bf": "2", "g": "60", "x264-params": "b-adapt=0:scenecut=0"}
    film = write_film(tmp_path / "film.mp4", 120, options=options)

    def late(number, pts, dts):
        return {80 * 1024: 81 * 1024, 81 * 1024: 80 * 1024}.get(pts, pts), dts

    with VideoReader(remuxed(film, tmp_path / "late.mkv", late)) as reader:
        assert read_numbers(reader.frames(0, 79)) == list(range(79))
        with pytest.raises(
            InputError, match=r"run backwards behind .* s; number its pictures anew: ffmpeg .*setpts=N/"
        ):
            reader.frames(0, len(reader))


def test_few_shared_times_do_not_disturb_the_rate(tmp_path):
    """Half the film has times of decoding: at the seam two pictures share a time, and the set is two ticks short."""
    film = write_film(tmp_path / "film.mp4", 120, options={"bf": "2", "g": "60", "x264-params": "b-adapt=0"})

    def late(number, pts, dts):
        return (pts, dts) if number < 70 else (dts, dts)

    with VideoReader(remuxed(film, tmp_path / "half.mp4", late)) as reader:
        assert reader.fps == 16
        assert read_numbers(reader.frames(0, len(reader))) == list(range(120))


def test_recordings_put_together_are_refused_with_a_command(tmp_path):
    """Two transport streams one behind the other: the clock starts again, and a stream copy joins it."""
    film = write_film(tmp_path / "one.ts", COUNT, metadata_format="mpegts", options={"bf": "2"})
    (tmp_path / "two.ts").write_bytes(film.read_bytes() * 2)
    with pytest.raises(InputError, match=r"falls back by 2\.\d s at 2\.\d+ s.*ffmpeg -i IN -c copy OUT.mp4"):
        VideoReader(tmp_path / "two.ts")


def test_times_that_fall_without_b_frames(tmp_path):
    """Nothing is reordered in this film, so its packets alone show that two times are exchanged."""
    film = write_film(tmp_path / "film.mp4", COUNT, options={"bf": "0"})
    exchanged = {20 * 1024: 21 * 1024, 21 * 1024: 20 * 1024}
    wrong = remuxed(film, tmp_path / "wrong.mkv", lambda number, pts, dts: (exchanged.get(pts, pts), dts - 4096))
    with VideoReader(wrong) as reader:
        assert in_any_order(reader) == list(range(COUNT))


def test_a_gap_does_not_slow_the_film_down(tmp_path):
    """Ten minutes without a picture: the mean rate would be one picture in 15 s, and all motion lost."""
    times = [*range(20), *range(9600, 9620)]
    film = write_film(tmp_path / "gap.mkv", 40, times=times, time_base=Fraction(1, 16), options={"bf": "0"})
    with VideoReader(film) as reader:
        assert reader.fps == 16
        assert len(reader) == 9620
        assert read_numbers(reader.frames(0, 20)) == list(range(20))
        assert read_numbers(reader.frames(9599, 9620)) == [19, *range(20, 40)]
        (note,) = reader.source_info.notes
        assert note.code == "gap"
        assert "598.8 s" in note.message


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_lost_picture_does_not_change_the_rate_of_the_others(tmp_path, suffix):
    """31 pictures of 32 at 25 a second are 24.2 on average: at that rate nearly all would be shown at a wrong time."""
    times = [number for number in range(32) if number != 12]
    film = write_film(tmp_path / f"lost{suffix}", 31, fps=25, times=times, options={"bf": "0"})
    with VideoReader(film) as reader:
        assert (reader.fps, reader.source_info.variable_rate) == (25, True)
        assert read_numbers(reader.frames(0, len(reader))) == [*range(12), 11, *range(12, 31)]
    with VideoReader(film, fps=50) as reader:
        shown = read_numbers(reader.frames(0, len(reader)))
        assert shown[:28] == [each for number in [*range(12), 11, 12] for each in (number, number)]


@pytest.mark.parametrize("start", [-7, 0, 90_000])
def test_any_beginning_of_the_clock(tmp_path, start):
    times = [start + number for number in range(COUNT)]
    film = write_film(tmp_path / "film.mkv", COUNT, times=times, muxer={"avoid_negative_ts": "disabled"})
    with VideoReader(film) as reader:
        assert in_any_order(reader) == list(range(COUNT))
