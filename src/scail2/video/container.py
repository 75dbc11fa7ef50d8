"""Exact frame access in coded video files (mp4, mov, mkv, webm), through PyAV.

A first pass over the packets (nothing decoded) lists when each picture is shown; edit lists, negative start times and
B-frames are settled there, because the list holds presentation times. A picture is then found by its time: from the
nearest key frame before it in decoding order, forward, comparing times, never by counting.
"""

import logging
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from scail2.errors import InputError
from scail2.video import rates
from scail2.video.headers import check_headers
from scail2.video.kinds import FileKind
from scail2.video.pixels import PixelConverter, rotation_of, upright_size
from scail2.video.source import MAX_FRAMES, MAX_PIXELS, VideoInfo, check_frame_size

logger = logging.getLogger(__name__)

# Local files of these formats only: a playlist or a reference to another file inside one must not be followed.
_OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm",
    "max_pixels": str(MAX_PIXELS),
}
_HDR_TRANSFERS = (16, 18)  # PQ and HLG in ITU-T H.273
_VP8_SHOWN = 0x10  # bit of a VP8 frame's first byte; hidden reference frames travel as packets of their own
_TRIED_KEYS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class _Packets:
    """The coded pictures of a stream in decoding order: int64 ``(N,)`` ticks of its time base, and key flags."""

    pts: np.ndarray
    dts: np.ndarray
    duration: np.ndarray
    keys: np.ndarray  # positions of key frames, rising


@contextmanager
def decoding_errors(path: Path, what: str):
    """Turns the decoder's exceptions into one sentence about the file."""
    try:
        yield
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path}: {what} needs more memory than there is; scale the video down first") from None
    except (av.error.FFmpegError, OSError, ValueError, OverflowError, ZeroDivisionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{path}: {what} failed ({reason}); the file is damaged or cut off, get or encode it again"
        ) from error


