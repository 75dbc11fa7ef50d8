"""Wan-Animate through diffusers' `WanAnimatePipeline`: driven by a skeleton and a face film, in both modes."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from scail2.masks import BindingSlot
from scail2.modes import AnimationMode
from scail2.synthesis.generators.diffusers_models import (
    as_clip,
    as_pictures,
    described,
    even_segments,
    load_pipeline_of,
    refuse_size,
)
from scail2.synthesis.generators.driving_films import face_film, holes, pose_film
from scail2.synthesis.generators.facts import WAN_ANIMATE
from scail2.synthesis.generators.protocol import Array, Character, Clip, GeneratorFacts, Motion
from scail2.synthesis.performers import marked, performers, person, poses
from scail2.video import resize_cover

_LONGEST = 77


@dataclass(frozen=True)
class WanAnimateGenerator:
    """Wan2.2-Animate.

    Attributes:
        model: a folder of the pipeline in diffusers' format, or ``hub:owner/name``.
        device, dtype: where and in what it runs; ``offload`` keeps on the device only the part that is at work.
        num_inference_steps, guidance_scale: how it samples; the published way is 20 steps without guidance.
    """

    model: str | Path
    device: str = "cpu"
    dtype: str = "bfloat16"
    offload: bool = False
    num_inference_steps: int = 20
    guidance_scale: float = 1.0

    @property
    def facts(self) -> GeneratorFacts:
        """What it is and can do."""
        return WAN_ANIMATE

    @cached_property
    def pipeline(self) -> Any:
        """The loaded `WanAnimatePipeline`."""
        from diffusers import WanAnimatePipeline

        return load_pipeline_of(WanAnimatePipeline, self.model, self.dtype, self.device, offload=self.offload)

    def describe(self) -> dict[str, Any]:
        """Model, settings and versions."""
        return described(WAN_ANIMATE.name, self.model, dataclasses.asdict(self))

    def generate(
        self, character: Character, motion: Motion, mode: AnimationMode, masks: Array | None, seed: int
    ) -> Clip:
        """See `Generator`. Joints that are absent are found by the extra `people`, masks by whatever knows the clip.

        Raises:
            InputError: as the facts say, or nobody's joints are known.
        """
        import torch

        refuse_size(WAN_ANIMATE.name, motion)
        height, width = motion.clip.size
        films = self._films(motion, mode, masks)
        frames = self.pipeline(
            image=as_pictures(resize_cover(character.image[None], height, width))[0],
            prompt=character.caption,
            height=height,
            width=width,
            segment_frame_length=even_segments(len(motion.clip.frames), _LONGEST),
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            mode="animate" if mode is AnimationMode.ANIMATION else "replace",
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
            **{name: as_pictures(film) for name, film in films.items()},
        ).frames[0]
        return as_clip(frames, motion)

    def _films(self, motion: Motion, mode: AnimationMode, masks: Array | None) -> dict[str, Array]:
        """The films that drive it, uint8 (T, H, W, 3), by the pipeline's names for them."""
        frames, joints = motion.clip.frames, poses(motion)
        replaces = mode is AnimationMode.REPLACEMENT
        regions: dict[BindingSlot, Array] = {}
        if replaces or masks is not None or motion.masks is not None:
            regions = performers(motion, masks)
            self.facts.check(mode, len(regions))
            (region,) = regions.values()
            joints = person(joints, region)
        side = self.pipeline.transformer.config.motion_encoder_size
        films = {"pose_video": pose_film(joints, motion.clip.size), "face_video": face_film(frames, joints, side)}
        if replaces:
            everybody = {} if motion.masks is None else marked(motion.masks)
            others = np.any([each & ~region for each in everybody.values()], axis=0) if len(everybody) > 1 else None
            hole = holes(region, others)
            films["background_video"] = np.where(hole[..., None], np.uint8(0), frames)
            films["mask_video"] = np.repeat(hole[..., None], 3, axis=-1).astype(np.uint8) * 255
        return films
