"""Every line that touches diffusers' registries, with the reason. Called once by `scail2.models.transformer`."""

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.hooks._helpers import AttentionProcessorRegistry
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from diffusers.models.transformers.transformer_wan import WanAttnProcessor2_0
from diffusers.utils import apply_lora_scale

from scail2.checkpoints.single_file import single_file_config, single_file_weights
from scail2.checkpoints.transformer_files import read_transformer
from scail2.errors import InputError, short


def register_transformer(cls: type) -> None:
    """Makes ``cls.from_single_file`` work; idempotent.

    diffusers looks a single-file class up in ``SINGLE_FILE_LOADABLE_CLASSES`` by name and then takes the class of that
    name from the ``diffusers`` module itself, so an out-of-tree class has to be in both places.
    """
    SINGLE_FILE_LOADABLE_CLASSES[cls.__name__] = {
        "checkpoint_mapping_fn": single_file_weights,
        "config_mapping_fn": single_file_config,
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


def scaled_by_loras(forward: Callable) -> Callable:
    """``forward`` with diffusers' ``attention_kwargs={"scale": …}``, which weighs loaded LoRAs for one call.

    diffusers imports peft in every call, also where nobody gave a scale.
    """
    scaled = apply_lora_scale("attention_kwargs")(forward)

    @functools.wraps(forward)
    def call(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("attention_kwargs")
        if not given or "scale" not in given:
            return forward(self, *args, **kwargs)
        scale = given["scale"]
        if not isinstance(scale, int | float) or not math.isfinite(scale):
            raise InputError(f"attention_kwargs: scale is {short(scale)}; it must be a finite number.")
        return scaled(self, *args, **kwargs)

    return call


def from_single_file(cls: type[torch.nn.Module], path: Any, default: Any, **kwargs) -> torch.nn.Module:
    """``from_single_file`` for our transformer, without diffusers' two traps.

    For a local file without quantizer it is `read_transformer`: diffusers would cast the float32 islands down under
    bfloat16, and without a ``config`` would guess a Wan model and ask the Hub for its configuration. With
    ``quantization_config``, a state dictionary, or a URL, ``default`` (diffusers' own method) is called.
    """
    dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
    others = set(kwargs) - {"torch_dtype", "dtype", "original_config"}
    if not others and isinstance(path, str | Path) and Path(path).is_file():
        return read_transformer(cls, path, kwargs.get("original_config"), dtype)
    if kwargs.get("config") is None and kwargs.get("original_config") is None:
        kwargs["original_config"] = {}
    return default(path, **kwargs)