class ContainerFrames:
    """The pictures of one video stream, by number. Not thread-safe: one per reader.

    Args:
        path: an existing file.
        kind: what it holds by its first bytes, a container.

    Raises:
        InputError: no video stream, no pictures, truncated, damaged, too large, encrypted, unknown codec.
    """

    def __init__(self, path: Path, kind: FileKind):
        self.path, self._warned_of_hold = path, False
        check_headers(path, kind)
        with decoding_errors(path, "opening"):
            self._container = av.open(str(path.absolute()), options=dict(_OPEN_OPTIONS), metadata_errors="replace")
        try:
            with decoding_errors(path, "reading"):
                self._stream = self._choose_stream()
                self._prepare_decoder()
                self._packets, clock_end = self._scan()
                self._check_complete(clock_end)
                first = self._first_frame()
                self._index(first)
                self.info = self._describe(first)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._decoded = iter(())
        self._container.close()

    # Opening

    def _choose_stream(self):
        streams = [s for s in self._container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            holds = "only sound" if self._container.streams.audio else "no video"
            raise InputError(f"{self.path}: holds {holds}; give a file with pictures")
        stream = streams[0]
        if stream.codec_context is None:
            raise InputError(f"{self.path}: its video codec is unknown here; convert it to H.264 first")
        context = stream.codec_context
        check_frame_size(self.path, context.width, context.height)
        return stream

    def _prepare_decoder(self) -> None:
        context = self._stream.codec_context
        # FFmpeg's own VP8/VP9 decoders drop the alpha plane that WebM carries beside the picture; libvpx keeps it.
        if self._stream.metadata.get("alpha_mode") == "1" and context.name in ("vp8", "vp9"):
            alpha = av.CodecContext.create(f"libvpx-{'vp9' if context.name == 'vp9' else 'vp8'}", "r")
            if context.extradata:
                alpha.extradata = context.extradata
            context = alpha
        else:
            context.thread_type = "AUTO"
        context.options = {**(context.options or {}), "max_pixels": str(MAX_PIXELS)}
        self._context = context
        self._decoded: Iterator[av.VideoFrame] = iter(())

    def _scan(self) -> tuple[_Packets, float]:
        """All shown packets of the stream in decoding order, and the latest time (s) met in any stream."""
        pts, dts, duration, keys, clock_end = array("q"), array("q"), array("q"), array("q"), 0.0
        is_vp8 = self._stream.codec_context.name == "vp8"
        for packet in self._container.demux():
            if packet.size == 0 or (packet.pts is None and packet.dts is None):
                continue
            time = packet.pts if packet.pts is not None else packet.dts
            clock_end = max(clock_end, float((time + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != self._stream.index or packet.is_discard:
                continue
            if is_vp8 and not bytes(packet)[0] & _VP8_SHOWN:
                continue
            if packet.pts is None:
                raise InputError(f"{self.path}: has no presentation times; remux it (ffmpeg -i IN -c copy OUT.mp4)")
            if packet.is_keyframe:
                keys.append(len(pts))
            pts.append(packet.pts)
            dts.append(packet.dts if packet.dts is not None else packet.pts)
            duration.append(packet.duration or 0)
            if len(pts) > MAX_FRAMES:
                raise InputError(f"{self.path}: more than {MAX_FRAMES:,} pictures; cut the video into parts")
        if not pts:
            raise InputError(f"{self.path}: the video has no frames; get or encode it again")
        columns = [
            np.frombuffer(column, dtype=np.int64) if column else np.empty(0, np.int64)
            for column in (pts, dts, duration, keys)
        ]
        return _Packets(pts=columns[0], dts=columns[1], duration=columns[2], keys=columns[3]), clock_end

    def _check_complete(self, clock_end: float) -> None:
        """Refuses a file that ends before what its header promises: it was cut while copying or downloading."""
        entries = self._stream.index_entries
        if len(entries):
            size = self.path.stat().st_size
            missing = sum(1 for entry in entries if entry.pos + entry.size > size)
            if missing:
                raise InputError(
                    f"{self.path}: the file is truncated, {missing} of {len(entries)} pictures are missing; get it again"
                )
        if self._container.format.name.startswith("matroska") and self._container.duration:
            announced = self._container.duration / av.time_base
            # The last picture of an uneven film may be on show for long without saying so.
            intervals = np.diff(np.sort(self._packets.pts)) * float(self._stream.time_base)
            if clock_end < announced - max(0.1, 2 * intervals.max(initial=0.0)):
                raise InputError(
                    f"{self.path}: the file is truncated, it ends at {clock_end:.2f} s of {announced:.2f} s; get it again"
                )

    def _first_frame(self) -> av.VideoFrame:
        self._restart(None)
        frame = next(self._decoded, None)
        if frame is None or frame.pts is None:
            raise InputError(f"{self.path}: no picture can be decoded; the file is damaged, get or encode it again")
        self._current = frame
        return frame

    def _index(self, first: av.VideoFrame) -> None:
        # Pictures before the first that can be decoded refer to a part that was cut away (open group of pictures).
        ticks, positions = np.unique(self._packets.pts, return_index=True)
        shown = ticks >= first.pts
        if not shown.any():
            raise InputError(f"{self.path}: its times are contradictory; remux it (ffmpeg -i IN -c copy OUT.mp4)")
        self.ticks, self._decode_position = ticks[shown], positions[shown]
        self.time_base = Fraction(self._stream.time_base)
        last = int(self._packets.duration[self._decode_position[-1]])
        self.end_tick = int(self.ticks[-1]) + (last or rates.typical_interval(self.ticks))

    def _describe(self, first: av.VideoFrame) -> VideoInfo:
        stream, context = self._stream, self._stream.codec_context
        rotation = rotation_of(first)
        if rotation is None:
            raise InputError(f"{self.path}: its display matrix is not a quarter turn; encode it upright first")
        aspect = Fraction(stream.sample_aspect_ratio or context.sample_aspect_ratio or 1)
        height, width = upright_size(first.height, first.width, rotation, aspect)
        check_frame_size(self.path, width, height)
        self._pixels = PixelConverter(self.path, height=height, width=width, rotation=rotation)
        hints = (stream.average_rate, stream.guessed_rate)
        timing = rates.describe(self.ticks, self.end_tick, self.time_base, hints)
        audio = self._container.streams.audio
        depth = max((c.bits for c in first.format.components), default=8)
        return VideoInfo(
            path=self.path,
            container=self._container.format.name,
            codec=context.name,
            width=width,
            height=height,
            frames=len(self.ticks),
            fps=timing.fps,
            variable_rate=timing.variable,
            duration=timing.duration,
            start=int(self.ticks[0]) * self.time_base,
            rotation=rotation.degrees,
            pixel_format=first.format.name,
            bit_depth=depth,
            has_alpha=any(c.is_alpha for c in first.format.components),
            audio_codec=audio[0].codec_context.name if audio and audio[0].codec_context else None,
            high_dynamic_range=int(first.color_trc) in _HDR_TRANSFERS,
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
        target = int(self.ticks[index])
        if self._is_ahead(index, target):
            return self._forward(target)
        for start in self._starts(index, target):
            self._restart(start)
            frame = self._forward(target)
            if frame is not None:
                return frame
        raise InputError(
            f"{self.path}: no picture can be decoded at {self._seconds(index):.2f} s; the file is damaged, get it again"
        )

    def _starts(self, index: int, target: int) -> Iterator[int | None]:
        """Where to begin decoding for a picture: key frames decoded before it and not shown after it, nearest first.

        In a sound file the first is right. A recovery point or a false index may need an earlier one; at last, the beginning.
        """
        keys, tried = self._packets.keys, 0
        for number in range(bisect_right(keys, self._decode_position[index]) - 1, -1, -1):
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
        self._current: av.VideoFrame | None = None
        self._following: av.VideoFrame | None = None
        if position is None:
            tick = int(min(self._packets.dts.min(), self._packets.pts.min()))
        else:
            tick = int(min(self._packets.dts[position], self._packets.pts[position]))
        self._container.seek(tick, stream=self._stream, backward=True)
        if self._context is not self._stream.codec_context and self._context.is_open:
            self._context.flush_buffers()
        self._decoded = self._decode()

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
                self._following = next((f for f in self._decoded if f.pts is not None), None)
            if self._following is None or self._following.pts > target:
                if self._current is not None and self._current.pts < target and not self._warned_of_hold:
                    logger.warning("%s: a picture without content is held from the one before", self.path)
                    self._warned_of_hold = True
                return self._current
            self._current, self._following = self._following, None
