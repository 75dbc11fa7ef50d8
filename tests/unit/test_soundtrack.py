"""Another soundtrack than the driving video's: in step, cut to the film's length, refused when there is none in it."""

import wave
from pathlib import Path

import av
import numpy as np
import pytest
from film_samples import add_sound, decode_sound, numbered_frame, stepped_tone, write_film
from PIL import Image
from run_material import make_request
from test_video_writing import shift_in_seconds
from tiny import SIZE, bare_pipeline

from scail2.cli.options import make_request as from_options
from scail2.errors import InputError
from scail2.request.animation import AnimationRequest
from scail2.request.masks import check_files
from scail2.runs import RunDirectory
from scail2.video import VideoReader, VideoWriter, probe
from scail2.video.sound import sound_alone

RATE = 48_000


def sound_file(path: Path, seconds: float) -> Path:
    """The stepped tone as a file of sound alone, in the form its name says."""
    samples = np.clip(stepped_tone(seconds, RATE)[:1] * 32767, -32768, 32767).astype(np.int16)
    if path.suffix == ".wav":
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(samples[0].tobytes())
        return path
    codec = {".mp3": "libmp3lame", ".flac": "flac", ".ogg": "libopus", ".m4a": "aac"}[path.suffix]
    with av.open(str(path), "w", format="mp4" if path.suffix == ".m4a" else None) as out:
        stream = out.add_stream(codec, rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = RATE
        resampler = av.AudioResampler(
            stream.codec_context.format.name, "mono", RATE, stream.codec_context.frame_size or 4096
        )
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("name", ["s.wav", "s.flac", "s.mp3", "s.ogg", "s.m4a"])
def test_a_file_of_sound_begins_with_the_film_and_ends_with_it(tmp_path, name):
    frames = np.stack([numbered_frame(i, 48, 64) for i in range(27)])
    sound = sound_file(tmp_path / name, 4)
    with VideoWriter(tmp_path / "o.mp4", 16, (48, 64), audio_from=sound) as writer:
        for frame in frames:
            writer.write(frame[None])
    _, _, end = decode_sound(tmp_path / "o.mp4")
    assert abs(end - 27 / 16) <= 1024 / RATE + 0.001
    # MP3 and AAC begin with what their encoders add; a player that follows no gapless tags hears it, too.
    assert abs(shift_in_seconds(tmp_path / "o.mp4", 0)) <= 0.03


@pytest.mark.parametrize("name", ["s.wav", "s.flac", "s.mp3", "s.ogg", "s.m4a"])
def test_a_file_of_sound_alone_is_known_by_its_content(tmp_path, name):
    sound = sound_file(tmp_path / name, 2)
    known = sound_alone(sound.rename(tmp_path / "nameless"))
    assert known.suffix == Path(name).suffix
    assert abs(float(known.duration) - 2) < 0.06  # MP3 and Opus pad


def test_films_and_pictures_are_no_sound_alone(tmp_path):
    film = write_film(tmp_path / "film.mkv", 5)
    Image.new("RGB", (8, 8)).save(tmp_path / "p.jpg")
    for path in (film, add_sound(film, tmp_path / "loud.mkv", seconds=1), tmp_path / "p.jpg"):
        assert sound_alone(path) is None
    (tmp_path / "cut.flac").write_bytes(sound_file(tmp_path / "s.flac", 1).read_bytes()[:20])
    with pytest.raises(InputError, match=r"cut\.flac"):
        sound_alone(tmp_path / "cut.flac")


@pytest.fixture(scope="module")
def pipe():
    return bare_pipeline(native_height=SIZE, native_width=SIZE)


def test_a_run_takes_another_soundtrack_and_only_its_film_is_written_again(tmp_path, pipe):
    request = make_request(tmp_path, frames=9)
    RunDirectory.create(tmp_path / "film.run", request).execute(pipe)
    assert not probe(request.output).has_audio
    sound = sound_file(tmp_path / "song.wav", 4)

    def nothing_rendered(event):
        assert event.name not in ("segment_started", "masks_progress")

    changed = RunDirectory.create(tmp_path / "film.run", request.with_changes(audio=sound))
    changed.execute(pipe, events=nothing_rendered)
    _, _, end = decode_sound(request.output)
    assert abs(end - 9 / 8) < 0.03  # 9 frames at 8 a second
    assert abs(shift_in_seconds(request.output, 0)) <= 0.002
    assert RunDirectory.open(changed.path).request.audio == sound
    sound_file(sound, 2)
    with pytest.raises(InputError, match="The file given as audio has changed"):
        RunDirectory.open(changed.path).resume(pipe)
    RunDirectory.create(tmp_path / "film.run", request.with_changes(audio=False)).execute(pipe, events=nothing_rendered)
    assert not probe(request.output).has_audio


def test_a_film_as_soundtrack_counts_from_its_first_picture(tmp_path):
    loud = add_sound(write_film(tmp_path / "silent.mkv", 48), tmp_path / "late.mkv", seconds=3, rate=RATE, start=0.4)
    with VideoWriter(tmp_path / "o.mp4", 16, (48, 64), audio_from=loud) as writer:
        writer.write(VideoReader(loud, size=(48, 64)).frames(0, 27))
    assert abs(shift_in_seconds(tmp_path / "o.mp4", -0.4)) <= 0.002


def test_what_cannot_be_a_soundtrack_is_refused_before_rendering(tmp_path, pipe):
    request = make_request(tmp_path, frames=5)

    def plan(**changes):
        RunDirectory.create(tmp_path / "film.run", request.with_changes(**changes), renders=False).plan(pipe=pipe)

    with pytest.raises(InputError, match=r"'audio' \(--audio\): there is no file .*none.wav"):
        plan(audio=tmp_path / "none.wav")
    with pytest.raises(InputError, match=r"driving.mkv: there is no sound in it .*--no-audio"):
        plan(audio=request.driving)
    (tmp_path / "notes.txt").write_text("la la la")
    with pytest.raises(InputError, match="neither a film nor sound of a known kind"):
        plan(audio=tmp_path / "notes.txt")
    song = sound_file(tmp_path / "song.wav", 1)
    with pytest.raises(InputError, match=r"film.gif: gif has no sound, but --audio names .*song.wav"):
        plan(audio=song, output=tmp_path / "film.gif")
    with pytest.raises(InputError, match="would overwrite it"):
        request.with_changes(audio=song, output=song)
    assert not (tmp_path / "film.run" / "plan.json").exists()


def test_the_soundtrack_as_option_setting_and_in_earlier_requests(tmp_path):
    files = {"reference": "a.png", "driving": "b.mp4", "output": "c.mp4"}
    named = from_options(None, None, files | {"audio": "song.mp3", "no_audio": None})
    assert (named.audio, named.soundtrack) == (Path.cwd() / "song.mp3",) * 2
    without = from_options(None, None, files | {"audio": None, "no_audio": True})
    assert (without.audio, without.soundtrack) == (False, None)
    with pytest.raises(InputError, match="--audio and --no-audio contradict each other"):
        from_options(None, None, files | {"audio": "song.mp3", "no_audio": True})
    (tmp_path / "run.toml").write_text('reference = "a.png"\ndriving = "b.mp4"\noutput = "c.mp4"\naudio = "song.mp3"\n')
    assert AnimationRequest.from_toml(tmp_path / "run.toml").audio == tmp_path / "song.mp3"
    assert AnimationRequest.from_toml(tmp_path / "run.toml", audio=False).soundtrack is None
    old = AnimationRequest(**files).to_json() | {"audio": True}
    for added in ("alpha", "alpha_erode", "alpha_feather"):
        del old[added]  # a request of an earlier version
    assert AnimationRequest.from_json(old).soundtrack == Path.cwd() / "b.mp4"
    with pytest.raises(InputError, match="'reference'"):
        check_files(named)
