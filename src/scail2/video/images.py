"""Still pictures, picture folders and animated pictures (gif, webp, apng), through Pillow."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from scail2.errors import InputError
from scail2.files.limits import PIXELS
from scail2.video import rates
from scail2.video.avif_colour import avif_conversion
from scail2.video.colour import ToBytes
from scail2.video.kinds import FILM_SUFFIXES, PICTURE_SUFFIXES, check_path, identify
from scail2.video.png_colour import png_conversion, transparent_value
from scail2.video.profiles import levels_of, stretched, to_srgb
from scail2.video.source import MAX_FRAMES, Note, VideoInfo, check_frame_size

# A folder of pictures has no clock; this is the rate the models were trained at.
FOLDER_FPS = Fraction(16)
# A TIFF of several pages is no animation, nor is a JPEG with its thumbnail.
ANIMATED_FORMATS = ("GIF", "WEBP", "PNG", "AVIF")
_NUMBERED = re.compile(r"(?P<before>.*?)(?P<number>\d+)(?P<behind>\D*)")
_SQUARE = 0.01
# Four stops above white, more than a photograph's highlights have; numbers of characters are smaller, too.
_LARGEST_FLOAT = 16.0
# The clock of an animation: an animated png has delays such as 1/30 s, the others whole thousandths.
_TICKS = {"PNG": 1_000_000}
_MILLISECONDS = 1000
# Browsers show frames that ask for 10 ms or less for 100 ms; films made for the web rely on it.
_MIN_DELAY_MS, _DEFAULT_DELAY_MS = 11, 100


@contextmanager
def _picture_errors(path: object):
    """Turns Pillow's exceptions (it raises nearly every built-in kind on damaged files) into one sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size is checked against our own limit
            warnings.simplefilter("ignore", UserWarning)
            yield
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{path}: is not a picture that can be read; convert it to PNG or JPEG") from None
    except Image.DecompressionBombError:
        raise InputError(f"{path}: the picture is larger than any model can use; scale it down first") from None
    except MemoryError:
        raise InputError(f"{path}: the picture needs more memory than there is; scale it down first") from None
    except PermissionError:
        raise InputError(
            f"{path}: permission to read it is missing; change it with chmod or copy it elsewhere"
        ) from None
    except Exception as error:
        raise InputError(f"{path}: the picture is damaged or cut off ({error}); get or save it again") from error


def read_image(path: str | os.PathLike) -> np.ndarray:
    """A still picture as uint8 ``(H, W, 3)`` RGB, or ``(H, W, 4)`` straight RGBA if it has any transparency.

    Turned upright by its EXIF orientation, converted to sRGB by its embedded profile, 16 bits scaled to 8. Of an
    animated picture the first frame.

    Raises:
        InputError: missing, not a picture (a video, text), damaged, larger than 8192 × 8192, smaller than 8 × 8.
    """
    path = check_path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give one picture file")
    kind = identify(path)
    if kind.is_container:
        raise InputError(f"{path}: is a video, a picture is needed; save one of its frames as PNG")
    with _picture_errors(path), Image.open(path) as picture:
        return image_pixels(picture, name=path)


def image_pixels(picture: Image.Image, *, name: object = "the picture") -> np.ndarray:
    """A Pillow picture as :func:`read_image` gives the file it was saved to; ``name`` begins the sentence of an error.

    Raises:
        InputError: damaged, larger than 8192 × 8192, smaller than 8 × 8.
    """
    with _picture_errors(name):
        check_frame_size(name, *picture.size)
        _check_white(name, picture)
        shown, levels = _conversion(picture), levels_of(picture)  # from the file, which turning the picture would close
        key, upright = transparent_value(picture), ImageOps.exif_transpose(picture)
        if key is not None:
            upright.info["transparency"] = key
        pixels = to_srgb(upright if levels is None else stretched(upright, levels), shown)
    if pixels.shape[-1] == 4 and (pixels[..., 3] == 255).all():
        pixels = np.ascontiguousarray(pixels[..., :3])
    return pixels


def _conversion(picture: Image.Image) -> ToBytes | None:
    """What the file's own words, which are no profile, demand of its pixels."""
    return png_conversion(picture) or avif_conversion(picture)


def _check_white(name: object, picture: Image.Image) -> None:
    """Refuses floats that count to 255 or 65535; a scale guessed for each picture would have a film of them flicker."""
    if picture.mode != "F":
        return
    largest = float(np.nan_to_num(np.asarray(picture), posinf=0).max())
    if largest > _LARGEST_FLOAT:
        raise InputError(f"{name}: its greys are floats up to {largest:g}, where 1 is white; save it with 8 or 16 bits")


