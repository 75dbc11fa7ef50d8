"""Trained adapters as a LoRA file in the published names, which every program that runs the model reads."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from scail2.checkpoints import official_names as names
from scail2.checkpoints.tensor_files import write_safetensors
from scail2.errors import InputError

_PARTS = {"lora_A": "lora_down", "lora_B": "lora_up"}
_ADAPTER = re.compile(r"(?P<module>.+)\.(?P<part>lora_A|lora_B)\.[^.]+\.weight")


def write_lora(
    path: Path, adapters: Mapping[str, torch.Tensor], *, alpha: float, metadata: Mapping[str, str] | None = None
) -> None:
    """Writes peft adapters as `diffusion_model.MODULE.lora_down.weight` and `.lora_up.weight`, as the published LoRAs are.

    Args:
        path: the file.
        adapters: by name as in the model, `blocks.0.attn1.to_q.lora_A.default.weight` … `lora_B …`; each A has its B.
        alpha: of all of them. Where it is not the rank, `.alpha` is written beside each pair; without it programs take the rank.
        metadata: strings for the file's header.

    Raises:
        InputError: a name that is no adapter's.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, value in sorted(adapters.items()):
        found = _ADAPTER.fullmatch(name)
        if found is None:
            raise InputError(f"{name} is no low-rank adapter, which is all that a LoRA file of this kind holds.")
        module = names.to_official_name(f"{found['module']}.weight").removesuffix(".weight")
        tensors[f"diffusion_model.{module}.{_PARTS[found['part']]}.weight"] = value
        if found["part"] == "lora_A" and alpha != len(value):
            tensors[f"diffusion_model.{module}.alpha"] = torch.tensor(float(alpha))
    plan = {name: (tuple(value.shape), value.dtype) for name, value in tensors.items()}
    write_safetensors(path, plan, lambda name, _: tensors[name], metadata)
