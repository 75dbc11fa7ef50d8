"""The colours of a PNG that says by its own chunks, not by a profile, what they are: cICP, sRGB, gAMA and cHRM; and its
transparent value."""

import io
from collections.abc import Callable
from typing import IO

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from scail2.video.colour import ToBytes, as_stored, conversion, measured_conversion
from scail2.video.picture_file import Found, read_file_of

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_CHUNKS = 1000
_DEPTH = 24  # where the header has the bits of a value
_CHROMATICITIES = 8
_SMALLEST = 1e-3  # exponents and chromaticities below are damage


def png_conversion(picture: Image.Image) -> ToBytes | None:
    """What takes a picture's pixels to sRGB by its PNG chunks; None where they are shown as stored.

    The newer chunk wins, as the standard has it: cICP before an embedded profile (which is `profiles`' to apply) before sRGB
    before gAMA and cHRM.
    """
    if picture.format != "PNG":
        return None
    if (tags := _code_points(picture)) is not None:
        return conversion(*tags) or (as_stored if picture.info.get("icc_profile") else None)
    if picture.info.get("icc_profile") or "srgb" in picture.info:
        return None
    return measured_conversion(_exponent(picture), _primaries(picture))


def _exponent(picture: Image.Image) -> float | None:
    gamma = picture.info.get("gamma")
    return float(gamma) if gamma and gamma > _SMALLEST else None


def _primaries(picture: Image.Image) -> tuple[tuple[float, float], ...] | None:
    """(x, y) of red, green, blue and white; the chunk has white first."""
    values = picture.info.get("chromaticity") or ()
    if len(values) != _CHROMATICITIES or min(values[1::2]) < _SMALLEST:
        return None
    pairs = [(float(x), float(y)) for x, y in zip(values[::2], values[1::2], strict=True)]
    red, green, blue = pairs[1:]
    area = (green[0] - red[0]) * (blue[1] - red[1]) - (blue[0] - red[0]) * (green[1] - red[1])
    return (red, green, blue, pairs[0]) if abs(area) > _SMALLEST else None


def transparent_value(picture: Image.Image) -> int | tuple[int, ...] | None:
    """The value that a PNG without alpha means by transparent, in the steps of the pixels that Pillow gives: it keeps the
    file's own, of 2, 4 or 16 bits. None where there is none, or Pillow's is right."""
    key = picture.info.get("transparency")
    if picture.format != "PNG" or not isinstance(key, int | tuple):
        return None
    bits = _read(picture, _bits)
    if picture.mode == "L" and bits in (2, 4) and isinstance(key, int):
        return key * 255 // (2**bits - 1)
    return tuple(value >> 8 for value in key) if bits == 16 and isinstance(key, tuple) else None


def _code_points(picture: Image.Image) -> tuple[int, int] | None:
    """Primaries and transfer of a cICP chunk."""
    return _read(picture, _cicp)


def _read(picture: Image.Image, read: Callable[[IO[bytes]], Found | None]) -> Found | None:
    return read_file_of(picture, read) if isinstance(picture, PngImageFile) else None


def _bits(file: IO[bytes]) -> int | None:
    file.seek(_DEPTH)
    value = file.read(1)
    return value[0] if value else None


def _cicp(file: IO[bytes]) -> tuple[int, int] | None:
    file.seek(0)
    if file.read(len(_SIGNATURE)) != _SIGNATURE:
        return None
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        if name == b"cICP":
            values = file.read(2)
            return (values[0], values[1]) if len(values) == 2 else None
        if len(name) < 4 or name in (b"IDAT", b"IEND"):
            return None
        file.seek(length + 4, io.SEEK_CUR)
    return None
