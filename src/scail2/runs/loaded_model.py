"""A pipeline in memory as the model of a run: its facts, its fingerprint, and whether it is what files hold."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from scail2.checkpoints import official_names as names
from scail2.checkpoints.lora import fused_loras, has_loras
from scail2.conditions import ConditionGeometry
from scail2.errors import InputError
from scail2.files.storage import digest
from scail2.loading.facts import LARGEST_SIDE, ModelFacts, open_model, sample_places
from scail2.loading.places import model_place, parse_lora
from scail2.pipeline.settings import SamplingDefaults
from scail2.request.animation import AnimationRequest

if TYPE_CHECKING:
    from scail2.pipeline import SCAIL2Pipeline

# Elements of every parameter that enter the fingerprint: enough to tell any two checkpoints apart, fast at 14B.
_SAMPLED_ELEMENTS = 4096


def facts_of_pipeline(pipe: SCAIL2Pipeline, *, name: str) -> ModelFacts:
    """Reads the facts off a loaded pipeline."""
    geometry = ConditionGeometry.of(pipe.transformer)
    config = pipe.transformer.config
    scale = pipe.vae.config.scale_factor_spatial
    # Beyond the position shifts the driving tokens would sit on the video's own positions.
    height = config.rope_reference_height_shift * config.patch_size[1] * scale
    width = config.rope_driving_width_shift * config.patch_size[2] * scale
    return ModelFacts(
        name=name,
        fingerprint=fingerprint(pipe),
        size_step=geometry.size_step(pipe.vae),
        native_size=(pipe.config.native_height, pipe.config.native_width),
        largest_size=(height or LARGEST_SIDE, width or LARGEST_SIDE),
        segment_frame_length=pipe.config.segment_frame_length,
        prev_segment_conditioning_frames=pipe.config.prev_segment_conditioning_frames,
        sampling=SamplingDefaults.of(pipe),
        takes_text=config.text_dim is not None,
        has_loras=has_loras(pipe.transformer),
        lora_remarks=tuple(fused_loras(pipe.transformer).remarks),
    )


def is_loaded_from(pipe: SCAIL2Pipeline, request: AnimationRequest) -> bool:
    """Whether a pipeline holds the numbers of the files that a request names, in whatever type it has them.

    Weights that the request's LoRAs change are left out where the same LoRAs are fused into it.
    """
    loras = [(str(path), strength) for path, strength in map(parse_lora, request.lora)]
    fused = fused_loras(pipe.transformer)
    if [(str(label), strength) for label, strength in fused.loras] != loras:
        return False
    model = open_model(model_place(request.model))
    for name, view in model.networks.items():
        network = getattr(pipe, name, None)
        state = {} if network is None else network.state_dict()
        for key in view:
            ours = names.to_diffusers_name(key) if name == "transformer" else key
            held = state.get(ours, state.get(f"vision_model.{ours}"))
            if held is None or tuple(held.shape) != view.shapes[key]:
                return False
            if (name == "transformer" and loras) or held.is_meta:
                continue
            flat = held.detach().reshape(-1)
            for start, count in sample_places(flat.numel()):
                stored = torch.from_numpy(view.numbers(key, start, count)).to(held.dtype)
                if not torch.equal(flat[start : start + count].cpu(), stored):
                    return False
    return True


def fingerprint(pipe: SCAIL2Pipeline) -> str:
    """Hash of a pipeline's components: names, shapes and a fixed sample of every parameter's and buffer's elements.

    Independent of how the weights were stored, sensitive to fused LoRAs, and quick on the largest model.
    """
    sha = hashlib.sha256()
    for name, component in sorted(pipe.components.items()):
        if isinstance(component, torch.nn.Module):
            for key, value in component.state_dict().items():
                sha.update(f"{name}.{key}{tuple(value.shape)}{value.dtype}".encode())
                sha.update(_sample(_present(component, f"{name}.{key}", value)))
        elif hasattr(component, "config"):
            settings = {key: value for key, value in component.config.items() if not key.startswith("_")}
            sha.update(digest([name, repr(sorted(settings.items()))]).encode())
    return sha.hexdigest()


def _present(component: torch.nn.Module, name: str, value: torch.Tensor) -> torch.Tensor:
    """A tensor of a component's state; where offloading left only its shape, the tensor that its hook keeps."""
    if not value.is_meta:
        return value
    owner, _, key = name.partition(".")[2].rpartition(".")
    hook = getattr(component.get_submodule(owner), "_hf_hook", None)
    for each in getattr(hook, "hooks", (hook,)):
        kept = getattr(each, "weights_map", None)
        if kept is not None and key in kept:
            return kept[key]
    raise InputError(
        f"The model cannot be identified, because {name} is not in memory: give the pipeline before offloading it."
    )


def _sample(value: torch.Tensor) -> bytes:
    flat = value.detach().reshape(-1)
    if flat.numel() > _SAMPLED_ELEMENTS:
        flat = flat[:: flat.numel() // _SAMPLED_ELEMENTS]
    return flat.contiguous().cpu().view(torch.uint8).numpy().tobytes()
