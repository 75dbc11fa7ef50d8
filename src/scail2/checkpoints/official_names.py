"""Two vocabularies for one network: the names of the published code and those of `SCAIL2Transformer3DModel`.

Pure string and dictionary work, no torch. The map is a bijection on the parameters of a SCAIL-2 network (1307 for the
14B), so `to_official_name(to_diffusers_name(name)) == name` and converted checkpoints can be written back unchanged.

The one trap: the published block runs `norm1` (self-attention), `norm3` (cross-attention), `norm2` (feed-forward) and
only `norm3` has parameters; the diffusers block numbers them in running order, so its `norm2` is the published `norm3`.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from scail2.errors import InputError, short
from scail2.files.documents import Between, decode

# Modules with a weight and a bias (or a weight alone): published name -> our name.
_MODULES = {
    "patch_embedding": "patch_embedding",
    "patch_embedding_pose": "patch_embedding_pose",
    "patch_embedding_mask": "patch_embedding_mask",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "head.head": "proj_out",
}
# The same inside `blocks.N.`
_BLOCK_MODULES = {
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "self_attn.norm_q": "attn1.norm_q",
    "self_attn.norm_k": "attn1.norm_k",
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "cross_attn.norm_q": "attn2.norm_q",
    "cross_attn.norm_k": "attn2.norm_k",
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
# Bare parameters: they have no `.weight` behind them.
_TABLES = {"head.modulation": "scale_shift_table"}
_BLOCK_TABLES = {"modulation": "scale_shift_table"}

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def _inverse(table: Mapping[str, str]) -> dict[str, str]:
    return {ours: theirs for theirs, ours in table.items()}


_TO_DIFFUSERS = (_MODULES, _TABLES, _BLOCK_MODULES, _BLOCK_TABLES)
_TO_OFFICIAL = tuple(_inverse(table) for table in _TO_DIFFUSERS)


def _rename(name: str, tables: tuple[Mapping[str, str], ...], vocabulary: str) -> str:
    modules, parameters, block_modules, block_parameters = tables
    prefix, rest = "", name
    if match := _BLOCK.fullmatch(name):
        prefix, rest = f"blocks.{match[1]}.", match[2]
        modules, parameters = block_modules, block_parameters
    if rest in parameters:
        return prefix + parameters[rest]
    module, _, leaf = rest.rpartition(".")
    if module in modules and leaf in ("weight", "bias"):
        return f"{prefix}{modules[module]}.{leaf}"
    raise InputError(f"'{name}' is not a parameter of SCAIL-2 in {vocabulary} names.")


def to_diffusers_name(name: str) -> str:
    """Published parameter name -> name in `SCAIL2Transformer3DModel`; raises InputError for a name that is neither."""
    return _rename(name, _TO_DIFFUSERS, "published")


def to_official_name(name: str) -> str:
    """Name in `SCAIL2Transformer3DModel` -> published parameter name; raises InputError for a name that is neither."""
    return _rename(name, _TO_OFFICIAL, "diffusers")


def is_official_name(name: str) -> bool:
    """Whether `name` is a parameter in published names."""
    try:
        to_diffusers_name(name)
    except InputError:
        return False
    return True


# ---- configuration words ------------------------------------------------------------------------------------------

# One-to-one words: published -> ours. `dim` and `num_heads` become head count and head width below.
_CONFIG_WORDS = {
    "ffn_dim": "ffn_dim",
    "num_layers": "num_layers",
    "freq_dim": "freq_dim",
    "eps": "eps",
    "in_dim": "in_channels",
    "out_dim": "out_channels",
    "mask_dim": "mask_channels",
    "text_dim": "text_dim",
    "text_len": "text_length",
    "cross_attn_norm": "cross_attn_norm",
    # Constants in the published code, configuration in ours; small checkpoints need other values.
    "image_dim": "image_dim",
    "image_length": "image_length",
    "rope_theta": "rope_theta",
    "rope_reference_height_shift": "rope_reference_height_shift",
    "rope_driving_width_shift": "rope_driving_width_shift",
    "driving_downsample": "driving_downsample",
    "num_binding_slots": "num_binding_slots",
    "prediction": "prediction_type",
}
_CONFIGURATION = "The configuration"
_IGNORED_WORDS = {"_class_name", "_diffusers_version", "_name_or_path"}
OUR_WORDS = {ours: theirs for theirs, ours in _CONFIG_WORDS.items()}
CLIP_WIDTH = 1280  # ViT-H/14, the only image encoder the published models were trained with

# Heads of the public SCAIL-2 and Wan 2.1 models by width. No tensor shape shows them.
_PUBLIC_HEADS = {1536: 12, 5120: 40}


def config_from_official(words: Mapping[str, Any]) -> dict[str, Any]:
    """Published configuration words -> keyword arguments of `SCAIL2Transformer3DModel`.

    Only the words given are translated; the class's defaults are the published 14B. Raises InputError for unknown
    words and for values this network cannot have (window attention, a time or height shift of the driving video).
    """
    config: dict[str, Any] = {}
    for word, value in words.items():
        if word in _CONFIG_WORDS:
            config[_CONFIG_WORDS[word]] = value
        elif word in _IGNORED_WORDS or word in ("dim", "num_heads"):
            continue
        elif word in ("prediction_type",):
            config[word] = value
        elif word == "patch_size":
            config["patch_size"] = decode(value, tuple[int, int, int], _CONFIGURATION, word)
        elif word == "qk_norm":
            config["qk_norm"] = "rms_norm_across_heads" if value else None
        elif word == "model_type":
            config.setdefault("image_dim", _image_dim_of(decode(value, str, _CONFIGURATION, word)))
        elif word == "pose_rope_shift":
            config["rope_driving_width_shift"] = _width_shift_of(
                decode(value, tuple[int, int, int], _CONFIGURATION, word)
            )
        elif word == "window_size":
            if decode(value, tuple[int, int], _CONFIGURATION, word) != (-1, -1):
                raise InputError(f"window_size {list(value)} is not supported: SCAIL-2 attends to the whole sequence.")
        else:
            word, known = (
                short(word).strip("'"),
                sorted({*_CONFIG_WORDS, "dim", "num_heads", "patch_size", "qk_norm", "model_type"}),
            )
            raise InputError(f"Unknown configuration word '{word}'; known words are {', '.join(known)}.")
    if "dim" in words or "num_heads" in words:
        config.update(_heads(words.get("dim"), words.get("num_heads")))
    return config


def config_to_official(config: Mapping[str, Any]) -> dict[str, Any]:
    """Configuration of `SCAIL2Transformer3DModel` -> published words (our extra words stay as they are)."""
    words: dict[str, Any] = {"model_type": "i2v" if config.get("image_dim") else "t2v"}
    for ours, value in config.items():
        if ours in OUR_WORDS:
            words[OUR_WORDS[ours]] = value
    words["dim"] = config["num_attention_heads"] * config["attention_head_dim"]
    words["num_heads"] = config["num_attention_heads"]
    words["patch_size"] = list(config["patch_size"])
    words["qk_norm"] = config.get("qk_norm") is not None
    return words


def infer_config(shapes: Mapping[str, Iterable[int]]) -> dict[str, Any]:
    """Everything the shapes of a checkpoint in published names tell about the configuration.

    What a damaged file does not show is left to the class's defaults, so that a strict comparison can name the damage.
    The number of heads is in no shape: it is filled in for the public widths 1536 and 5120 only and left out otherwise.
    Raises InputError if the file is not a SCAIL-2 transformer (a plain Wan or SCAIL-1 file, say).
    """
    known = {name: tuple(shape) for name, shape in shapes.items()}
    required = [f"patch_embedding{kind}.weight" for kind in ("", "_pose", "_mask")]
    if absent := [name for name in required if len(known.get(name, ())) != 5]:
        raise InputError(
            f"This is not a SCAIL-2 transformer: it has no (five-dimensional) {', '.join(absent)}; "
            "plain Wan 2.1 and SCAIL-1 checkpoints lack the pose and mask embeddings."
        )
    dim, in_channels, *patch_size = known["patch_embedding.weight"]
    mask_channels = known["patch_embedding_mask.weight"][1]
    config: dict[str, Any] = {
        "patch_size": tuple(patch_size),
        "in_channels": in_channels,
        "mask_channels": mask_channels,
        "num_binding_slots": mask_channels // 4 - 1,
        "num_layers": 1 + max((int(match[1]) for match in map(_BLOCK.fullmatch, known) if match), default=-1),
    }
    for word, name, axis in (
        ("freq_dim", "time_embedding.0.weight", -1),
        ("text_dim", "text_embedding.0.weight", -1),
        ("image_dim", "img_emb.proj.0.weight", 0),
        ("ffn_dim", "blocks.0.ffn.0.weight", 0),
        ("out_channels", "head.head.weight", 0),
    ):
        if known.get(name):
            config[word] = known[name][axis]
    if "out_channels" in config:
        config["out_channels"] //= math.prod(patch_size)
    if "text_dim" not in config and "blocks.0.cross_attn.k.weight" not in known:
        config["text_dim"] = None
    if "image_dim" not in config and "blocks.0.cross_attn.k_img.weight" not in known:
        config["image_dim"] = None
    if dim in _PUBLIC_HEADS:
        config.update(_heads(dim, _PUBLIC_HEADS[dim]))
    return config


def resolve_config(shapes: Mapping[str, Iterable[int]], *sources: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of the model class: what the shapes tell, overruled by each source of published words in turn.

    Raises InputError if the number of heads is known from nowhere.
    """
    known = {name: tuple(shape) for name, shape in shapes.items()}
    resolved = infer_config(known)
    width = known["patch_embedding.weight"][0]
    for source in sources:
        words = dict(source)
        if "num_heads" in words:
            words.setdefault("dim", width)
        elif "dim" in words:
            del words["dim"]
        given = config_from_official(words)
        if "image_dim" not in words and given.get("image_dim"):
            # "i2v" says that there is an image embedding, the shapes say how wide it is.
            given["image_dim"] = resolved.get("image_dim") or given["image_dim"]
        resolved.update(given)
    if "num_attention_heads" not in resolved:
        raise InputError(
            f"No tensor shows the number of heads of a width of {width}: say it, config={{'num_heads': N}} or --config FILE.json."
        )
    return resolved


def _image_dim_of(model_type: str) -> int | None:
    kinds = {"i2v": CLIP_WIDTH, "t2v": None}
    if model_type not in kinds:
        raise InputError(f"model_type '{model_type}' is not supported; SCAIL-2 checkpoints are 'i2v' or 't2v'.")
    return kinds[model_type]


def _width_shift_of(shift: Iterable[int]) -> int:
    time, height, width = shift
    if (time, height) != (0, 0):
        raise InputError(f"pose_rope_shift {[time, height, width]} is not supported: only the width may be shifted.")
    return width


def _heads(dim: int | None, num_heads: int | None) -> dict[str, int]:
    if dim is None or num_heads is None:
        raise InputError("The configuration must give both dim and num_heads: tensor shapes do not show the heads.")
    for word, value in (("dim", dim), ("num_heads", num_heads)):
        kind: Any = Annotated[int, Between(1, 2**24)]
        decode(value, kind, _CONFIGURATION, word)
    if dim % num_heads or (dim // num_heads) % 2:
        raise InputError(f"dim {dim} does not divide into {num_heads} heads of an even width.")
    return {"num_attention_heads": num_heads, "attention_head_dim": dim // num_heads}
