"""What Pillow passes over in a picture's file, read from that file without disturbing Pillow's own place in it."""

import os
from collections.abc import Callable
from typing import IO, TypeVar

from PIL import Image

Found = TypeVar("Found")


def read_file_of(picture: Image.Image, read: Callable[[IO[bytes]], Found | None]) -> Found | None:
    """What ``read`` finds in the file that a picture was opened from; None where there is no such file any more."""
    file = getattr(picture, "fp", None)
    if file is not None and not file.closed:
        here = file.tell()
        try:
            return read(file)
        finally:
            file.seek(here)
    filename = getattr(picture, "filename", "")
    if filename and os.path.isfile(filename):
        with open(filename, "rb") as opened:
            return read(opened)
    return None
