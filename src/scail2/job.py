"""One call of the pipeline, checked and made ready: everything its segments share, before the first one is begun."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from diffusers.guiders.guider_utils import BaseGuidance
from torch import Tensor

from scail2.conditions import SegmentConditions, assemble, encode_video
from scail2.errors import InputError
from scail2.guidance import choose_guider, needs_negative
from scail2.inputs import Footage, driving_footage, driving_mask_footage, mask_problems, mask_tensor, picture_tensor
from scail2.models.lora import has_loras
from scail2.modes import AnimationMode
from scail2.presets import SamplingPreset, preset
from scail2.sampling import SamplingDefaults, SamplingSettings, resolve_settings
from scail2.segments import Segment, SegmentPlan
from scail2.stages import CALLBACK_TENSORS, EncodedReference, PromptConditions, StreamOptions, callback_tensors
from scail2.step_caches import check_caches
from scail2.video.convert import to_float

if TYPE_CHECKING:
    from scail2.pipeline import SCAIL2Pipeline

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What all segments of one call share.

    Attributes:
        segments: the plan's segments this call runs.
        overlap: frames each segment hands to the next.
        history: (overlap, 3, H, W) the first of ``segments`` starts on, or ``None``.
    """

    options: StreamOptions
    mode: AnimationMode
    driving: Footage
    driving_mask: Footage
    segments: tuple[Segment, ...]
    overlap: int
    history: Tensor | None
    settings: SamplingSettings
    guider: BaseGuidance | None
    generator: torch.Generator
    prompt: PromptConditions
    reference: EncodedReference

    def segment_conditions(self, pipe: SCAIL2Pipeline, segment: Segment, history: Tensor | None) -> SegmentConditions:
        """Read one segment's window and make its model inputs; ``history`` (overlap, 3, H, W) float in [-1, 1]."""
        window = (segment.start, segment.stop, segment.padded_frames)
        frames = to_float(self.driving.window(*window)).transpose(0, 1).unsqueeze(0)
        masks = torch.from_numpy(self.driving_mask.window(*window)).unsqueeze(0)
        return assemble(
            mode=self.mode,
            reference=self.reference.conditions,
            driving=pipe.encode_driving(frames, masks),
            history_latents=encode_video(pipe.vae, history.transpose(0, 1).unsqueeze(0)) if segment.overlap else None,
            prompt_embeds=self.prompt.prompt_embeds,
            image_embeds=self.reference.image_embeds,
        )


def prepare_job(
    pipe: SCAIL2Pipeline, image: Any, driving_video: Any, reference_mask: Any, driving_mask: Any, options: StreamOptions
) -> Job:
    """Check all inputs, then encode what the segments share. Raises ``InputError`` before any costly work."""
    mode = AnimationMode.parse(options.mode)
    driving = driving_footage(driving_video, options.height, options.width)
    size = driving.size
    pipe.geometry.check_size(pipe.vae, *size)
    masks = driving_mask_footage(driving_mask, size, len(driving), mode, driving_video)
    plan = pipe.plan(len(driving), options)
    overlap = _overlap(pipe, options)
    picture = picture_tensor(image, "image", size)
    picture_mask = mask_tensor(reference_mask, "reference_mask", size, mode)
    extra_pictures, extra_masks = _additional(options, size, mode)
    extra = () if extra_masks is None else extra_masks[0].unbind()
    _check_masks(mask_problems(picture_mask[0], masks, mode, extra), mode, options)
    settings = _settings(pipe, options, size)
    guider = choose_guider(pipe.guider, settings.guidance_scale, explicit=options.guidance_scale is not None)
    check_caches(pipe.transformer, guided=guider is not None)
    _check_callback(options)
    segments = _segments(plan, options)
    history = _history(options, segments[0], overlap, size)
    return Job(
        options=options,
        mode=mode,
        driving=driving,
        driving_mask=masks,
        segments=segments,
        overlap=overlap,
        history=history,
        settings=settings,
        guider=guider,
        generator=_generator(options),
        prompt=pipe.encode_prompt(
            options.prompt,
            options.negative_prompt,
            prompt_embeds=options.prompt_embeds,
            negative_prompt_embeds=options.negative_prompt_embeds,
            with_negative=needs_negative(guider),
        ),
        reference=pipe.encode_reference(
            picture,
            picture_mask,
            mode=mode,
            additional_images=extra_pictures,
            additional_masks=extra_masks,
            image_embeds=options.image_embeds,
            black_out=options.black_out_reference,
        ),
    )


def _overlap(pipe: SCAIL2Pipeline, options: StreamOptions) -> int:
    own, asked = pipe.config.prev_segment_conditioning_frames, options.prev_segment_conditioning_frames
    return own if asked is None else asked


def _settings(pipe: SCAIL2Pipeline, options: StreamOptions, size: tuple[int, int]) -> SamplingSettings:
    if options.preset is not None:
        _check_adapters(pipe, preset(options.preset))
    return resolve_settings(
        SamplingDefaults.of(pipe),
        size,
        preset=options.preset,
        steps=options.num_inference_steps,
        guidance_scale=options.guidance_scale,
        shift=options.shift,
        solver=options.solver,
    )


def _check_adapters(pipe: SCAIL2Pipeline, chosen: SamplingPreset) -> None:
    """Few-step presets without their adapters give mush: say so, but only warn, for adapters may have been merged."""
    if chosen.loras and not has_loras(pipe.transformer):
        logger.warning("Preset %s is tuned for LoRAs (%s); none is loaded.", chosen.name, chosen.told_loras())


def _additional(
    options: StreamOptions, size: tuple[int, int], mode: AnimationMode
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Additional references (1, N, 3, H, W) and their masks (1, N, H, W, 3), or two ``None``."""
    pictures, masks = options.additional_images or (), options.additional_reference_masks or ()
    if len(pictures) != len(masks):
        raise InputError(
            f"{len(pictures)} additional images but {len(masks)} additional reference masks: give one mask per picture."
        )
    if not pictures:
        return None, None
    name = "additional image {}".format
    made = [picture_tensor(picture, name(i), size) for i, picture in enumerate(pictures, 1)]
    made_masks = [mask_tensor(mask, f"the mask of {name(i)}", size, mode) for i, mask in enumerate(masks, 1)]
    return torch.stack(made, dim=1), torch.stack(made_masks, dim=1)


def _check_masks(problems: list[str], mode: AnimationMode, options: StreamOptions) -> None:
    if problems and not options.allow_mask_mismatch:
        raise InputError(
            f"the masks do not fit {mode} mode: {' '.join(problems)} Correct them, or go on with allow_mask_mismatch=True."
        )
    for problem in problems:
        logger.warning(problem)


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
    return options.history.float()


def _generator(options: StreamOptions) -> torch.Generator:
    """The caller's generator, or a freshly seeded one; the global generator is never drawn from."""
    if options.generator is not None:
        return options.generator
    generator = torch.Generator("cpu")
    generator.seed()
    return generator
