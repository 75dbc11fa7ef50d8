"""One call of the pipeline, checked: all that can be refused is refused here, before anything is encoded.

Knows of the pipeline only what `PipelineParts` lists, and never imports it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.guiders.guider_utils import BaseGuidance
from torch import Tensor

from scail2.checkpoints.lora import has_loras
from scail2.conditions import ConditionGeometry
from scail2.errors import InputError
from scail2.modes import AnimationMode
from scail2.pipeline.guidance import choose_guider, needs_negative
from scail2.pipeline.inputs import (
    Footage,
    driving_footage,
    driving_mask_footage,
    mask_problems,
    mask_tensor,
    picture_tensor,
)
from scail2.pipeline.options import CALLBACK_TENSORS, StreamOptions, callback_tensors
from scail2.pipeline.parts import check_parts
from scail2.pipeline.settings import SamplingDefaults, SamplingSettings, resolve_settings
from scail2.pipeline.step_caches import check_caches
from scail2.request.presets import SamplingPreset, preset
from scail2.segments import Segment, SegmentPlan

# Decoders overshoot the range of pixels a little.
_LARGEST_PIXEL = 2.0
logger = logging.getLogger(__name__)


class PipelineParts(Protocol):
    """What checking a call asks of the pipeline: its components and its configuration."""

    transformer: Any
    vae: Any
    scheduler: Any
    guider: Any
    config: Any

    @property
    def geometry(self) -> ConditionGeometry: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A checked call: what its stages and segments work from.

    Attributes:
        reference: (1, 3, H, W) float in [-1, 1] at the run's size, with ``reference_mask`` (1, H, W, 3) uint8.
        additional_references: (1, N, 3, H, W), with ``additional_reference_masks`` (1, N, H, W, 3); both ``None`` without any.
        segments: the plan's segments this call runs.
        overlap: frames each segment hands to the next.
        history: (overlap, 3, H, W) the first of ``segments`` starts on, or ``None``.
    """

    options: StreamOptions
    mode: AnimationMode
    reference: Tensor
    reference_mask: Tensor
    additional_references: Tensor | None
    additional_reference_masks: Tensor | None
    driving: Footage
    driving_mask: Footage
    segments: tuple[Segment, ...]
    overlap: int
    history: Tensor | None
    settings: SamplingSettings
    guider: BaseGuidance | None
    generator: torch.Generator

    def window(self, segment: Segment) -> tuple[np.ndarray, np.ndarray]:
        """One segment's driving frames and masks, uint8 (T, H, W, 3) both, the last of them repeated as padding."""
        window = (segment.start, segment.stop, segment.padded_frames)
        return self.driving.window(*window), self.driving_mask.window(*window)


def check_call(
    pipe: PipelineParts,
    reference: Any,
    driving_video: Any,
    reference_mask: Any,
    driving_mask: Any,
    options: StreamOptions,
) -> Call:
    """Check all inputs of a call. Raises ``InputError`` for anything missing or contradicting; encodes nothing."""
    named = options.preset is not None or options.solver is not None
    check_parts(pipe.transformer, pipe.vae, pipe.scheduler, samples=not named)
    mode = AnimationMode.parse(options.mode)
    driving = driving_footage(driving_video, options.height, options.width)
    size = driving.size
    pipe.geometry.check_size(pipe.vae, *size)
    masks = driving_mask_footage(driving_mask, size, len(driving), mode, driving.source)
    plan = plan_segments(pipe, len(driving), options)
    overlap = _overlap(pipe, options)
    picture = picture_tensor(reference, "image", size)
    picture_mask = mask_tensor(reference_mask, "reference_mask", size, mode, of=reference)
    extra_pictures, extra_masks = _additional(options, size, mode)
    extra = () if extra_masks is None else extra_masks[0].unbind()
    _check_masks(mask_problems(picture_mask[0], masks, mode, extra), mode, options)
    settings = _settings(pipe, options, size)
    guider = choose_guider(pipe.guider, settings.guidance_scale, explicit=options.guidance_scale is not None)
    check_caches(pipe.transformer, guided=guider is not None)
    _check_callback(options)
    _tell_of_unused_text(options, guider)
    segments = _segments(plan, options)
    history = _history(options, segments[0], overlap, size)
    return Call(
        options=options,
        mode=mode,
        reference=picture,
        reference_mask=picture_mask,
        additional_references=extra_pictures,
        additional_reference_masks=extra_masks,
        driving=driving,
        driving_mask=masks,
        segments=segments,
        overlap=overlap,
        history=history,
        settings=settings,
        guider=guider,
        generator=_generator(options),
    )


