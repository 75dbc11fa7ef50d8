"""Tiny, randomly initialised components of the real classes, and synthetic footage with known masks.

Everything is seeded. The sizes are the smallest that still have every part: two blocks, two heads, all three rotary
axes, text and CLIP attention, the 4x8x8 autoencoder.
"""

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from scail2.models.autoencoder import AutoencoderPatchTransform
from scail2.models.transformer import SCAIL2Transformer3DModel
from scail2.pipeline import SCAIL2Pipeline
from scail2.pipeline.sampling import make_scheduler
from scail2.request.presets import Solver

SIZE = 32
TEXT_DIM, TEXT_LENGTH = 16, 512
IMAGE_DIM, IMAGE_LENGTH = 16, 5  # 4 patches and the class token
WORDS = ["<pad>", "</s>", "<unk>", "a", "puppet", "dances", "in", "the", "rain"]


def tiny_transformer(*, seed: int = 0, **changes) -> SCAIL2Transformer3DModel:
    """Two blocks, two heads of 12; every parameter random, so that no comparison is vacuous."""
    torch.manual_seed(seed)
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "ffn_dim": 32,
        "num_layers": 2,
        "freq_dim": 16,
        "text_dim": TEXT_DIM,
        "text_length": TEXT_LENGTH,
        "image_dim": IMAGE_DIM,
        "image_length": IMAGE_LENGTH,
    }
    model = SCAIL2Transformer3DModel(**(config | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def bare_transformer(*, seed: int = 0, **changes) -> SCAIL2Transformer3DModel:
    """A transformer without text and CLIP, predicting x0, driving at full size: the small checkpoint's shape."""
    small = {
        "text_dim": None,
        "image_dim": None,
        "driving_downsample": 1,
        "prediction_type": "sample",
        "rope_theta": 100.0,
        "rope_reference_height_shift": 8,
        "rope_driving_width_shift": 8,
        "in_channels": 20,
    }
    return tiny_transformer(seed=seed, **(small | changes))


def tiny_vae(seed: int = 0) -> AutoencoderKLWan:
    """Wan's autoencoder at its real strides and 16 latent channels, four channels wide inside."""
    torch.manual_seed(seed)
    return AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()


def patch_vae(seed: int = 0) -> AutoencoderPatchTransform:
    """The small models' own autoencoder with 16 channels: the same interface at almost no cost."""
    torch.manual_seed(seed)
    return AutoencoderPatchTransform(z_dim=16, num_static_channels=8).eval()


def tiny_text_encoder(seed: int = 0) -> UMT5EncoderModel:
    torch.manual_seed(seed)
    config = UMT5Config(
        vocab_size=len(WORDS), d_model=TEXT_DIM, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0
    )
    return UMT5EncoderModel(config).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, an end token like umT5's."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def tiny_image_encoder(seed: int = 0) -> CLIPVisionModel:
    torch.manual_seed(seed)
    config = CLIPVisionConfig(
        hidden_size=IMAGE_DIM,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
    )
    return CLIPVisionModel(config).eval()


def tiny_pipeline(*, vae: torch.nn.Module | None = None, **changes) -> SCAIL2Pipeline:
    """All components of the real classes."""
    components = {
        "transformer": tiny_transformer(),
        "vae": tiny_vae() if vae is None else vae,
        "scheduler": make_scheduler(Solver.UNIPC, 3.0),
        "text_encoder": tiny_text_encoder(),
        "tokenizer": tiny_tokenizer(),
        "image_encoder": tiny_image_encoder(),
        "segment_frame_length": 9,
    }
    pipe = SCAIL2Pipeline(**(components | changes))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def bare_pipeline(**changes) -> SCAIL2Pipeline:
    """Neither text nor image encoder, the cheap autoencoder."""
    components = {
        "transformer": bare_transformer(),
        "vae": patch_vae(),
        "scheduler": make_scheduler(Solver.EULER, 3.0),
        "default_preset": "nano",
        "segment_frame_length": 9,
    }
    pipe = SCAIL2Pipeline(**(components | changes))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def footage(frames: int, *, characters: int = 1, seed: int = 0, size: int = SIZE) -> dict[str, np.ndarray]:
    """A picture and a video with ``characters`` moving blocks, and bool masks for both.

    Returns:
        image uint8 (H, W, 3), driving_video uint8 (T, H, W, 3), reference_mask bool (S, H, W),
        driving_mask bool (S, T, H, W).
    """
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 255, (size, size, 3), dtype=np.uint8)
    video = np.broadcast_to(rng.integers(0, 255, (size, size, 3), dtype=np.uint8), (frames, size, size, 3)).copy()
    reference_mask = np.zeros((characters, size, size), dtype=bool)
    driving_mask = np.zeros((characters, frames, size, size), dtype=bool)
    side = size // (2 * characters)
    for s in range(characters):
        left = s * 2 * side
        reference_mask[s, side : 2 * side, left : left + side] = True
        for t in range(frames):
            top = (t + s) % side
            driving_mask[s, t, top : top + side, left : left + side] = True
            video[t, top : top + side, left : left + side] = 40 * s + 30
    return {
        "image": image,
        "driving_video": video,
        "reference_mask": reference_mask,
        "driving_mask": driving_mask,
    }


def forward_inputs(
    transformer: SCAIL2Transformer3DModel, *, batch: int = 1, frames: int = 3, grid: int = 4, seed: int = 0
) -> dict[str, torch.Tensor | str]:
    """Random keyword arguments for one forward pass on ``frames`` x ``grid`` x ``grid`` latents."""
    config, rng = transformer.config, torch.Generator().manual_seed(seed)
    small, channels = grid // config.driving_downsample, config.out_channels

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=rng)

    return {
        "hidden_states": normal(channels, frames, grid, grid),
        "timestep": torch.full((batch,), 500.0),
        "encoder_hidden_states": None if config.text_dim is None else normal(config.text_length, config.text_dim),
        "encoder_hidden_states_image": None
        if config.image_dim is None
        else normal(config.image_length, config.image_dim),
        "reference_latents": normal(channels, 1, grid, grid),
        "reference_masks": normal(config.mask_channels, 1, grid, grid).abs().clamp(max=1),
        "driving_latents": normal(channels, frames, small, small),
        "driving_masks": normal(config.mask_channels, frames, small, small).abs().clamp(max=1),
        "mode": "replacement",
    }
