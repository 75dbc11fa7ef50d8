"""Files that clients bring, kept under the hash of their content: a name never comes from outside."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from scail2.errors import InputError
from scail2.files.staging import Staging
from scail2.files.storage import free_bytes, hash_file
from scail2.serving.queue import JobQueue
from scail2.serving.refusals import (
    DiskFullError,
    MissingError,
    RefusalError,
    TooLargeError,
    TooManyError,
    TooSlowError,
    WrongTypeError,
)
from scail2.serving.settings import Limits
from scail2.video import VideoReader, VideoWriter, probe, read_image
from scail2.video.kinds import HEAD, FileKind, identify, sniff
from scail2.video.sound import SoundFile, check_sound, sound_alone

# What is left of the disk for the runs themselves.
_WINDOW = 16
_SPARE_BYTES = 64 * 2**20
_SUFFIXES = {
    FileKind.PNG: ".png",
    FileKind.JPEG: ".jpg",
    FileKind.WEBP: ".webp",
    FileKind.GIF: ".gif",
    FileKind.TIFF: ".tiff",
    FileKind.BMP: ".bmp",
    FileKind.AVIF: ".avif",
    FileKind.MP4: ".mp4",
    FileKind.MATROSKA: ".mkv",
    FileKind.AVI: ".avi",
    FileKind.MPEG_TS: ".ts",
}
_MAYBE_MOVING = (FileKind.GIF, FileKind.WEBP, FileKind.PNG, FileKind.AVIF)

_FULL = "Your uploads fill what you may store: delete those that no run needs, or ask for more room."


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A file that is there: its SHA-256, bytes, and what it holds (``kind``: picture, video or sound; size, frames, seconds)."""

    sha256: str
    path: Path
    facts: dict[str, Any]


