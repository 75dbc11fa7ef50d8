"""The driving video's sound, carried into the finished film and cut to its exact length."""

import io
import itertools
import logging
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from scail2.errors import InputError
from scail2.video import streams
from scail2.video.opening import decoding_errors, open_sound
from scail2.video.sound import Damage, check_sound, decoded, sound_source

logger = logging.getLogger(__name__)

# Codecs that players expect in each container; these are copied bit for bit, others are encoded anew.
_COPIED = {
    "mp4": {"aac", "mp3", "ac3", "eac3"},
    "mov": {"aac", "mp3", "ac3", "eac3", "pcm_s16le", "pcm_s24le", "alac"},
    "matroska": {"aac", "mp3", "ac3", "eac3", "opus", "vorbis", "flac", "pcm_s16le", "pcm_s24le"},
    "webm": {"opus", "vorbis"},
}
_ENCODER = {"mp4": "aac", "mov": "aac", "matroska": "aac", "webm": "libopus"}
_RATE = 48_000
_TRIED_PACKETS = 8


class AudioCarrier:
    """One sound track on its way from a source file to an output.

    Copied packets keep their times, so the cut falls on the nearest packet edge: within half an audio frame (about
    10 ms) at both ends. Encoded sound is cut to the sample.
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
        listed = self._may_copy and streams.codec_name(self._source) in _COPIED[container_format]
        self._copied = listed and self._is_accepted(container_format)
        self._allows_negative = container_format in ("mp4", "mov")
        if self._copied:
            self._target = output.add_stream_from_template(self._source)
            self._packets = self._copy()
            return
        rate = self._source.codec_context.sample_rate
        rate = _RATE if container_format == "webm" or rate not in (32_000, 44_100, 48_000) else rate
        self._target = output.add_stream(_ENCODER[container_format], rate=rate, options={"b": "192k"})
        layout = "mono" if self._source.codec_context.layout.nb_channels == 1 else "stereo"
        self._target.codec_context.layout = layout
        self._rate, self._layout = rate, layout
        self._decoded = self._decode()
        self._waiting = np.zeros((1 if layout == "mono" else 2, 0), dtype=np.float32)
        self._next: av.AudioFrame | None = None
        self._encoded = 0  # samples handed to the encoder so far; `_waiting` follows them directly

    def _is_accepted(self, container_format: str) -> bool:
        """Whether the container takes the track as it is (mp4 refuses MP3 of 8 kHz): tried with its first packets, in
        memory, because the film itself must not fail by it."""
        try:
            with open_sound(self.path) as source, av.open(io.BytesIO(), "w", format=container_format) as trial:
                stream = source.streams[self._source.index]
                target = trial.add_stream_from_template(stream)
                packets = (packet for packet in source.demux(stream) if packet.size and packet.pts is not None)
                for packet in itertools.islice(packets, _TRIED_PACKETS):
                    packet.stream = target
                    trial.mux(packet)
        except (av.error.FFmpegError, ValueError) as error:
            logger.debug("%s: its sound is encoded anew for %s: %s", self.path, container_format, error)
            return False
        return True

    def packets_until(self, time: Fraction, *, last: bool = False) -> Iterator[av.Packet]:
        """Packets that belong before ``time`` seconds of the film; with ``last`` the track ends there."""
        if self._copied:
            yield from self._copied_until(time)
        else:
            yield from self._encoded_until(time, last=last)

    # Copying

    def _copy(self) -> Iterator[av.Packet]:
        self._seek()
        for packet in self._container.demux(self._source):
            if packet.size == 0 or packet.pts is None:
                continue
            yield packet

    def _copied_until(self, time: Fraction) -> Iterator[av.Packet]:
        base = Fraction(self._source.time_base)
        shift = round(self._begin / base)
        while not self._ended:
            packet = self._peek()
            if packet is None:
                return
            half = Fraction(packet.duration or 0) * base / 2
            at = (packet.pts - shift) * base
            if at + half > time:
                return
            self._held = None
            if at + half < 0 or (at < 0 and not self._allows_negative):
                continue
            packet.pts -= shift
            packet.dts = packet.pts if packet.dts is None else packet.dts - shift
            packet.stream = self._target
            yield packet

    def _peek(self) -> av.Packet | None:
        if self._held is None:
            with decoding_errors(self.path, "reading the sound"):
                self._held = next(self._packets, None)
            self._ended = self._held is None
        return self._held

    def _seek(self) -> None:
        # Some codecs need a little run-in before the first sample that counts.
        begin = self._begin - Fraction(1, 2)
        if begin > 0:
            self._container.seek(int(begin / Fraction(self._source.time_base)), stream=self._source, backward=True)

    # Encoding

    def _decode(self) -> Iterator[av.AudioFrame]:
        """Sound from the film's beginning on, at the target's rate and layout, in step with the clock."""
        resampler = av.AudioResampler(format="fltp", layout=self._layout, rate=self._rate)
        self._seek()
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
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=self._layout)
            frame.rate, frame.pts, frame.time_base = self._rate, self._encoded, Fraction(1, self._rate)
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
            if self._next is None:
                return
            start = self._place(self._next, end)
            if start >= wanted:
                self._extend(np.zeros((self._waiting.shape[0], wanted - end), dtype=np.float32))
                return
            samples = self._next.to_ndarray().astype(np.float32, copy=False)
            self._next = None
            self._extend(np.pad(samples[:, max(0, end - start) :], ((0, 0), (max(0, start - end), 0))))

    def _place(self, frame: av.AudioFrame, end: int) -> int:
        """The film's sample at which decoded sound belongs; ``end`` if it simply follows."""
        if frame.pts is None:
            return end
        start = round((frame.pts * Fraction(frame.time_base) - self._begin) * self._rate)
        # Clocks in milliseconds make neighbouring frames seem to overlap or gape by up to this (5 ms).
        if end > 0 and abs(start - end) <= self._rate // 200 and not self._broken:
            return end
        if self._broken:
            self._broken = False
            start = self._behind_damage(start, end)
        return start

    def _behind_damage(self, start: int, end: int) -> int:
        """Where sound belongs that follows lost frames: whole ones, where their size is known and the clock agrees."""
        context = self._source.codec_context
        size = (context.frame_size or 0) * self._rate / context.sample_rate
        lost = end + round(round((start - end) / size) * size) if size else start
        return lost if abs(lost - start) <= self._rate // 500 else start

    def _extend(self, samples: np.ndarray) -> None:
        self._waiting = np.concatenate([self._waiting, samples], axis=1)
