"""Sound known before rendering: damage found and made silent in its own place, the default track, codecs by their names."""

from fractions import Fraction

import av
import numpy as np
import pytest
from film_samples import add_sound, decode_sound, stepped_tone, write_film
from run_material import make_request
from test_video_tracks import FILM, write_tracks
from tiny import SIZE, bare_pipeline

from scail2.runs import RunDirectory
from scail2.video import VideoReader, VideoWriter, probe
from scail2.video.sound import check_sound, notes_on

RATE = 48_000


def damaged(source, target, numbers, spoil):
    """The film with the sound packets of these numbers spoilt; everything else byte for byte."""
    with av.open(str(source)) as film, av.open(str(target), "w") as out:
        copies = {stream.index: out.add_stream_from_template(stream) for stream in film.streams}
        number = -1
        for packet in film.demux():
            if not packet.size:
                continue
            number += packet.stream.type == "audio"
            if packet.stream.type == "audio" and number in numbers:
                new = av.Packet(spoil(bytes(packet)))
                new.pts, new.dts, new.time_base, new.duration = (
                    packet.pts,
                    packet.dts,
                    packet.time_base,
                    packet.duration,
                )
                packet, stream = new, packet.stream
            else:
                stream = packet.stream
            packet.stream = copies[stream.index]
            out.mux(packet)
    return target


def flip_middle(data: bytes) -> bytes:
    """A few bits: only a checksum shows them."""
    middle = len(data) // 2
    return data[:middle] + bytes(255 - byte for byte in data[middle : middle + 4]) + data[middle + 4 :]


def noise(data: bytes) -> bytes:
    return b"\xff" * len(data)


def carry(driving, output, codec="h264"):
    with (
        VideoReader(driving) as reader,
        VideoWriter(output, reader.fps, (48, 64), codec, driving, len(reader)) as writer,
    ):
        writer.write(reader.frames(0, len(reader)))
    return decode_sound(output)


def lag(sound, rate, place):
    """By how many samples the tone comes too late around ``place`` seconds."""
    tone = stepped_tone(4, rate)[0].astype(np.float64)
    reach, length = rate // 20, rate // 5
    first = round(place * rate)
    piece, around = sound[first : first + length], tone[first - reach : first + length + reach]
    return reach - int(np.argmax(np.correlate(around, piece, mode="valid")))


