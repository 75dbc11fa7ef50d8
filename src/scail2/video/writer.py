"""Writing finished films: coded beside the wanted name, renamed into place when whole."""

import errno
import logging
import os
from collections.abc import Callable
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from PIL import Image

from scail2.errors import InputError
from scail2.files.staging import Staging
from scail2.video import rates
from scail2.video.audio import AudioCarrier
from scail2.video.formats import ENCODINGS, FORMAT_OF_SUFFIX, Codec, Encoding, check_form
from scail2.video.palettes import paletted
from scail2.video.pixels import EXACT
from scail2.video.source import check_frame_size

logger = logging.getLogger(__name__)

_BT709 = 1  # ITU-T H.273: primaries, transfer and matrix of BT.709 all have the number 1


_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def writing_errors(path: Path):
    """Turns a failing disk or encoder into one sentence that names the wanted file."""
    try:
        yield
    except InputError:
        raise
    except (av.error.FFmpegError, OSError) as error:
        if error.errno in _FULL_DISK:
            raise InputError(
                f"{path}: the disk (or its quota) is full; free some space and run again, nothing finished is lost"
            ) from error
        if isinstance(error, PermissionError) or error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(f"{path}: permission to write there is missing; choose another folder") from error
        raise InputError(
            f"{path}: writing failed ({error.strerror or error}); check the folder and the disk"
        ) from error


