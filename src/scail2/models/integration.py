"""Every line that touches diffusers' registries, with the reason. Called once by `scail2.models.transformer`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.hooks._helpers import AttentionProcessorRegistry
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from diffusers.models.transformers.transformer_wan import WanAttnProcessor2_0

from ..errors import InputError
from . import official_names as names
from .dialects import view_transformer
from .tensor_files import StateDict


def _has_gguf_blocks(checkpoint: Mapping[str, torch.Tensor]) -> bool:
    return any(hasattr(value, "quant_type") for value in checkpoint.values())


def _bare(name: str) -> str:
    return name.removeprefix("model.diffusion_model.")


def _single_file_weights(checkpoint: Mapping[str, torch.Tensor], **_) -> dict[str, torch.Tensor]:
    """`checkpoint_mapping_fn`: a state dictionary in any public dialect -> our parameter names."""
    if _has_gguf_blocks(checkpoint):
        # Only renamed: diffusers' own quantizer keeps the blocks, and its layers dequantise them.
        return {names.to_diffusers_name(_bare(name)): value for name, value in checkpoint.items()}
    view = view_transformer(StateDict(checkpoint))
    if view.unexpected:
        raise InputError(f"The file has names that are not SCAIL-2's: {', '.join(view.unexpected[:40])}.")
    return {names.to_diffusers_name(name): view.read(name) for name in view}


def _single_file_config(original_config: Mapping[str, Any], checkpoint: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """`config_mapping_fn`: published configuration words and the file's shapes -> our configuration."""
    if _has_gguf_blocks(checkpoint):
        shapes = {_bare(name): getattr(value, "quant_shape", value.shape) for name, value in checkpoint.items()}
    else:
        shapes = view_transformer(StateDict(checkpoint)).shapes
    return names.resolve_config(shapes, original_config)


def register_transformer(cls: type) -> None:
    """Makes ``cls.from_single_file`` work; idempotent.

    diffusers looks a single-file class up in ``SINGLE_FILE_LOADABLE_CLASSES`` by name and then takes the class of that
    name from the ``diffusers`` module itself, so an out-of-tree class has to be in both places.
    """
    SINGLE_FILE_LOADABLE_CLASSES[cls.__name__] = {
        "checkpoint_mapping_fn": _single_file_weights,
        "config_mapping_fn": _single_file_config,
        "default_subfolder": "transformer",
    }
    setattr(diffusers, cls.__name__, cls)


def register_attention(cls: type) -> None:
    """Makes guiders that skip attention (perturbed attention, layer skipping) work with processor ``cls``; idempotent.

    diffusers keeps a table of what each processor class returns when it is skipped, by exact class; of Wan's it holds a
    deprecated one. Ours returns its hidden states, as that one does.
    """
    metadata = AttentionProcessorRegistry.get(WanAttnProcessor2_0)
    AttentionProcessorRegistry.register(cls, metadata)


def from_single_file(path: Any, default: Any, **kwargs) -> torch.nn.Module:
    """``from_single_file`` for our transformer, without diffusers' two traps.

    For a local file without quantizer it is `load_transformer`: diffusers would cast the float32 islands down under
    bfloat16, and without a ``config`` would guess a Wan model and ask the Hub for its configuration. With
    ``quantization_config``, a state dictionary, or a URL, ``default`` (diffusers' own method) is called.
    """
    from .checkpoints import load_transformer

    dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
    others = set(kwargs) - {"torch_dtype", "dtype", "original_config"}
    if not others and isinstance(path, str | Path) and Path(path).is_file():
        return load_transformer(path, kwargs.get("original_config"), dtype)
    if kwargs.get("config") is None and kwargs.get("original_config") is None:
        kwargs["original_config"] = {}
    return default(path, **kwargs)