def notes_on_picture(path: Path) -> list[Note]:
    """What there is to say about a still picture: that it claims pixels which are not square, and is read as it is stored."""
    with _picture_errors(path), Image.open(path) as picture:
        info = picture.info
        across, down = info.get("aspect") or info.get("dpi") or info.get("jfif_density") or (1, 1)
    if across <= 0 or down <= 0 or abs(across / down - 1) <= _SQUARE:
        return []
    # Programs contradict each other in which of the two is meant, and most look at neither.
    sentence = f"it says that its pixels are not square ({across:g}:{down:g}): it is read as it is stored"
    return [
        Note(code="pixel_aspect", message=sentence, fix="if figures look too wide or narrow, stretch it in an editor")
    ]


def is_film(path: Path) -> bool:
    """Whether a file holds pictures to be shown one after the other: a video, or an animated picture."""
    if identify(path).is_container:
        return True
    with _picture_errors(path), Image.open(path) as picture:
        return picture.format in ANIMATED_FORMATS and getattr(picture, "n_frames", 1) > 1


class FolderFrames:
    """The pictures of a folder as frames, in natural order of their names (frame_9 before frame_10).

    Raises:
        InputError: no pictures, or pictures of different sizes.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            entries = [(entry.name, entry.is_file(), entry.is_dir()) for entry in os.scandir(path)]
        except OSError as error:
            raise InputError(f"{path}: the folder cannot be listed ({error.strerror})") from None
        shown = [e for e in entries if Path(e[0]).suffix.lower() in PICTURE_SUFFIXES and not e[0].startswith(".")]
        if strange := [name for name, is_file, is_dir in shown if not is_file and not is_dir]:
            raise InputError(
                f"{path / min(strange)}: is a pipe, a device or a link that leads nowhere, where a picture of the film is "
                "needed; put the picture there, or take the name away"
            )
        pictures = [name for name, is_file, _ in shown if is_file]
        self._files = [path / name for name in sorted(pictures, key=_natural)]
        if not self._files:
            raise InputError(
                f"{path}: the folder holds no pictures (png, jpg, webp, tif, bmp); give a folder of frames"
            )
        if len(self._files) > MAX_FRAMES:
            raise InputError(f"{path}: more than {MAX_FRAMES:,} pictures; split the folder")
        first = read_image(self._files[0])
        self._size = first.shape[:2]
        self._alpha = first.shape[-1] == 4
        self.ticks = np.arange(len(self._files), dtype=np.int64)
        self.time_base = 1 / FOLDER_FPS
        self.end_tick = len(self._files)
        notes = (*_on_missing_numbers([file.name for file in self._files]), *_on_films([name for name, *_ in entries]))
        self.info = _picture_info(path, "folder", self, fps=FOLDER_FPS, variable=False, notes=notes)

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Pictures by number, each uint8 ``(H, W, 3 | 4)``, all with alpha if the first has it."""
        for index in indices:
            picture = read_image(self._files[index])
            if picture.shape[:2] != self._size:
                raise InputError(
                    f"{self._files[index]}: {picture.shape[1]}×{picture.shape[0]} pixels, but the first picture of the "
                    f"folder has {self._size[1]}×{self._size[0]}; all must have one size"
                )
            if not self._alpha and picture.shape[-1] == 4 and (picture[..., 3] < 255).any():
                raise InputError(
                    f"{self._files[index]}: has transparent pixels, but the first picture of the folder has no alpha "
                    "channel; save all pictures with one, or none"
                )
            if self._alpha and picture.shape[-1] == 3:
                picture = np.dstack([picture, np.full(self._size, 255, np.uint8)])
            yield picture if self._alpha else picture[..., :3]

    def files(self, stop: int) -> list[Path]:
        """The files of the first ``stop`` pictures."""
        return self._files[:stop]

    def close(self) -> None:
        """Nothing is held open."""


def _natural(name: str) -> list:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name.lower())] + [name]


