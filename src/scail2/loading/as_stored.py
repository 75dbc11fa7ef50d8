"""A transformer whose large matrices stay as their file has them: 8 bits with scales, or GGUF blocks in diffusers' layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scail2.checkpoints import official_names as names
from scail2.checkpoints.stored import EIGHT_BIT
from scail2.checkpoints.tensor_files import GgufFile
from scail2.checkpoints.transformer_files import open_transformer, plan_dtypes
from scail2.checkpoints.views import View, stream
from scail2.models.stored_linear import ScaledLinear
from scail2.models.transformer import SCAIL2Transformer3DModel


def load_transformer_as_stored(
    path: str | Path, config: Mapping[str, Any] | None = None, torch_dtype: torch.dtype | None = None
) -> SCAIL2Transformer3DModel:
    """As `scail2.load_transformer`, but quantised matrices of blocks are not brought into ``torch_dtype``.

    They are when they are used, layer by layer, to the same bits as in `load_transformer`.
    """
    view, model = open_transformer(SCAIL2Transformer3DModel, path, config)
    dtypes = plan_dtypes(model, torch_dtype or view.stored_dtype or torch.bfloat16)
    kept = {name for name in dtypes if _is_kept(view, name)}
    official = {names.to_official_name(name): dtype for name, dtype in dtypes.items() if name not in kept}
    state = {names.to_diffusers_name(name): value for name, value in stream(view, official)}
    for name in sorted(kept):
        module = name.removesuffix(".weight")
        owner, _, leaf = module.rpartition(".")
        layer = _layer(view, names.to_official_name(name), state.pop(f"{module}.bias", None), dtypes[name])
        setattr(model.get_submodule(owner), leaf, layer)
    left = model.load_state_dict(state, strict=False, assign=True)
    made = {name.removesuffix(".weight") for name in kept}
    if left.unexpected_keys or any(name.rpartition(".")[0] not in made for name in left.missing_keys):
        raise AssertionError("compared before")
    return model.eval()


def _is_kept(view: View, name: str) -> bool:
    """Whether a parameter is a block's matrix that the file has in 8 bits or fewer, all for itself."""
    if not (name.startswith("blocks.") and name.endswith(".weight") and "norm" not in name):
        return False
    source = view.sources[names.to_official_name(name)]
    info = view.file.tensors[source.stored]
    if source.count > 1 or len(info.shape) != 2:
        return False
    if isinstance(view.file, GgufFile):
        return info.number is None and _can_unpack(view.file, source.stored)
    return info.number in EIGHT_BIT


def _can_unpack(file: GgufFile, name: str) -> bool:
    from diffusers.quantizers.gguf.utils import dequantize_functions

    return file.block_type(name) in dequantize_functions


def _layer(view: View, name: str, bias: torch.Tensor | None, dtype: torch.dtype) -> nn.Linear:
    stored = view.sources[name].stored
    if isinstance(view.file, GgufFile):
        return _gguf_layer(view.file, stored, bias, dtype)
    scale = view.scales.get(stored)
    factor = torch.ones(1) if scale is None else view.file.read(scale).float().reshape(-1, 1)
    factor = factor.reshape(1) if factor.numel() == 1 else factor
    return ScaledLinear(view.file.read(stored).clone(), factor.clone(), bias, dtype)


def _gguf_layer(file: GgufFile, name: str, bias: torch.Tensor | None, dtype: torch.dtype) -> nn.Linear:
    from diffusers.quantizers.gguf.utils import GGUFParameter

    from scail2.loading.gguf_linear import ExactGgufLinear

    rows, columns = file.tensors[name].shape
    layer = ExactGgufLinear(columns, rows, bias=bias is not None, compute_dtype=dtype, device="meta")
    layer.weight = GGUFParameter(file.blocks(name), quant_type=file.block_type(name))
    layer.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return layer
