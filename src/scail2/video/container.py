"""Exact frame access in coded video files (mp4, mov, mkv, webm, avi, mpeg-ts), through PyAV.

A first pass over the packets (nothing decoded) lists when each picture is shown; edit lists, negative start times and
B-frames are settled there, because the list holds presentation times. A picture is then found by its time: from the
nearest key frame before it in decoding order, forward, comparing times, never by counting. Only where a file's times cannot
be believed (see `packets`) are pictures counted, from the film's beginning, in the order in which the decoder gives them.
"""

import itertools
import logging
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from scail2.errors import InputError
from scail2.video import colour, packets, rates, remarks, streams
from scail2.video.headers import check_headers, shown_part
from scail2.video.kinds import FileKind
from scail2.video.opening import decoding_errors, open_container
from scail2.video.packets import NO_TIME
from scail2.video.pixels import PixelConverter, rotation_of, upright_size
from scail2.video.resize import Interpolation
from scail2.video.source import MAX_PIXELS, Note, VideoInfo, check_frame_size

logger = logging.getLogger(__name__)

_HDR_TRANSFERS = (colour.PQ, colour.HLG)
_TRIED_KEYS = 3
_TRIED_GROUPS, _TRIED_PICTURES = 3, 32  # decoded when a file is opened, to see whether its times can be believed
_RENUMBER = "number its pictures anew: ffmpeg -i IN -fps_mode passthrough -vf 'setpts=N/({rate}*TB)' -crf 12 OUT.mp4"


