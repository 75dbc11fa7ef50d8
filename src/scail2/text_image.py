"""Prompt and reference picture to embeddings: umT5 text padded to an exact length, CLIP's penultimate hidden states."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.pipelines.wan.pipeline_wan import prompt_clean
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor, nn

from scail2.errors import InputError

# Normalisation of CLIP's pixels, used when the pipeline has no image processor to say otherwise.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@torch.no_grad()
def embed_prompt(tokenizer: Any, text_encoder: nn.Module, prompt: list[str], length: int) -> Tensor:
    """umT5 embeddings (B, length, text_dim) float32, zero behind each prompt's last token.

    Longer prompts are cut to ``length`` tokens. The zeros matter: the network attends to all ``length`` tokens, and
    was trained with zeros there, not with the encoder's output for padding.
    """
    tokens = tokenizer(
        [prompt_clean(text) for text in prompt],
        padding="max_length",
        max_length=length,
        truncation=True,
        add_special_tokens=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    device = get_module_execution_device(text_encoder)
    mask = tokens.attention_mask.to(device)
    embeds = text_encoder(tokens.input_ids.to(device), mask).last_hidden_state.float()
    return embeds * mask.unsqueeze(-1)


@torch.no_grad()
def embed_picture(image_encoder: nn.Module, image_processor: Any | None, pixels: Tensor) -> Tensor:
    """CLIP's penultimate hidden states (B, tokens, image_dim) float32 of pixels (B, 3, H, W) in [-1, 1].

    The whole picture is squeezed into the encoder's square (bicubic, no crop), as the network was trained: a crop
    would cut off what stands at the sides.
    """
    side = image_encoder.config.image_size
    square = F.interpolate(pixels.float(), size=(side, side), mode="bicubic", align_corners=False)
    mean, std = (
        torch.tensor(values, device=square.device).view(1, 3, 1, 1)
        for values in (
            getattr(image_processor, "image_mean", None) or CLIP_MEAN,
            getattr(image_processor, "image_std", None) or CLIP_STD,
        )
    )
    normalised = (square * 0.5 + 0.5 - mean) / std
    device = get_module_execution_device(image_encoder)
    output = image_encoder(normalised.to(device, image_encoder.dtype), output_hidden_states=True)
    return output.hidden_states[-2].float()


def fit_prompt_embeds(embeds: Tensor, name: str, length: int, width: int) -> Tensor:
    """Precomputed text embeddings (1, L, width), L at most ``length``, with zeros appended up to exactly ``length``."""
    if embeds.ndim != 3 or embeds.shape[0] != 1 or embeds.shape[1] > length or embeds.shape[2] != width:
        raise InputError(f"{name} must have the shape (1, up to {length}, {width}), not {tuple(embeds.shape)}.")
    return F.pad(embeds.float(), (0, 0, 0, length - embeds.shape[1]))


def check_image_embeds(embeds: Tensor, length: int, width: int) -> Tensor:
    """Precomputed CLIP embeddings must be (1, length, width)."""
    if tuple(embeds.shape) != (1, length, width):
        raise InputError(f"image_embeds must have the shape (1, {length}, {width}), not {tuple(embeds.shape)}.")
    return embeds.float()
