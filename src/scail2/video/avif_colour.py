"""The colours of an AVIF that says by its boxes, not by a profile, what they are: the code points of an nclx."""

from collections.abc import Iterator
from typing import IO

from PIL import Image

from scail2.video.colour import ToBytes, conversion
from scail2.video.picture_file import read_file_of

_META, _FULL = b"meta", 4  # a full box begins with a byte of version and three of flags
_Box = tuple[bytes, bytes]  # name and body


def avif_conversion(picture: Image.Image) -> ToBytes | None:
    """What takes a picture's pixels to sRGB by its AVIF's nclx; None where they are shown as stored, or by a profile.

    Pillow passes over these code points, so they are read from the picture's file.
    """
    if picture.format != "AVIF" or picture.info.get("icc_profile"):
        return None
    tags = _code_points(read_file_of(picture, _content) or b"")
    return None if tags is None else conversion(*tags)


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _code_points(data: bytes) -> tuple[int, int] | None:
    """Primaries and transfer of the picture that is shown; a file may hold others, such as its highlights alone."""
    meta = dict(_boxes(dict(_boxes(data)).get(_META, b"")[_FULL:]))
    described = dict(_boxes(meta.get(b"iprp", b"")))
    properties = list(_boxes(described.get(b"ipco", b"")))
    for number in _belonging(described.get(b"ipma", b""), _primary(meta.get(b"pitm", b""))):
        if not 0 < number <= len(properties):
            continue
        name, body = properties[number - 1]
        if name == b"colr" and body[:4] == b"nclx" and len(body) >= 8:
            return int.from_bytes(body[4:6], "big"), int.from_bytes(body[6:8], "big")
    return None


def _boxes(data: bytes) -> Iterator[_Box]:
    at = 0
    while at + 8 <= len(data):
        size, name, begin = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], at + 8
        if size == 1:
            size, begin = int.from_bytes(data[at + 8 : at + 16], "big"), at + 16
        end = at + size if size else len(data)
        if end < begin:
            return
        yield name, data[begin:end]
        at = end


def _primary(body: bytes) -> int:
    return int.from_bytes(body[_FULL:] if body[:1] != b"\0" else body[_FULL : _FULL + 2], "big")


def _belonging(body: bytes, item: int) -> list[int]:
    """The numbers, from 1, of an item's properties by a list of which belongs to which."""
    name_size, number_size = (2 if body[:1] == b"\0" else 4), (2 if body[3:4] and body[3] & 1 else 1)
    essential = 1 << (8 * number_size - 1)
    at = _FULL + 4
    while at + name_size < len(body):
        name, count = int.from_bytes(body[at : at + name_size], "big"), body[at + name_size]
        at += name_size + 1
        numbers = body[at : at + count * number_size]
        if name == item:
            steps = range(0, len(numbers), number_size)
            return [int.from_bytes(numbers[k : k + number_size], "big") & ~essential for k in steps]
        at += count * number_size
    return []
