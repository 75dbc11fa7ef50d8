"""The dialects a SCAIL-2 transformer is published in, each presented as one view in published names.

A view knows every published name the file provides and reads one of them at a time: it strips prefixes, translates the
training code's names, splits its fused projections and multiplies 8-bit weights by their scales.

| dialect | names | values |
|---|---|---|
| official | `blocks.N.self_attn.q.weight` ... | float32, float16, bfloat16 |
| training | the training branch's, `query_key_value` and `key_value` fused | float32, bfloat16 |
| comfy fp8 | official, `model.diffusion_model.` in front or not | float8 with a scale per tensor or per row |
| comfy int8 | the same | int8, scaled alike |
| gguf | official | blocks of the gguf package |
| diffusers | `blocks.N.attn1.to_q.weight` ... | float32, float16, bfloat16 |
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from scail2.checkpoints import official_names as names
from scail2.checkpoints.quantised import companions
from scail2.checkpoints.stored import FP8, TensorFile
from scail2.checkpoints.tensor_files import GgufFile
from scail2.checkpoints.views import Source, View
from scail2.errors import InputError

# What programs put before a network's names, in any order and number; averages kept beside the weights among them.
_AVERAGES = ("ema", "ema_model", "model_ema", "averaged_model")
_PREFIX = re.compile(
    rf"(?P<prefix>(?:(?:model|diffusion_model|module|net|dit|transformer|{'|'.join(_AVERAGES)})\.)*)"
    r"(?:patch_embedding|mixins\.patch_embed\.proj)\.weight"
)
# And between them, for `torch.compile`, sharding and recomputation.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


class Dialect(StrEnum):
    """Which of the public layouts a file has."""

    OFFICIAL = "official"
    TRAINING = "training"
    COMFY_FP8 = "comfy-fp8"
    COMFY_INT8 = "comfy-int8"
    GGUF = "gguf"
    DIFFUSERS = "diffusers"


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
_PATCH_EMBEDDING = re.compile(r"patch_embedding(_pose|_mask)?\.weight")
_PATCH = (1, 2, 2)  # of every published SCAIL-2 and Wan 2.1 network
_NUMBER = re.compile(r"(?<=\.)(\d+)(?=\.|$)")


@dataclass
class TransformerView(View):
    """A transformer file in published names; ``dialect`` is what it turned out to be."""

    dialect: Dialect = Dialect.OFFICIAL


def view_transformer(file: TensorFile) -> TransformerView:
    """Finds out which dialect a file has and presents it in published names.

    Raises:
        InputError: quantised in a way that cannot be undone exactly here (mxfp8, nvfp4, blocks of int8), or an ambiguous file.
    """
    plain = {stored: _without_wrappers(stored) for stored in file.tensors}
    prefix, averaged = _prefix_of(plain.values())
    scales, markers = companions(file)
    sources: dict[str, Source] = {}
    unexpected, fused, foreign = [], False, False
    for stored, name in plain.items():
        if stored in markers or (averaged and not name.startswith(prefix)):
            continue
        targets, is_training, is_foreign = _targets(name.removeprefix(prefix))
        fused, foreign = fused or is_training, foreign or is_foreign
        if not targets:
            unexpected.append(stored)
        for index, target in enumerate(targets):
            if target in sources:
                raise InputError(f"{file.path}: '{stored}' and '{sources[target].stored}' are both '{target}'.")
            sources[target] = Source(stored, index, len(targets), _unfolded(file, stored, target))
    dialect = Dialect.OFFICIAL
    if isinstance(file, GgufFile):
        dialect = Dialect.GGUF
    elif fused:
        dialect = Dialect.TRAINING
    elif foreign:
        dialect = Dialect.DIFFUSERS
    elif any(info.number in FP8 for info in file.tensors.values()):
        dialect = Dialect.COMFY_FP8
    elif scales and any(info.number == "int8" for info in file.tensors.values()):
        dialect = Dialect.COMFY_INT8
    return TransformerView(file, sources, unexpected, scales, dialect)


def _without_wrappers(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _prefix_of(plain: Iterable[str]) -> tuple[str, bool]:
    """What stands before the names, and whether these are averages beside the weights they were made of, which are left out."""
    found = {match["prefix"] for match in map(_PREFIX.fullmatch, plain) if match}
    averages = [prefix for prefix in found if set(prefix.split(".")) & set(_AVERAGES)]
    if len(found) == 2 and len(averages) == 1:
        return averages[0], True
    return min(found, key=len, default=""), False


def _unfolded(file: TensorFile, stored: str, target: str) -> tuple[int, ...] | None:
    """Shape of a patch embedding that was stored with fewer than its five dimensions; None for everything else.

    Formats of four dimensions fold two of them into one. The values keep their order, and the bias tells the width.
    """
    shape = file.tensors[stored].shape
    if not _PATCH_EMBEDDING.fullmatch(target) or len(shape) >= 5:
        return None
    bias = file.tensors.get(stored.removesuffix("weight") + "bias")
    if bias is None or len(bias.shape) != 1:
        return None
    width, taps = bias.shape[0], math.prod(_PATCH)
    if not width or math.prod(shape) % (width * taps):
        return None
    return (width, math.prod(shape) // (width * taps), *_PATCH)


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
