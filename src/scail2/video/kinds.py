"""What a file is, by its first bytes; and whether its name says the same."""

import os
from enum import StrEnum
from pathlib import Path

from scail2.errors import InputError


class FileKind(StrEnum):
    """Content families; files of one family are read the same way."""

    MP4 = "mp4"
    MATROSKA = "matroska"
    AVI = "avi"
    MPEG_TS = "mpeg-ts"
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
        return self in (FileKind.MP4, FileKind.MATROSKA, FileKind.AVI, FileKind.MPEG_TS)


_SUFFIXES = {
    FileKind.MP4: (".mp4", ".mov", ".m4v", ".qt", ".3gp"),
    FileKind.MATROSKA: (".mkv", ".webm"),
    FileKind.AVI: (".avi", ".divx"),
    FileKind.MPEG_TS: (".ts", ".m2ts", ".mts"),
    FileKind.GIF: (".gif",),
    FileKind.WEBP: (".webp",),
    FileKind.PNG: (".png", ".apng"),
    FileKind.JPEG: (".jpg", ".jpeg"),
    FileKind.TIFF: (".tif", ".tiff"),
    FileKind.BMP: (".bmp",),
    FileKind.AVIF: (".avif",),
}
_KIND_OF_SUFFIX = {suffix: kind for kind, suffixes in _SUFFIXES.items() for suffix in suffixes}
FILM_SUFFIXES = tuple(s for kind, suffixes in _SUFFIXES.items() if kind.is_container for s in suffixes)
PICTURE_SUFFIXES = tuple(s for kind, suffixes in _SUFFIXES.items() if not kind.is_container for s in suffixes)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1")
_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"moof", b"styp")

# An MPEG transport stream has no signature but this byte at the head of each packet; on discs a time of 4 bytes precedes it.
_TS_SYNC, _TS_PACKETS = 0x47, ((0, 188), (4, 192))
HEAD = 512
# Films that are not read here, by their first bytes.
_OTHER_FILMS = (
    (b"\x00\x00\x01\xba", "an MPEG program stream"),
    (b"\x00\x00\x01\xb3", "a raw MPEG stream"),
    (b"\x00\x00\x00\x01", "a raw H.264 or HEVC stream"),
    (b"FLV\x01", "Flash video"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media"),
    (b"OggS", "Ogg"),
    (b".RMF", "RealMedia"),
    (b"DKIF", "IVF"),
    (b"YUV4MPEG2", "raw YUV4MPEG"),
)


def sniff(head: bytes) -> FileKind | None:
    """The kind that the first bytes of a file announce, or None."""
    if _brands(head) & {b"avif", b"avis"}:
        return FileKind.AVIF
    if head[:4] == b"RIFF":
        return {b"WEBP": FileKind.WEBP, b"AVI ": FileKind.AVI}.get(head[8:12])
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
    if any(len(head) > first + step and head[first] == head[first + step] == _TS_SYNC for first, step in _TS_PACKETS):
        return FileKind.MPEG_TS
    return FileKind.MP4 if head[4:8] in _MP4_BOXES else None


def is_sound(head: bytes) -> bool:
    """Whether the first bytes announce a file of sound alone that is read here: WAV, AIFF, MP3, FLAC, Ogg, AAC."""
    if head[:4] in (b"RIFF", b"RF64"):
        return head[8:12] == b"WAVE"
    if head[:4] == b"FORM":
        return head[8:12] in (b"AIFF", b"AIFC")
    # MP3 and AAC without a tag begin with the eleven set bits of their first frame.
    return (
        head[:3] == b"ID3" or head[:4] in (b"fLaC", b"OggS", b"riff") or (head[:1] == b"\xff" and head[1:2] >= b"\xe0")
    )


def _brands(head: bytes) -> set[bytes]:
    """What a file of boxes claims to be, its first claim among them."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4]), len(head))
    return {head[8:12], *(head[at : at + 4] for at in range(16, end, 4))}


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
            head = file.read(HEAD)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not head:
        raise InputError(f"{path}: the file is empty; copy or download it again")
    kind = sniff(head)
    if kind is FileKind.MP4 and head[8:12] in _HEIF_BRANDS:
        raise InputError(
            f"{path}: is a HEIC picture, as phones take them, which is not read here; open it and save it as JPEG or PNG"
        )
    suffix = path.suffix.lower()
    named = _KIND_OF_SUFFIX.get(suffix)
    if kind is None:
        for magic, name in _OTHER_FILMS:
            if head.startswith(magic):
                raise InputError(
                    f"{path}: is {name}, which is not read here; "
                    "convert it: ffmpeg -fflags +genpts -i IN -c:v libx264 -crf 12 -c:a aac OUT.mp4"
                )
        raise InputError(
            f"{path}: the content is not a video or picture of a known kind (mp4, mov, mkv, webm, avi, ts, gif, webp, png, "
            "jpeg); save it as one of them, a picture as PNG"
        )
    # Recorders and stream downloads give any film's name to a transport stream; it is read all the same.
    loose = kind in (FileKind.AVI, FileKind.MPEG_TS) and named is not None and named.is_container
    if suffix and named is not kind and not loose and (kind.is_container or named is None or named.is_container):
        raise InputError(
            f"{path}: the name ends in {suffix} but the content is {kind}; rename it to {_SUFFIXES[kind][0]}"
        )
    return kind
