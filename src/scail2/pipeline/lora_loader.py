"""``load_lora_weights`` of the pipeline: diffusers' adapters, with this network's own reading of LoRA files in front.

diffusers' Wan converter drops ``.diff`` tensors with a log line and lets keys without its prefix through unconverted.
Here every tensor of a file is matched to a parameter first, and a file that adapters cannot hold is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.loaders import WanLoraLoaderMixin

from scail2.checkpoints.lora import adapter_state_dict
from scail2.pipeline.hub_files import lora_file


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
                dictionary; spelled as any of the programs in `scail2.checkpoints.lora_names` does.

        Raises:
            InputError: a tensor fits no parameter, or the file also holds full differences (``.diff``), which adapters
                would drop: ``scail2.checkpoints.lora.apply_loras`` fuses those exactly.
        """
        source = pretrained_model_name_or_path_or_dict
        if not isinstance(source, dict):
            source = lora_file(source, kwargs)
        state = adapter_state_dict(self.transformer, source)
        prefixed = {f"{self.transformer_name}.{name}": value for name, value in state.items()}
        super().load_lora_weights(prefixed, adapter_name=adapter_name, hotswap=hotswap, **kwargs)
