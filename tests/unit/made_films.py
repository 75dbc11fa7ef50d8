"""Films of every shape that PyAV can write here, described by one dataclass; each picture shows what can be measured in it."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

PATCH = (200, 40, 60)
_BITS = 6


@dataclass(frozen=True)
class Sound:
    """One sound track: a sine of this pitch."""

    pitch: int
    codec: str = "aac"
    layout: str = "stereo"
    rate: int = 48_000
    default: bool = False


@dataclass(frozen=True)
class MadeFilm:
    """What is written. ``steps`` are ticks from picture to picture, one for each."""

    suffix: str = ".mp4"
    codec: str = "libx264"
    b_frames: int = 0
    size: tuple[int, int] = (96, 128)  # (height, width) as coded
    aspect: Fraction = Fraction(1)
    degrees: int = 0  # counter-clockwise, as FFmpeg counts
    mirror: bool = False
    time_base: Fraction = Fraction(1, 16)
    steps: tuple[int, ...] = (1,) * 12
    sounds: tuple[Sound, ...] = ()
    order: tuple[str, ...] = field(default=("film", "sound"))  # of "cover", "film" and "sound"

    @property
    def times(self) -> list[Fraction]:
        """Seconds at which each picture appears, the first at 0."""
        return [sum(self.steps[:number]) * self.time_base for number in range(len(self.steps))]

    @property
    def seconds(self) -> Fraction:
        return sum(self.steps) * self.time_base


def drawn(number: int, size: tuple[int, int], aspect: Fraction) -> np.ndarray:
    """uint8 (H, W, 3) as coded: bars that say ``number`` above, below a disc that is round once pixels are square, at the
    right a patch of colour; at the left edge a column that tells left from right."""
    height, width = size
    frame = np.full((height, width, 3), 20, np.uint8)
    for bit in range(_BITS):
        left, right = width * bit // _BITS, width * (bit + 1) // _BITS
        frame[: height // 4, left:right] = 235 if number >> (_BITS - 1 - bit) & 1 else 20
    y, x = np.mgrid[0:height, 0:width] + 0.5
    disc = ((x - width * 0.35) * float(aspect)) ** 2 + (y - height * 0.64) ** 2 <= radius(size, aspect) ** 2
    frame[disc] = 235
    frame[height * 5 // 8 :, width * 3 // 4 :] = PATCH
    return frame


def radius(size: tuple[int, int], aspect: Fraction) -> float:
    """The disc's, in square pixels."""
    return min(size[0] * 0.26, size[1] * float(aspect) * 0.28)


def undone(picture: np.ndarray, film: MadeFilm) -> np.ndarray:
    """An upright picture turned back to how the film is coded (its pixels stay square)."""
    return np.rot90(picture[:, ::-1] if film.mirror else picture, -(film.degrees // 90))


def read_number(picture: np.ndarray) -> int:
    """What the bars of a picture turned back say."""
    height, width = picture.shape[:2]
    number = 0
    for bit in range(_BITS):
        middle = width * (2 * bit + 1) // (2 * _BITS)
        number = number * 2 + int(picture[height // 16 : height // 8, middle - 1 : middle + 2].mean() > 127)
    return number


def measure_disc(picture: np.ndarray) -> tuple[float, float]:
    """(height, width) of the disc in a picture turned back: along each axis the sum of what is white through its middle."""
    height, width = picture.shape[:2]
    grey = picture[height // 4 + 3 :, : width * 3 // 4 - 3].astype(float).mean(axis=-1)
    share = np.clip((grey - 20) / 215, 0, 1)
    return float(share.sum(axis=0).max()), float(share.sum(axis=1).max())


def measure_patch(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    return picture[height * 3 // 4 : height * 15 // 16, width * 13 // 16 : width * 15 // 16].reshape(-1, 3).mean(axis=0)


def measure_pitch(path: Path) -> float:
    """The strongest pitch in Hz of a finished film's sound."""
    with av.open(str(path)) as film:
        resampler = av.AudioResampler(format="flt", layout="mono", rate=48_000)
        blocks = [out.to_ndarray()[0] for frame in film.decode(audio=0) for out in resampler.resample(frame)]
    sound = np.concatenate(blocks)
    sound = sound[len(sound) // 8 : len(sound) * 7 // 8]
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 1 << 17))
    return float(np.argmax(spectrum)) * 48_000 / (1 << 17)


def write(film: MadeFilm, folder: Path) -> Path:
    path = folder / f"film{film.suffix}"
    with av.open(str(path), "w", format={".ts": "mpegts"}.get(film.suffix)) as out:
        packets = []
        for kind in film.order:
            if kind == "film":
                packets += _film(out, film)
            elif kind == "cover":
                packets += _cover(out)
            else:
                packets += [packet for sound in film.sounds for packet in _sound(out, sound, film.seconds)]
        # All streams exist before the first packet is written; then in the order of their clocks.
        for packet in sorted(packets, key=lambda p: p.dts * p.time_base if p.dts is not None else Fraction(0)):
            out.mux(packet)
    return path


def _film(out, film: MadeFilm) -> list:
    options = {"bf": str(film.b_frames), "g": "8"}
    if film.codec == "libx264":
        options |= {"preset": "ultrafast", "x264-params": f"b-adapt=0:bframes={film.b_frames}", "crf": "12"}
    elif film.codec != "ffv1":
        options |= {"b": "8M"}
    else:
        options = {}
    rate = film.time_base.denominator / Fraction(film.time_base.numerator * film.steps[0])
    stream = out.add_stream(film.codec, rate=rate, options=options)
    stream.height, stream.width = film.size
    stream.pix_fmt = "yuv420p"
    stream.sample_aspect_ratio = film.aspect
    stream.codec_context.sample_aspect_ratio = film.aspect
    stream.codec_context.time_base = film.time_base
    if film.degrees or film.mirror:
        stream.set_display_rotation(film.degrees, hflip=film.mirror)
    packets, tick = [], 0
    for number, step in enumerate(film.steps):
        frame = av.VideoFrame.from_ndarray(drawn(number, film.size, film.aspect), format="rgb24")
        frame = frame.reformat(format="yuv420p")
        frame.pts, frame.time_base = tick, film.time_base
        packets += stream.encode(frame)
        tick += step
    return packets + stream.encode()


def _cover(out) -> list:
    stream = out.add_stream("mjpeg", rate=16)
    stream.height, stream.width, stream.pix_fmt = 160, 160, "yuvj420p"
    frame = av.VideoFrame.from_ndarray(np.full((160, 160, 3), 90, np.uint8), format="rgb24").reformat(format="yuvj420p")
    frame.pts, frame.time_base = 0, Fraction(1, 16)
    return stream.encode(frame) + stream.encode()


def _sound(out, sound: Sound, seconds: Fraction) -> list:
    stream = out.add_stream(sound.codec, rate=sound.rate)
    stream.codec_context.layout = sound.layout
    stream.disposition = int(sound.default)
    count = round(seconds * sound.rate)
    wave = (0.3 * np.sin(2 * np.pi * sound.pitch * np.arange(count) / sound.rate)).astype(np.float32)
    channels = stream.codec_context.layout.nb_channels
    frame = av.AudioFrame.from_ndarray(np.repeat(wave[None], channels, axis=0), format="fltp", layout=sound.layout)
    frame.rate, frame.pts, frame.time_base = sound.rate, 0, Fraction(1, sound.rate)
    return stream.encode(frame) + stream.encode()
