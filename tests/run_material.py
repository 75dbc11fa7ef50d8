"""Small jobs for runs: a picture, a driving video with sound, their masks, and a tiny model, all seeded."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny import SIZE, bare_pipeline, bare_transformer, footage

from scail2.masks import BINDING_SLOTS, paint_mask
from scail2.modes import MODE_TRAITS, AnimationMode
from scail2.request.animation import AnimationRequest
from scail2.video import VideoWriter

FPS = Fraction(8)
SAMPLE_RATE = 8000


def save_model(folder: Path) -> Path:
    """A tiny random pipeline of the real classes as a diffusers folder: 32x32 pixels, 9 frames a segment."""
    bare_pipeline(native_height=SIZE, native_width=SIZE).save_pretrained(folder)
    return folder


def save_lora(path: Path) -> Path:
    """A random adapter of rank 1 for one layer of `save_model`'s transformer, in peft's names."""
    layer = bare_transformer().blocks[0].attn1.to_q
    torch.manual_seed(4)
    sizes = {"lora_A": (1, layer.in_features), "lora_B": (layer.out_features, 1)}
    save_file(
        {f"transformer.blocks.0.attn1.to_q.{name}.weight": torch.randn(size) for name, size in sizes.items()}, path
    )
    return path


def make_material(
    folder: Path,
    *,
    frames: int = 19,
    characters: int = 1,
    mode: AnimationMode = AnimationMode.ANIMATION,
    seed: int = 0,
    sound: bool = False,
) -> dict[str, Any]:
    """Files of a job and the request fields that name them."""
    folder.mkdir(parents=True, exist_ok=True)
    made = footage(frames, characters=characters, seed=seed)
    traits, slots = MODE_TRAITS[mode], BINDING_SLOTS[:characters]
    Image.fromarray(made["image"]).save(folder / "reference.png")
    mask = paint_mask(made["reference_mask"], slots, traits.reference_background)
    Image.fromarray(mask.reshape(SIZE, SIZE, 3)).save(folder / "reference_mask.png")
    (write_sounding_video if sound else write_video)(folder / "driving.mkv", made["driving_video"])
    write_video(folder / "driving_mask.mkv", paint_mask(made["driving_mask"], slots, traits.driving_background))
    return {
        "mode": mode,
        "reference": folder / "reference.png",
        "driving": folder / "driving.mkv",
        "reference_mask": (folder / "reference_mask.png",),
        "driving_mask": (folder / "driving_mask.mkv",),
        "output": folder / "film.mp4",
        "num_inference_steps": 2,
    }


def make_request(folder: Path, *, frames: int = 19, **changes: Any) -> AnimationRequest:
    """A request over `make_material`."""
    return AnimationRequest(**make_material(folder, frames=frames) | changes)


def write_video(path: Path, frames: np.ndarray) -> Path:
    """Lossless video of uint8 frames (T, H, W, 3)."""
    with VideoWriter(path, FPS, frames.shape[1:3], codec="ffv1") as writer:
        writer.write(frames)
    return path


def write_sounding_video(path: Path, frames: np.ndarray) -> Path:
    """The same with a 440 Hz tone of the video's length."""
    times = np.arange(round(len(frames) / FPS * SAMPLE_RATE)) / SAMPLE_RATE
    samples = (np.sin(2 * np.pi * 440 * times) * 12000).astype(np.int16)
    with av.open(str(path), "w") as container:
        picture = container.add_stream("ffv1", rate=FPS)
        picture.height, picture.width, picture.pix_fmt = *frames.shape[1:3], "bgr0"
        sound = container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        for frame in frames:
            container.mux(picture.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(picture.encode(None))
        wave = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        wave.sample_rate = SAMPLE_RATE
        container.mux(sound.encode(wave))
        container.mux(sound.encode(None))
    return path
