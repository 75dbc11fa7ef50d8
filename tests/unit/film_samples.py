"""Small films for the video tests: every picture carries its own number, so that a test can see which one it got."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

_BITS = 8


def numbered_frame(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """uint8 (H, W, 3): the top half shows ``number`` as 8 black or white bars, the rest a moving colour slope."""
    y, x = np.mgrid[0:height, 0:width]
    frame = np.stack([(x * 3 + number * 2) % 256, (y * 4) % 256, np.full_like(x, 128)], axis=-1).astype(np.uint8)
    for bit in range(_BITS):
        left, right = width * bit // _BITS, width * (bit + 1) // _BITS
        frame[: height // 2, left:right] = 255 if number >> (_BITS - 1 - bit) & 1 else 0
    return frame


def read_number(frame: np.ndarray) -> int:
    """The number shown by a frame of :func:`numbered_frame` after any lossy coding or resizing."""
    height, width = frame.shape[:2]
    number = 0
    for bit in range(_BITS):
        left, right = width * bit // _BITS, width * (bit + 1) // _BITS
        middle = frame[height // 8 : height * 3 // 8, left + (right - left) // 4 : right - (right - left) // 4]
        number = number * 2 + int(middle.mean() > 127)
    return number


def read_numbers(frames: np.ndarray) -> list[int]:
    return [read_number(frame) for frame in frames]


def write_film(
    path: Path,
    count: int = 24,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    size: tuple[int, int] = (48, 64),
    fps: int = 16,
    times: list[int] | None = None,
    time_base: Fraction | None = None,
    options: dict[str, str] | None = None,
    muxer: dict[str, str] | None = None,
    metadata_format: str | None = None,
    prepare=None,
) -> Path:
    """Encodes ``count`` numbered frames with plain PyAV calls; ``times`` are their ticks of ``time_base``."""
    time_base = time_base or Fraction(1, fps)
    with av.open(str(path), "w", format=metadata_format, options=muxer or {}) as film:
        stream = film.add_stream(codec, rate=fps, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = time_base
        if prepare is not None:
            prepare(stream)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, *size), format="rgb24")
            frame = frame.reformat(format=pixels)
            frame.pts, frame.time_base = (times[number] if times else number), time_base
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    return path


def add_sound(
    path: Path, target: Path, *, seconds: float, rate: int = 44_100, codec: str = "aac", start: float = 0.0
) -> Path:
    """Copies a film's pictures and adds :func:`stepped_tone`; the sound begins at ``start`` seconds."""
    with av.open(str(path)) as film, av.open(str(target), "w") as out:
        picture_in = film.streams.video[0]
        picture_out = out.add_stream_from_template(picture_in)
        sound = out.add_stream(codec, rate=rate)
        sound.codec_context.layout = "stereo"
        for packet in film.demux(picture_in):
            if packet.size:
                packet.stream = picture_out
                out.mux(packet)
        tone = stepped_tone(seconds, rate)
        size = sound.codec_context.frame_size or 1024
        for first in range(0, tone.shape[1], size):
            block = np.ascontiguousarray(tone[:, first : first + size])
            if sound.codec_context.format.name == "s16":
                interleaved = (block.T * 32767).astype(np.int16).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(interleaved, format="s16", layout="stereo")
            else:
                frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
            frame.rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = first + round(start * rate)
            out.mux(sound.encode(frame))
        out.mux(sound.encode())
    return target


def stepped_tone(seconds: float, rate: int) -> np.ndarray:
    """float32 (2, samples): a sine whose pitch jumps every 50 ms, never the same sequence twice: it shows its own time."""
    time = np.arange(round(seconds * rate)) / rate
    pitches = np.random.default_rng(5).uniform(300, 3000, size=2000)
    phase = 2 * np.pi * np.cumsum(pitches[(time * 20).astype(int)]) / rate
    return np.repeat(0.5 * np.sin(phase)[None], 2, axis=0).astype(np.float32)


def decode_sound(path: Path) -> tuple[np.ndarray, int, float]:
    """(mono samples placed from film time 0, rate, last time): what a player that honours edit lists would play."""
    with av.open(str(path)) as film:
        stream = film.streams.audio[0]
        rate = stream.codec_context.sample_rate
        blocks, following = [], None
        for frame in film.decode(stream):
            samples = frame.to_ndarray()
            mono = (
                samples.astype(np.float64).mean(axis=0)
                if frame.format.is_planar
                else samples.reshape(-1, 2).mean(axis=1)
            )
            first = round(float(frame.pts * frame.time_base) * rate)
            if (
                following is not None and abs(first - following) < rate * 0.002
            ):  # clocks of Matroska are in milliseconds
                first = following
            following = first + len(mono)
            blocks.append((first, mono))
    sound = np.zeros(max(first + len(block) for first, block in blocks))
    for first, block in blocks:
        skipped = max(0, -first)
        sound[first + skipped : first + len(block)] = block[skipped:]
    return sound, rate, len(sound) / rate