class ContainerFrames:
    """The pictures of one video stream, by number. Not thread-safe: one per reader.

    Args:
        path: an existing file.
        kind: what it holds by its first bytes, a container.
        interpolation: how pixels that are not square are stretched; ``"nearest"`` for masks.

    Raises:
        InputError: no video stream, no pictures, truncated, damaged, too large, encrypted, unknown codec.
    """

    def __init__(self, path: Path, kind: FileKind, interpolation: Interpolation = Interpolation.BICUBIC):
        self.path, self._interpolation, self._warned_of_hold = path, interpolation, False
        # Seeking is exact only in formats with an index; in the others going back starts over.
        self._seekable = kind in (FileKind.MP4, FileKind.MATROSKA)
        self._decoded: Iterator[av.VideoFrame] = iter(())
        self._current: av.VideoFrame | None = None
        self._following: av.VideoFrame | None = None
        self._counted = False
        check_headers(path, kind)
        with decoding_errors(path, "opening"):
            part = shown_part(path, kind)
            self._container = open_container(path)
        try:
            with decoding_errors(path, "reading"):
                notes = self._choose() + remarks.on_shown_part(part)
                self.info = self._describe(notes)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._decoded = iter(())
        self._container.close()

    def shrink(self, height: int, width: int, *, covers: bool) -> None:
        """See `PixelConverter.shrink`."""
        self._pixels.shrink(height, width, covers=covers)

    # Opening

    def _choose(self) -> list[Note]:
        """Settles on the film among the video tracks, its decoder and its times; returns what there is to say about it."""
        films = streams.films(self._container)
        if not films:
            self._refuse_without_film()
        scanned = packets.scan(self._container, films, self.path)
        for index in [stream.index for stream in streams.ranked(films, scanned.tables)]:
            self._stream, self._packets = self._container.streams[index], scanned.tables[index]
            if any(size := (self._stream.codec_context.width, self._stream.codec_context.height)):
                check_frame_size(self.path, *size)  # a stream that lost its headers has none: it is passed over below
            self._prepare_decoder()
            self._check_complete(scanned.clock_end)
            if self._first_frame():
                break
        else:
            if not any(map(len, scanned.tables.values())):
                raise InputError(f"{self.path}: the video has no frames; get or encode it again")
            raise InputError(f"{self.path}: no picture can be decoded; the file is damaged, get or encode it again")
        notes = streams.passed_over_pictures(self._container, self._stream, scanned.tables)
        notes += streams.passed_over_sound(self._container)
        self._refuse_restarting_clock()
        self._counted = not self._packets.has_times or self._is_reordered_avi() or self._times_fall()
        if self._counted:
            self._number_by_output()
            sentence = "the times of its pictures are missing or contradict their order: they are numbered as decoded"
            notes.append(Note(code="times", message=sentence))
        else:
            self._index()
        return notes

    def _refuse_without_film(self) -> None:
        unknown = [s for s in self._container.streams.video if s.codec_context is None]
        if unknown:
            raise InputError(f"{self.path}: its video codec is unknown here; convert it to H.264 first")
        holds = "only sound" if self._container.streams.audio else "no video"
        raise InputError(f"{self.path}: holds {holds}; give a file with pictures")

    def _refuse_restarting_clock(self) -> None:
        """Several transport streams in one: neither their pictures nor their sound have times that mean anything."""
        if self._container.format.name != "mpegts":
            return
        if (fall := self._packets.fall(Fraction(self._stream.time_base))) is not None:
            raise InputError(
                f"{self.path}: its clock falls back by {float(fall[1]):.1f} s at {float(fall[0]):.2f} s, as in recordings "
                "that were put together; join them anew: ffmpeg -i IN -c copy OUT.mp4"
            )

    def _prepare_decoder(self) -> None:
        context, codec = self._stream.codec_context, streams.codec_name(self._stream)
        # FFmpeg's own VP8/VP9 decoders drop the alpha plane that WebM carries beside the picture; libvpx keeps it.
        if self._stream.metadata.get("alpha_mode") == "1" and codec in ("vp8", "vp9"):
            alpha = av.CodecContext.create(f"libvpx-{'vp9' if codec == 'vp9' else 'vp8'}", "r")
            if context.extradata:
                alpha.extradata = context.extradata
            context = alpha
        elif not context.is_open:
            context.thread_type = "AUTO"
        context.options = {**(context.options or {}), "max_pixels": str(MAX_PIXELS)}
        self._context = context
        self._decoded = iter(())

    def _check_complete(self, clock_end: float) -> None:
        """Refuses a file that ends before what its header promises: it was cut while copying or downloading."""
        entries = self._stream.index_entries
        if len(entries) and self._seekable:
            size = self.path.stat().st_size
            missing = sum(1 for entry in entries if entry.pos + entry.size > size)
            if missing:
                raise InputError(
                    f"{self.path}: the file is truncated, {missing} of {len(entries)} pictures are missing; get it again"
                )
        if self._container.format.name.startswith("matroska") and self._container.duration:
            announced = self._container.duration / av.time_base
            # The last picture of an uneven film may be on show for long without saying so.
            known = np.sort(self._packets.pts[self._packets.pts != NO_TIME])
            intervals = np.diff(known) * float(self._stream.time_base)
            # Coded sound runs a few of its frames behind the clock; at 8 kHz these are long.
            heard = [s.codec_context for s in self._container.streams.audio if s.codec_context is not None]
            delay = max((3 * c.frame_size / c.sample_rate for c in heard if c.sample_rate and c.frame_size), default=0)
            if clock_end < announced - max(0.1, delay, 2 * intervals.max(initial=0.0)):
                raise InputError(
                    f"{self.path}: the file is truncated, it ends at {clock_end:.2f} s of {announced:.2f} s; get it again"
                )

    def _first_frame(self) -> bool:
        """Whether the chosen track can be decoded at all; the first picture of the chosen track is kept."""
        try:
            self._restart(None)
            first = next(self._decoded, None)
        except av.error.FFmpegError as error:
            logger.debug("%s: track %d: %s", self.path, self._stream.index, error)
            return False
        if first is None:
            return False
        self._first = self._current = first
        return True

    def _is_reordered_avi(self) -> bool:
        """AVI stores when pictures are decoded, not when they are shown."""
        return self._container.format.name == "avi" and self._stream.codec_context.has_b_frames

    def _times_fall(self) -> bool:
        """Whether the decoder, which gives pictures in the order they are shown, gives falling times."""
        if not self._stream.codec_context.has_b_frames:  # then decoding order is the order of showing
            return bool((np.diff(self._packets.pts) <= 0).any())
        groups = self._packets.rising_groups() if self._seekable else []
        chosen = sorted({0, len(groups) // 2, len(groups) - 1})[:_TRIED_GROUPS] if groups else []
        starts = [None, *(groups[number][0] for number in chosen)]
        lengths = [_TRIED_PICTURES, *(groups[number][1] - groups[number][0] for number in chosen)]
        fall = False
        for start, length in zip(starts, lengths, strict=True):
            self._restart(start)
            times: list[int] = []
            timeless = False
            # Damage is reported where it lies, when it is read.
            with suppress(av.error.FFmpegError):
                for frame in itertools.islice(self._decoded, length):
                    timeless = timeless or frame.pts is None
                    times.append(NO_TIME if frame.pts is None else frame.pts)
            fall = fall or timeless or bool((np.diff(times) <= 0).any())
        self._restart(None)
        return fall

    def _number_by_output(self) -> None:
        self._restart(None)
        given = array("q", (NO_TIME if frame.pts is None else frame.pts for frame in self._decoded))
        table = self._packets
        if self._container.format.name == "avi":  # lists pictures in decoding order, one for each step of its clock
            table = replace(table, pts=table.dts)
        self.ticks, self.time_base = packets.output_times(
            table,
            np.array(given, dtype=np.int64),
            Fraction(self._stream.time_base),
            self._stream.average_rate or self._stream.guessed_rate,
        )
        self.end_tick = int(self.ticks[-1]) + (rates.typical_interval(self.ticks) or 1)
        self._restart(None)

    def _index(self) -> None:
        # Pictures before the first that can be decoded refer to a part that was cut away (open group of pictures).
        ticks, positions = np.unique(self._packets.pts, return_index=True)
        shown = ticks >= self._first.pts
        self.ticks, self._decode_position = ticks[shown], positions[shown]
        self.time_base = Fraction(self._stream.time_base)
        last = int(self._packets.duration[self._decode_position[-1]])
        self.end_tick = int(self.ticks[-1]) + (last or rates.typical_interval(self.ticks))

    def _describe(self, notes: list[Note]) -> VideoInfo:
        stream, first, notes = self._stream, self._first, [*notes]
        rotation = rotation_of(first)
        if rotation is None:
            raise InputError(f"{self.path}: its display matrix is not a quarter turn; encode it upright first")
        # The container's pixel aspect wins over the codec's, as in FFmpeg.
        aspect = Fraction(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1)
        height, width = upright_size(first.height, first.width, rotation, aspect)
        stored = upright_size(first.height, first.width, rotation, Fraction(1))
        check_frame_size(self.path, width, height)
        notes += remarks.on_picture(
            first, stream.codec_context.field_order, aspect, f"{stored[1]}×{stored[0]} to {width}×{height}"
        )
        self._pixels = PixelConverter(
            self.path, height=height, width=width, rotation=rotation, interpolation=self._interpolation
        )
        hints = (stream.average_rate, stream.guessed_rate)
        timing = rates.describe(self.ticks, self.end_tick, self.time_base, hints)
        if timing.variable and self._container.format.name == "avi":
            # One step of an AVI's clock is one picture; where it leaves one out the last is shown again.
            timing = replace(timing, fps=1 / self.time_base)
        notes += remarks.on_gaps(rates.gaps(self.ticks, self.time_base) if timing.variable else [])
        sound = streams.sound_of(self._container)
        return VideoInfo(
            path=self.path,
            container=self._container.format.name,
            codec=streams.codec_name(stream) or "unknown",
            width=width,
            height=height,
            frames=len(self.ticks),
            fps=timing.fps,
            variable_rate=timing.variable,
            duration=timing.duration,
            start=int(self.ticks[0]) * self.time_base,
            rotation=rotation.degrees,
            pixel_format=first.format.name,
            bit_depth=max((c.bits for c in first.format.components), default=8),
            has_alpha=any(c.is_alpha for c in first.format.components),
            audio_codec=streams.codec_name(sound) if sound is not None else None,
            high_dynamic_range=int(first.color_trc) in _HDR_TRANSFERS,
            stored_size=stored,
            notes=tuple(notes),
        )

    # Reading

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Pictures by rising number, each as upright uint8 RGB(A) ``(H, W, 3 | 4)``."""
        for index in indices:
            with decoding_errors(self.path, f"decoding at {self._seconds(index):.2f} s"):
                frame = self._find(index)
                if frame.is_corrupt:
                    raise InputError(
                        f"{self.path}: the picture at {self._seconds(index):.2f} s is damaged; get or encode it again"
                    )
                picture = self._pixels.convert(frame)
            yield picture

    def _seconds(self, index: int) -> float:
        return float((int(self.ticks[index]) - int(self.ticks[0])) * self.time_base)

    def _find(self, index: int) -> av.VideoFrame:
        """The frame shown at the index's time; one that the decoder never shows is held over from before."""
        if self._counted:
            return self._count_to(index)
        target = int(self.ticks[index])
        if self._is_ahead(index, target):
            return self._forward(target)
        for start in self._starts(index, target):
            self._restart(start)
            frame = self._forward(target)
            if frame is not None:
                return frame
        raise self._undecodable(index)

    def _undecodable(self, index: int) -> InputError:
        return InputError(
            f"{self.path}: no picture can be decoded at {self._seconds(index):.2f} s; the file is damaged, get it again"
        )

    def _count_to(self, index: int) -> av.VideoFrame:
        if self._current is None or self._number > index:
            self._restart(None)
        while self._current is None or self._number < index:
            self._number += self._current is not None
            self._current = next(self._decoded, None)
            if self._current is None:
                raise self._undecodable(index)
        return self._current

    def _starts(self, index: int, target: int) -> Iterator[int | None]:
        """Where to begin decoding for a picture: key frames decoded before it and not shown after it, nearest first.

        In a sound file the first is right. A recovery point or a false index may need an earlier one; at last, the beginning.
        """
        keys, tried = self._packets.keys, 0
        for number in range(bisect_right(keys, self._decode_position[index]) - 1, -1, -1) if self._seekable else ():
            if self._packets.pts[keys[number]] <= target:
                yield int(keys[number])
                tried += 1
            if tried == _TRIED_KEYS:
                break
        yield None

    def _is_ahead(self, index: int, target: int) -> bool:
        """Whether decoding on from here is at least as quick as from the nearest key frame."""
        if self._current is None or self._current.pts > target:
            return False
        here = int(np.searchsorted(self.ticks, self._current.pts, side="right")) - 1
        start = next(self._starts(index, target))
        return index - here <= 2 or start is None or int(self._packets.pts[start]) <= self._current.pts

    def _restart(self, position: int | None) -> None:
        """Moves the decoder to a packet (None: the beginning)."""
        self._current = self._following = None
        self._number = 0
        if position is None:
            self._rewind()
        else:
            tick = int(min(self._packets.dts[position], self._packets.pts[position]))
            self._container.seek(tick, stream=self._stream, backward=True)
            if self._context is not self._stream.codec_context and self._context.is_open:
                self._context.flush_buffers()
        self._decoded = self._decode()

    def _rewind(self) -> None:
        """The beginning of the file, whatever its times say: it is opened again."""
        index = self._stream.index
        self._container.close()
        self._container = open_container(self.path)
        self._stream = self._container.streams[index]
        self._prepare_decoder()

    def _decode(self) -> Iterator[av.VideoFrame]:
        for packet in self._container.demux(self._stream):
            if packet.size == 0:
                break
            yield from self._context.decode(packet)
        yield from self._context.decode(None)

    def _forward(self, target: int) -> av.VideoFrame | None:
        """Decodes until the frame shown at ``target`` is known; None if decoding began after it."""
        while True:
            if self._current is not None and self._current.pts == target:
                return self._current
            if self._following is None:
                self._following = next(self._decoded, None)
                self._check_order()
            if self._following is None or self._following.pts > target:
                if self._current is not None and self._current.pts < target and not self._warned_of_hold:
                    logger.warning("%s: a picture without content is held from the one before", self.path)
                    self._warned_of_hold = True
                return self._current
            self._current, self._following = self._following, None

    def _check_order(self) -> None:
        """Refuses a film whose times turn out false on the way: pictures found by them would be the wrong ones."""
        now, before = self._following, self._current
        if now is None or (now.pts is not None and (before is None or now.pts > before.pts)):
            return
        at = float((before.pts - int(self.ticks[0])) * self.time_base) if before is not None else 0.0
        command = _RENUMBER.format(rate=self._stream.average_rate or "RATE")
        raise InputError(f"{self.path}: the times of its pictures run backwards behind {at:.2f} s; {command}")
