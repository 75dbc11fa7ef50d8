"""Sound passed on as it is coded: which packets a film needs, and whether what it then plays is what the source plays."""

import io
import logging
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from scail2.video.opening import open_sound
from scail2.video.sound import SAMPLE_FORMAT, Damage, decoded, samples_of

logger = logging.getLogger(__name__)

Array = np.ndarray

# Packets before the film's beginning: a decoder that starts with the first that is heard has nothing to lay it over, and MP3
# borrows from several before. An edit list keeps them from being heard.
_RUN_IN = Fraction(1, 4)
# What is compared of the two beginnings, and how far apart clocks in milliseconds may put them, in seconds.
_COMPARED, _CLOCK = Fraction(1, 10), Fraction(1, 1000)
# Decoders that add noise where nothing was coded do not add the same twice: of the sound's own size, and of full scale.
_RELATIVE, _ABSOLUTE = 0.05, 1e-3


def seek_before(container: av.container.InputContainer, stream: av.AudioStream, begin: Fraction) -> None:
    """Goes to where reading has to start for sound from ``begin`` seconds on.

    Codecs need a run-in before the first sample that counts. Where times are coarser than samples, all is read from the
    beginning, since only counting tells which sample it is.
    """
    early = begin - Fraction(1, 2)
    if early > 0 and Fraction(stream.time_base) * stream.codec_context.sample_rate <= 1:
        container.seek(int(early / Fraction(stream.time_base)), stream=stream, backward=True)


def film_packets(
    container: av.container.InputContainer, stream: av.AudioStream, begin: Fraction
) -> Iterator[av.Packet]:
    """The packets of a film that begins at ``begin`` seconds of a track, run-in included, with times in samples of the film."""
    context, base = stream.codec_context, Fraction(stream.time_base)
    rate, last, following = context.sample_rate, None, None
    tick = base * rate
    seek_before(container, stream, begin)
    for packet in container.demux(stream):
        if packet.size == 0 or packet.pts is None:
            continue
        start, length = (packet.pts * base - begin) * rate, round((packet.duration or 0) * tick)
        if tick > 1 and context.frame_size:
            length = context.frame_size
        # Clocks coarser than samples only seem to jump.
        place = following if following is not None and abs(start - following) <= max(1, tick) else round(start)
        place = place if last is None else max(place, last + 1)
        last, following = place, place + length
        if following > -_RUN_IN * rate:
            packet.pts = packet.dts = place
            packet.duration, packet.time_base = length, Fraction(1, rate)
            yield packet


def plays_alike(path: Path, index: int, begin: Fraction, container_format: str) -> bool:
    """Whether a track's packets, in a film of that format, begin as the track itself does at ``begin`` seconds.

    Tried in memory, because a film must not fail or lag by it: mp4 refuses MP3 of 8 kHz, and Matroska has no edit lists, so
    that a cut inside a packet, or one that needs a run-in, is not possible there.
    """
    try:
        with open_sound(path) as source:
            trial, first = _film_of(source, source.streams[index], begin, container_format)
        with av.open(io.BytesIO(trial)) as film:
            sent = next(packet.pts * Fraction(packet.time_base) for packet in film.demux(film.streams.audio[0]))
            if abs(sent - first) > _CLOCK:
                return False
        with open_sound(path) as source, av.open(io.BytesIO(trial)) as film:
            wanted = _opening(source, source.streams[index], begin)
            return _alike(wanted, _opening(film, film.streams.audio[0], Fraction(0)))
    except (av.error.FFmpegError, ValueError, TypeError, StopIteration) as error:
        logger.debug("%s: its sound is encoded anew for %s: %s", path, container_format, error)
        return False


def _film_of(
    source: av.container.InputContainer, stream: av.AudioStream, begin: Fraction, container_format: str
) -> tuple[bytes, Fraction]:
    """A film of the first packets alone, and the time of its first one in seconds."""
    trial, first, stop = io.BytesIO(), None, None
    with av.open(trial, "w", format=container_format) as film:
        target = film.add_stream_from_template(stream)
        for packet in film_packets(source, stream, begin):
            time = packet.pts * Fraction(packet.time_base)
            first = time if first is None else first
            stop = max(time, Fraction(0)) + 2 * _COMPARED if stop is None else stop
            packet.stream = target
            film.mux(packet)
            if time > stop:
                break
    if first is None:
        raise ValueError("no packets")
    return trial.getvalue(), first


def _opening(container: av.container.InputContainer, stream: av.AudioStream, begin: Fraction) -> tuple[int, int, Array]:
    """Rate, the first sample from ``begin`` seconds on, counted from there, and what is heard then: float32 (channels, N)."""
    rate = stream.codec_context.sample_rate
    resampler = av.AudioResampler(format=SAMPLE_FORMAT)
    parts: list[Array] = []
    first = 0
    following: int | None = None
    seek_before(container, stream, begin)
    for part in decoded(container, stream):
        if isinstance(part, Damage):
            raise ValueError("damaged")
        for frame in resampler.resample(part):
            start = (frame.pts * Fraction(frame.time_base) - begin) * rate
            place = round(start)
            if following is not None and abs(start - following) <= _CLOCK * rate:
                place = following
            following = place + frame.samples
            if following <= 0:
                continue
            parts.append(samples_of(frame)[:, max(0, -place) :])
            first = max(0, place) if len(parts) == 1 else first
        if sum(each.shape[1] for each in parts) >= _COMPARED * rate:
            break
    return rate, first, np.concatenate(parts, axis=1)[:, : round(_COMPARED * rate)]


def _alike(one: tuple[int, int, Array], other: tuple[int, int, Array]) -> bool:
    (rate, first, wanted), (its_rate, its_first, found) = one, other
    reach = round(_CLOCK * rate)
    length = min(wanted.shape[1], found.shape[1]) - 2 * reach
    if rate != its_rate or abs(first - its_first) > reach or len(wanted) != len(found) or length <= 0:
        return False
    piece = wanted[:, reach : reach + length]
    errors = [float(np.square(piece - found[:, lag : lag + length]).mean()) for lag in range(2 * reach + 1)]
    return min(errors) ** 0.5 <= _RELATIVE * float(np.square(piece).mean()) ** 0.5 + _ABSOLUTE
