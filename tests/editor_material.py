"""A picture editor of the real pipeline, encoder, transformer and autoencoder classes at a tiny size, with random weights."""

from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
_WIDTH = 16


def _tokenizer() -> Qwen2Tokenizer:
    vocabulary = {word: number for number, word in enumerate([*sorted(ByteLevel.alphabet()), *_SPECIAL])}
    return Qwen2Tokenizer(vocab=vocabulary, merges=[], extra_special_tokens=list(_SPECIAL[1:]))


class Processor:
    """What `Qwen2VLProcessor` does with pictures and text; that class itself does not load without torchvision."""

    def __init__(self, tokenizer: Qwen2Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.images = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=64 * 64)

    def __call__(self, text: list[str], images: Any, padding: bool, return_tensors: str) -> Any:
        seen = self.images(images=images, return_tensors=return_tensors)
        pieces = text[0].split("<|image_pad|>")
        places = [int(grid.prod()) // self.images.merge_size**2 for grid in seen["image_grid_thw"]]
        assert len(pieces) == len(places) + 1
        filled = pieces[0] + "".join(
            "<|image_pad|>" * count + piece for count, piece in zip(places, pieces[1:], strict=True)
        )
        seen.update(self.tokenizer([filled], padding=padding, return_tensors=return_tensors))
        return seen


def tiny_editor() -> QwenImageEditPlusPipeline:
    """The pipeline."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    number = {word: tokenizer.convert_tokens_to_ids(word) for word in _SPECIAL}
    text = {
        "hidden_size": _WIDTH, "intermediate_size": _WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "vocab_size": len(tokenizer), "pad_token_id": number["<|endoftext|>"],
        "rope_parameters": {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 10000.0},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": _WIDTH, "intermediate_size": _WIDTH, "num_heads": 2, "out_hidden_size": _WIDTH,
        "fullatt_block_indexes": [0],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=number["<|image_pad|>"],
        video_token_id=number["<|video_pad|>"],
        vision_start_token_id=number["<|vision_start|>"],
        vision_end_token_id=number["<|vision_end|>"],
    )
    encoder = Qwen2_5_VLForConditionalGeneration(config).eval()
    transformer = QwenImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=4, num_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=_WIDTH, axes_dims_rope=(8, 4, 4),
    ).eval()  # fmt: skip
    autoencoder = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2, 2, 2], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    ).eval()  # fmt: skip
    pipeline = QwenImageEditPlusPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=autoencoder,
        text_encoder=encoder,
        tokenizer=tokenizer,
        processor=Processor(tokenizer),
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
