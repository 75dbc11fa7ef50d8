"""What goes into a run of the pipeline and what its stages hand to each other: frozen dataclasses, nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from scail2.conditions import ReferenceConditions
from scail2.modes import AnimationMode
from scail2.segments import Segment

# Tensors a step callback may see and replace.
CALLBACK_TENSORS = ("latents", "prompt_embeds", "negative_prompt_embeds")


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamOptions:
    """Keyword arguments of ``SCAIL2Pipeline.stream`` and ``SCAIL2Pipeline.__call__``.

    ``None`` means: derived from the inputs, from the preset or from the pipeline's own configuration.
    """

    mode: AnimationMode | str
    """``"animation"``: the reference picture's scene; ``"replacement"``: the driving video's scene."""
    prompt: str | None = None
    """Describes the resulting video; needed by models with a text encoder, refused by models without."""
    negative_prompt: str | None = None
    prompt_embeds: Tensor | None = None
    """(1, 512, text_dim), instead of ``prompt``."""
    negative_prompt_embeds: Tensor | None = None
    image_embeds: Tensor | None = None
    """(1, 257, image_dim), instead of running the image encoder on the reference."""
    height: int | None = None
    width: int | None = None
    """Size of the result, multiples of the model's step; the driving video's own size when not given."""
    preset: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    shift: float | None = None
    solver: str | None = None
    """See ``scail2.sampling.resolve_settings``."""
    generator: torch.Generator | None = None
    """The run's one source of noise; drawn from once per segment."""
    segment_frame_length: int | None = None
    prev_segment_conditioning_frames: int | None = None
    equal_segments: bool = False
    additional_images: Sequence[Any] | None = None
    additional_reference_masks: Sequence[Any] | None = None
    """Further pictures of the characters, one mask each; the primary reference stays ``image``."""
    start_segment: int = 0
    stop_segment: int | None = None
    """Run segments [start, stop) only; a start above 0 needs ``history``."""
    history: Tensor | None = None
    """(overlap, 3, H, W) float in [-1, 1]: ``SegmentOutput.history`` of the segment before ``start_segment``."""
    history_transform: Callable[[SegmentOutput], SegmentOutput] | None = None
    """Called with each finished segment; what it returns is given out, and its history starts the next segment."""
    callback_on_step_end: Callable[..., dict | None] | None = None
    callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",)
    black_out_reference: bool = True
    """In replacement mode, hide the reference's background from the model."""
    allow_mask_mismatch: bool = False
    """Go on with a warning when masks contradict the mode or each other, instead of refusing."""
    attention_kwargs: dict[str, Any] | None = None


def callback_tensors(options: StreamOptions) -> Sequence[str]:
    """Names of the tensors the step callback wants: its own ``tensor_inputs`` (diffusers' callbacks) or the option's."""
    return getattr(options.callback_on_step_end, "tensor_inputs", options.callback_on_step_end_tensor_inputs)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptConditions:
    """Text embeddings (B, 512, text_dim); both ``None`` for a model without text."""

    prompt_embeds: Tensor | None
    negative_prompt_embeds: Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedReference:
    """The references as latents and, for models that look at it with CLIP, as (B, 257, image_dim) embeddings."""

    conditions: ReferenceConditions
    image_embeds: Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedLatents:
    """A segment's noise (B, C, Tl, h, w) float32 and the generator's state before and after drawing it (uint8)."""

    latents: Tensor
    generator_state: Tensor
    next_generator_state: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoisedSegment:
    """Clean latents (B, C, Tl, h, w) float32; ``completed`` is False when the run was interrupted on the way."""

    latents: Tensor
    completed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodedSegment:
    """All frames of a segment, history and padding included: (B, 3, T, H, W) float32 in [-1, 1]."""

    frames: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentOutput:
    """One finished segment.

    Attributes:
        index: its place in the plan; ``segment`` its plan entry.
        frames: (T_new, 3, H, W) float32 in [-1, 1], on the CPU: only frames no earlier segment has given.
        history: (overlap, 3, H, W) float32: the segment's last output frames, which the next segment starts on.
        generator_state, next_generator_state: the noise generator's state before and after this segment's noise.
        timings: seconds spent in ``conditions``, ``denoise`` and ``decode``.
    """

    index: int
    segment: Segment
    frames: Tensor
    history: Tensor
    generator_state: Tensor
    next_generator_state: Tensor
    timings: dict[str, float]


@dataclass
class SCAIL2PipelineOutput(BaseOutput):
    """Result of ``SCAIL2Pipeline.__call__``.

    Attributes:
        frames: one video, of the kind ``output_type`` names: ``"np"`` (1, T, H, W, 3) float in [0, 1], ``"pt"``
            (1, T, 3, H, W) float in [0, 1], ``"pil"`` a list of one list of images, ``"uint8"`` (T, H, W, 3).
        completed: False when the run was interrupted; ``frames`` then holds the segments that were finished.
    """

    frames: Tensor | np.ndarray | list
    completed: bool = True


def takes_stream_options(method: Callable) -> Callable:
    """Show ``StreamOptions``' fields as ``method``'s own keyword arguments, to ``help`` and to editors."""
    signature = inspect.signature(method)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.name == "mode" else field.default,
            annotation=field.type,
        )
        for field in fields(StreamOptions)
    ]

    method.__signature__ = signature.replace(parameters=own + options)
    return method
