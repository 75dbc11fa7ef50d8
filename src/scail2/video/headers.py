"""What a container's own headers give away before any decoder sees the file: impossible sizes, a missing end.

FFmpeg sizes its buffers by these numbers for some codecs and ignores them for others; a header that claims
20,000 × 20,000 is refused either way. Only box and element headers are read, never picture data.
"""

import io
import struct
from collections.abc import Iterator
from pathlib import Path

from scail2.errors import InputError
from scail2.video.kinds import FileKind
from scail2.video.source import MAX_FRAMES, MAX_PIXELS, check_frame_size

_MP4_PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"stbl"}
_SOUND_ENTRIES = (b"mp4a", b"Opus", b"sowt", b"twos", b"lpcm", b"ac-3", b"ec-3", b"fLaC", b".mp3", b"alac")
_ENTRY = 78  # bytes of a picture's sample entry before the boxes in it
# Matroska element numbers (RFC 9559) on the way to a track's size, and the sizes themselves.
_EBML_PARENTS = {0x18538067, 0x1654AE6B, 0xAE, 0xE0}  # Segment, Tracks, TrackEntry, Video
_EBML_CROPS = (0x54AA, 0x54BB, 0x54CC, 0x54DD)  # bottom, top, left, right
_EBML_CLUSTER, _EBML_WIDTH, _EBML_HEIGHT = 0x1F43B675, 0xB0, 0xBA
_MAX_ELEMENTS = 10_000  # a damaged file can pretend to hold more; what lies behind is not needed


def check_headers(path: Path, kind: FileKind) -> None:
    """Raises InputError if an mp4/mov, Matroska/WebM or AVI file claims an impossible picture size or lacks its end."""
    if kind is FileKind.MPEG_TS:  # has no header
        return
    if kind is FileKind.AVI:
        _check_avi(path)
        return
    try:
        with path.open("rb") as file:
            end = file.seek(0, io.SEEK_END)
            sizes = list(_mp4_sizes(file, 0, end) if kind is FileKind.MP4 else _matroska_sizes(file, end))
            cut = kind is FileKind.MP4 and _ends_early(file, end)
            samples = max(_run_lengths(file, 0, end), default=0) if kind is FileKind.MP4 else 0
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    for width, height in sizes:
        if width * height > MAX_PIXELS:
            check_frame_size(path, width, height)
    if samples > MAX_FRAMES:
        raise InputError(f"{path}: announces {samples:,} pictures in one piece; the file is damaged, get it again")
    if cut:
        raise InputError(f"{path}: the file is truncated, its last part is missing; get it again")


def _check_avi(path: Path) -> None:
    """The same of an AVI: its first chunk names its length, its main header the picture's size."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, io.SEEK_END)
            file.seek(0)
            head = file.read(4096)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if int.from_bytes(head[4:8], "little") + 8 > end:
        raise InputError(f"{path}: the file is truncated, its last part is missing; get it again")
    main = head.find(b"avih")
    if main >= 0:
        width, height = (int.from_bytes(head[main + 40 + at : main + 44 + at], "little") for at in (0, 4))
        if width * height > MAX_PIXELS:
            check_frame_size(path, width, height)


def _boxes(file: io.BufferedReader, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, start of the body, end as claimed) of the mp4 boxes between two places."""
    position = start
    for _ in range(_MAX_ELEMENTS):
        if position + 8 > end:
            return
        file.seek(position)
        header = file.read(16)
        size, name, body = int.from_bytes(header[:4], "big"), header[4:8], position + 8
        if size == 1 and len(header) == 16:
            size, body = int.from_bytes(header[8:], "big"), position + 16
        elif size == 0:
            size = end - position
        if size < body - position:
            return
        yield name, body, position + size
        position += size


def _ends_early(file: io.BufferedReader, end: int) -> bool:
    return any(name in (b"moov", b"moof", b"mdat") and stop > end for name, _, stop in _boxes(file, 0, end))


def _run_lengths(file: io.BufferedReader, start: int, end: int) -> Iterator[int]:
    """How many samples each fragment announces. A sample may take no byte of its own, so the file's size is no limit and
    FFmpeg would list them all."""
    for name, body, stop in _boxes(file, start, end):
        if name in (b"moof", b"traf"):
            yield from _run_lengths(file, body, min(stop, end))
        elif name == b"trun":  # codespell:ignore
            file.seek(body + 4)  # behind version and flags
            yield int.from_bytes(file.read(4), "big")


