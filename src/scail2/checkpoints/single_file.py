"""A state dictionary in any public dialect as our parameters: what diffusers calls for `from_single_file`."""

from collections.abc import Mapping
from typing import Any

import torch

from scail2.checkpoints import official_names as names
from scail2.checkpoints.dialects import view_transformer
from scail2.checkpoints.tensor_files import StateDict
from scail2.errors import InputError


def _has_gguf_blocks(checkpoint: Mapping[str, torch.Tensor]) -> bool:
    return any(hasattr(value, "quant_type") for value in checkpoint.values())


def _bare(name: str) -> str:
    return name.removeprefix("model.diffusion_model.")


def single_file_weights(checkpoint: Mapping[str, torch.Tensor], **_: Any) -> dict[str, torch.Tensor]:
    """`checkpoint_mapping_fn`: a state dictionary in any public dialect -> our parameter names."""
    if _has_gguf_blocks(checkpoint):
        # Only renamed: diffusers' own quantizer keeps the blocks, and its layers dequantise them.
        return {names.to_diffusers_name(_bare(name)): value for name, value in checkpoint.items()}
    view = view_transformer(StateDict(checkpoint))
    if view.unexpected:
        raise InputError(f"The file has names that are not SCAIL-2's: {', '.join(view.unexpected[:40])}.")
    return {names.to_diffusers_name(name): view.read(name) for name in view}


def single_file_config(original_config: Mapping[str, Any], checkpoint: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """`config_mapping_fn`: published configuration words and the file's shapes -> our configuration."""
    if _has_gguf_blocks(checkpoint):
        shapes = {_bare(name): getattr(value, "quant_shape", value.shape) for name, value in checkpoint.items()}
    else:
        shapes = view_transformer(StateDict(checkpoint)).shapes
    return names.resolve_config(shapes, original_config)
