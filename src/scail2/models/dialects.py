"""The dialects a SCAIL-2 transformer is published in, each presented as one view in published names.

A view knows every published name the file provides and reads one of them at a time: it strips prefixes, translates the
training code's names, splits its fused projections and multiplies 8-bit weights by their scales.

| dialect | names | values |
|---|---|---|
| official | `blocks.N.self_attn.q.weight` ... | float32, float16, bfloat16 |
| training | the training branch's, `query_key_value` and `key_value` fused | float32, bfloat16 |
| comfy fp8 | official, `model.diffusion_model.` in front or not | float8 with a scale per tensor or per row |
| gguf | official | blocks of the gguf package |
| diffusers | `blocks.N.attn1.to_q.weight` ... | float32, float16, bfloat16 |
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import torch

from ..errors import InputError
from . import official_names as names
from .tensor_files import GgufFile, TensorFile, TensorInfo

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "module.", "model.")
# Companions of an 8-bit weight. Input scales matter only to kernels that also quantise activations.
_SCALE_LEAVES = ("scale_weight", "weight_scale")
_INPUT_SCALE_LEAVES = ("scale_input", "input_scale")
_MARKER_LEAF = "comfy_quant"
_FILE_MARKER = "scaled_fp8"
_READABLE_MARKERS = ("float8_e4m3fn", "float8_e5m2")


class Dialect(StrEnum):
    """Which of the public layouts a file has."""

    OFFICIAL = "official"
    TRAINING = "training"
    COMFY_FP8 = "comfy-fp8"
    GGUF = "gguf"
    DIFFUSERS = "diffusers"


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a published tensor comes from: rows ``index`` of ``count`` of a stored one, times a stored scale."""

    name: str
    index: int = 0
    count: int = 1
    scale: str | None = None


# The training branch's names (SwissArmyTransformer conventions), after `model.diffusion_model.`; {n} is a block.
# Fused projections are stacked along the output dimension, whole projection after whole projection.
_TRAINING_MODULES = {
    "mixins.patch_embed.proj": "patch_embedding",
    "mixins.patch_embed.proj_pose": "patch_embedding_pose",
    "mixins.patch_embed.proj_mask": "patch_embedding_mask",
    "mixins.final_layer.linear": "head.head",
    "mixins.adaln_layer.query_layernorm_list.{n}": "blocks.{n}.self_attn.norm_q",
    "mixins.adaln_layer.key_layernorm_list.{n}": "blocks.{n}.self_attn.norm_k",
    "mixins.adaln_layer.cross_query_layernorm_list.{n}": "blocks.{n}.cross_attn.norm_q",
    "mixins.adaln_layer.cross_key_layernorm_list.{n}": "blocks.{n}.cross_attn.norm_k",
    "mixins.adaln_layer.clip_feature_key_layernorm_list.{n}": "blocks.{n}.cross_attn.norm_k_img",
    "mixins.adaln_layer.clip_feature_key_value_list.{n}": "blocks.{n}.cross_attn.key_value_img",
    "transformer.layers.{n}.attention.query_key_value": "blocks.{n}.self_attn.query_key_value",
    "transformer.layers.{n}.attention.dense": "blocks.{n}.self_attn.o",
    "transformer.layers.{n}.cross_attention.query": "blocks.{n}.cross_attn.q",
    "transformer.layers.{n}.cross_attention.key_value": "blocks.{n}.cross_attn.key_value",
    "transformer.layers.{n}.cross_attention.dense": "blocks.{n}.cross_attn.o",
    "transformer.layers.{n}.post_cross_attention_layernorm": "blocks.{n}.norm3",
    "transformer.layers.{n}.mlp.dense_h_to_4h": "blocks.{n}.ffn.0",
    "transformer.layers.{n}.mlp.dense_4h_to_h": "blocks.{n}.ffn.2",
    "time_embed.0": "time_embedding.0",
    "time_embed.2": "time_embedding.2",
    "adaln_projection.1": "time_projection.1",
    "clip_proj.proj.0": "img_emb.proj.0",
    "clip_proj.proj.1": "img_emb.proj.1",
    "clip_proj.proj.3": "img_emb.proj.3",
    "clip_proj.proj.4": "img_emb.proj.4",
}
_TRAINING_TABLES = {
    "mixins.adaln_layer.adaLN_modulations.{n}": "blocks.{n}.modulation",
    "mixins.final_layer.adaLN_modulation": "head.modulation",
}
_FUSED = {
    "query_key_value": ("q", "k", "v"),
    "key_value": ("k", "v"),
    "key_value_img": ("k_img", "v_img"),
}
_NUMBER = re.compile(r"(?<=\.)(\d+)(?=\.|$)")


