"""Video in and out: windowed reading at a wanted rate and size, atomic writing with sound, resizing."""

from scail2.video.convert import to_float, to_uint8
from scail2.video.formats import Codec, codec_for
from scail2.video.images import image_pixels, read_image
from scail2.video.reader import VideoReader, probe
from scail2.video.resize import Fit, Interpolation, cover_box, resize_cover, resize_letterbox
from scail2.video.source import ArrayFrames, FirstFrames, FrameSource, SizedFrames, VideoInfo, first_frames
from scail2.video.writer import VideoWriter

__all__ = [
    "ArrayFrames",
    "Codec",
    "FirstFrames",
    "Fit",
    "FrameSource",
    "Interpolation",
    "SizedFrames",
    "VideoInfo",
    "VideoReader",
    "VideoWriter",
    "codec_for",
    "cover_box",
    "first_frames",
    "image_pixels",
    "probe",
    "read_image",
    "resize_cover",
    "resize_letterbox",
    "to_float",
    "to_uint8",
]
