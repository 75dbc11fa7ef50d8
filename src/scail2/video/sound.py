"""A film's sound, decoded: what is damaged in it is known by its place, and is never more than its own frame."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np

from scail2.errors import InputError
from scail2.video import streams
from scail2.video.container import ContainerFrames
from scail2.video.kinds import HEAD, FileKind, check_path, is_sound, sniff
from scail2.video.opening import decoding_errors, open_sound
from scail2.video.source import Note

logger = logging.getLogger(__name__)

# These carry checksums of their samples, which FFmpeg looks at only when told to.
_CHECKED_CODECS = {"flac", "wavpack", "tta", "tak", "ape", "truehd", "mlp", "ac3", "eac3"}
_SHOWN_PLACES = 3
# How samples are handed to PyAV and taken from it: channels side by side. Of sound whose channels lie apart (fltp) it looks for
# a ninth plane behind the eighth, and the process dies.
SAMPLE_FORMAT = "flt"
# What files of sound alone are called, by the first of FFmpeg's names of their form.
_SUFFIXES = {
    "wav": ".wav",
    "aiff": ".aiff",
    "mp3": ".mp3",
    "flac": ".flac",
    "ogg": ".ogg",
    "aac": ".aac",
    "mov": ".m4a",
    "matroska": ".mka",
}


@dataclass(frozen=True, slots=True)
class Damage:
    """A part of the sound that cannot be decoded: seconds on the file's clock, the second possibly equal to the first."""

    start: Fraction
    stop: Fraction


@dataclass(frozen=True, slots=True)
class SoundSource:
    """Where a film's sound comes from.

    Attributes:
        begin: the file's clock, in seconds, at which a film begins that carries its sound: when its first picture is on
            show, or, of a file without pictures, when its sound begins.
        packets_whole: whether the file's packets can be passed on as they are.
    """

    path: Path
    begin: Fraction
    packets_whole: bool


@dataclass(frozen=True, slots=True)
class SoundFile:
    """A file of sound alone: how long it is, in seconds, and the suffix that fits its content."""

    duration: Fraction
    suffix: str


@dataclass(frozen=True, slots=True)
class SoundCheck:
    """What running through a sound track found: its damage, and whether any of it could be decoded."""

    damage: tuple[Damage, ...]
    heard: bool


def decoded(container: av.container.InputContainer, stream) -> Iterator[av.AudioFrame | Damage]:
    """The frames of a sound track from where the container stands, and in their place what cannot be decoded."""
    if streams.codec_name(stream) in _CHECKED_CODECS and not stream.codec_context.is_open:
        stream.codec_context.options = {"err_detect": "crccheck+explode"}
    clock = Fraction(0)
    for packet in container.demux(stream):
        time = packet.pts if packet.pts is not None else packet.dts
        clock = clock if time is None else time * Fraction(packet.time_base)
        stop = clock + (packet.duration or 0) * Fraction(packet.time_base)
        try:
            frames = packet.decode() if packet.size else stream.codec_context.decode(None)
        except (av.error.FFmpegError, ValueError) as error:
            logger.debug("sound at %.3f s: %s", float(clock), error)
            yield Damage(clock, stop)
            continue
        if packet.is_corrupt or any(frame.is_corrupt for frame in frames):
            yield Damage(clock, stop)
            continue
        yield from frames


def samples_of(frame: av.AudioFrame) -> np.ndarray:
    """The samples of a frame in `SAMPLE_FORMAT`: float32 (channels, N)."""
    return frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T


def frame_of(samples: np.ndarray, place: int, rate: int, layout: str) -> av.AudioFrame:
    """Samples float32 (channels, N) as a frame that begins at sample ``place``."""
    frame = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1), format=SAMPLE_FORMAT, layout=layout)
    frame.rate, frame.pts, frame.time_base = rate, place, Fraction(1, rate)
    return frame


