"""Writes small models in the public layouts, from the layouts' description rather than from our code."""

from pathlib import Path

import gguf
import numpy as np
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from tiny import tiny_transformer
from transformers import CLIPVisionModel, UMT5EncoderModel

from scail2.checkpoints.official_names import to_official_name

WORDS = {"num_heads": 2, "image_length": 5}  # what the shapes of the small transformer do not show


def official_state(**changes) -> dict[str, torch.Tensor]:
    """Random float32 weights in published names. Width 64, so that every GGUF block size of 32 divides a row."""
    sizes = {"attention_head_dim": 32, "ffn_dim": 96, "text_dim": 32, "image_dim": 32, "freq_dim": 32}
    model = tiny_transformer(**(sizes | changes))
    return {to_official_name(name): value for name, value in model.state_dict().items()}


def save_training(state: dict[str, torch.Tensor], path: Path) -> None:
    """The training branch: SwissArmyTransformer names under `module`, fused projections."""
    prefix = "model.diffusion_model."
    tables = {
        "patch_embedding": "mixins.patch_embed.proj",
        "patch_embedding_pose": "mixins.patch_embed.proj_pose",
        "patch_embedding_mask": "mixins.patch_embed.proj_mask",
        "time_embedding": "time_embed",
        "time_projection": "adaln_projection",
        "img_emb": "clip_proj",
        "head.head": "mixins.final_layer.linear",
        "head.modulation": "mixins.final_layer.adaLN_modulation",
        "text_embedding": "text_embedding",
    }
    parts = {
        "self_attn.o": "transformer.layers.{}.attention.dense",
        "cross_attn.q": "transformer.layers.{}.cross_attention.query",
        "cross_attn.o": "transformer.layers.{}.cross_attention.dense",
        "norm3": "transformer.layers.{}.post_cross_attention_layernorm",
        "ffn.0": "transformer.layers.{}.mlp.dense_h_to_4h",
        "ffn.2": "transformer.layers.{}.mlp.dense_4h_to_h",
        "self_attn.norm_q": "mixins.adaln_layer.query_layernorm_list.{}",
        "self_attn.norm_k": "mixins.adaln_layer.key_layernorm_list.{}",
        "cross_attn.norm_q": "mixins.adaln_layer.cross_query_layernorm_list.{}",
        "cross_attn.norm_k": "mixins.adaln_layer.cross_key_layernorm_list.{}",
        "cross_attn.norm_k_img": "mixins.adaln_layer.clip_feature_key_layernorm_list.{}",
        "modulation": "mixins.adaln_layer.adaLN_modulations.{}",
    }
    fused = {
        "self_attn.q": ("transformer.layers.{}.attention.query_key_value", ("q", "k", "v")),
        "cross_attn.k": ("transformer.layers.{}.cross_attention.key_value", ("k", "v")),
        "cross_attn.k_img": ("mixins.adaln_layer.clip_feature_key_value_list.{}", ("k_img", "v_img")),
    }
    module = {}
    for name, value in state.items():
        if name.startswith("blocks."):
            _, block, rest = name.split(".", 2)
            part, leaf = (rest, "") if rest == "modulation" else rest.rsplit(".", 1)
            suffix = f".{leaf}" if leaf else ""
            if part in parts:
                module[prefix + parts[part].format(block) + suffix] = value
            elif part in fused:
                target, members = fused[part]
                attention = f"blocks.{block}.{part.split('.')[0]}"
                module[prefix + target.format(block) + suffix] = torch.cat(
                    [state[f"{attention}.{member}.{leaf}"] for member in members]
                )
        else:
            longest = max((key for key in tables if name == key or name.startswith(f"{key}.")), key=len)
            module[prefix + tables[longest] + name.removeprefix(longest)] = value
    torch.save({"module": module, "iteration": 3500}, path)


def save_fused(state: dict[str, torch.Tensor], path: Path) -> None:
    """Published names, only the projections fused."""
    module = dict(state)
    for name in list(state):
        for first, joined, members in (
            (".self_attn.q.", ".self_attn.query_key_value.", "qkv"),
            (".cross_attn.k.", ".cross_attn.key_value.", "kv"),
        ):
            if first in name:
                others = [name.replace(first, f"{first[:-2]}{member}.") for member in members]
                module[name.replace(first, joined)] = torch.cat([module.pop(other) for other in others])
    torch.save({"module": module}, path)


def is_block_matrix(name: str, value: torch.Tensor) -> bool:
    return name.startswith("blocks.") and name.endswith(".weight") and value.ndim == 2


def save_fp8(state: dict[str, torch.Tensor], path: Path, *, style: str) -> None:
    """ComfyUI's 8-bit files: style 'scale_weight', 'weight_scale' (with a marker a layer) or 'rows'."""
    stored = {}
    for name, value in state.items():
        if not is_block_matrix(name, value):
            stored[name] = value.to(torch.bfloat16)
            continue
        rows = style == "rows"
        largest = value.abs().amax(1, keepdim=True) if rows else value.abs().max()
        scale = largest / torch.finfo(torch.float8_e4m3fn).max
        stored[name] = (value / scale).to(torch.float8_e4m3fn)
        module = name.removesuffix(".weight")
        stored[f"{module}.{'scale_weight' if style == 'scale_weight' else 'weight_scale'}"] = scale
        stored[f"{module}.{'scale_input' if style == 'scale_weight' else 'input_scale'}"] = torch.tensor(1.0)
        if style == "weight_scale":
            marker = b'{"format": "float8_e4m3fn"}'
            stored[f"{module}.comfy_quant"] = torch.frombuffer(bytearray(marker), dtype=torch.uint8)
    if style == "scale_weight":
        stored["scaled_fp8"] = torch.zeros(0).to(torch.float8_e4m3fn)
    save_file({f"model.diffusion_model.{name}": value for name, value in stored.items()}, path)


