"""The public files beside a SCAIL-2 transformer, into their diffusers and transformers classes.

| file | class |
|---|---|
| `Wan2.1_VAE.pth`, ComfyUI `wan_2.1_vae.safetensors` | `diffusers.AutoencoderKLWan` |
| `models_t5_umt5-xxl-enc-bf16.pth`, ComfyUI `umt5_xxl_*.safetensors` (fp16, bf16, fp8-scaled), GGUF | `UMT5EncoderModel` |
| `models_clip_open-clip-xlm-roberta-large-vit-huge-14*.pth`, ComfyUI `clip_vision_h.safetensors` | `CLIPVisionModel` |

Sizes are read from the shapes, names and shapes are compared strictly, and tensors are streamed (see `views`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scail2.checkpoints.folder_loading import load_folder
from scail2.checkpoints.model_folder import read_config
from scail2.checkpoints.tensor_files import open_tensor_file
from scail2.checkpoints.views import Source, View, compare, plain_view, stream
from scail2.errors import InputError, short

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKLWan
    from transformers import CLIPVisionModel, UMT5EncoderModel

# Neither file shows its number of heads everywhere; these are the head widths of the public encoders.
CLIP_HEAD_WIDTH = 80  # ViT-H/14: 16 heads on 1280
_LAYER = re.compile(r"(.*?)\.(\d+)\.(.+)")

_VAE = "the Wan 2.1 autoencoder"
_TEXT = "umT5's encoder"
_IMAGE = "CLIP's vision tower"

_EMBEDDING_TWICE = "encoder.embed_tokens.weight"

Rename = Callable[[str], Iterable[str] | None]


def load_vae(path: str | Path, torch_dtype: torch.dtype | None = None) -> AutoencoderKLWan:
    """Loads the Wan 2.1 autoencoder from its public file or a diffusers folder.

    Args:
        path: ``Wan2.1_VAE.pth``, ComfyUI's safetensors of it, or a folder with an ``AutoencoderKLWan``.
        torch_dtype: float32 by default, as the published pipeline runs it.

    Raises:
        InputError: it is another autoencoder, or lacks tensors.
    """
    import torch
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKLWan

    dtype = torch_dtype or torch.float32
    if Path(path).is_dir():
        found = read_config(Path(path)).get("_class_name", AutoencoderKLWan.__name__)
        if found != AutoencoderKLWan.__name__:
            raise InputError(f"{path} holds {short(found)}, not {_VAE} (AutoencoderKLWan).")
        return load_folder(AutoencoderKLWan, path, dtype=dtype)
    view, settings = open_vae(path)
    with init_empty_weights():
        model = AutoencoderKLWan(**settings)
    return filled(model, view, dtype, _VAE)


def open_vae(path: str | Path) -> tuple[View, dict[str, Any]]:
    """The autoencoder's file under the names of its class, and the settings that its shapes show; without torch."""
    view = _renamed(path, vae_names, _VAE, "encoder.conv_in.weight", "post_quant_conv.weight")
    decoder_input = view.shapes["post_quant_conv.weight"][0]
    if decoder_input == 48:
        raise InputError(f"{path} is the Wan 2.2 autoencoder (48 channels); SCAIL-2 works with Wan2.1_VAE.pth.")
    return view, {"base_dim": view.shapes["encoder.conv_in.weight"][0], "z_dim": decoder_input}


def load_text_encoder(path: str | Path, torch_dtype: torch.dtype | None = None) -> UMT5EncoderModel:
    """Loads umT5's encoder from its public file (published or transformers names) or a transformers folder.

    ``torch_dtype`` None keeps the file's type; bfloat16 for 8-bit and GGUF files.
    """
    from accelerate import init_empty_weights
    from transformers import UMT5Config, UMT5EncoderModel

    if Path(path).is_dir():
        return load_folder(UMT5EncoderModel, path, dtype=torch_dtype or "auto")
    view, settings = open_text_encoder(path)
    with init_empty_weights():
        model = UMT5EncoderModel(UMT5Config(**settings, feed_forward_proj="gated-gelu"))
    # The embedding is one tensor under two names.
    model = filled(model, view, torch_dtype, _TEXT, {_EMBEDDING_TWICE: "shared.weight"})
    model.tie_weights()
    return model


def open_text_encoder(path: str | Path) -> tuple[View, dict[str, int]]:
    """umT5's file under the names of its class, and the settings that its shapes show; without torch."""
    attention, dense = "encoder.block.0.layer.0.SelfAttention", "encoder.block.0.layer.1.DenseReluDense"
    bias, query, wide = f"{attention}.relative_attention_bias.weight", f"{attention}.q.weight", f"{dense}.wi_0.weight"
    view = _renamed(path, text_encoder_names, _TEXT, "shared.weight", bias, query, wide)
    vocabulary, width = view.shapes["shared.weight"]
    buckets, heads = view.shapes[bias]
    return view, {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": view.shapes[query][0] // heads,
        "d_ff": view.shapes[wide][0],
        "num_layers": count_layers(view, "encoder.block"),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
    }


