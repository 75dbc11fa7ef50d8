"""A finished video in the form that was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor
from torch import Tensor

from scail2.errors import InputError, short
from scail2.video.convert import refuse_overflow, to_uint8

OutputType = Literal["np", "pt", "pil", "uint8"]
OUTPUT_TYPES = get_args(OutputType)
Frames: TypeAlias = np.ndarray | list | Tensor


@dataclass
class SCAIL2PipelineOutput(BaseOutput):
    """Result of ``SCAIL2Pipeline.__call__``.

    Attributes:
        frames: one video, of the kind ``output_type`` names: ``"np"`` (1, T, H, W, 3) float in [0, 1], ``"pt"``
            (1, T, 3, H, W) float in [0, 1], ``"pil"`` a list of one list of images, ``"uint8"`` (1, T, H, W, 3).
        completed: False when the run was interrupted; ``frames`` then holds the segments that were finished.
    """

    frames: Frames
    completed: bool = True


def check_output_type(output_type: str) -> None:
    """Refuse a form that no video can be given in, before it is rendered."""
    if output_type not in OUTPUT_TYPES:
        raise InputError(f"output_type is {short(output_type)}; it must be one of {', '.join(OUTPUT_TYPES)}.")


def video_as(output_type: str, video: Tensor) -> Frames:
    """A video (T, 3, H, W) float in [-1, 1] as ``SCAIL2PipelineOutput.frames``."""
    if output_type == "uint8":
        return to_uint8(video)[None]
    refuse_overflow(video)
    return VideoProcessor().postprocess_video(video.transpose(0, 1).unsqueeze(0), output_type)
