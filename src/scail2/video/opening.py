"""Opening coded files safely, and the decoder's exceptions as one sentence."""

from contextlib import contextmanager
from pathlib import Path

import av

from scail2.errors import InputError
from scail2.video.source import MAX_PIXELS

# Local files of these formats only: a playlist or a reference to another file inside one must not be followed.
_FILMS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts"
_OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FILMS, "max_pixels": str(MAX_PIXELS)}
_SOUND_OPTIONS = _OPEN_OPTIONS | {"format_whitelist": f"{_FILMS},wav,w64,aiff,mp3,flac,ogg,aac"}


@contextmanager
def decoding_errors(path: Path, what: str):
    """Turns the decoder's exceptions into one sentence about the file."""
    try:
        yield
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path}: {what} needs more memory than there is; scale the video down first") from None
    except (av.error.FFmpegError, OSError, ValueError, OverflowError, ZeroDivisionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{path}: {what} failed ({reason}); the file is damaged or cut off, get or encode it again"
        ) from error


def open_container(path: Path) -> av.container.InputContainer:
    """A local file of a known format, opened so that nothing in it can name another file."""
    return av.open(str(path.absolute()), options=dict(_OPEN_OPTIONS), metadata_errors="replace")


def open_sound(path: Path) -> av.container.InputContainer:
    """The same for whatever may hold sound: films, and files of sound alone."""
    return av.open(str(path.absolute()), options=dict(_SOUND_OPTIONS), metadata_errors="replace")