def load_image_encoder(
    path: str | Path, torch_dtype: torch.dtype | None = None, num_heads: int | None = None
) -> CLIPVisionModel:
    """Loads CLIP's vision tower (ViT-H/14 of open-clip) from its public file or a transformers folder.

    Args:
        path: the published ``.pth`` (its text tower and projections are left out), or ComfyUI's safetensors.
        torch_dtype: None keeps the file's type.
        num_heads: needed only for towers whose head width is not the public 80.
    """
    from accelerate import init_empty_weights
    from transformers import CLIPVisionConfig, CLIPVisionModel

    if Path(path).is_dir():
        return load_folder(CLIPVisionModel, path, dtype=torch_dtype or "auto")
    view, settings = open_image_encoder(path, num_heads)
    config = CLIPVisionConfig(**settings, hidden_act="gelu", layer_norm_eps=1e-5, projection_dim=1024)
    with init_empty_weights():
        model = CLIPVisionModel(config)
    return filled(model, view, torch_dtype, _IMAGE)


def open_image_encoder(path: str | Path, num_heads: int | None = None) -> tuple[View, dict[str, int]]:
    """CLIP's file under the names of its class, and the settings that its shapes show; without torch."""
    patches, positions, wide = (
        "embeddings.patch_embedding.weight",
        "embeddings.position_embedding.weight",
        "encoder.layers.0.mlp.fc1.weight",
    )
    view = _renamed(path, image_encoder_names, _IMAGE, patches, positions, wide)
    hidden, _, patch, _ = view.shapes[patches]
    # The published tower keeps leading axes of size one on both.
    view = _flattened(view, {"embeddings.class_embedding": (hidden,), positions: (-1, hidden)})
    grid = round((view.shapes[positions][0] - 1) ** 0.5)
    if num_heads is None and hidden % CLIP_HEAD_WIDTH:
        raise InputError(f"{path} has width {hidden}; no tensor shows its heads: give num_heads.")
    return view, {
        "hidden_size": hidden,
        "intermediate_size": view.shapes[wide][0],
        "num_hidden_layers": count_layers(view, "encoder.layers"),
        "num_attention_heads": num_heads or hidden // CLIP_HEAD_WIDTH,
        "image_size": grid * patch,
        "patch_size": patch,
    }


# ---- names --------------------------------------------------------------------------------------------------------

_VAE_RESIDUAL = {"residual.0": "norm1", "residual.2": "conv1", "residual.3": "norm2", "residual.6": "conv2"}
_VAE_FIXED = {
    "conv1": "quant_conv",
    "conv2": "post_quant_conv",
    "encoder.conv1": "encoder.conv_in",
    "decoder.conv1": "decoder.conv_in",
    "encoder.head.0": "encoder.norm_out",
    "encoder.head.2": "encoder.conv_out",
    "decoder.head.0": "decoder.norm_out",
    "decoder.head.2": "decoder.conv_out",
}
_VAE_DECODER_STAGE = 4  # three residual blocks and one upsampler, numbered through by the published code


def vae_names(name: str) -> tuple[str, ...] | None:
    """Published name of a Wan 2.1 autoencoder tensor -> `AutoencoderKLWan`'s; None for a name of neither."""
    module, _, leaf = name.rpartition(".")
    if module in _VAE_FIXED:
        return (f"{_VAE_FIXED[module]}.{leaf}",)
    if name.startswith(("quant_conv.", "post_quant_conv.")) or re.match(
        r"(en|de)coder\.(conv_|norm_|mid_|down_|up_)", name
    ):
        return (name,)
    if not (match := re.fullmatch(r"(encoder|decoder)\.(middle|downsamples|upsamples)\.(\d+)\.(.+)", module)):
        return None
    side, part, index, inner = match[1], match[2], int(match[3]), match[4]
    inner = _VAE_RESIDUAL.get(inner, "conv_shortcut" if inner == "shortcut" else inner)
    if part == "middle":
        block = "attentions.0" if index == 1 else f"resnets.{index // 2}"
        return (f"{side}.mid_block.{block}.{inner}.{leaf}",)
    if part == "downsamples":
        return (f"{side}.down_blocks.{index}.{inner}.{leaf}",)
    stage, place = divmod(index, _VAE_DECODER_STAGE)
    block = "upsamplers.0" if place == _VAE_DECODER_STAGE - 1 else f"resnets.{place}"
    return (f"{side}.up_blocks.{stage}.{block}.{inner}.{leaf}",)


