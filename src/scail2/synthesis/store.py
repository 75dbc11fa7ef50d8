"""Pictures and clips in the making, on disk under the hash of their pixels: written whole, and known when they are damaged."""

import hashlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from scail2.data.media import decode_png, decode_video, encode_png, encode_video
from scail2.files.storage import is_present, read_bytes, remove, write_bytes
from scail2.synthesis.generators.protocol import Array

_LENGTH = 32


def pixel_hash(pixels: Array) -> str:
    """Of uint8 pixels and their shape."""
    digest = hashlib.sha256(str(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()[:_LENGTH]


class Store:
    """A folder of pictures (PNG) and clips (FFV1), both lossless."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, pixels: Array) -> str:
        """Writes a picture uint8 (H, W, 3) or a clip's frames uint8 (T, H, W, 3), if it is not there; its hash."""
        name = pixel_hash(pixels)
        path = self._path(name, pixels.ndim)
        if not is_present(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_bytes(path, encode_png(pixels) if pixels.ndim == 3 else encode_video(pixels))
        return name

    def picture(self, name: str) -> Array | None:
        """A picture by its hash; None where it is lost or damaged."""
        return self._read(name, 3)

    def clip(self, name: str) -> Array | None:
        """A clip's frames by their hash; None where they are lost or damaged."""
        return self._read(name, 4)

    def clear(self) -> None:
        """Removes all of it."""
        remove(self.folder)

    def _path(self, name: str, axes: int) -> Path:
        return self.folder / f"{name}.{'png' if axes == 3 else 'mkv'}"

    def _read(self, name: str, axes: int) -> Array | None:
        path = self._path(name, axes)
        if not is_present(path):
            return None
        with suppress(ValueError):
            pixels = (decode_png if axes == 3 else decode_video)(read_bytes(path))
            if pixel_hash(pixels) == name:
                return np.require(pixels, requirements="W")  # PyTorch warns of arrays that cannot be written
        remove(path)  # so that it is written when it is made again
        return None
