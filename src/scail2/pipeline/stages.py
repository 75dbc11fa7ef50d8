"""What goes into a run of the pipeline and what its stages hand to each other: frozen dataclasses, nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scail2.conditions import ReferenceConditions
from scail2.segments import Segment


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