@dataclass
class TransformerView:
    """A transformer file in published names.

    Attributes:
        file: the file itself.
        dialect: what it turned out to be.
        shapes: published name -> shape.
        unexpected: stored names that belong to no SCAIL-2 transformer.
        stored_dtype: floating type of most of the weights; None if they are 8-bit or GGUF blocks.
    """

    file: TensorFile
    dialect: Dialect
    shapes: dict[str, tuple[int, ...]]
    unexpected: list[str]
    stored_dtype: torch.dtype | None
    _sources: dict[str, _Source]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def dtype(self, name: str) -> torch.dtype:
        """Type in which ``read`` returns a tensor: the stored one, or float32 where it is dequantised."""
        source = self._sources[name]
        dtype = self.file.tensors[source.name].dtype
        return torch.float32 if dtype is None or dtype in FP8 else dtype

    def is_view(self, name: str) -> bool:
        """Whether ``read`` returns the mapped file's own memory rather than new memory."""
        dtype = self.file.tensors[self._sources[name].name].dtype
        return dtype not in FP8 and dtype is not None and not isinstance(self.file, GgufFile)

    def read(self, name: str) -> torch.Tensor:
        """One tensor in published layout."""
        source = self._sources[name]
        value = self.file.read(source.name)
        if source.count > 1:
            value = value.chunk(source.count, dim=0)[source.index]
        if source.scale is not None:
            scale = self.file.read(source.scale).float()
            value = (
                value.float() * scale.reshape(-1, *[1] * (value.ndim - 1))
                if scale.numel() > 1
                else value.float() * scale
            )
        elif value.dtype in FP8:
            value = value.float()
        return value

    def release(self) -> None:
        """Unmap what was read so far."""
        self.file.release()


def view_transformer(file: TensorFile) -> TransformerView:
    """Finds out which dialect a file has and presents it in published names.

    Raises:
        InputError: quantised in a way that cannot be undone exactly here (mxfp8, int8, nvfp4), or an ambiguous file.
    """
    prefix = _common_prefix(file.tensors)
    scales, markers = _companions(file)
    sources: dict[str, _Source] = {}
    unexpected, fused, foreign = [], False, False
    for stored in file.tensors:
        if stored in markers:
            continue
        bare = stored.removeprefix(prefix)
        targets, is_fused, is_foreign = _targets(bare)
        fused, foreign = fused or is_fused, foreign or is_foreign
        if not targets:
            unexpected.append(stored)
        for index, target in enumerate(targets):
            if target in sources:
                raise InputError(f"{file.path}: '{stored}' and '{sources[target].name}' are both '{target}'.")
            sources[target] = _Source(stored, index, len(targets), scales.get(stored))
    shapes = {name: _shape(file.tensors[source.name].shape, source.count) for name, source in sources.items()}
    dialect = Dialect.OFFICIAL
    if isinstance(file, GgufFile):
        dialect = Dialect.GGUF
    elif fused:
        dialect = Dialect.TRAINING
    elif foreign:
        dialect = Dialect.DIFFUSERS
    elif any(info.dtype in FP8 for info in file.tensors.values()):
        dialect = Dialect.COMFY_FP8
    return TransformerView(file, dialect, shapes, unexpected, main_dtype(file), sources)


def _common_prefix(stored: dict[str, TensorInfo]) -> str:
    anchors = [name for name in stored if name.endswith(("patch_embedding.weight", "mixins.patch_embed.proj.weight"))]
    for prefix in _PREFIXES:
        if any(name.startswith(prefix) for name in anchors):
            return prefix
    return ""


