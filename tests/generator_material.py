"""Tiny, randomly initialised pipelines of the real classes that other people's generators are, and puppets to try them on."""

from pathlib import Path

import diffusers
import torch
from tiny import IMAGE_DIM, TEXT_DIM, tiny_image_encoder, tiny_text_encoder, tiny_tokenizer, tiny_vae
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from scail2.synthesis.generators.protocol import Character, Motion
from scail2.synthesis.generators.puppet_world import PuppetCharacter, PuppetTake

FACE_SIDE = 16
_MOTION_CHANNELS = {"4": 8, "8": 8, "16": 8}


def tiny_wan_animate(seed: int = 0) -> diffusers.WanAnimatePipeline:
    """All components of the real classes; two blocks, a face encoder for 16 pixels."""
    torch.manual_seed(seed)
    transformer = diffusers.WanAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        text_dim=TEXT_DIM,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        image_dim=IMAGE_DIM,
        motion_encoder_channel_sizes=_MOTION_CHANNELS,
        motion_encoder_size=FACE_SIDE,
        motion_style_dim=8,
        motion_dim=4,
        motion_encoder_dim=8,
        face_encoder_hidden_dim=16,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=1,
    )
    return diffusers.WanAnimatePipeline(
        tokenizer=tiny_tokenizer(),
        text_encoder=tiny_text_encoder(),
        vae=tiny_vae(),
        scheduler=diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
        image_processor=CLIPImageProcessor(size={"height": 16, "width": 16}, crop_size={"height": 16, "width": 16}),
        image_encoder=tiny_image_encoder(),
        transformer=transformer.eval(),
    )


def saved_wan_animate_2(folder: Path, *, distilled: bool = False, seed: int = 0) -> Path:
    """A folder of the modular pipeline, saved as diffusers saves it; two blocks."""
    torch.manual_seed(seed)
    blocks = diffusers.WanAnimate2DistilledBlocks() if distilled else diffusers.WanAnimate2Blocks()
    pipeline = blocks.init_pipeline()
    vision = CLIPVisionConfig(
        hidden_size=1280,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=224,
        patch_size=112,
    )
    transformer = diffusers.WanAnimate2Transformer3DModel(
        dim=24, ffn_dim=32, freq_dim=16, text_dim=TEXT_DIM, num_heads=2, num_layers=2
    )
    components = {
        "text_encoder": tiny_text_encoder(),
        "tokenizer": tiny_tokenizer(),
        "image_encoder": CLIPVisionModel(vision).eval(),
        "vae": tiny_vae(),
        "transformer": transformer.eval(),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0),
    }
    pipeline.update_components(**components)
    pipeline.save_pretrained(str(folder), overwrite_modular_index=True)
    return folder


def puppet_material(frames: int = 5, *, characters: int = 1, side: int = 64) -> tuple[Character, Motion]:
    """A character and a motion, `side` pixels each way."""
    take = PuppetTake(index=4, split="test", characters=characters)
    who = PuppetCharacter(index=6, split="test")
    return who.picture(height=side, width=side), take.motion(frames=frames, height=side, width=side)