class VideoWriter:
    """Writes frames to a film; the wanted name appears only when the film is whole.

    Use as a context manager: a normal exit finishes and renames, an exception removes everything written.

    Args:
        path: the output; its suffix must suit the codec (h264: .mp4 .mov .m4v .mkv; ffv1: .mkv; prores4444: .mov;
            vp9-alpha: .webm; gif: .gif; webp: .webp; png: a folder, without suffix). Missing parent folders are made. A file
            of that name is replaced.
        fps: constant rate. GIF keeps times in hundredths of a second, WebP in thousandths: each frame begins at the nearest.
        size: (height, width) of the frames written.
        codec: see :class:`Codec`. ``h264`` is 8-bit 4:2:0 BT.709, limited range, index in front; **odd sizes are padded
            by one row or column** (the edge repeated), because 4:2:0 has no odd sizes. ``ffv1`` is lossless RGB(A). ``gif``
            has 256 colours a frame, chosen for it, and pixels that are there or not; ``webp`` repeats a frame that stays the
            same by showing it longer.
        audio_from: a file whose sound is carried over, cut to the film's exact length; one without sound is fine.
        audio_start: seconds into that file's *picture track* at which the film's first frame lies.
        before_publishing: called with the finished film's path before it gets its name; what it raises keeps it from it.
        total_frames: the planned number; more are refused, fewer fail at the end.

    Raises:
        InputError: unsuitable name, size or rate; no permission; a full disk (at any time; the unfinished file is removed).
    """

    def __init__(
        self,
        path: str | os.PathLike,
        fps: Fraction | float | str,
        size: tuple[int, int],
        codec: str = "h264",
        audio_from: str | os.PathLike | None = None,
        total_frames: int | None = None,
        *,
        audio_start: float | Fraction = 0,
        before_publishing: Callable[[Path], None] | None = None,
    ):
        self.path, self.codec, self.fps = Path(path), Codec.parse(codec), rates.parse_rate(fps)
        self.height, self.width = int(size[0]), int(size[1])
        check_frame_size(path, self.width, self.height)
        self.total_frames, self.frames_written = total_frames, 0
        self._has_alpha: bool | None = None
        self._before_publishing = before_publishing
        self._check_name()
        self._container: av.container.OutputContainer | None = None
        self._audio = AudioCarrier.open(audio_from, audio_start) if audio_from is not None else None
        self._reformatter = VideoReformatter()
        with writing_errors(self.path):
            self._reserve()

    def _check_name(self) -> None:
        check_form(self.path, self.codec, fps=self.fps)
        check_target(self.path, self.codec)

    def _reserve(self) -> None:
        """Makes the unfinished file now, so that a wrong place is reported before hours of work, not after."""
        self._staging = Staging(self.path)
        self._beside = self._staging.place
        if self.codec is Codec.PNG:
            self._beside.mkdir()
        else:
            self._beside.touch(exist_ok=False)

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def write(self, frames: np.ndarray) -> None:
        """Appends frames: uint8 ``(T, H, W, 3)`` RGB or ``(T, H, W, 4)`` straight RGBA (all of one kind).

        Raises:
            InputError: alpha for a codec without it; a full disk.
            ValueError: another shape or dtype, more frames than planned.
        """
        frames = np.asarray(frames)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:3] != (self.height, self.width):
            raise ValueError(
                f"frames must be uint8 (T, {self.height}, {self.width}, 3), got {frames.dtype} {frames.shape}"
            )
        if self.total_frames is not None and self.frames_written + len(frames) > self.total_frames:
            raise ValueError(f"{self.frames_written + len(frames)} frames written, {self.total_frames} were planned")
        with self._removing_on_failure():
            self._start(alpha=frames.shape[-1] == 4)
            for frame in frames:
                self._write_frame(frame)
                self.frames_written += 1

    def close(self) -> None:
        """Finishes, flushes to disk and renames. Raises ValueError if frames are missing; then nothing is left."""
        with self._removing_on_failure():
            if self.total_frames is not None and self.frames_written != self.total_frames:
                raise ValueError(f"{self.frames_written} frames written, {self.total_frames} were planned")
            if self.frames_written == 0:
                raise ValueError("no frames were written")
            if self._container is not None:
                self._mux(self._stream.encode())
                if self._audio is not None:
                    self._mux(self._audio.packets_until(self._now(), last=True))
                self._container.close()
                self._container = None
            self._publish()
            self._staging.close()
        self._release_audio()

    def abort(self) -> None:
        """Drops the unfinished film; nothing of it is left on disk."""
        container, self._container = self._container, None
        self._release_audio()
        if container is not None:
            try:
                container.close()
            except (av.error.FFmpegError, OSError, ValueError) as error:
                logger.debug("closing an abandoned film: %s", error)
        self._staging.close()

    @contextmanager
    def _removing_on_failure(self):
        try:
            with writing_errors(self.path):
                yield
        except BaseException:
            self.abort()
            raise

    def _release_audio(self) -> None:
        if self._audio is not None:
            self._audio.close()
            self._audio = None

    def _now(self) -> Fraction:
        return self.frames_written / self.fps

    # Encoding

    def _start(self, *, alpha: bool) -> None:
        if self._has_alpha is not None:
            if self._has_alpha != alpha:
                raise ValueError("frames with and without alpha cannot be mixed in one film")
            return
        self._has_alpha = alpha
        check_form(self.path, self.codec, alpha=alpha)
        if self._audio is not None and not self.codec.keeps_sound:
            logger.warning("%s: %s has no sound; it is left out", self.path, _told(self.codec))
            self._release_audio()
        if self.codec is not Codec.PNG:
            self._open(ENCODINGS[self.codec], alpha=alpha)

    def _open(self, encoding: Encoding, *, alpha: bool) -> None:
        self._pixel_format = encoding.alpha_format if alpha and encoding.alpha_format else encoding.opaque_format
        container_format = FORMAT_OF_SUFFIX[self.path.suffix.lower()]
        # Bit-exact: no random numbers (Matroska's identifiers), dates or versions, so equal frames give equal files.
        options = {"fflags": "+bitexact"}
        if container_format in ("mp4", "mov"):
            options["movflags"] = "+faststart"
        if not self.codec.keeps_sound:
            options["loop"] = "0"  # for ever
        self._container = av.open(str(self._beside.absolute()), "w", format=container_format, options=options)
        stream = self._container.add_stream(encoding.encoder, rate=self.fps, options=dict(encoding.options))
        self._padding = (self.height % 2, self.width % 2) if "420" in self._pixel_format else (0, 0)
        stream.height, stream.width = self.height + self._padding[0], self.width + self._padding[1]
        stream.pix_fmt = self._pixel_format
        self._clock = Fraction(1, encoding.clock) if encoding.clock is not None else 1 / self.fps
        stream.codec_context.time_base = self._clock
        if self._pixel_format.startswith("yuv"):
            context = stream.codec_context
            context.color_range, context.colorspace = ColorRange.MPEG, _BT709
            context.color_primaries, context.color_trc = _BT709, _BT709
        self._stream = stream
        if self._audio is not None:
            self._audio.attach(self._container, container_format)

    def _write_frame(self, frame: np.ndarray) -> None:
        if self.codec is Codec.PNG:
            picture = Image.fromarray(np.ascontiguousarray(frame))
            picture.save(self._beside / f"frame_{self.frames_written + 1:06d}.png", compress_level=4)
            return
        if any(self._padding):
            frame = np.pad(frame, ((0, self._padding[0]), (0, self._padding[1]), (0, 0)), mode="edge")
        coded = self._to_coded(np.ascontiguousarray(frame))
        coded.pts, coded.time_base = round(self._now() / self._clock), self._clock
        self._mux(self._stream.encode(coded))
        if self._audio is not None:
            self._mux(self._audio.packets_until(self._now()))

    def _to_coded(self, pixels: np.ndarray) -> av.VideoFrame:
        if self._pixel_format == "pal8":
            return av.VideoFrame.from_ndarray(paletted(pixels), format="pal8")
        frame = av.VideoFrame.from_ndarray(pixels, format="rgba" if pixels.shape[-1] == 4 else "rgb24")
        if not self._pixel_format.startswith("yuv"):
            return self._reformatter.reformat(frame, format=self._pixel_format, interpolation=EXACT, threads=1)
        return self._reformatter.reformat(
            frame,
            format=self._pixel_format,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=EXACT,
            threads=1,
        )

    def _mux(self, packets) -> None:
        if self._container is None:
            raise ValueError(f"{self.path} is closed")
        for packet in packets:
            self._container.mux(packet)

    # Finishing

    def _publish(self) -> None:
        if self.codec is not Codec.PNG:
            with self._beside.open("rb+") as file:
                os.fsync(file.fileno())
        if self._before_publishing is not None:
            self._before_publishing(self._beside)
        if self.codec is Codec.PNG:
            _replace_folder(self._beside, self.path)
            return
        os.replace(self._beside, self.path)


def check_target(path: Path, codec: Codec) -> None:
    """Refuses a folder where a file is written, and a folder of other things than frames where frames are."""
    if codec is Codec.PNG:
        if path.exists() and not _is_frame_folder(path):
            raise InputError(f"{path}: exists and holds other things than frames; choose a new folder name")
    elif path.is_dir():
        raise InputError(f"{path}: is a folder; give a file name")


def _told(codec: Codec) -> str:
    return "a folder of pictures" if codec is Codec.PNG else f"a {codec} animation"


def _is_frame_folder(path: Path) -> bool:
    return path.is_dir() and all(name.startswith("frame_") and name.endswith(".png") for name in os.listdir(path))


def _replace_folder(new: Path, path: Path) -> None:
    """Puts ``new`` at ``path``; an older folder of frames there goes with the rest of the staging folder."""
    if not path.exists():
        os.replace(new, path)
        return
    old = new.with_name(f"{new.name} replaced")
    os.replace(path, old)
    try:
        os.replace(new, path)
    except OSError:
        os.replace(old, path)
        raise