def plan_segments(pipe: PipelineParts, num_frames: int, options: StreamOptions) -> SegmentPlan:
    """The segments of a driving video of ``num_frames`` frames, as the options or else the checkpoint want them."""
    length = options.segment_frame_length
    return SegmentPlan.of(
        num_frames,
        segment_frame_length=pipe.config.segment_frame_length if length is None else length,
        overlap=_overlap(pipe, options),
        equal=options.equal_segments,
        temporal_stride=pipe.vae.config.scale_factor_temporal,
    )


def _overlap(pipe: PipelineParts, options: StreamOptions) -> int:
    own, asked = pipe.config.prev_segment_conditioning_frames, options.prev_segment_conditioning_frames
    return own if asked is None else asked


def _settings(pipe: PipelineParts, options: StreamOptions, size: tuple[int, int]) -> SamplingSettings:
    if options.preset is not None:
        _check_adapters(pipe, preset(options.preset))
    return resolve_settings(
        SamplingDefaults.of(pipe),
        size,
        preset=options.preset,
        num_inference_steps=options.num_inference_steps,
        guidance_scale=options.guidance_scale,
        shift=options.shift,
        solver=options.solver,
    )


def _check_adapters(pipe: PipelineParts, chosen: SamplingPreset) -> None:
    """Few-step presets without their adapters give mush: say so, but only warn, for adapters may have been merged."""
    if chosen.loras and not has_loras(pipe.transformer):
        logger.warning("Preset %s is tuned for LoRAs (%s); none is loaded.", chosen.name, chosen.told_loras())


def _additional(
    options: StreamOptions, size: tuple[int, int], mode: AnimationMode
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Additional references (1, N, 3, H, W) and their masks (1, N, H, W, 3), or two ``None``."""
    pictures, masks = options.additional_references or (), options.additional_reference_masks or ()
    if len(pictures) != len(masks):
        raise InputError(
            f"{len(pictures)} additional references but {len(masks)} additional reference masks: give one mask per picture."
        )
    if not pictures:
        return None, None
    name = "additional reference {}".format
    made = [picture_tensor(picture, name(i), size) for i, picture in enumerate(pictures, 1)]
    pairs = enumerate(zip(masks, pictures, strict=True), 1)
    made_masks = [mask_tensor(mask, f"the mask of {name(i)}", size, mode, of=picture) for i, (mask, picture) in pairs]
    return torch.stack(made, dim=1), torch.stack(made_masks, dim=1)


def _check_masks(problems: list[str], mode: AnimationMode, options: StreamOptions) -> None:
    if problems and not options.allow_mask_mismatch:
        raise InputError(
            f"the masks do not fit {mode} mode: {' '.join(problems)} Correct them, or go on with allow_mask_mismatch=True."
        )
    for problem in problems:
        logger.warning(problem)


def _tell_of_unused_text(options: StreamOptions, guider: BaseGuidance | None) -> None:
    """A negative prompt is what guidance leads away from: without any it does nothing."""
    given = [name for name in ("negative_prompt", "negative_prompt_embeds") if getattr(options, name) is not None]
    if options.negative_prompt != "" and given and not needs_negative(guider):
        logger.warning("%s is not used: nothing is guided; give a guidance_scale above 1, or leave it out.", given[0])


def _check_callback(options: StreamOptions) -> None:
    unknown = [name for name in callback_tensors(options) if name not in CALLBACK_TENSORS]
    if unknown:
        raise InputError(
            f"callback_on_step_end_tensor_inputs names {', '.join(unknown)}; it may name {', '.join(CALLBACK_TENSORS)}."
        )


def _segments(plan: SegmentPlan, options: StreamOptions) -> tuple[Segment, ...]:
    start, stop = options.start_segment, len(plan) if options.stop_segment is None else options.stop_segment
    if not 0 <= start < stop <= len(plan):
        raise InputError(
            f"segments [{start}, {stop}) cannot be run: the plan has {len(plan)}, counted from 0, the stop excluded."
        )
    return plan.segments[start:stop]


def _history(options: StreamOptions, first: Segment, overlap: int, size: tuple[int, int]) -> Tensor | None:
    if first.index == 0:
        if options.history is not None:
            raise InputError("history is for starting at a later segment: the first one has none.")
        return None
    expected = (overlap, 3, *size)
    if options.history is None or tuple(options.history.shape) != expected:
        given = None if options.history is None else tuple(options.history.shape)
        raise InputError(
            f"starting at segment {first.index} needs history of shape {expected}, the last output frames of segment "
            f"{first.index - 1}; got {given}."
        )
    history = options.history.float()
    if not options.history.is_floating_point() or not bool((history.abs() <= _LARGEST_PIXEL).all()):
        raise InputError(
            "history holds values outside [-1, 1], or none that are numbers: give frames as they came out."
        )
    return history


def _generator(options: StreamOptions) -> torch.Generator:
    """The caller's generator, or a freshly seeded one; the global generator is never drawn from."""
    if options.generator is not None:
        return options.generator
    generator = torch.Generator("cpu")
    generator.seed()
    return generator
