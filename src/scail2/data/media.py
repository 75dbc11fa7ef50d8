"""Lossless pictures and short videos as bytes, for shard members (long user videos are `scail2.video`'s)."""

import io
from fractions import Fraction

import av
import numpy as np
from PIL import Image

from scail2.errors import InputError
from scail2.files.limits import PIXELS
from scail2.video.source import check_frame_size


def encode_video(frames: np.ndarray, fps: int | Fraction = 16) -> bytes:
    """uint8 `(T, H, W, 3)` → a lossless FFV1 Matroska file, equal bytes for equal frames."""
    buffer = io.BytesIO()
    # "bitexact" keeps the muxer from writing a random id and its version.
    with av.open(buffer, "w", format="matroska", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("ffv1", rate=Fraction(fps))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def decode_video(payload: bytes) -> np.ndarray:
    """A video file's bytes → uint8 `(T, H, W, 3)`.

    Raises:
        ValueError: bytes that no decoder reads.
    """
    try:
        with av.open(io.BytesIO(payload)) as container:
            frames, pixels = [], 0
            for frame in container.decode(video=0):
                pixels += frame.width * frame.height
                PIXELS.check(pixels, "a stored clip")
                frames.append(frame.to_ndarray(format="rgb24"))
            return np.stack(frames)
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"unreadable video: {error}") from error


def count_frames(payload: bytes) -> int:
    """How many pictures a video file's bytes hold, without decoding them; raises ValueError for what is no video."""
    try:
        with av.open(io.BytesIO(payload)) as container:
            return sum(packet.size > 0 for packet in container.demux(video=0))
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"unreadable video: {error}") from error


def encode_png(image: np.ndarray) -> bytes:
    """uint8 `(H, W, 3)` → PNG bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def decode_png(payload: bytes) -> np.ndarray:
    """PNG bytes → uint8 `(H, W, 3)`; raises ValueError for anything else."""
    try:
        picture = Image.open(io.BytesIO(payload))
        check_frame_size("a stored picture", *picture.size)
        return np.asarray(picture.convert("RGB"))
    except InputError:
        raise
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"unreadable picture: {error}") from error
