"""Frames that are decoded once: what was read stays, as it is wanted, in a file without a name."""

import logging
import os
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np

from scail2.files.storage import free_bytes, nameless_file
from scail2.video.source import check_window

logger = logging.getLogger(__name__)

# Raw frames take at most so much of the disk, and so small a part of what is free on it.
MAX_BYTES, _SHARE_OF_FREE = 4 << 30, 8


class KeptFrames:
    """A :class:`FrameSource` over another one that reads each of its frames once.

    Finding who is where, looking for cuts, the contact sheet and rendering all go through a driving video; decoding and
    scaling it costs far more than writing it down. Frames are kept as raw bytes at their final size, up to `MAX_BYTES` and an
    eighth of the free disk; those beyond are read from the source again, as all are where nothing can be written. Memory holds
    the asked window only. Threads take turns.

    Args:
        source: frames of one size, e.g. a `VideoReader`.
        folder: on the disk that is to be used. The file there has no name and is gone with this object or with the process,
            however that ends.
    """

    def __init__(self, source: Any, folder: Path):
        self.source = source
        self.height, self.width = source.height, source.width
        self.source_info, self.source_indices = (
            getattr(source, f"source_{what}", None) for what in ("info", "indices")
        )
        self._bytes = self.height * self.width * 3
        self._kept = np.zeros(len(source), bool)
        self._file: BinaryIO | None = None
        self._lock = Lock()
        try:
            self._limit = min(MAX_BYTES, free_bytes(folder) // _SHARE_OF_FREE)
            self._file = nameless_file(folder)
        except OSError as error:
            self._give_up(error)

    def __len__(self) -> int:
        return len(self._kept)

    def frames(self, start: int, stop: int) -> np.ndarray:
        """Frames [start, stop): uint8 (T, H, W, 3)."""
        check_window(start, stop, len(self))
        with self._lock:
            return self._window(start, stop)

    def _window(self, start: int, stop: int) -> np.ndarray:
        window = np.empty((stop - start, self.height, self.width, 3), np.uint8)
        edges = np.flatnonzero(np.diff(self._kept[start:stop])) + 1 + start
        for first, last in zip([start, *edges], [*edges, stop], strict=True):
            if first == last:
                continue
            part = window[first - start : last - start]
            if not self._kept[first] or not self._read(first, part):
                part[:] = self.source.frames(int(first), int(last))
                self._keep(int(first), part)
        return window

    def close(self) -> None:
        """Gives the disk's space back and closes the source; the frames cannot be read afterwards."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self.source.close()

    def _read(self, first: int, part: np.ndarray) -> bool:
        """Fills ``part`` from the file; whether it could be."""
        left, offset = memoryview(part.data).cast("B"), int(first) * self._bytes
        while left and self._file is not None:
            try:
                count = os.preadv(self._file.fileno(), [left], offset)
            except OSError as error:
                self._give_up(error)
                return False
            if not count:
                return False
            left, offset = left[count:], offset + count
        return not left

    def _keep(self, first: int, part: np.ndarray) -> None:
        """Writes frames down, as many as there is room for."""
        count = max(0, min(len(part), self._limit // self._bytes - first)) if self._file is not None else 0
        left, offset = memoryview(part[:count].data).cast("B") if count else memoryview(b""), first * self._bytes
        try:
            while left and self._file is not None:
                written = os.pwrite(self._file.fileno(), left, offset)
                left, offset = left[written:], offset + written
        except OSError as error:
            self._give_up(error)
            return
        self._kept[first : first + count] = True

    def _give_up(self, error: OSError) -> None:
        """Goes on without a file: every frame is read from the source again."""
        logger.debug("frames are not kept: %s", error)
        self._kept[:] = False
        self._limit = 0
        if self._file is not None:
            self._file.close()
            self._file = None
