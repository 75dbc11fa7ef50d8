"""One reader for every kind of video: windows of frames at a wanted rate and size."""

import itertools
import logging
import math
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np

from scail2.errors import InputError
from scail2.video import rates
from scail2.video.container import ContainerFrames
from scail2.video.images import AnimatedPicture, FolderFrames
from scail2.video.kinds import FileKind, check_path, identify
from scail2.video.resize import Fit, Interpolation, check_target, resize_cover, resize_letterbox
from scail2.video.source import VideoInfo, check_window

logger = logging.getLogger(__name__)

# Finished frames kept after a window, so that the next segment's overlap does not seek backwards.
_KEPT_FRAMES = 16


class StoredPictures(Protocol):
    """What a kind of file offers: its pictures by number, and when each is shown."""

    info: VideoInfo
    ticks: np.ndarray  # int64, rising: when each picture appears, in units of time_base
    time_base: Fraction
    end_tick: int  # when the last one ends

    def read(self, indices: Sequence[int]) -> Iterator[np.ndarray]: ...

    def close(self) -> None: ...


def open_pictures(path: str | os.PathLike, interpolation: Interpolation = Interpolation.BICUBIC) -> StoredPictures:
    """Opens a video file, animation or picture folder; InputError with one sentence if it is none of them."""
    path = check_path(path)
    if path.is_dir():
        return FolderFrames(path)
    kind = identify(path)
    if kind.is_container:
        return ContainerFrames(path, kind, interpolation)
    if kind in (FileKind.GIF, FileKind.WEBP, FileKind.PNG, FileKind.AVIF):
        return AnimatedPicture(path)
    raise InputError(f"{path}: is a still picture; give a video, an animation or a folder of pictures")


def probe(path: str | os.PathLike) -> VideoInfo:
    """What a video file, animation or picture folder holds; the first frame is decoded, the rest only listed.

    Raises:
        InputError: as :class:`VideoReader`.
    """
    pictures = open_pictures(path)
    pictures.close()
    return pictures.info


