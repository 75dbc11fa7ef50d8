"""Whatever the film's pixels, turn, clock, rate and tracks: discs are round, pictures numbered, colours and tones right."""

from fractions import Fraction

import made_films
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_films import PATCH, MadeFilm, Sound

from scail2.video import VideoReader, VideoWriter

ASPECTS = [Fraction(1), Fraction(4, 3), Fraction(3, 4), Fraction(64, 45), Fraction(8, 9), Fraction(2), Fraction(1, 2)]
ASPECTS += [Fraction(118, 81), Fraction(12, 11), Fraction(3)]
RATES = [
    Fraction(1, 8),
    Fraction(1, 16),
    Fraction(1001, 24_000),
    Fraction(1, 25),
    Fraction(1001, 30_000),
    Fraction(1, 50),
]
SOUNDS = {
    ".mp4": ["aac", "libmp3lame", "ac3", "flac"],
    ".mov": ["aac", "pcm_s16le", "alac"],
    ".mkv": ["aac", "libmp3lame", "ac3", "flac", "libopus", "pcm_s16le"],
    ".avi": ["pcm_s16le", "libmp3lame", "ac3"],
    ".ts": ["aac", "ac3", "mp2"],
}
STEREO_AT_MOST = ("libmp3lame", "mp2", "alac")


@st.composite
def sounds(draw, suffix):
    """Up to two tracks, each with a pitch of its own, of which at most one is the default."""
    count, default = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    tracks = []
    for number in range(count):
        codec = draw(st.sampled_from(SOUNDS[suffix]))
        layouts = ["mono", "stereo"] if codec in STEREO_AT_MOST else ["mono", "stereo", "5.1"]
        rates = [48_000] if codec == "libopus" else [32_000, 44_100, 48_000]
        rates += [8_000, 96_000] if codec in ("pcm_s16le", "flac") else []
        layout, rate = draw(st.sampled_from(layouts)), draw(st.sampled_from(rates))
        tracks.append(Sound((440, 1320)[number], codec, layout, rate, default == number))
    return tuple(tracks)


@st.composite
def films(draw):
    suffix = draw(st.sampled_from(sorted(SOUNDS)))
    modern = suffix in (".mp4", ".mov", ".mkv")
    codec = draw(st.sampled_from(["libx264", "mpeg4"] + (["mpeg2video"] if suffix == ".ts" else [])))
    base, count = draw(st.sampled_from(RATES)), draw(st.integers(9, 16))
    if codec == "mpeg2video":
        base = draw(st.sampled_from([Fraction(1, 25), Fraction(1001, 30_000), Fraction(1, 50)]))
    steps = (1,) * count
    finer = draw(st.sampled_from([1, 1, 10, 512])) if modern and codec == "libx264" else 1
    if finer > 1:
        base, steps = base / finer, (finer,) * count
    if modern and codec == "libx264" and draw(st.booleans()):
        steps = tuple(steps[0] * draw(st.sampled_from([1, 1, 2, 3])) for _ in steps)
    turned = suffix in (".mp4", ".mov")
    covers = draw(st.lists(st.just("cover"), max_size=1)) if modern else []
    aspects = [Fraction(1)] if codec == "mpeg2video" else ASPECTS
    return MadeFilm(
        suffix=suffix,
        codec=codec,
        b_frames=draw(st.integers(0, 2)),
        size=draw(st.sampled_from([(96, 128), (128, 96), (112, 112)])),
        aspect=draw(st.sampled_from(aspects)),
        degrees=draw(st.sampled_from([0, 90, 180, 270])) if turned else 0,
        mirror=draw(st.booleans()) if turned else False,
        time_base=base,
        steps=steps,
        sounds=draw(sounds(suffix)),
        order=tuple(draw(st.permutations([*covers, "film", "sound"]))),
    )


@given(film=films())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_film_is_read_as_it_was_meant(tmp_path_factory, film):
    folder = tmp_path_factory.mktemp("film")
    with VideoReader(made_films.write(film, folder)) as reader:
        frames = reader.frames(0, len(reader))
        fps, info = reader.fps, reader.source_info
        again = len(reader) // 2
        np.testing.assert_array_equal(reader.frames(again, again + 1)[0], frames[again])
        check_pictures(film, frames, fps, variable=info.variable_rate)
        if film.sounds:
            with VideoWriter(folder / "out.mp4", fps, frames.shape[1:3], "h264", info.path, len(frames)) as writer:
                writer.write(frames)
            # AVI and transport streams cannot say which track is the default.
            named = [sound for sound in film.sounds if sound.default and film.suffix not in (".avi", ".ts")]
            played = (named or film.sounds)[0]
            assert abs(made_films.measure_pitch(folder / "out.mp4") - played.pitch) < 4
    codes = [note.code for note in info.notes]
    assert codes.count("track") == ("cover" in film.order) + (len(film.sounds) == 2)
    assert ("pixel_aspect" in codes) == (film.aspect != 1)


def check_pictures(film, frames, fps, *, variable):
    """Size, disc, colour and which picture is on show, all by value."""
    height, width = film.size
    coded = [made_films.undone(frame, film) for frame in frames]
    assert coded[0].shape[0] == height
    assert abs(coded[0].shape[1] - float(width * film.aspect)) <= 1
    for picture in (coded[0], coded[-1]):
        across = 2 * made_films.radius(film.size, film.aspect)
        # Coded pixels two or three times as wide as high blur the disc's ends by as much.
        assert np.abs(np.array(made_films.measure_disc(picture)) - across).max() <= 1 + float(film.aspect)
        assert np.abs(made_films.measure_patch(picture) - PATCH).max() <= 8
    numbers = [made_films.read_number(picture) for picture in coded]
    if len(set(film.steps)) == 1:
        assert fps == 1 / (film.steps[0] * film.time_base)
        repeated = len(numbers) - len(film.steps)
        # An AVI whose sound begins before its pictures shows the first one once more.
        assert 0 <= repeated <= (film.suffix == ".avi")
        assert list(dict.fromkeys(numbers)) == list(range(len(film.steps)))
        return
    # Clocks in milliseconds leave open which picture is on show within one of a change. A film whose pictures all lie within
    # half a step of a constant rate has that rate.
    clock, times = Fraction(1, 900) if variable else 1 / (2 * fps), film.times
    for k, number in enumerate(numbers):
        now = k / fps
        assert times[number] <= now + clock
        assert number + 1 == len(times) or now <= times[number + 1] + clock
    assert abs(len(numbers) / fps - film.seconds) <= 1 / (2 * fps) + max(film.steps) * film.time_base
