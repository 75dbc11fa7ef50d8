"""The driving video's sound, carried into the finished film and cut to its exact length."""

import io
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from scail2.errors import InputError
from scail2.video import streams
from scail2.video.opening import decoding_errors, open_sound
from scail2.video.sound import SAMPLE_FORMAT, Damage, check_sound, decoded, frame_of, samples_of, sound_source
from scail2.video.sound_copy import film_packets, plays_alike, seek_before

logger = logging.getLogger(__name__)

# Codecs that players expect in each container; these are carried as they are, others are encoded anew.
_CARRIED = {
    "mp4": {"aac", "mp3", "ac3", "eac3"},
    "mov": {"aac", "mp3", "ac3", "eac3", "pcm_s16le", "pcm_s24le", "alac"},
    "matroska": {"aac", "mp3", "ac3", "eac3", "opus", "vorbis", "flac", "pcm_s16le", "pcm_s24le"},
    "webm": {"opus", "vorbis"},
}
# Of these the samples are carried, not the packets: coded again they are the same, and the cut is where it should be.
_LOSSLESS = {"flac", "alac", "pcm_s16le", "pcm_s24le"}
_ENCODER = {"mp4": "aac", "mov": "aac", "matroska": "aac", "webm": "libopus"}
_RATE = 48_000


@dataclass(frozen=True, slots=True)
class _Coding:
    """How sound is encoded: `sample_format` None is the encoder's own."""

    encoder: str
    rate: int
    layout: str
    sample_format: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    def add_to(self, output: av.container.OutputContainer) -> av.AudioStream:
        """A stream of an output that is encoded so."""
        stream = output.add_stream(self.encoder, rate=self.rate, options=dict(self.options))
        stream.codec_context.layout = self.layout
        if self.sample_format is not None:
            stream.codec_context.format = self.sample_format
        return stream