class VideoReader:
    """A :class:`FrameSource` over a file: mp4, mov, mkv, webm, gif, animated webp or png, or a folder of pictures.

    Args:
        path: the file or folder.
        fps: wanted constant rate; each output frame shows the picture on show at its time (pictures are repeated or
            left out, never blended). None: the file's own rate; a variable one is held onto its mean rate, rounded to
            a common one. Frame k belongs to the time k / fps after the first picture.
        size: wanted (height, width); None: as stored, turned upright, square pixels.
        fit: ``"cover"`` (centre crop) or ``"letterbox"`` (borders in ``background``).
        interpolation: ``"bicubic"`` (antialiased), or ``"nearest"`` for masks (also where pixels are not square).
        background: RGB that shows through transparent pixels and fills letterbox borders.

    Attributes:
        fps (Fraction), height, width, has_audio, has_alpha, source_info (:class:`VideoInfo` of the file itself).

    Memory holds the asked window and at most 16 frames more, however long the film. Threads may share a reader: they take turns.

    Raises:
        InputError: missing, unreadable, empty, truncated, damaged, without pictures, too large or too small, or named
            as another kind of file; bad arguments. While reading: a picture that cannot be decoded.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        fps: Fraction | float | str | None = None,
        size: tuple[int, int] | None = None,
        fit: str = "cover",
        interpolation: str = "bicubic",
        background: tuple[int, int, int] = (0, 0, 0),
    ):
        wanted_rate = None if fps is None else rates.parse_rate(fps)
        if size is not None:
            check_target(*size)
        self._fit, self._interpolation = Fit.parse(fit), Interpolation.parse(interpolation)
        self._background = np.array(background, dtype=np.uint8)
        self.path = Path(path)
        self._pictures = open_pictures(path, self._interpolation)
        self.source_info = info = self._pictures.info
        self.fps = info.fps if wanted_rate is None else wanted_rate
        self.height, self.width = (info.height, info.width) if size is None else (int(size[0]), int(size[1]))
        if isinstance(self._pictures, ContainerFrames):
            self._pictures.shrink(self.height, self.width, covers=self._fit is Fit.COVER)
        self.has_audio, self.has_alpha = info.has_audio, info.has_alpha
        self._source_index = self._sampling()
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._one_at_a_time = Lock()
        for note in info.notes:
            if note.fix:
                logger.info("%s: %s; %s", path, note.message, note.fix)

    def _sampling(self) -> np.ndarray:
        pictures, info = self._pictures, self.source_info
        if info.variable_rate:
            return rates.hold(pictures.ticks, pictures.end_tick, pictures.time_base, self.fps)
        return rates.hold_constant(info.frames, info.fps, self.fps)

    def extend(self, count: int) -> None:
        """Goes on to ``count`` frames where a film of variable rate ends before: how long its last picture is on show is
        often not stored."""
        pictures, info = self._pictures, self.source_info
        if not info.variable_rate or count <= len(self):
            return
        end = int(pictures.ticks[0]) + math.ceil(count / (self.fps * pictures.time_base))
        self._source_index = rates.hold(pictures.ticks, end, pictures.time_base, self.fps)[:count]

    def __len__(self) -> int:
        return len(self._source_index)

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Releases the file; the reader cannot be used afterwards."""
        self._kept.clear()
        self._pictures.close()

    @property
    def source_indices(self) -> np.ndarray:
        """Which stored picture each frame shows: int64 ``(len,)``, not falling."""
        return self._source_index

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Frames ``start`` … ``stop - 1``: uint8 RGB ``(stop - start, H, W, 3)``, transparency over ``background``."""
        return self._window(start, stop, channels=3)

    def frames_rgba(self, start: int, stop: int) -> np.ndarray:
        """The same with straight (not premultiplied) alpha: uint8 ``(stop - start, H, W, 4)``; opaque without alpha."""
        return self._window(start, stop, channels=4)

    def _window(self, start: int, stop: int, *, channels: int) -> np.ndarray:
        check_window(start, stop, len(self))
        with self._one_at_a_time:
            return self._read_window(start, stop, channels)

    def _read_window(self, start: int, stop: int, channels: int) -> np.ndarray:
        window = np.empty((stop - start, self.height, self.width, channels), dtype=np.uint8)
        wanted = self._source_index[start:stop]
        kept = {index: self._kept[index] for index in np.unique(wanted).tolist() if index in self._kept}
        fresh = self._pictures.read([index for index in np.unique(wanted).tolist() if index not in kept])
        for index, places in itertools.groupby(range(len(wanted)), key=wanted.tolist().__getitem__):
            picture = kept[index] if index in kept else self._finish(next(fresh))
            self._keep(index, picture)
            window[list(places)] = self._layout(picture, channels)
        return window

    def _finish(self, picture: np.ndarray) -> np.ndarray:
        if self._fit is Fit.COVER:
            return resize_cover(picture, self.height, self.width, interpolation=self._interpolation)
        fill = (*self._background, 0)[: picture.shape[-1]]  # where there is alpha the border is transparent
        return resize_letterbox(picture, self.height, self.width, interpolation=self._interpolation, fill=fill)

    def _keep(self, index: int, picture: np.ndarray) -> None:
        self._kept[index] = picture
        self._kept.move_to_end(index)
        while len(self._kept) > _KEPT_FRAMES:
            self._kept.popitem(last=False)

    def _layout(self, picture: np.ndarray, channels: int) -> np.ndarray:
        if picture.shape[-1] == 3:
            if channels == 3:
                return picture
            return np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
        if channels == 4:
            return picture
        alpha = picture[..., 3:].astype(np.uint16)
        over = picture[..., :3] * alpha + self._background.astype(np.uint16) * (255 - alpha)
        return ((over + 127) // 255).astype(np.uint8)