def _targets(bare: str) -> tuple[tuple[str, ...], bool, bool]:
    """Published names a stored name provides, whether it is of the training branch, and whether of diffusers."""
    name, training = _from_training(bare)
    module, _, leaf = name.rpartition(".")
    owner, _, projection = module.rpartition(".")
    if projection in _FUSED and leaf in ("weight", "bias"):
        parts = tuple(f"{owner}.{part}.{leaf}" for part in _FUSED[projection])
        return (parts, True, False) if all(map(names.is_official_name, parts)) else ((), False, False)
    if names.is_official_name(name):
        # The embeddings before the blocks have the same name in both vocabularies.
        return (name,), training, False
    try:
        return (names.to_official_name(name),), False, True
    except InputError:
        return (), False, False


def _from_training(bare: str) -> tuple[str, bool]:
    numbered = _NUMBER.search(bare)
    for pattern, number in ((bare, ""), (_NUMBER.sub("{n}", bare, count=1), numbered[1] if numbered else "")):
        if pattern in _TRAINING_TABLES:
            return _TRAINING_TABLES[pattern].format(n=number), True
        module, _, leaf = pattern.rpartition(".")
        if module in _TRAINING_MODULES:
            return f"{_TRAINING_MODULES[module].format(n=number)}.{leaf}", True
    return bare, False


def _shape(stored: tuple[int, ...], count: int) -> tuple[int, ...]:
    return (stored[0] // count, *stored[1:]) if count > 1 else stored


def main_dtype(file: TensorFile) -> torch.dtype | None:
    sizes: dict[torch.dtype | None, int] = {}
    for info in file.tensors.values():
        dtype = None if isinstance(file, GgufFile) or info.dtype in FP8 else info.dtype
        sizes[dtype] = sizes.get(dtype, 0) + info.nbytes
    return max(sizes, key=sizes.get) if sizes else None


# ---- 8-bit files --------------------------------------------------------------------------------------------------


def _companions(file: TensorFile) -> tuple[dict[str, str], set[str]]:
    """Scales by the weight they belong to, and all names that are no weights themselves."""
    scales: dict[str, str] = {}
    markers: set[str] = set()
    for name in file.tensors:
        module, _, leaf = name.rpartition(".")
        if leaf in _SCALE_LEAVES:
            scales[f"{module}.weight"] = name
            markers.add(name)
        elif leaf in _INPUT_SCALE_LEAVES or leaf == _FILE_MARKER:
            markers.add(name)
        elif leaf == _MARKER_LEAF:
            _check_marker(file, name)
            markers.add(name)
    for name, info in file.tensors.items():
        if name not in markers:
            _check_stored(file, name, info, scales)
    return scales, markers


def _check_marker(file: TensorFile, name: str) -> None:
    try:
        kind = json.loads(bytes(file.read(name).to(torch.uint8).tolist()))["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file.path}: the quantisation marker '{name}' cannot be read: {error}.") from error
    if kind not in _READABLE_MARKERS:
        raise _unsupported(file, name, kind)


def _check_stored(file: TensorFile, name: str, info: TensorInfo, scales: dict[str, str]) -> None:
    if isinstance(file, GgufFile):
        return
    scale = scales.get(name)
    if info.dtype is None or not info.dtype.is_floating_point:
        raise _unsupported(file, name, info.format)
    if info.dtype not in FP8:
        if scale is not None and file.tensors[scale].shape not in ((), (1,)):
            raise _unsupported(file, name, f"{info.format} with a scale of shape {file.tensors[scale].shape}")
        return
    if scale is None:
        if any(stored.rpartition(".")[2] == _FILE_MARKER for stored in file.tensors):
            raise InputError(f"{file.path}: the 8-bit weight '{name}' has no scale beside it.")
        return
    stored = file.tensors[scale]
    rows = info.shape[0]
    if stored.dtype is None or not stored.dtype.is_floating_point or stored.shape not in ((), (1,), (rows,), (rows, 1)):
        raise _unsupported(file, name, f"block-scaled (mxfp8-like) {info.format}, scale {stored.format} {stored.shape}")


def _unsupported(file: TensorFile, name: str, kind: str) -> InputError:
    return InputError(
        f"{file.path}: '{name}' is stored as {kind}; of ComfyUI's quantised files only fp8 with one scale per "
        "tensor or row is read (not mxfp8, nvfp4 or int8): take the bf16, fp8-scaled or GGUF file of the same model."
    )
