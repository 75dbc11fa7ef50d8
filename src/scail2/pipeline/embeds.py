"""Prompt and reference picture to embeddings: umT5 text padded to an exact length, CLIP's penultimate hidden states."""

from __future__ import annotations

import html
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.utils.torch_utils import get_module_execution_device
from torch import Tensor, nn

from scail2.devices import without_gradients
from scail2.errors import InputError
from scail2.pipeline.stages import PromptConditions

# Normalisation of CLIP's pixels, used when the pipeline has no image processor to say otherwise.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def clean_prompt(text: str) -> str:
    """A prompt as the network's captions were cleaned.

    Curly quotes become straight, full-width forms, ligatures and decomposed accents their plain characters, text decoded
    in the wrong code page what it was, HTML entities (escaped once or twice) their characters, white space one blank.
    """
    import ftfy  # a tenth of a second, which models without text do without

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


@without_gradients
def embed_prompt(tokenizer: Any, text_encoder: nn.Module, prompt: list[str], length: int) -> Tensor:
    """umT5 embeddings (B, length, text_dim) float32, zero behind each prompt's last token.

    Longer prompts are cut to ``length`` tokens. The zeros matter: the network attends to all ``length`` tokens, and
    was trained with zeros there, not with the encoder's output for padding.
    """
    tokens = tokenizer(
        [clean_prompt(text) for text in prompt],
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


@without_gradients
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


def prompt_conditions(
    encoders: tuple[Any, Any | None, nn.Module | None],
    texts: tuple[str | None, str | None],
    embeds: tuple[Tensor | None, Tensor | None],
    *,
    with_negative: bool,
) -> PromptConditions:
    """A prompt and a negative prompt as embeddings; see ``SCAIL2Pipeline.encode_prompt``.

    Args:
        encoders: the transformer's configuration, the tokenizer and the text encoder.
        texts: prompt and negative prompt; ``embeds`` are their precomputed embeddings.
    """
    if encoders[0].text_dim is None:
        if any(texts) or any(each is not None for each in embeds):
            raise InputError("this model has no text conditioning: leave the prompt away.")
        if with_negative:
            raise InputError("this model has no text to guide away from: use guidance_scale=1.0.")
        return PromptConditions(prompt_embeds=None, negative_prompt_embeds=None)
    positive = text_embeds(*encoders, texts[0], embeds[0], "prompt")
    if not with_negative:
        return PromptConditions(prompt_embeds=positive, negative_prompt_embeds=None)
    # Without any, the empty prompt is guided away from, if there is an encoder to encode it.
    empty = "" if texts[1] is None and embeds[1] is None and encoders[2] is not None else texts[1]
    negative = text_embeds(*encoders, empty, embeds[1], "negative_prompt")
    return PromptConditions(prompt_embeds=positive, negative_prompt_embeds=negative)


def text_embeds(
    config: Any,
    tokenizer: Any | None,
    text_encoder: nn.Module | None,
    text: str | None,
    embeds: Tensor | None,
    name: str,
) -> Tensor:
    """Embeddings (1, 512, text_dim) of ``text``, or of precomputed ``embeds`` (1, L, text_dim) with zeros appended.

    ``config`` is the transformer's; ``name`` is what the user calls the text. Exactly one of the two must be given.
    """
    length, width = config.text_length, config.text_dim
    if text is not None and embeds is None:
        if text_encoder is None or tokenizer is None:
            raise InputError(f"this pipeline has no text encoder: give {name}_embeds, or load a text encoder.")
        return embed_prompt(tokenizer, text_encoder, [text], length)
    if embeds is None or text is not None:
        raise InputError(f"give either {name} or {name}_embeds ({name}='' for an empty one).")
    if embeds.ndim != 3 or embeds.shape[0] != 1 or embeds.shape[1] > length or embeds.shape[2] != width:
        raise InputError(f"{name}_embeds must have the shape (1, up to {length}, {width}), not {tuple(embeds.shape)}.")
    return F.pad(embeds.float(), (0, 0, 0, length - embeds.shape[1]))


def picture_embeds(
    config: Any, image_encoder: nn.Module | None, image_processor: Any | None, reference: Tensor, embeds: Tensor | None
) -> Tensor | None:
    """CLIP embeddings (1, 257, image_dim) of ``reference`` (1, 3, H, W), or precomputed ``embeds``; ``None`` without CLIP.

    ``config`` is the transformer's.
    """
    length, width = config.image_length, config.image_dim
    if width is None:
        if embeds is not None:
            raise InputError("this model does not look at the reference with CLIP: leave image_embeds away.")
        return None
    if embeds is None:
        if image_encoder is None:
            raise InputError("this pipeline has no image encoder: give image_embeds, or load a CLIP vision encoder.")
        embeds = embed_picture(image_encoder, image_processor, reference)
    if tuple(embeds.shape) != (reference.shape[0], length, width):
        raise InputError(f"image_embeds must have the shape (1, {length}, {width}), not {tuple(embeds.shape)}.")
    return embeds.float()
