"""A pose editor that is a diffusers pipeline which edits several pictures at once: `QwenImageEditPlusPipeline` or its kind."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image

from scail2.errors import InputError
from scail2.files.documents import Between
from scail2.synthesis.generators.protocol import Array
from scail2.synthesis.roles.protocol import Edit, Picture, RoleError, Task
from scail2.video.resize import resize_cover

_MULTIPLE = 16
_LOADING = Lock()


@dataclass(frozen=True, kw_only=True)
class DiffusersEditor:
    """Edits with a pipeline that takes a list of pictures and a prompt.

    Attributes:
        model: folder of the pipeline, or its name on the Hub if that is what should be asked.
        pipeline: its class in diffusers.
        pictures: the argument that takes the pictures.
        pixels: area that is edited at, in the guide's aspect; the result is brought to the guide's size.
        steps: of sampling.
        arguments: further ones of the pipeline's call, as they are: `true_cfg_scale`, `guidance_scale`, `negative_prompt` …
        dtype, device, offload: where it runs; `model` offload keeps one component at a time on the card.
    """

    model: str
    pipeline: str = "QwenImageEditPlusPipeline"
    pictures: str = "image"
    pixels: Annotated[int, Between(256, 10**8)] = 1_048_576
    steps: Annotated[int, Between(1, 1000)] = 40
    arguments: dict[str, Any] = field(default_factory=dict)
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    device: str = "cpu"
    offload: Literal["none", "model", "sequential"] = "none"

    def edit(self, edit: Edit, words: str, seed: int) -> Picture:
        """See `PoseEditor`. The guide is shown last, for these pipelines take the output's aspect from there.

        Raises:
            InputError: the pipeline cannot be loaded, or does not take these arguments.
            RoleError: what it made is no picture.
        """
        import torch

        height, width = edit.guide.shape[:2]
        shown = [edit.base.image] if edit.task is Task.STAND else [edit.base.image, edit.guide]
        scale = (self.pixels / (height * width)) ** 0.5
        tall, wide = (max(_MULTIPLE, round(side * scale / _MULTIPLE) * _MULTIPLE) for side in (height, width))
        asked = {
            self.pictures: [Image.fromarray(each) for each in shown], "prompt": words, "height": tall, "width": wide,
            "num_inference_steps": self.steps, "output_type": "np", "generator": torch.Generator().manual_seed(seed),
        }  # fmt: skip
        try:
            with _LOADING, torch.inference_mode():
                made = self.loaded(**{**asked, **self.arguments}).images[0]
        except TypeError as error:
            raise InputError(f"{self.pipeline} does not take what it is given: {error}.") from error
        return Picture(image=resize_cover(_pixels(made), height, width))

    def describe(self) -> dict[str, Any]:
        """What decides how a picture comes out: the pipeline and its settings, not where it runs."""
        return {
            "editor": self.pipeline, "model": Path(self.model).name, "pixels": self.pixels, "steps": self.steps,
            "arguments": self.arguments, "dtype": self.dtype,
        }  # fmt: skip

    @cached_property
    def loaded(self) -> Any:
        """The pipeline, loaded when it is first needed.

        Raises:
            InputError: diffusers has no such class, or the folder holds no such pipeline.
        """
        import diffusers
        import torch

        kind = getattr(diffusers, self.pipeline, None)
        if kind is None or not hasattr(kind, "from_pretrained"):
            raise InputError(f"diffusers {diffusers.__version__} has no pipeline {self.pipeline}.")
        try:
            pipeline = kind.from_pretrained(self.model, dtype=getattr(torch, self.dtype))
        except (OSError, ValueError, ImportError) as error:  # the last: a library that a component needs
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{self.model} cannot be loaded as a {self.pipeline}: {reason}") from error
        if self.offload == "model":
            pipeline.enable_model_cpu_offload(device=self.device)
        elif self.offload == "sequential":
            pipeline.enable_sequential_cpu_offload(device=self.device)
        else:
            pipeline.to(self.device)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


def _pixels(made: Any) -> Array:
    """A pipeline's picture, floats in [0, 1], as uint8 (H, W, 3)."""
    picture = np.asarray(made, dtype=np.float32)
    if picture.ndim != 3 or picture.shape[-1] != 3 or not np.isfinite(picture).all():
        raise RoleError(
            f"The editor gave no picture but {picture.dtype} {picture.shape}, or one with numbers that are none."
        )
    return (255.0 * picture.clip(0.0, 1.0)).round().astype(np.uint8)