def save_gguf(
    state: dict[str, torch.Tensor], path: Path, block_type: str, *, flatten_convolutions: bool = False
) -> None:
    """GGUF with one block type for the matrices of the blocks, float32 for the rest."""
    writer = gguf.GGUFWriter(path, "wan")
    kind = gguf.GGMLQuantizationType[block_type]
    for name, value in state.items():
        array = value.numpy()
        if is_block_matrix(name, value):
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        elif flatten_convolutions and array.ndim == 5:
            # Converters limited to four dimensions flatten, and note the shape.
            writer.add_array(f"comfy.gguf.orig_shape.{name}", [int(size) for size in array.shape])
            writer.add_tensor(name, array.reshape(array.shape[0] * array.shape[1], -1))
        else:
            writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ---- VAE, umT5, CLIP ------------------------------------------------------------------------------------------------


def randomised(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def published_vae(model: AutoencoderKLWan) -> dict[str, torch.Tensor]:
    """Published names: encoder.downsamples and decoder.upsamples numbered through, residual.{0,2,3,6} in a block."""
    leaves = {"norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6"}
    heads = {"conv_in": "conv1", "norm_out": "head.0", "conv_out": "head.2"}
    published = {}
    for name, value in model.state_dict().items():
        parts = name.split(".")
        parts = [leaves.get(part, "shortcut" if part == "conv_shortcut" else part) for part in parts]
        if parts[0] == "quant_conv" or parts[0] == "post_quant_conv":
            parts[0] = "conv1" if parts[0] == "quant_conv" else "conv2"
        elif parts[1] in heads:
            parts[1] = heads[parts[1]]
        elif parts[1] == "mid_block":
            index = 1 if parts[2] == "attentions" else 2 * int(parts[3])
            parts[1:4] = ["middle", str(index)]
        elif parts[1] == "down_blocks":
            parts[1] = "downsamples"
        else:
            place = 3 if parts[3] == "upsamplers" else int(parts[4])
            parts[1:5] = ["upsamples", str(4 * int(parts[2]) + place)]
        published[".".join(parts)] = value
    return published


UMT5_MODULES = {
    "layer.0.SelfAttention.q": "attn.q",
    "layer.0.SelfAttention.k": "attn.k",
    "layer.0.SelfAttention.v": "attn.v",
    "layer.0.SelfAttention.o": "attn.o",
    "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
    "layer.0.layer_norm": "norm1",
    "layer.1.layer_norm": "norm2",
    "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
    "layer.1.DenseReluDense.wi_1": "ffn.fc1",
    "layer.1.DenseReluDense.wo": "ffn.fc2",
}


def published_umt5(model: UMT5EncoderModel) -> dict[str, torch.Tensor]:
    published = {}
    for name, value in model.state_dict().items():
        if name in ("shared.weight", "encoder.final_layer_norm.weight"):
            published["token_embedding.weight" if name == "shared.weight" else "norm.weight"] = value
        elif name != "encoder.embed_tokens.weight":
            _, _, block, rest = name.split(".", 3)
            published[f"blocks.{block}.{UMT5_MODULES[rest.removesuffix('.weight')]}.weight"] = value
    return published


def published_clip(model: CLIPVisionModel) -> dict[str, torch.Tensor]:
    state, published = model.state_dict(), {}
    published["visual.cls_embedding"] = state["embeddings.class_embedding"][None, None]
    published["visual.pos_embedding"] = state["embeddings.position_embedding.weight"][None]
    published["visual.patch_embedding.weight"] = state["embeddings.patch_embedding.weight"]
    for leaf in ("weight", "bias"):
        published[f"visual.pre_norm.{leaf}"] = state[f"pre_layrnorm.{leaf}"]
        published[f"visual.post_norm.{leaf}"] = state[f"post_layernorm.{leaf}"]
        for layer in range(model.config.num_hidden_layers):
            ours, theirs = f"encoder.layers.{layer}", f"visual.transformer.{layer}"
            fused = [state[f"{ours}.self_attn.{part}_proj.{leaf}"] for part in "qkv"]
            published[f"{theirs}.attn.to_qkv.{leaf}"] = torch.cat(fused)
            published[f"{theirs}.attn.proj.{leaf}"] = state[f"{ours}.self_attn.out_proj.{leaf}"]
            for number in (1, 2):
                published[f"{theirs}.norm{number}.{leaf}"] = state[f"{ours}.layer_norm{number}.{leaf}"]
            published[f"{theirs}.mlp.0.{leaf}"] = state[f"{ours}.mlp.fc1.{leaf}"]
            published[f"{theirs}.mlp.2.{leaf}"] = state[f"{ours}.mlp.fc2.{leaf}"]
    # Held by the file, not needed for the penultimate features.
    return published | {"visual.head": torch.ones(model.config.hidden_size, 8), "log_scale": torch.tensor(2.66)}