def sound_source(path: str | os.PathLike) -> SoundSource | None:
    """The sound of a film or of a file of sound alone; None where there is none (a folder, pictures, a silent film).

    Raises:
        InputError: nothing readable is there, or neither film nor sound.
    """
    path = check_path(path)
    if path.is_dir():
        return None
    with decoding_errors(path, "reading"), path.open("rb") as file:
        head = file.read(HEAD)
    kind = sniff(head)
    if kind is not None and not kind.is_container:
        return None
    if kind is None and not is_sound(head):
        raise InputError(
            f"{path}: the content is neither a film nor sound of a known kind (wav, aiff, mp3, flac, ogg, aac, m4a); convert it: "
            "ffmpeg -i IN OUT.flac"
        )
    with decoding_errors(path, "opening the sound"), open_sound(path) as container:
        stream, shows = streams.sound_of(container), bool(streams.films(container))
        if stream is None:
            return None
        begin = Fraction(stream.start_time or 0) * Fraction(stream.time_base)
    if kind is not None and shows:
        pictures = ContainerFrames(path, kind)
        begin = pictures.info.start
        pictures.close()
    return SoundSource(path, begin, packets_whole=kind in (FileKind.MP4, FileKind.MATROSKA))


def sound_alone(path: Path) -> SoundFile | None:
    """What a file that has sound and no film says of itself, nothing decoded yet; None for any other.

    Raises:
        InputError: it announces such a file, or a film, and cannot be read.
    """
    with decoding_errors(path, "reading"), path.open("rb") as file:
        head = file.read(HEAD)
    kind = sniff(head)
    if (kind is None and not is_sound(head)) or (kind is not None and not kind.is_container):
        return None
    with decoding_errors(path, "opening the sound"), open_sound(path) as container:
        stream = streams.sound_of(container)
        if stream is None or streams.films(container):
            return None
        length = Fraction(container.duration or 0, av.time_base)
        suffix = _SUFFIXES.get(container.format.name.split(",")[0], ".sound")
    return SoundFile(length, suffix)


def refuse_silent(path: Path) -> None:
    """Raises `InputError` where a soundtrack was named and there is no sound in it."""
    source = sound_source(path)
    check = check_sound(path) if source is not None else None
    if check is None or not check.heard:
        raise InputError(
            f"{path}: there is no sound in it that can be decoded; name another file with --audio, or use --no-audio"
        )


def check_sound(path: Path) -> SoundCheck | None:
    """Runs through a film's sound once; None if it has none. Remembered until the file changes.

    Raises:
        InputError: the file cannot be read to its end.
    """
    stat = os.stat(path)
    return _check(Path(path).absolute(), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _check(path: Path, _changed: int, _size: int) -> SoundCheck | None:
    with decoding_errors(path, "reading the sound"), open_sound(path) as container:
        stream = streams.sound_of(container)
        if stream is None:
            return None
        damage, heard = [], False
        for part in decoded(container, stream):
            if isinstance(part, Damage):
                damage.append(part)
            else:
                heard = heard or part.samples > 0
    return SoundCheck(damage=tuple(damage), heard=heard)


def notes_on(path: Path, start: Fraction, seconds: Fraction) -> list[Note]:
    """What a film that carries this file's sound will lack, from ``start`` on the file's clock for so many seconds."""
    check = check_sound(path)
    if check is None:
        return []
    if not check.heard:
        sentence = "no part of its sound can be decoded: the film will be silent"
        return [Note(code="sound", message=sentence, fix="get or encode the sound again, or use --no-audio")]
    within = [each for each in check.damage if each.stop >= start and each.start < start + seconds]
    if not within:
        return []
    places = ", ".join(f"{max(0.0, float(each.start - start)):.2f} s" for each in within[:_SHOWN_PLACES])
    more = f" and {len(within) - _SHOWN_PLACES} more" if len(within) > _SHOWN_PLACES else ""
    what = "a damaged place" if len(within) == 1 else f"{len(within)} damaged places"
    sentence = f"its sound has {what}, at {places}{more}: silence there"
    return [Note(code="sound", message=sentence, fix="get or encode the sound again, or use --no-audio")]
