"""From a name to a pipeline: the embedded model, a diffusers folder, loose public files, or a named Hub repository."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from scail2.checkpoints.lora import apply_loras
from scail2.checkpoints.model_folder import check_pipeline
from scail2.checkpoints.tensor_files import open_tensor_file
from scail2.checkpoints.views import main_number
from scail2.devices import find_device
from scail2.errors import InputError
from scail2.files.public.choice import Offload
from scail2.loading.places import model_place, parse_lora
from scail2.loading.precision import default_precision

if TYPE_CHECKING:
    from scail2.pipeline import SCAIL2Pipeline


def load_pipeline(
    model: str | Path | None = None,
    *,
    torch_dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    offload: str = Offload.OFF,
    loras: Iterable[str | Path | tuple[str | Path, float]] = (),
) -> SCAIL2Pipeline:
    """Loads everything needed to animate.

    Args:
        model: None for the embedded model; a diffusers folder; a transformer file, or a folder of public files, with
            the VAE and encoder files near it (see `scail2.loading.component_files`); a short name of what `scail2 setup`
            installed; ``hub:owner/name``, which downloads.
        torch_dtype: type of transformer and encoders; None is `default_precision`, or keeps each as stored, but float16 on a
            CPU becomes float32. The VAE is always float32.
        device: where to put it; None leaves it on the CPU.
        offload: ``off``: all of it stays there; ``model``: one network at a time is there, and the others in main
            memory; ``layers``: single layers are, which needs the least and is slowest.
        loras: files fused into the transformer in this order: a path, ``"PATH:STRENGTH"``, or (path, strength).

    Raises:
        InputError: there is no such model or device, a component is missing, or a file does not fit.
    """
    place = find_device("cpu" if device is None else device)
    if torch_dtype is None and (chosen := default_precision(model, place.type)) is not None:
        torch_dtype = getattr(torch, chosen)
    folder = model_place(model)
    if (folder / "model_index.json").is_file():
        pipe = _load_folder(folder, torch_dtype, place)
    else:
        from scail2.loading.components import assemble_pipeline

        pipe = assemble_pipeline(folder, torch_dtype=torch_dtype)
    if fused := [parse_lora(lora) for lora in loras]:
        apply_loras(pipe.transformer, fused, reversible=False)
    return _laid_out(pipe, place, _offload(offload)) if device is not None else pipe


def _offload(name: str) -> Offload:
    try:
        return Offload(name)
    except ValueError:
        raise InputError(f"There is no way to offload called {name!r}: choose one of {', '.join(Offload)}.") from None


def _laid_out(pipe: SCAIL2Pipeline, device: torch.device, offload: Offload) -> SCAIL2Pipeline:
    if offload is Offload.OFF:
        return pipe.to(device)
    if offload is Offload.LAYERS:
        # Streams hide the copies behind the computation; only CUDA has them here.
        pipe.enable_group_offload(device, offload_type="leaf_level", use_stream=device.type == "cuda")
        return pipe
    if device.type == "cpu":
        raise InputError("Offloading whole models takes a GPU; on a CPU everything is in main memory already.")
    pipe.enable_model_cpu_offload(device=device)
    return pipe


def _load_folder(folder: Path, torch_dtype: torch.dtype | None, device: torch.device) -> SCAIL2Pipeline:
    from scail2.pipeline import SCAIL2Pipeline

    dtypes = {"default": torch_dtype or torch.float32, "vae": torch.float32}
    for name in check_pipeline(folder):
        weights = any((folder / name).glob("*.safetensors*"))
        if torch_dtype is None and weights and name != "vae":
            stored = getattr(torch, main_number(open_tensor_file(folder / name)) or "bfloat16")
            # Half precision is how small models are shipped; CPUs compute in it slowly or not at all.
            dtypes[name] = torch.float32 if device.type == "cpu" and stored is torch.float16 else stored
    return SCAIL2Pipeline.from_pretrained(folder, dtype=dtypes)