class Uploads:
    """The uploaded files of one service, ``FOLDER/SHA256.SUFFIX``."""

    def __init__(self, folder: Path, queue: JobQueue, limits: Limits) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._queue, self._limits = folder, queue, limits

    def find(self, owner: str, sha256: str) -> Upload:
        """A file that this owner has brought; `MissingError` for others', so that hashes tell nobody what others have."""
        known = self._queue.upload(owner, sha256)
        if known is None or not (self._folder / f"{sha256}{known[0]}").is_file():
            raise MissingError(f"There is no upload {sha256[:64]!r} of yours: send the file to /v1/uploads first.")
        return Upload(sha256=sha256, path=self._folder / f"{sha256}{known[0]}", facts=known[1])

    def delete(self, owner: str, sha256: str) -> None:
        """Forgets a file of this owner, and removes it where nobody else has brought it; `BusyError` while a run needs it."""
        upload = self.find(owner, sha256)
        if self._queue.forget_upload(owner, sha256):
            upload.path.unlink(missing_ok=True)

    async def receive(self, owner: str, chunks: AsyncIterator[bytes]) -> Upload:
        """Stores a body as it comes, checks that it can be read, and gives it its name.

        Raises a `RefusalError` for too many bytes (of the file, of the owner, of the disk), pixels or seconds, silence, or
        another kind of file; nothing of it stays then.
        """
        room = self._limits.stored_bytes - self._queue.stored_bytes(owner)
        if room <= 0:
            raise TooManyError(_FULL)
        with Staging(self._folder / "upload") as staging:
            size, sha256 = await self._store(staging.place, chunks, min(room, self._limits.upload_bytes))
            facts, suffix = await asyncio.to_thread(self._examine, staging.place)
            target = self._folder / f"{sha256}{suffix}"
            if not target.is_file():
                os.replace(staging.place, target)
        await asyncio.to_thread(self._queue.add_upload, owner, sha256, suffix, size, facts)
        return Upload(sha256=sha256, path=target, facts={"bytes": size, **facts})

    def trim(self, owner: str, sha256: str, start: int, stop: int) -> Upload:
        """Frames [start, stop) of a video that this owner has brought, with their sound, as an upload of its own (H.264)."""
        whole = self.find(owner, sha256)
        if whole.facts["kind"] != "video":
            raise RefusalError("Only a video can be trimmed.")
        with VideoReader(whole.path) as reader, Staging(self._folder / "trimmed.mp4") as staging:
            if not 0 <= start < stop <= len(reader):
                raise RefusalError(
                    f"The video has {len(reader)} frames; {start} to {stop} are none of them, or not in order."
                )
            size, began = (reader.height, reader.width), start / reader.fps
            with VideoWriter(staging.place, reader.fps, size, audio_from=whole.path, audio_start=began) as writer:
                for at in range(start, stop, _WINDOW):
                    writer.write(reader.frames(at, min(at + _WINDOW, stop)))
            facts, digest = self._video(staging.place), hash_file(staging.place)
            bytes_ = staging.place.stat().st_size
            if bytes_ > self._limits.stored_bytes - self._queue.stored_bytes(owner):
                raise TooManyError(_FULL)
            os.replace(staging.place, self._folder / f"{digest}.mp4")
        self._queue.add_upload(owner, digest, ".mp4", bytes_, facts)
        return self.find(owner, digest)

    async def _store(self, place: Path, chunks: AsyncIterator[bytes], most: int) -> tuple[int, str]:
        digest, size = hashlib.sha256(), 0
        with place.open("wb") as file:
            while (chunk := await self._next(chunks)) is not None:
                size += len(chunk)
                if size > most:
                    raise TooLargeError(f"The file has more than the {most:,} bytes allowed.")
                if free_bytes(place.parent) < len(chunk) + _SPARE_BYTES:
                    raise DiskFullError("The disk of the service is full: try again when there is room.")
                digest.update(chunk)
                await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(_to_disk, file)
        if size == 0:
            raise WrongTypeError("The body is empty: send the bytes of a picture, video or sound.")
        return size, digest.hexdigest()

    async def _next(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        try:
            async with asyncio.timeout(self._limits.silence):
                return await anext(chunks)
        except StopAsyncIteration:
            return None
        except TimeoutError:
            raise TooSlowError(f"Nothing came for {self._limits.silence:g} seconds: send the file again.") from None

    def _examine(self, path: Path) -> tuple[dict[str, Any], str]:
        """What a file holds, and the suffix that fits; headers are judged before anything is decoded."""
        try:
            if (sound := sound_alone(path)) is not None:
                return self._sound(path, sound), sound.suffix
            kind = identify(path)
            moves = kind.is_container or (kind in _MAYBE_MOVING and _frames(path) > 1)
            facts = self._video(path) if moves else self._picture(path)
        except (TooLargeError, WrongTypeError):
            raise
        except InputError as error:
            told = str(error).replace(str(path), "The file")
            told += "" if _is_known(path) else "; a film's sound may be wav, aiff, mp3, flac, ogg, aac or m4a"
            raise WrongTypeError(told) from None
        return facts, _SUFFIXES[kind]

    def _sound(self, path: Path, sound: SoundFile) -> dict[str, Any]:
        self._check_seconds("sound", sound.duration)
        if (check := check_sound(path)) is None or not check.heard:
            raise WrongTypeError("There is no sound in the file that can be decoded.")
        return {"kind": "sound", "seconds": round(float(sound.duration), 3)}

    def _video(self, path: Path) -> dict[str, Any]:
        info = probe(path)
        self._check_pixels(info.width, info.height)
        seconds = self._check_seconds("video", info.duration)
        facts = {"width": info.width, "height": info.height, "frames": info.frames, "seconds": round(seconds, 3)}
        return {"kind": "video", **facts, "sound": info.audio_codec is not None}

    def _picture(self, path: Path) -> dict[str, Any]:
        pixels = read_image(path)
        self._check_pixels(pixels.shape[1], pixels.shape[0])
        return {"kind": "picture", "width": pixels.shape[1], "height": pixels.shape[0]}

    def _check_seconds(self, what: str, duration: Fraction) -> float:
        seconds = float(duration)
        if seconds > self._limits.seconds:
            raise TooLargeError(f"The {what} lasts {seconds:.0f} seconds; {self._limits.seconds:.0f} are allowed.")
        return seconds

    def _check_pixels(self, width: int, height: int) -> None:
        if width * height > self._limits.pixels:
            raise TooLargeError(f"{width}×{height} are more than the {self._limits.pixels:,} pixels allowed.")


def _frames(path: Path) -> int:
    """Pictures of a file that may be an animation or a still."""
    try:
        return probe(path).frames
    except InputError:
        return 1


def _is_known(path: Path) -> bool:
    """Whether the first bytes announce a picture or video that can be read."""
    with path.open("rb") as file:
        return sniff(file.read(HEAD)) is not None


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
