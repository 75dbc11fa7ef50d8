"""Text and picture embeddings for cached samples, for models that take them."""

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from scail2.conditions import seen_reference, to_pixels
from scail2.data.triplets import TrainingTriplet
from scail2.devices import without_gradients
from scail2.errors import InputError


class PipelineEmbedder:
    """Embeds a sample as the pipeline in a diffusers folder would: its caption by umT5, its reference by CLIP.

    The transformer, by far the largest part, is not loaded.

    Raises:
        InputError: the folder is no SCAIL-2 pipeline with at least one of the two encoders.
    """

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu") -> None:
        from scail2.pipeline import SCAIL2Pipeline

        if not (Path(folder) / "model_index.json").is_file():
            raise InputError(f"{folder} holds no pipeline (model_index.json): convert the checkpoint first")
        self.name = Path(folder).resolve().name
        self.pipe = SCAIL2Pipeline.from_pretrained(folder, transformer=None).to(device)
        if self.pipe.text_encoder is None and self.pipe.image_encoder is None:
            raise InputError(f"{folder} has neither text nor image encoder: nothing to embed, leave embeddings out")

    def describe(self) -> str:
        """The folder's name and the encoders it has."""
        encoders = {"text": self.pipe.text_encoder, "image": self.pipe.image_encoder}
        return f"{self.name}: {', '.join(name for name, encoder in encoders.items() if encoder is not None)}"

    @without_gradients
    def empty_prompt(self) -> Tensor | None:
        """What training puts in place of dropped captions: the empty prompt, (512, text_dim) float16."""
        from scail2.pipeline.embeds import embed_prompt

        if self.pipe.text_encoder is None:
            return None
        return embed_prompt(self.pipe.tokenizer, self.pipe.text_encoder, [""], 512)[0].half().cpu().contiguous()

    @without_gradients
    def __call__(self, triplet: TrainingTriplet) -> dict[str, Tensor]:
        """`prompt_embeds` (512, text_dim) and `image_embeds` (257, image_dim), float16, as far as there are encoders."""
        from scail2.pipeline.embeds import embed_picture, embed_prompt

        found: dict[str, Tensor] = {}
        if self.pipe.text_encoder is not None:
            found["prompt_embeds"] = embed_prompt(self.pipe.tokenizer, self.pipe.text_encoder, [triplet.caption], 512)
        if self.pipe.image_encoder is not None:
            picture = to_pixels(triplet.reference[None])[:, :, 0]
            seen = seen_reference(picture, torch.from_numpy(triplet.reference_mask)[None], mode=triplet.mode)
            found["image_embeds"] = embed_picture(self.pipe.image_encoder, self.pipe.image_processor, seen)
        return {name: tensor[0].half().cpu().contiguous() for name, tensor in found.items()}


class Embedder(Protocol):
    """Adds what text and image encoders say about a sample (`prompt_embeds`, `image_embeds`, without batch)."""

    def __call__(self, triplet: TrainingTriplet) -> dict[str, Tensor]: ...

    def describe(self) -> str:
        """Which encoders they are; part of the cache's identity."""

    def empty_prompt(self) -> Tensor | None:
        """The empty prompt's embedding, without batch; None without a text encoder."""