_TEXT_MODULES = {
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm1": "layer.0.layer_norm",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}


def text_encoder_names(name: str) -> tuple[str, ...] | None:
    """Published name of a umT5 encoder tensor -> `UMT5EncoderModel`'s; () for the tokenizer ComfyUI packs in."""
    module, _, leaf = name.rpartition(".")
    if name == "spiece_model":
        return ()
    if name.startswith(("shared.", "encoder.")):
        return (name,)
    if module in ("token_embedding", "norm"):
        return (f"{'shared' if module == 'token_embedding' else 'encoder.final_layer_norm'}.{leaf}",)
    match = _LAYER.fullmatch(module)
    if match and match[1] == "blocks" and match[3] in _TEXT_MODULES:
        return (f"encoder.block.{match[2]}.{_TEXT_MODULES[match[3]]}.{leaf}",)
    return None


_IMAGE_FIXED = {
    "visual.cls_embedding": "embeddings.class_embedding",
    "visual.pos_embedding": "embeddings.position_embedding.weight",
    "visual.patch_embedding.weight": "embeddings.patch_embedding.weight",
    "visual.pre_norm.weight": "pre_layrnorm.weight",
    "visual.pre_norm.bias": "pre_layrnorm.bias",
    "visual.post_norm.weight": "post_layernorm.weight",
    "visual.post_norm.bias": "post_layernorm.bias",
}
_IMAGE_MODULES = {
    "norm1": ("layer_norm1",),
    "norm2": ("layer_norm2",),
    "attn.to_qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.proj": ("self_attn.out_proj",),
    "mlp.0": ("mlp.fc1",),
    "mlp.2": ("mlp.fc2",),
}
# What the files hold beside the vision tower up to its last hidden state.
_IMAGE_UNUSED = ("textual.", "log_scale", "visual.head", "visual_projection.", "text_model.", "logit_scale")


def image_encoder_names(name: str) -> tuple[str, ...] | None:
    """Published name of a CLIP tensor -> `CLIPVisionModel`'s (three for fused q, k, v); () for what is left out."""
    if name in _IMAGE_FIXED:
        return (_IMAGE_FIXED[name],)
    if name.startswith(_IMAGE_UNUSED) or name.endswith("embeddings.position_ids"):
        return ()
    bare = name.removeprefix("vision_model.")
    if bare.startswith(("embeddings.", "encoder.layers.", "pre_layrnorm.", "post_layernorm.")):
        return (bare,)
    module, _, leaf = name.rpartition(".")
    match = _LAYER.fullmatch(module)
    if match and match[1] == "visual.transformer" and match[3] in _IMAGE_MODULES:
        return tuple(f"encoder.layers.{match[2]}.{ours}.{leaf}" for ours in _IMAGE_MODULES[match[3]])
    return None


# ---- loading ------------------------------------------------------------------------------------------------------


def _renamed(path: str | Path, rename: Rename, what: str, *anchors: str) -> View:
    """The file under the names of the class; raises InputError if it is something else (``anchors`` missing)."""
    view = plain_view(open_tensor_file(path))
    sources, unexpected = {}, []
    for name, source in view.sources.items():
        targets = rename(name)
        if targets is None:
            unexpected.append(name)
        for index, target in enumerate(targets or ()):
            sources[target] = Source(source.stored, index, len(tuple(targets or ())))
    if len(unexpected) > len(sources):
        raise InputError(f"{view.file.path} is not {what}: it begins with '{unexpected[0]}'.")
    if absent := [name for name in anchors if name not in sources]:
        raise InputError(f"{view.file.path} is not {what}: it lacks {', '.join(absent)}, which show its sizes.")
    return View(view.file, sources, unexpected, view.scales)


def _flattened(view: View, shapes: Mapping[str, tuple[int, ...]]) -> View:
    """The view with some tensors in other shapes (-1: whatever is left)."""
    sources = dict(view.sources)
    for name in shapes.keys() & sources.keys():
        first, *rest = shapes[name]
        count = math.prod(view.shapes[name]) // math.prod(rest)
        sources[name] = Source(sources[name].stored, shape=(count if first == -1 else first, *rest))
    return View(view.file, sources, view.unexpected, view.scales)


def count_layers(view: View, prefix: str) -> int:
    """How many layers there are under a name: one more than the largest number that follows it."""
    found = (re.match(rf"{re.escape(prefix)}\.(\d+)\.", name) for name in view)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def filled(
    model: torch.nn.Module,
    view: View,
    torch_dtype: torch.dtype | None,
    what: str,
    aliases: Mapping[str, str] | None = None,
) -> torch.nn.Module:
    """The model with the view's tensors; ``aliases`` are second names, inside the model, of one tensor."""
    import torch

    aliases = aliases or {}
    names = [name for name in model.state_dict() if name not in aliases]
    view = View(view.file, {k: v for k, v in view.sources.items() if k not in aliases}, view.unexpected, view.scales)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    compare(view, {name: shapes[name] for name in names}, what)
    dtype = torch_dtype or view.stored_dtype or torch.bfloat16
    keep = set(getattr(model, "_keep_in_fp32_modules", None) or ()) if dtype == torch.float16 else set()
    dtypes = {name: torch.float32 if keep & set(name.split(".")) else dtype for name in names}
    state = dict(stream(view, dtypes))
    state |= {second: state[first] for second, first in aliases.items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()