def _on_missing_numbers(names: Sequence[str]) -> tuple[Note, ...]:
    """A note where the numbers of a folder's pictures, evenly apart otherwise, leave some out: these may have been lost."""
    parts = [part for part in map(_NUMBERED.fullmatch, names) if part is not None]
    if len(names) < 3 or len(parts) < len(names) or len({(part["before"], part["behind"]) for part in parts}) != 1:
        return ()
    numbers = [int(part["number"]) for part in parts]
    steps = [after - before for before, after in pairwise(numbers)]
    usual = Counter(steps).most_common(1)[0][0]
    holes = [at for at, step in enumerate(steps) if usual > 0 and step > usual]
    if not holes or steps.count(usual) * 2 < len(steps):
        return ()
    missing = sum(steps[at] // usual - 1 for at in holes)
    sentence = (
        f"{missing} number{' is' if missing == 1 else 's are'} missing among its pictures, the first behind "
        f"{names[holes[0]]}: they follow each other as if none were"
    )
    return (Note(code="numbering", message=sentence, fix="put the missing pictures back if there were any"),)


def _on_films(names: Sequence[str]) -> tuple[Note, ...]:
    """A note where films lie beside a folder's pictures: one of them may be meant."""
    films = sorted(name for name in names if Path(name).suffix.lower() in FILM_SUFFIXES)
    if not films:
        return ()
    sentence = f"the folder's pictures are taken as the film; {films[0]}, which lies there too, is not"
    return (Note(code="folder", message=sentence, fix=f"name {films[0]} itself if it is meant"),)


class AnimatedPicture:
    """The frames of an animated gif, webp or apng, with each frame's own duration.

    FFmpeg has no decoder for animated webp, hence Pillow. The format only plays forward: going back starts over.
    """

    def __init__(self, path: Path):
        self.path = path
        with _picture_errors(path):
            self._picture = Image.open(path)
        try:
            with _picture_errors(path):
                check_frame_size(path, *self._picture.size)
                # An animated png may begin with a still for old viewers that is no part of the animation.
                self._skipped = 1 if self._picture.info.get("default_image") else 0
                self._check_animated()
                self._shown = _conversion(self._picture)
                ends = np.cumsum(self._delays())
                self._alpha = self._to_array_at(0).shape[-1] == 4
        except BaseException:
            self.close()
            raise
        self._size = self._picture.size[::-1]
        ticks = _TICKS.get(str(self._picture.format), _MILLISECONDS)
        times = np.rint(ends * (ticks / _MILLISECONDS)).astype(np.int64)
        self.ticks, self.end_tick = np.concatenate([[0], times[:-1]]), int(times[-1])
        self.time_base = Fraction(1, ticks)
        timing = rates.describe(self.ticks, self.end_tick, self.time_base)
        codec = str(self._picture.format).lower()
        self.info = _picture_info(path, codec, self, fps=timing.fps, variable=timing.variable)

    def _check_animated(self) -> None:
        count = getattr(self._picture, "n_frames", 1) - self._skipped
        width, height = self._picture.size
        PIXELS.check(count * width * height, f"{self.path} ({count} pictures of {width}×{height})")
        if count > MAX_FRAMES:
            raise InputError(f"{self.path}: more than {MAX_FRAMES:,} pictures; cut the animation into parts")
        if count < 2 and self._picture.format != "GIF":
            raise InputError(f"{self.path}: is a still picture; give a video, an animation or a folder of pictures")

    def _delays(self) -> list[float]:
        """Milliseconds per frame. Loading each frame also proves that the file is whole."""
        delays: list[float] = []
        begins: list[float] = []
        for index in range(self._skipped, getattr(self._picture, "n_frames", 1)):
            self._picture.seek(index)
            self._picture.load()
            delays.append(float(self._picture.info.get("duration") or 0))
            begins.append(self._picture.info.get("timestamp") or 0)
        if self._picture.format == "AVIF":  # Pillow rounds each delay: their sum would run away from the times
            delays[:-1] = np.diff(begins).tolist()
        return [delay if round(delay) >= _MIN_DELAY_MS else _DEFAULT_DELAY_MS for delay in delays]

    def _to_array_at(self, index: int) -> np.ndarray:
        if index + self._skipped < self._picture.tell():
            # Of an animated png Pillow cannot go back from any picture but the last.
            self._picture.close()
            self._picture = Image.open(self.path)
        self._picture.seek(index + self._skipped)
        return to_srgb(self._picture, self._shown)

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """Frames by number, each uint8 ``(H, W, 3 | 4)``, all with alpha if the first has it."""
        for index in indices:
            with _picture_errors(self.path):
                picture = self._to_array_at(index)
            if picture.shape[:2] != self._size:
                raise InputError(
                    f"{self.path}: frame {index} has another size than the first; save the animation again"
                )
            if self._alpha and picture.shape[-1] == 3:
                picture = np.dstack([picture, np.full(self._size, 255, np.uint8)])
            yield picture if self._alpha else picture[..., :3]

    def close(self) -> None:
        self._picture.close()


def _picture_info(
    path: Path, codec: str, frames, *, fps: Fraction, variable: bool, notes: tuple[Note, ...] = ()
) -> VideoInfo:
    height, width = frames._size
    return VideoInfo(
        path=path,
        container=codec,
        codec=codec,
        width=width,
        height=height,
        frames=len(frames.ticks),
        fps=fps,
        variable_rate=variable,
        duration=frames.end_tick * frames.time_base,
        start=Fraction(0),
        rotation=0,
        pixel_format="rgba" if frames._alpha else "rgb24",
        bit_depth=8,
        has_alpha=frames._alpha,
        audio_codec=None,
        high_dynamic_range=False,
        stored_size=(height, width),
        notes=notes,
    )
