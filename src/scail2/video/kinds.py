"""What a file is, by its first bytes; and whether its name says the same."""

import os
from enum import StrEnum
from pathlib import Path

from scail2.errors import InputError


class FileKind(StrEnum):
    """Content families; files of one family are read the same way."""

    MP4 = "mp4"
    MATROSKA = "matroska"
    GIF = "gif"
    WEBP = "webp"
    PNG = "png"
    JPEG = "jpeg"
    TIFF = "tiff"
    BMP = "bmp"
    AVIF = "avif"

    @property
    def is_container(self) -> bool:
        """Holds coded video (read with PyAV) rather than pictures (read with Pillow)."""
        return self in (FileKind.MP4, FileKind.MATROSKA)


_SUFFIXES = {
    FileKind.MP4: (".mp4", ".mov", ".m4v", ".qt", ".3gp"),
    FileKind.MATROSKA: (".mkv", ".webm"),
    FileKind.GIF: (".gif",),
    FileKind.WEBP: (".webp",),
    FileKind.PNG: (".png", ".apng"),
    FileKind.JPEG: (".jpg", ".jpeg"),
    FileKind.TIFF: (".tif", ".tiff"),
    FileKind.BMP: (".bmp",),
    FileKind.AVIF: (".avif",),
}
_KIND_OF_SUFFIX = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes}
PICTURE_SUFFIXES = tuple(s for kind, suffixes in _SUFFIXES.items() if not kind.is_container for s in suffixes)
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"moof", b"styp")


def sniff(head: bytes) -> FileKind | None:
    """The kind that the first 16 bytes of a file announce, or None."""
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        return FileKind.AVIF
    if head[:4] == b"RIFF":
        return FileKind.WEBP if head[8:12] == b"WEBP" else None
    for magic, kind in (
        (b"\x1a\x45\xdf\xa3", FileKind.MATROSKA),
        (b"GIF8", FileKind.GIF),
        (b"\x89PNG\r\n\x1a\n", FileKind.PNG),
        (b"\xff\xd8\xff", FileKind.JPEG),
        (b"II*\x00", FileKind.TIFF),
        (b"MM\x00*", FileKind.TIFF),
        (b"BM", FileKind.BMP),
    ):
        if head.startswith(magic):
            return kind
    return FileKind.MP4 if head[4:8] in _MP4_BOXES else None


def check_path(path: str | os.PathLike) -> Path:
    """The path as it is on disk; InputError when nothing readable is there."""
    path = Path(path)
    try:
        exists = path.exists()
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror or error})") from None
    except ValueError:
        raise InputError(f"{str(path)!r} is not a path: it contains a null character") from None
    if not exists:
        raise InputError(f"{path}: no such file or folder; check the spelling")
    if not (path.is_file() or path.is_dir()):
        raise InputError(f"{path}: is neither a file nor a folder; save the video to a file first")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise InputError(f"{path}: permission to read it is missing; change it with chmod or copy it elsewhere")
    return path


def identify(path: Path) -> FileKind:
    """The kind of a readable file, from its content; InputError if it is empty, unknown, or named as another kind."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not head:
        raise InputError(f"{path}: the file is empty; copy or download it again")
    kind = sniff(head)
    suffix = path.suffix.lower()
    named = _KIND_OF_SUFFIX.get(suffix)
    if kind is None:
        raise InputError(
            f"{path}: the content is not a video or picture of a known kind (mp4, mov, mkv, webm, gif, webp, png, jpeg)"
        )
    if suffix and named is not kind and (kind.is_container or named is None or named.is_container):
        raise InputError(
            f"{path}: the name ends in {suffix} but the content is {kind}; rename it to {_SUFFIXES[kind][0]}"
        )
    return kind
