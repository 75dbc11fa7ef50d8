"""LoRA on the SCAIL-2 transformer: fused exactly and reversibly, or held as peft adapters.

Fusing takes every kind of delta (low-rank pairs, full differences of weights, biases and modulation). All files of one
call are added in float32 in the order given and rounded to the weights' type once, so several LoRAs under bfloat16
lose no more than one. Adapters hold low-rank pairs on linear layers only and can be switched, scaled and trained.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from scail2.checkpoints import official_names as names
from scail2.checkpoints.adapter_words import own_alpha
from scail2.checkpoints.lora_files import LoraDelta, LoraFile, LoraReport, LoraSource, open_lora
from scail2.checkpoints.tensor_files import write_safetensors
from scail2.devices import without_gradients
from scail2.errors import InputError
from scail2.files.user_paths import check_strength

logger = logging.getLogger(__name__)

_STATE = "_scail2_fused_loras"


@dataclass
class FusedLoras:
    """What is fused into a transformer, and the untouched weights that undo it."""

    loras: list[tuple[str, float]] = field(default_factory=list)
    originals: dict[str, torch.Tensor] = field(default_factory=dict)
    reversible: bool = True
    remarks: list[str] = field(default_factory=list)
    """What of the files was passed over, a sentence each."""


def apply_loras(
    transformer: torch.nn.Module,
    loras: Sequence[tuple[LoraSource, float]],
    *,
    reversible: bool = True,
    skip: Sequence[str] = (),
    unrounded: Callable[[str], torch.Tensor | None] = lambda name: None,
) -> list[LoraReport]:
    """Fuses LoRAs into a transformer in place: ``W += sum(strength * delta)``, in the order given.

    All files are read and checked against the model before anything is changed. Parameters keep their identity; their
    memory is new. Calling again adds to what is fused already.

    Args:
        transformer: a `SCAIL2Transformer3DModel` with floating-point weights.
        loras: files (or state dictionaries) with their strengths.
        reversible: keep the original tensors so that `unfuse_loras` restores them bit for bit. This costs as much
            memory as the weights that the LoRAs touch (for a model loaded as views of its file: no memory, since they
            stay on disk). False drops each as soon as it is replaced.
        skip: published modules whose entries are left out, in every file (``patch_embedding``: a LoRA made for a Wan
            model of other input channels). Without it such a file is refused.
        unrounded: a parameter as it was before it was rounded to the type it has now, None where it was not. Added to
            that, and rounded once, small differences survive; added to a rounded weight those below its last bit are lost.

    Returns:
        What each file held, in order.

    Raises:
        InputError: a file is refused (see `open_lora`), a strength is not finite, or the weights are quantised.
    """
    parameters = _parameters(transformer)
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    opened, additions = _opened(loras, shapes, skip)
    _check_floating(parameters, additions)
    state = fused_loras(transformer)
    if state.loras and state.reversible != reversible:
        raise InputError("LoRAs are fused already with another choice of reversible: unfuse them first.")
    # Noted first: if memory runs out half-way, `unfuse_loras` still restores what was changed.
    state.reversible = reversible
    state.loras += [(_label(source), strength) for source, strength in loras]
    setattr(transformer, _STATE, state)
    copies = _offloaded_copies(transformer)
    for name, contributions in additions.items():
        original = parameters[name].data
        finer = unrounded(name)
        exact = original if finer is None else finer.to(original.device)
        fused = _fused(exact, contributions).to(original.dtype)
        if reversible:
            state.originals.setdefault(name, original)
        _replace(parameters[name], fused, copies)
    for lora in opened:
        lora.file.release()
    state.remarks += [remark for lora in opened if (remark := _told_passed_over(lora))]
    return [lora.report for lora in opened]


_Contributions = dict[str, list[tuple[LoraFile, LoraDelta, float]]]


def _opened(
    loras: Sequence[tuple[LoraSource, float]], shapes: Mapping[str, tuple[int, ...]], skip: Sequence[str] = ()
) -> tuple[list[LoraFile], _Contributions]:
    """The files, and what they add to each parameter, in the order given."""
    for source, strength in loras:
        check_strength(strength, _label(source))
    opened = [open_lora(source, shapes, skip=skip) for source, _ in loras]
    additions: _Contributions = {}
    for lora, (_, strength) in zip(opened, loras, strict=True):
        for delta in lora.deltas:
            additions.setdefault(delta.target, []).append((lora, delta, strength))
    return opened, additions


def fusing(
    read: Callable[[str, torch.dtype], torch.Tensor],
    loras: Sequence[tuple[LoraSource, float]],
    shapes: Mapping[str, tuple[int, ...]],
) -> Callable[[str, torch.dtype], torch.Tensor]:
    """A reader of weights that adds LoRAs to what it reads, for weights that are never in memory together.

    Args:
        read: the weight of a published name, in a type.
        loras: files with their strengths, added in this order in float32 and rounded once, as `apply_loras` does.
        shapes: our parameter name → shape, of the whole network.

    Raises:
        InputError: as `apply_loras`, before anything is read.
    """
    opened, additions = _opened(loras, shapes)
    for lora in opened:
        _told_passed_over(lora)

    def fused(name: str, dtype: torch.dtype) -> torch.Tensor:
        contributions = additions.get(names.to_diffusers_name(name))
        if contributions is None:
            return read(name, dtype)
        return _fused(read(name, torch.promote_types(dtype, torch.float32)), contributions).to(dtype)

    return fused


def _told_passed_over(lora: LoraFile) -> str:
    if sentence := lora.report.told_passed_over(lora.file.path.name):
        logger.warning("%s", sentence)
    return sentence


@without_gradients
def _fused(original: torch.Tensor, contributions: list[tuple[LoraFile, LoraDelta, float]]) -> torch.Tensor:
    dtype = torch.promote_types(original.dtype, torch.float32)
    total = original.to(dtype, copy=True)
    for lora, delta, strength in contributions:
        total.add_(lora.value(delta, dtype, original.device), alpha=strength)
    return total


def unfuse_loras(transformer: torch.nn.Module) -> None:
    """Takes all fused LoRAs out again: every weight is bit for bit what it was before the first `apply_loras`.

    Raises InputError if they were fused with ``reversible=False``. Does nothing if none are fused.
    """
    state = fused_loras(transformer)
    if state.loras and not state.reversible:
        raise InputError("These LoRAs were fused with reversible=False: load the transformer again to be rid of them.")
    parameters, copies = _parameters(transformer), _offloaded_copies(transformer)
    for name, original in state.originals.items():
        _replace(parameters[name], original.to(parameters[name].device), copies)
    setattr(transformer, _STATE, FusedLoras())


def _offloaded_copies(transformer: torch.nn.Module) -> list[dict[torch.nn.Parameter, torch.Tensor]]:
    """Where diffusers' group offloading keeps weights in main memory, and takes them from at every visit to the device."""
    registries = [getattr(part, "_diffusers_hook", None) for part in transformer.modules()]
    hooks = [hook for registry in registries if registry is not None for hook in registry.hooks.values()]
    return [hook.group.cpu_param_dict for hook in hooks if hasattr(getattr(hook, "group", None), "cpu_param_dict")]


