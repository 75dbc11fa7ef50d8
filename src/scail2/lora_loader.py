"""``load_lora_weights`` of the pipeline: diffusers' adapters, with this network's own reading of LoRA files in front.

diffusers' Wan converter drops ``.diff`` tensors with a log line and lets keys without its prefix through unconverted.
Here every tensor of a file is matched to a parameter first, and a file that adapters cannot hold is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import WanLoraLoaderMixin

from scail2.errors import InputError
from scail2.models.lora import adapter_state_dict

_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class SCAIL2LoraLoaderMixin(WanLoraLoaderMixin):
    """LoRA for ``SCAIL2Pipeline``: ``load_lora_weights``, ``set_adapters``, ``fuse_lora``, ``unload_lora_weights``."""

    _lora_loadable_modules = ["transformer"]

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, torch.Tensor],
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load a file of low-rank pairs, LoHa or LoKr of a low rank, as an adapter.

        Args:
            pretrained_model_name_or_path_or_dict: a file, a folder or Hub repository with ``weight_name``, or a state
                dictionary; spelled as any of the programs in `scail2.models.lora_names` does.

        Raises:
            InputError: a tensor fits no parameter, or the file also holds full differences (``.diff``), which adapters
                would drop: ``scail2.models.lora.apply_loras`` fuses those exactly.
        """
        source = pretrained_model_name_or_path_or_dict
        if not isinstance(source, dict):
            source = _lora_path(source, kwargs)
        state = adapter_state_dict(self.transformer, source)
        prefixed = {f"{self.transformer_name}.{name}": value for name, value in state.items()}
        super().load_lora_weights(prefixed, adapter_name=adapter_name, hotswap=hotswap, **kwargs)


def _lora_path(source: str | Path, kwargs: dict[str, Any]) -> Path:
    """The file meant by a path or a Hub name; takes the options it uses out of ``kwargs``."""
    weight_name = kwargs.pop("weight_name", None)
    options = {name: kwargs.pop(name) for name in _HUB_OPTIONS if name in kwargs}
    path = Path(source)
    if path.is_file():
        return path
    if weight_name is None:
        raise InputError(
            f"there is no LoRA file {source}: for a folder or a Hub repository, name the file (weight_name)."
        )
    if path.is_dir():
        return path / (options.get("subfolder") or "") / weight_name
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(str(source), weight_name, **options))
