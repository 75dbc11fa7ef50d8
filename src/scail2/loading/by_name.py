"""From a name to a pipeline: the embedded model, a diffusers folder, loose public files, or a named Hub repository."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scail2.checkpoints.lora import apply_loras
from scail2.checkpoints.model_folder import check_pipeline
from scail2.checkpoints.transformer_files import unrounded_weights
from scail2.devices import find_device, wanted_dtype
from scail2.errors import InputError
from scail2.loading.choosing import choose_placement
from scail2.loading.component_files import ENCODERS
from scail2.loading.components import folder_dtypes
from scail2.loading.encoders_in_turn import StoredEncoders
from scail2.loading.magnitudes import find_magnitudes
from scail2.loading.places import encoder_places, model_place, parse_lora, transformer_place
from scail2.loading.placing import check_storage, place_pipeline
from scail2.loading.precision import default_precision
from scail2.loading.speed import check_speed, speed_up
from scail2.request.placement import Placement, PlacementKind, WeightStorage
from scail2.request.speed import Speed, StepCache

if TYPE_CHECKING:
    from scail2.pipeline import SCAIL2Pipeline


def load_pipeline(
    model: str | Path | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    torch_dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    placement: Placement | str = PlacementKind.RESIDENT,
    loras: Iterable[str | Path | tuple[str | Path, float]] = (),
    encoders: bool = True,
    speed: Speed = Speed(),
) -> SCAIL2Pipeline:
    """Loads everything needed to animate.

    Args:
        model: None for the embedded model; a diffusers folder; a transformer file, or a folder of public files, with
            the VAE and encoder files near it (see `scail2.loading.component_files`); a short name of what `scail2 setup`
            installed; ``hub:owner/name``, which downloads.
        dtype: type of transformer and encoders, also by name ("bfloat16"); None is `default_precision`, or keeps each as
            stored, but float16 on a CPU becomes float32. The VAE is always float32 (unless the
            placement has it in bfloat16). ``torch_dtype`` is its earlier name.
        device: where to put it; None leaves it on the CPU.
        placement: what of it is on the device at once, and in what form: a `Placement`, or the name of a `PlacementKind`.
            Under all but ``resident`` text and image encoder are loaded when a prompt or picture is encoded, and freed.
        loras: files fused into the transformer in this order: a path, ``"PATH:STRENGTH"``, or (path, strength).
        speed: attention kernel, compilation and step cache of the transformer.
        encoders: False leaves the encoders away for good: calls must give ``prompt_embeds`` and ``image_embeds``.

    Raises:
        InputError: there is no such model or device, a component is missing, a file does not fit, or a package is absent
            that the placement needs.
    """
    _check_kinds(model, loras)
    where = find_device("cpu" if device is None else device)
    weights_dtype = wanted_dtype(dtype, torch_dtype)
    if weights_dtype is None and (chosen := default_precision(model, where.type)) is not None:
        weights_dtype = getattr(torch, chosen)
    path = model_place(model)
    fused = [parse_lora(lora) for lora in loras]
    chosen_placement = choose_placement(placement, path, where, lora_bytes=sum(map(_size, fused)))
    kept = encoders and not chosen_placement.frees_encoders
    check_storage(chosen_placement.storage, fused=bool(fused))
    check_speed(where.type, speed, chosen_placement)
    magnitudes = find_magnitudes(path, fused) if speed.cache is StepCache.MAG else None
    pipe = _load(path, weights_dtype, where, chosen_placement, encoders=kept)
    if fused:
        unrounded = unrounded_weights(transformer_place(path), pipe.transformer.dtype)
        apply_loras(pipe.transformer, fused, reversible=False, unrounded=unrounded)
    if encoders and not kept and encoder_places(path):
        pipe.encoder_source = StoredEncoders(path, weights_dtype, where, streamed=chosen_placement.offloads)
    place_pipeline(pipe, where, chosen_placement)
    speed_up(pipe.transformer, where, speed, chosen_placement, magnitudes)
    return pipe


def _size(lora: tuple[Path, float]) -> int:
    """Of a LoRA's file; one that is not there is missed when it is read."""
    return lora[0].stat().st_size if lora[0].is_file() else 1


def _check_kinds(model: Any, loras: Any) -> None:
    if model is not None and not isinstance(model, str | Path):
        raise InputError(
            f"model is of the kind {type(model).__name__}; it must be a name or a path, or None for the embedded one."
        )
    if isinstance(loras, str | Path):
        raise InputError(f"loras must be a list, also for one file: [{str(loras)!r}].")


def _load(
    path: Path, torch_dtype: torch.dtype | None, device: torch.device, placement: Placement, *, encoders: bool
) -> SCAIL2Pipeline:
    if (path / "model_index.json").is_file():
        return _load_folder(path, torch_dtype, device, encoders=encoders)
    from scail2.loading.components import assemble_pipeline

    as_stored = placement.storage is WeightStorage.STORED
    return assemble_pipeline(path, torch_dtype, leave_out=() if encoders else ENCODERS, as_stored=as_stored)


def _load_folder(
    folder: Path, torch_dtype: torch.dtype | None, device: torch.device, *, encoders: bool
) -> SCAIL2Pipeline:
    from scail2.pipeline import SCAIL2Pipeline

    names = list(check_pipeline(folder))
    dtypes = folder_dtypes(folder, names, torch_dtype, device)
    left_out = {} if encoders else {name: None for name in ENCODERS if name in names}
    return SCAIL2Pipeline.from_pretrained(folder, dtype=dtypes, **left_out)