def _replace(
    parameter: torch.nn.Parameter, value: torch.Tensor, copies: list[dict[torch.nn.Parameter, torch.Tensor]]
) -> None:
    """Gives a weight another value, also where offloading would put the old one back."""
    parameter.data = value
    for kept in copies:
        if (old := kept.get(parameter)) is not None:
            kept[parameter] = value.cpu().pin_memory() if old.is_pinned() else value.cpu()


def has_loras(transformer: torch.nn.Module) -> bool:
    """Whether any LoRA is fused into a transformer or loaded beside its weights."""
    return bool(fused_loras(transformer).loras or getattr(transformer, "peft_config", None))


def fused_loras(transformer: torch.nn.Module) -> FusedLoras:
    """What is fused into a transformer, in order."""
    return getattr(transformer, _STATE, None) or FusedLoras()


def _parameters(transformer: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    # A layer that carries an adapter keeps its own weight one level down, and the adapter's beside it.
    named = transformer.named_parameters()
    return {name.replace(".base_layer.", "."): value for name, value in named if ".lora_" not in name}


def _check_floating(parameters: Mapping[str, torch.nn.Parameter], targets: Mapping[str, Any]) -> None:
    for name in targets:
        dtype = parameters[name].dtype
        if not dtype.is_floating_point or dtype.itemsize < 2 or parameters[name].is_meta:
            raise InputError(f"'{name}' is {str(dtype)[6:]}: fuse LoRAs before quantising or offloading the weights.")


def _label(source: LoraSource) -> str:
    return "state dictionary" if isinstance(source, Mapping) else str(source)


# ---- adapters -----------------------------------------------------------------------------------------------------


def adapter_state_dict(transformer: torch.nn.Module, source: LoraSource) -> dict[str, torch.Tensor]:
    """A file of low-rank pairs as a peft state dictionary (``blocks.0.attn1.to_q.lora_A.weight`` ...).

    Takes every spelling in `lora_names`; scales are multiplied into ``lora_B``.

    Raises:
        InputError: the file also holds full differences, which adapters cannot: `apply_loras` takes it.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in _parameters(transformer).items()}
    lora = open_lora(source, shapes)
    _told_passed_over(lora)
    state = {}
    for delta in lora.deltas:
        module = delta.target.removesuffix(".weight")
        state[f"{module}.lora_B.weight"], state[f"{module}.lora_A.weight"] = lora.pair(delta)
    return state


def save_lora(transformer: torch.nn.Module, path: str | Path, adapter: str = "default") -> None:
    """Saves a peft adapter in published names (``diffusion_model.<module>.lora_down/up.weight``), for ComfyUI.

    Alpha and rank are multiplied into ``lora_up``: the published vocabulary has neither.
    """
    from peft.utils import get_peft_model_state_dict

    if adapter not in getattr(transformer, "peft_config", {}):
        raise InputError(f"The transformer has no adapter '{adapter}'.")
    config = transformer.peft_config[adapter]
    state = get_peft_model_state_dict(transformer, adapter_name=adapter)
    published = {}
    for name, value in state.items():
        module, leaf = name.removesuffix(".weight").rsplit(".", 1)
        official = names.to_official_name(f"{module}.weight").removesuffix(".weight")
        if leaf == "lora_B":
            rank = state[f"{module}.lora_A.weight"].shape[0]
            alpha = own_alpha(config.alpha_pattern, config.lora_alpha, module)
            scale = alpha / (math.sqrt(rank) if config.use_rslora else rank)
            published[f"diffusion_model.{official}.lora_up.weight"] = value if scale == 1 else value * scale
        elif leaf == "lora_A":
            published[f"diffusion_model.{official}.lora_down.weight"] = value
        else:
            raise InputError(f"The adapter has '{name}', which published LoRA files cannot hold.")
    plan = {name: (tuple(value.shape), value.dtype) for name, value in sorted(published.items())}
    write_safetensors(Path(path), plan, lambda name, _: published[name])