class AudioCarrier:
    """One sound track on its way from a source file to an output.

    Packets are copied only where the film then begins as the source does there: see `plays_alike`. It ends on the nearest
    packet edge, within half an audio frame (about 10 ms). Encoded sound is cut to the sample at both ends.
    """

    def __init__(self, path: Path, container: av.container.InputContainer, stream, begin: Fraction, *, may_copy: bool):
        self.path, self._container, self._source, self._begin = path, container, stream, begin
        self._may_copy, self._ended, self._copied, self._broken = may_copy, False, False, False
        self._held: av.Packet | None = None
        self._packets: Iterator[av.Packet] = iter(())

    @classmethod
    def open(cls, path: str | os.PathLike, start: float | Fraction = 0) -> "AudioCarrier | None":
        """The sound of a file from ``start`` seconds after its first picture, or, where there are no pictures, after the
        sound's beginning; None if it has no sound (or is a folder, gif …).

        Raises:
            InputError: missing or unreadable file, or a start that is not a finite number ≥ 0.
        """
        try:
            offset = Fraction(start)
        except (ValueError, OverflowError, TypeError):
            raise InputError(f"the audio start must be a number of seconds, got {start!r}") from None
        if offset < 0:
            raise InputError(f"the audio start must not be negative, got {start}")
        source = sound_source(path)
        checked = check_sound(source.path) if source is not None else None
        if source is None or checked is None:
            return None
        if not checked.heard:
            logger.warning("%s: no part of its sound can be decoded; the film is silent", path)
            return None
        with decoding_errors(source.path, "opening the sound"):
            container = open_sound(source.path)
        # Packets with a damaged one among them, and such as a container without an index holds, are not passed on.
        may_copy = source.packets_whole and not checked.damage
        return cls(source.path, container, streams.sound_of(container), source.begin + offset, may_copy=may_copy)

    def close(self) -> None:
        self._packets = self._decoded = iter(())
        self._container.close()

    def attach(self, output: av.container.OutputContainer, container_format: str) -> None:
        """Adds the output stream; call before the first packet is muxed."""
        codec = streams.codec_name(self._source)
        listed = self._may_copy and codec in _CARRIED[container_format]
        self._copied = (
            listed
            and codec not in _LOSSLESS
            and plays_alike(self.path, self._source.index, self._begin, container_format)
        )
        if self._copied:
            self._target = output.add_stream_from_template(self._source)
            self._packets = film_packets(self._container, self._source, self._begin)
            return
        coding = self._lossless(codec, container_format) if listed and codec in _LOSSLESS else None
        coding = coding or self._lossy(container_format)
        self._target = coding.add_to(output)
        self._rate, self._layout = coding.rate, coding.layout
        self._decoded = self._decode()
        self._waiting = np.zeros((self._target.codec_context.layout.nb_channels, 0), dtype=np.float32)
        self._next: av.AudioFrame | None = None
        self._start = 0  # the film's sample at which it belongs
        self._encoded = 0  # samples handed to the encoder so far; `_waiting` follows them directly
        self._following: int | None = None  # the film's sample behind what was decoded last

    def _lossy(self, container_format: str) -> _Coding:
        rate = self._source.codec_context.sample_rate
        rate = _RATE if container_format == "webm" or rate not in (32_000, 44_100, 48_000) else rate
        layout = "mono" if self._source.codec_context.layout.nb_channels == 1 else "stereo"
        return _Coding(_ENCODER[container_format], rate, layout, options={"b": "192k"})

    def _lossless(self, codec: str, container_format: str) -> _Coding | None:
        """The source's own coding, all channels and bits of it; None where the encoder or the container does not take it."""
        context = self._source.codec_context
        bits = "s16" if context.format.bits == 16 else "s32"
        try:
            formats = [each.name for each in av.Codec(codec, "w").audio_formats or ()]
            sample_format = next(name for name in formats if name.startswith(bits))
            coding = _Coding(codec, context.sample_rate, context.layout.name, sample_format)
            with av.open(io.BytesIO(), "w", format=container_format) as trial:
                stream = coding.add_to(trial)
                silence = np.zeros((context.layout.nb_channels, 1024), np.float32)
                trial.mux(stream.encode(frame_of(silence, 0, coding.rate, coding.layout)))
                trial.mux(stream.encode())
        except (av.error.FFmpegError, ValueError, StopIteration) as error:
            logger.debug("%s: its sound is not %s in %s: %s", self.path, codec, container_format, error)
            return None
        return coding

    def packets_until(self, time: Fraction, *, last: bool = False) -> Iterator[av.Packet]:
        """Packets that belong before ``time`` seconds of the film; with ``last`` the track ends there."""
        if self._copied:
            yield from self._copied_until(time)
        else:
            yield from self._encoded_until(time, last=last)

    # Copying

    def _copied_until(self, time: Fraction) -> Iterator[av.Packet]:
        while not self._ended:
            packet = self._peek()
            if packet is None or (packet.pts + Fraction(packet.duration, 2)) * Fraction(packet.time_base) > time:
                return
            self._held = None
            packet.stream = self._target
            yield packet

    def _peek(self) -> av.Packet | None:
        if self._held is None:
            with decoding_errors(self.path, "reading the sound"):
                self._held = next(self._packets, None)
            self._ended = self._held is None
        return self._held

    # Encoding

    def _decode(self) -> Iterator[av.AudioFrame]:
        """Sound from the film's beginning on, at the target's rate and layout, in step with the clock."""
        resampler = av.AudioResampler(format=SAMPLE_FORMAT, layout=self._layout, rate=self._rate)
        seek_before(self._container, self._source, self._begin)
        for part in decoded(self._container, self._source):
            if isinstance(part, Damage):
                self._broken = True
            else:
                yield from resampler.resample(part)
        yield from resampler.resample(None)

    def _encoded_until(self, time: Fraction, *, last: bool) -> Iterator[av.Packet]:
        wanted = round(time * self._rate)
        self._fill(wanted)
        size = self._target.codec_context.frame_size or 1024
        while self._encoded < wanted and self._waiting.shape[1]:
            count = min(size, wanted - self._encoded, self._waiting.shape[1])
            if count < size and not last:
                return
            samples, self._waiting = self._waiting[:, :count], self._waiting[:, count:]
            frame = frame_of(samples, self._encoded, self._rate, self._layout)
            self._encoded += count
            yield from self._target.encode(frame)
        if last:
            yield from self._target.encode()

    def _fill(self, wanted: int) -> None:
        """Makes sound wait up to sample ``wanted`` of the film: gaps become silence, overlaps and a prelude are dropped."""
        while (end := self._encoded + self._waiting.shape[1]) < wanted:
            if self._next is None and not self._ended:
                with decoding_errors(self.path, "decoding the sound"):
                    self._next = next(self._decoded, None)
                self._ended = self._next is None
                if self._next is not None:
                    self._start = self._place(self._next, self._following)
                    self._following = self._start + self._next.samples
            if self._next is None:
                return
            start = self._start
            if start >= wanted:
                self._extend(np.zeros((self._waiting.shape[0], wanted - end), dtype=np.float32))
                return
            samples = samples_of(self._next)
            self._next = None
            self._extend(np.pad(samples[:, max(0, end - start) :], ((0, 0), (max(0, start - end), 0))))

    def _place(self, frame: av.AudioFrame, before: int | None) -> int:
        """The film's sample at which decoded sound belongs; ``before`` is the one behind the sound before it, if any."""
        if frame.pts is None:
            return before or 0
        start = round((frame.pts * Fraction(frame.time_base) - self._begin) * self._rate)
        if before is None:
            return start
        if self._broken:
            self._broken = False
            return self._behind_damage(start, before)
        # Clocks in milliseconds make neighbouring frames seem to overlap or gape by up to this (5 ms).
        return before if abs(start - before) <= self._rate // 200 else start

    def _behind_damage(self, start: int, before: int) -> int:
        """Where sound belongs that follows lost frames: whole ones, where their size is known and the clock agrees."""
        context = self._source.codec_context
        size = (context.frame_size or 0) * self._rate / context.sample_rate
        lost = before + round(round((start - before) / size) * size) if size else start
        return lost if abs(lost - start) <= self._rate // 500 else start

    def _extend(self, samples: np.ndarray) -> None:
        self._waiting = np.concatenate([self._waiting, samples], axis=1)
