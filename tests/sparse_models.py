"""The files of the published 14B, at full size and without content: true headers, and holes where the numbers would be."""

import json
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from checkpoint_files import published_clip, published_umt5, published_vae
from diffusers import AutoencoderKLWan
from tiny import tiny_tokenizer
from torch._subclasses import FakeTensorMode
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from scail2.budget.shapes import TransformerShape, parameter_shapes
from scail2.checkpoints.official_names import to_official_name

Stored = Mapping[str, tuple[str, tuple[int, ...]]]  # name -> type as safetensors calls it, and shape
BYTES = {"F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1}


def transformer_14b() -> dict[str, tuple[int, ...]]:
    """Published names and shapes."""
    return {to_official_name(name): shape for name, shape in parameter_shapes(TransformerShape()).items()}


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return name.startswith("blocks.") and len(shape) == 2


def write_holes(path: Path, stored: Stored) -> Path:
    """A safetensors file of these tensors, all of them zero and none of them on the disk."""
    header, place = {}, 0
    for name, (kind, shape) in stored.items():
        size = BYTES[kind] * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [place, place + size]}
        place += size
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + place)
    return path


def official(folder: Path) -> Path:
    return write_holes(folder / "scail2_bf16.safetensors", {k: ("BF16", v) for k, v in transformer_14b().items()})


def sharded(folder: Path) -> Path:
    shapes = transformer_14b()
    names = list(shapes)
    parts = {f"model-{n + 1:05d}-of-00003.safetensors": names[n::3] for n in range(3)}
    for part, members in parts.items():
        write_holes(folder / part, {name: ("BF16", shapes[name]) for name in members})
    index = folder / "model.safetensors.index.json"
    weight_map = {name: part for part, members in parts.items() for name in members}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def comfy_fp8(folder: Path) -> Path:
    stored = {"model.diffusion_model.scaled_fp8": ("F8_E4M3", (0,))}
    for name, shape in transformer_14b().items():
        stored[f"model.diffusion_model.{name}"] = ("F8_E4M3" if is_matrix(name, shape) else "BF16", shape)
        if is_matrix(name, shape):
            stored[f"model.diffusion_model.{name.removesuffix('weight')}scale_weight"] = ("F32", ())
    return write_holes(folder / "scail2_fp8.safetensors", stored)


def gguf_q4(folder: Path) -> Path:
    path, size = folder / "scail2-Q4_K.gguf", 0
    writer = gguf.GGUFWriter(path, "wan")
    for name, shape in transformer_14b().items():
        kind = gguf.GGMLQuantizationType.Q4_K if is_matrix(name, shape) else gguf.GGMLQuantizationType.F32
        block, nbytes = gguf.GGML_QUANT_SIZES[kind]
        stored = int(np.prod(shape, dtype=np.int64)) // block * nbytes
        if len(shape) == 5:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", [int(side) for side in shape])
            shape = (shape[0] * shape[1], int(np.prod(shape[2:])))
        if kind is not gguf.GGMLQuantizationType.F32:  # the writer counts the bytes of a row
            writer.add_tensor_info(name, (*shape[:-1], shape[-1] // block * nbytes), np.dtype("uint8"), stored, kind)
        else:
            writer.add_tensor_info(name, shape, np.dtype("float32"), stored)
        size += -(-stored // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(-(-path.stat().st_size // 32) * 32 + size)
    return path


def pickled(folder: Path) -> Path:
    """The published layout of a training checkpoint, float32 under ``module``."""
    path = folder / "scail2_fp32.pt"
    with FakeTensorMode(), torch.serialization.skip_data(materialize_fake_tensors=True):
        state = {name: torch.empty(shape) for name, shape in transformer_14b().items()}
        torch.save({"module": state}, path)
    return path


def write_companions(folder: Path) -> None:
    """Autoencoder, umT5, CLIP and a tokenizer beside a transformer, of full size where that counts."""
    with torch.device("meta"):
        vae = published_vae(AutoencoderKLWan())
        config = UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
        text = published_umt5(UMT5EncoderModel(config))
        sizes = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16}
        image = CLIPVisionModel(CLIPVisionConfig(**sizes, image_size=224, patch_size=14))
        image = published_clip(image)
    for name, state in (("vae", vae), ("umt5", text), ("clip", image)):
        write_holes(folder / f"{name}.safetensors", {key: ("BF16", tuple(each.shape)) for key, each in state.items()})
    tiny_tokenizer().save_pretrained(folder / "google" / "umt5-xxl")
