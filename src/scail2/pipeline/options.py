"""Everything that one call of the pipeline may be told."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Required, TypedDict, TypeVar

import torch
from torch import Tensor

from scail2.modes import AnimationMode
from scail2.pipeline.stages import SegmentOutput

Method = TypeVar("Method", bound=Callable[..., Any])

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
    """See ``scail2.pipeline.sampling.resolve_settings``."""
    generator: torch.Generator | None = None
    """The run's one source of noise; drawn from once per segment."""
    segment_frame_length: int | None = None
    prev_segment_conditioning_frames: int | None = None
    equal_segments: bool = False
    additional_references: Sequence[Any] | None = None
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


class StreamArguments(TypedDict, total=False):
    """`StreamOptions` as type checkers and editors see them: the keyword arguments of a call."""

    mode: Required[AnimationMode | str]
    prompt: str | None
    negative_prompt: str | None
    prompt_embeds: Tensor | None
    negative_prompt_embeds: Tensor | None
    image_embeds: Tensor | None
    height: int | None
    width: int | None
    preset: str | None
    num_inference_steps: int | None
    guidance_scale: float | None
    shift: float | None
    solver: str | None
    generator: torch.Generator | None
    segment_frame_length: int | None
    prev_segment_conditioning_frames: int | None
    equal_segments: bool
    additional_references: Sequence[Any] | None
    additional_reference_masks: Sequence[Any] | None
    start_segment: int
    stop_segment: int | None
    history: Tensor | None
    history_transform: Callable[[SegmentOutput], SegmentOutput] | None
    callback_on_step_end: Callable[..., dict | None] | None
    callback_on_step_end_tensor_inputs: Sequence[str]
    black_out_reference: bool
    allow_mask_mismatch: bool
    attention_kwargs: dict[str, Any] | None


def callback_tensors(options: StreamOptions) -> Sequence[str]:
    """Names of the tensors the step callback wants: its own ``tensor_inputs`` (diffusers' callbacks) or the option's."""
    return getattr(options.callback_on_step_end, "tensor_inputs", options.callback_on_step_end_tensor_inputs)


def takes_stream_options(method: Method) -> Method:
    """Show ``StreamOptions``' fields as ``method``'s own keyword arguments, to ``help`` and to notebooks."""
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

    method.__signature__ = signature.replace(parameters=own + options)  # type: ignore[attr-defined]
    return method