@pytest.mark.parametrize(
    ("source", "codec", "spoil", "size"),
    [
        ("a.mkv", "flac", flip_middle, 4608),
        ("a.mp4", "flac", flip_middle, 4608),
        ("a.mkv", "aac", noise, 1024),
        ("a.mp4", "aac", noise, 1024),
        ("a.mkv", "libmp3lame", noise, 1152),
    ],
)
@pytest.mark.parametrize("output", ["o.mp4", "o.mkv"])
def test_damage_is_silence_in_its_own_place(tmp_path, source, codec, spoil, size, output):
    silent = write_film(tmp_path / "silent.mp4", 40, options={"preset": "ultrafast"})
    whole = add_sound(silent, tmp_path / f"whole{source[1:]}", seconds=2.5, rate=RATE, codec=codec)
    film = damaged(whole, tmp_path / source, {10, 11}, spoil)
    check = check_sound(film)
    assert check.heard
    places = [float(each.start) for each in check.damage]
    assert len(places) in (1, 2, 3)  # MP3 borrows from the frames before
    assert abs(places[0] - 10 * size / RATE) < 0.03
    sound, rate, _ = carry(film, tmp_path / output, "h264" if output == "o.mp4" else "ffv1")
    assert probe(tmp_path / output).audio_codec == "aac"  # never copied with a damaged packet in it
    middle = (places[0] + float(check.damage[-1].stop)) / 2 if size > 2000 else places[0] + size / RATE
    quiet = sound[round((middle - 0.004) * rate) : round((middle + 0.004) * rate)]
    assert np.abs(quiet).max() < 0.02
    assert np.abs(sound[rate // 20 : round((places[0] - 0.05) * rate)]).max() > 0.4
    for place in (1.3, 2.0):
        assert abs(lag(sound, rate, place)) <= 2, "what follows the damage is still in step"
    (note,) = notes_on(film, Fraction(0), Fraction(5, 2))
    assert "--no-audio" in note.fix
    assert f"{places[0]:.2f} s" in note.message
    assert notes_on(film, Fraction(0), Fraction(1, 10)) == []  # behind the film's end it does not matter


def test_whole_sound_says_nothing_and_is_copied(tmp_path):
    silent = write_film(tmp_path / "silent.mp4", 40, options={"preset": "ultrafast"})
    film = add_sound(silent, tmp_path / "whole.mp4", seconds=2.5, rate=RATE)
    assert check_sound(film).damage == ()
    assert notes_on(film, Fraction(0), Fraction(5, 2)) == []
    assert check_sound(silent) is None


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_mp3_is_copied_bit_for_bit(tmp_path, suffix):
    silent = write_film(tmp_path / "silent.mp4", 40, options={"preset": "ultrafast"})
    film = add_sound(silent, tmp_path / "mp3.mkv", seconds=2.5, rate=RATE, codec="libmp3lame")
    assert probe(film).audio_codec == "mp3"
    carry(film, tmp_path / f"o{suffix}", "h264" if suffix != ".mkv" else "ffv1")
    packets = {}
    for path in (film, tmp_path / f"o{suffix}"):
        with av.open(str(path)) as opened:
            packets[path.name] = [bytes(p) for p in opened.demux(opened.streams.audio[0]) if p.size]
    copied = packets.pop("mp3.mkv")
    (carried,) = packets.values()
    assert len(carried) > 90
    assert set(carried) <= set(copied)


@pytest.mark.parametrize(("suffix", "carried"), [(".mp4", "aac"), (".mkv", "mp3")])
def test_sound_that_a_container_refuses_is_encoded_anew(tmp_path, suffix, carried):
    """MP3 of 8 kHz has no place in mp4, which is found out only by its muxer."""
    silent = write_film(tmp_path / "silent.mp4", 40, options={"preset": "ultrafast"})
    film = add_sound(silent, tmp_path / "telephone.mkv", seconds=2.5, rate=8_000, codec="libmp3lame")
    sound, rate, _ = carry(film, tmp_path / f"o{suffix}", "h264" if suffix == ".mp4" else "ffv1")
    assert probe(tmp_path / f"o{suffix}").audio_codec == carried
    assert np.abs(sound[rate // 2 : rate]).max() > 0.2


def test_sound_without_a_single_good_frame(tmp_path, caplog):
    silent = write_film(tmp_path / "silent.mp4", 16, options={"preset": "ultrafast"})
    whole = add_sound(silent, tmp_path / "whole.mkv", seconds=1, rate=RATE, codec="flac")
    film = damaged(whole, tmp_path / "film.mkv", set(range(100)), noise)
    (note,) = notes_on(film, Fraction(0), Fraction(1))
    assert "silent" in note.message
    assert "--no-audio" in note.fix
    with VideoWriter(tmp_path / "o.mp4", 16, (48, 64), audio_from=film) as writer:
        writer.write(VideoReader(film).frames(0, 16))
    assert not probe(tmp_path / "o.mp4").has_audio
    assert "silent" in caplog.text


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("default", [0, 1, None])
def test_the_default_sound_is_carried(tmp_path, suffix, default):
    flags = [int(number == default) for number in range(2)]
    tracks = [FILM, (440, 0, flags[0]), (1760, 0, flags[1])]
    film = write_tracks(tmp_path / f"two{suffix}", tracks)
    sound, rate, _ = carry(film, tmp_path / "o.mp4")
    spectrum = np.abs(np.fft.rfft(sound[rate // 10 : rate // 10 + rate // 2]))
    pitch = np.argmax(spectrum) * 2
    # Where no track is the default, an mp4 without one calls its first so.
    assert abs(pitch - (1760 if default == 1 else 440)) <= 4
    (note,) = probe(film).notes
    assert "is its sound; passed over: track" in note.message


def test_plan_reports_the_damage_and_rendering_makes_the_film(tmp_path):
    """Found before anything is rendered, in the plan, its JSON and the journal; at the end there is a film."""
    request = make_request(tmp_path, frames=9)
    whole = add_sound(request.driving, tmp_path / "whole.mkv", seconds=1.1, rate=RATE, codec="flac")
    request.driving.unlink()
    damaged(whole, request.driving, {4}, flip_middle)
    events = []
    run = RunDirectory.create(tmp_path / "run", request)
    pipe = bare_pipeline(native_height=SIZE, native_width=SIZE)
    run.plan(pipe=pipe, events=events.append)
    found = [event for event in events if event.facts.get("code") == "sound"]
    assert len(found) == 1
    assert (found[0].facts["severity"], "--no-audio" in found[0].facts["fix"]) == ("warning", True)
    planned = (tmp_path / "run" / "plan.json").read_text(encoding="utf-8")
    assert found[0].facts["message"] in planned
    output = run.execute(pipe=pipe)
    sound, rate, _ = decode_sound(output)
    place = 4 * 4608 / RATE + 0.048
    assert np.abs(sound[round((place - 0.02) * rate) : round((place + 0.02) * rate)]).max() < 0.02
    assert np.abs(sound[round((place + 0.1) * rate) : round((place + 0.3) * rate)]).max() > 0.4


def test_a_folder_of_pictures_without_sound_is_in_the_plan(tmp_path):
    request = make_request(tmp_path, frames=9, output=tmp_path / "frames")
    whole = add_sound(request.driving, tmp_path / "whole.mkv", seconds=1, rate=RATE)
    whole.replace(request.driving)
    events = []
    RunDirectory.create(tmp_path / "run", request).plan(
        pipe=bare_pipeline(native_height=SIZE, native_width=SIZE), events=events.append
    )
    assert [event.facts["severity"] for event in events if event.facts.get("code") == "sound"] == ["info"]


# ---- the film begins as its source does there ------------------------------------------------------------------------


def heard(path):
    """Mono samples from film time 0 in [-1, 1], and their rate."""
    sound, rate, _ = decode_sound(path)
    with av.open(str(path)) as film:
        kind = film.streams.audio[0].codec_context.format
    return sound / (1 if "flt" in kind.name else 2.0 ** (kind.bits - 1)), rate


def write_grey(path, codec, audio_from, begin, frames=24):
    channels = 4 if codec in ("prores4444", "vp9-alpha") else 3
    with VideoWriter(path, 16, (48, 64), codec, audio_from, frames, audio_start=begin) as writer:
        writer.write(np.full((frames, 48, 64, channels), 90, np.uint8))
    assert probe(path).start == 0


@pytest.fixture(scope="module")
def silent(tmp_path_factory):
    return write_film(tmp_path_factory.mktemp("films") / "silent.mp4", 64, options={"preset": "ultrafast"})


@pytest.mark.parametrize("begin", [0, 0.3137, 1.25])
@pytest.mark.parametrize(
    ("source", "codec", "output", "carried"),
    [
        ("a.mp4", "aac", "o.mp4", ("aac",)),
        ("a.mp4", "aac", "o.mkv", ("aac",)),
        ("a.mkv", "aac", "o.mp4", ("aac",)),
        ("a.mkv", "aac", "o.mkv", ("aac",)),
        ("a.mkv", "libmp3lame", "o.mov", ("mp3",)),
        ("a.mkv", "libmp3lame", "o.mkv", ("mp3", "aac")),
        ("a.mp4", "ac3", "o.mp4", ("ac3",)),
        ("a.mkv", "libopus", "o.webm", ("opus",)),
    ],
)
def test_a_film_sounds_from_its_beginning_as_its_source_does_there(
    silent, tmp_path, source, codec, output, carried, begin
):
    """No packet before the first is missed: within a millisecond, in the first 20 ms as later."""
    film = add_sound(silent, tmp_path / source, seconds=4, rate=RATE, codec=codec)
    pictures = {"mp4": "h264", "mkv": "ffv1", "mov": "prores4444", "webm": "vp9-alpha"}[output[2:]]
    write_grey(tmp_path / output, pictures, film, begin)
    assert probe(tmp_path / output).audio_codec in carried
    (wanted, _), (sound, rate) = heard(film), heard(tmp_path / output)
    assert rate == RATE
    assert abs(len(sound) / RATE - 1.5) < 0.022, "a frame of sound at most"
    first, reach = round(begin * RATE), RATE // 1000
    wanted = wanted[first : first + RATE]
    found = np.pad(sound, (reach, 0))
    lags = [np.sqrt(np.mean((found[lag : lag + RATE] - wanted)[reach:] ** 2)) for lag in range(2 * reach + 1)]
    lag = int(np.argmin(lags)) - reach
    assert lags[lag + reach] < 0.03 < 0.3 < np.sqrt(np.mean(wanted**2))
    early = slice(reach, RATE // 50)
    assert np.sqrt(np.mean((found[lag + reach :][early] - wanted[early]) ** 2)) < 0.05


@pytest.mark.parametrize("begin", [0, 0.3137, 1.25])
@pytest.mark.parametrize(
    ("source", "codec", "output"),
    [
        ("a.mkv", "flac", "o.mkv"),
        ("a.mkv", "pcm_s16le", "o.mkv"),
        ("a.mov", "pcm_s16le", "o.mov"),
        ("a.mov", "alac", "o.mov"),
    ],
)
def test_lossless_sound_is_cut_to_the_sample_and_stays_the_same(silent, tmp_path, source, codec, output, begin):
    film = add_sound(silent, tmp_path / source, seconds=4, rate=RATE, codec=codec)
    write_grey(tmp_path / output, "ffv1" if output == "o.mkv" else "prores4444", film, begin)
    assert probe(tmp_path / output).audio_codec == codec
    (wanted, _), (sound, _) = heard(film), heard(tmp_path / output)
    first = round(begin * RATE)
    assert np.array_equal(sound, wanted[first : first + len(sound)])
    assert len(sound) == 1.5 * RATE


def test_all_channels_and_bits_of_lossless_sound_are_kept(silent, tmp_path):
    values = np.random.default_rng(3).integers(-(2**23), 2**23, (RATE, 6), dtype=np.int32) * 256  # 24 bits of 32
    with av.open(str(silent)) as film, av.open(str(tmp_path / "a.mkv"), "w") as out:
        picture = out.add_stream_from_template(film.streams.video[0])
        stream = out.add_stream("flac", rate=RATE)
        stream.codec_context.layout, stream.codec_context.format = "5.1", "s32"
        for packet in film.demux(video=0):
            if packet.size:
                packet.stream = picture
                out.mux(packet)
        for first in range(0, RATE, 4608):
            block = np.ascontiguousarray(values[first : first + 4608].reshape(1, -1))
            frame = av.AudioFrame.from_ndarray(block, format="s32", layout="5.1")
            frame.rate, frame.pts, frame.time_base = RATE, first, Fraction(1, RATE)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    write_grey(tmp_path / "o.mkv", "ffv1", tmp_path / "a.mkv", 0.3137, frames=8)
    with av.open(str(tmp_path / "o.mkv")) as film:
        found = np.concatenate([frame.to_ndarray().reshape(-1, 6) for frame in film.decode(audio=0)])
    first = round(0.3137 * RATE)
    assert np.array_equal(found, values[first : first + RATE // 2])


def pitches(path):
    """(codec, the strongest pitch in Hz of each channel), samples side by side: PyAV reads planes past the eighth channel."""
    with av.open(str(path)) as film:
        stream, resampler = film.streams.audio[0], av.AudioResampler(format="flt")
        codec, count = stream.codec_context.codec.canonical_name, stream.codec_context.layout.nb_channels
        frames = [out for frame in film.decode(stream) for out in resampler.resample(frame)]
    samples = np.concatenate([frame.to_ndarray().reshape(-1, count) for frame in frames])[RATE // 4 : RATE * 5 // 4]
    return codec, np.abs(np.fft.rfft(samples * np.hanning(RATE)[:, None], axis=0)).argmax(axis=0).tolist()


@pytest.mark.parametrize(
    ("codec", "layout", "stored"),
    [("pcm_s16le", "12 channels", "pcm_s16le"), ("flac", "7.1", "flac"), ("libopus", "7.1", "opus")],
)
def test_eight_channels_and_more_are_carried(silent, tmp_path, codec, layout, stored):
    count = av.AudioLayout(layout).nb_channels
    told = [400 + 150 * channel for channel in range(count)]
    tone = 0.3 * np.sin(2 * np.pi * np.outer(np.arange(2 * RATE) / RATE, told)).astype(np.float32)
    with av.open(str(silent)) as film, av.open(str(tmp_path / "a.mkv"), "w") as out:
        picture = out.add_stream_from_template(film.streams.video[0])
        stream = out.add_stream(codec, rate=RATE)
        stream.codec_context.layout = layout
        for packet in film.demux(video=0):
            if packet.size:
                packet.stream = picture
                out.mux(packet)
        frame = av.AudioFrame.from_ndarray(tone.reshape(1, -1), format="flt", layout=layout)
        frame.rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        out.mux([*stream.encode(frame), *stream.encode()])
    write_grey(tmp_path / "o.mkv", "ffv1", tmp_path / "a.mkv", 0)
    assert pitches(tmp_path / "o.mkv") == (stored, told)