def _mp4_sizes(file: io.BufferedReader, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(width, height) of each track header and sample entry."""
    for name, body, stop in _boxes(file, start, end):
        stop = min(stop, end)
        if name in _MP4_PARENTS:
            yield from _mp4_sizes(file, body, stop)
        elif name == b"tkhd":
            # Width and height (16.16 fixed point) are the last eight bytes of a track header of either version.
            file.seek(max(body, stop - 8))
            tail = file.read(8)
            yield int.from_bytes(tail[:4], "big") >> 16, int.from_bytes(tail[4:], "big") >> 16
        elif name == b"stsd":
            # Full box (4) + count (4) + entry header (8) + 24 bytes, then width and height; sound entries differ.
            file.seek(body + 8)
            entry = file.read(36)
            if entry[4:8] not in _SOUND_ENTRIES:
                yield int.from_bytes(entry[32:34], "big"), int.from_bytes(entry[34:36], "big")


def _matroska_sizes(file: io.BufferedReader, end: int) -> Iterator[tuple[int, int]]:
    """(width, height) of each video track."""
    width, height = 0, 0
    for name, value in _matroska_numbers(file, end):
        if name in (_EBML_WIDTH, _EBML_HEIGHT):
            width, height = (value, height) if name == _EBML_WIDTH else (width, value)
        if width and height:
            yield width, height
            width = height = 0


def _matroska_numbers(file: io.BufferedReader, end: int) -> Iterator[tuple[int, int]]:
    """(element, value) of the picture sizes and crops of all tracks, in their order."""
    position = 0
    for _ in range(_MAX_ELEMENTS):
        file.seek(position)
        head = file.read(12)
        if len(head) < 2 or not head[0]:
            return
        id_length = 9 - head[0].bit_length()
        if id_length > 4 or id_length >= len(head) or not head[id_length]:
            return
        name = int.from_bytes(head[:id_length], "big")
        size_length = 9 - head[id_length].bit_length()
        raw = int.from_bytes(head[id_length : id_length + size_length], "big")
        size = raw & ((1 << (7 * size_length)) - 1)
        body = position + id_length + size_length
        if name == _EBML_CLUSTER:
            return
        if name in _EBML_PARENTS:
            position = body  # walk into it; its end needs no bookkeeping, elements simply follow one another
            continue
        if name in (_EBML_WIDTH, _EBML_HEIGHT, *_EBML_CROPS) and size <= 8:
            file.seek(body)
            yield name, int.from_bytes(file.read(size), "big")
        position = body + size
        if position >= end:
            return


def shown_part(path: Path, kind: FileKind) -> tuple[int, int, int, int] | None:
    """Of a film whose container has players show only a part of its pictures: (width, height) of that part and of the whole
    as stored; None where all is shown. Said by the clean aperture of mp4 and mov, the cropping of Matroska."""
    if kind not in (FileKind.MP4, FileKind.MATROSKA):
        return None
    with path.open("rb") as file:
        end = file.seek(0, io.SEEK_END)
        parts = _mp4_parts(file, 0, end) if kind is FileKind.MP4 else _matroska_parts(file, end)
        return next(((*part, *whole) for part, whole in parts if part != whole), None)


def _mp4_parts(file: io.BufferedReader, start: int, end: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """(width, height) of the clean aperture, in whole pixels, and of the stored picture of each sample entry that has one."""
    for name, body, stop in _boxes(file, start, end):
        stop = min(stop, end)
        if name in _MP4_PARENTS:
            yield from _mp4_parts(file, body, stop)
        elif name == b"stsd":
            for kind, entry, entry_end in _boxes(file, body + 8, stop):
                file.seek(entry + 24)
                width, height = struct.unpack(">HH", file.read(4).ljust(4, b"\0"))
                inner = () if kind in _SOUND_ENTRIES else _boxes(file, entry + _ENTRY, min(entry_end, stop))
                for clap in (at for box, at, _ in inner if box == b"clap"):
                    file.seek(clap)
                    across, across_by, down, down_by = struct.unpack(">4I", file.read(16).ljust(16, b"\0"))
                    if across_by and down_by and 0 < across // across_by <= width and 0 < down // down_by <= height:
                        yield (across // across_by, down // down_by), (width, height)


def _matroska_parts(file: io.BufferedReader, end: int) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """The same of a Matroska film, by its first track of pictures."""
    numbers: dict[int, int] = {}
    for name, value in _matroska_numbers(file, end):
        numbers.setdefault(name, value)
    width, height = numbers.get(_EBML_WIDTH, 0), numbers.get(_EBML_HEIGHT, 0)
    bottom, top, left, right = (numbers.get(name, 0) for name in _EBML_CROPS)
    if width > left + right and height > top + bottom:
        yield (width - left - right, height - top - bottom), (width, height)
