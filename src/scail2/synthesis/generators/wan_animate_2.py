"""Wan-Animate-2 through diffusers' modular blocks: driven by the raw clip, without poses, faces or masks."""

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from scail2.checkpoints.folder_loading import check_components
from scail2.checkpoints.loading_bars import no_loading_bars
from scail2.devices import wanted_dtype
from scail2.modes import AnimationMode
from scail2.synthesis.generators.diffusers_models import (
    as_clip,
    as_pictures,
    described,
    even_segments,
    model_folder,
    placed,
    refuse_size,
)
from scail2.synthesis.generators.facts import WAN_ANIMATE_2, WAN_ANIMATE_2_DISTILLED
from scail2.synthesis.generators.protocol import Array, Character, Clip, GeneratorFacts, Motion
from scail2.synthesis.performers import marked
from scail2.video import resize_cover

_LONGEST = 81


@dataclass(frozen=True)
class WanAnimate2Generator:
    """Wan-Animate-2, or its distilled form.

    Attributes:
        model: a folder of the modular pipeline in diffusers' format, or ``hub:owner/name``.
        distilled: the weights are the distilled ones: few steps, no guidance.
        device, dtype, offload: as for Wan-Animate.
        num_inference_steps: None is 40, and 10 for the distilled weights.
        compiled: whether the blocks are compiled before the first clip.
    """

    model: str | Path
    distilled: bool = False
    device: str = "cpu"
    dtype: str = "bfloat16"
    offload: bool = False
    num_inference_steps: int | None = None
    compiled: bool = True

    @property
    def facts(self) -> GeneratorFacts:
        """What it is and can do."""
        return WAN_ANIMATE_2_DISTILLED if self.distilled else WAN_ANIMATE_2

    @cached_property
    def pipeline(self) -> Any:
        """The loaded modular pipeline."""
        import diffusers
        import torch

        blocks = diffusers.WanAnimate2DistilledBlocks() if self.distilled else diffusers.WanAnimate2Blocks()
        folder = model_folder(self.model)
        with no_loading_bars():
            pipeline = blocks.init_pipeline(str(folder))
            pipeline.load_components(dtype={"default": wanted_dtype(self.dtype, None), "vae": torch.float32})
        check_components(pipeline, folder)
        if self.compiled:
            pipeline.transformer.compile_repeated_blocks()
        return placed(pipeline, self.device, offload=self.offload)

    def describe(self) -> dict[str, Any]:
        """Model, settings and versions."""
        return described(self.facts.name, self.model, dataclasses.asdict(self))

    def generate(
        self, character: Character, motion: Motion, mode: AnimationMode, masks: Array | None, seed: int
    ) -> Clip:
        """See `Generator`. Masks are only counted: more than one performer is refused.

        Raises:
            InputError: as the facts say.
        """
        import torch

        given = motion.masks if masks is None else masks
        self.facts.check(mode, 1 if given is None else max(1, len(marked(given))))
        refuse_size(self.facts.name, motion)
        height, width = motion.clip.size
        videos = self.pipeline(
            image=as_pictures(resize_cover(character.image[None], height, width))[0],
            driving_video=as_pictures(motion.clip.frames),
            prompt=character.caption,
            # Only the area counts, and its root is rounded down: one pixel more keeps the size from losing a step.
            height=height * width + 1,
            width=1,
            segment_frame_length=even_segments(len(motion.clip.frames), _LONGEST),
            num_inference_steps=self.num_inference_steps or (10 if self.distilled else 40),
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
            output="videos",
        )
        return as_clip(videos[0], motion)
