"""LoRA files of the SCAIL-2 and Wan world, read strictly: every tensor has one meaning or the file is refused.

Published vocabulary (lightx2v step distillation, Bias-Aware DPO, relight), `diffusion_model.` in front or not:

| key | added to |
|---|---|
| `<module>.lora_down.weight` (rank, in), `<module>.lora_up.weight` (out, rank) | `<module>.weight` += up @ down |
| `<module>.diff` | `<module>.weight`, norms and patch embeddings included |
| `<module>.diff_b` | `<module>.bias` |
| `<block>.diff_m` | `<block>.modulation` |

There is no division by the rank and no alpha in this vocabulary. Adapters saved by diffusers (`<our
module>.lora_A.weight`, `lora_B`) are read, too, with the alpha and rank noted in their header.

Community files in which published modules have `lora_A`, `lora_B` or an `.alpha` are read only for use as adapters:
the published fusing refuses them, and so does ours.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..documents import decode, parse_json, short
from ..errors import InputError
from . import official_names as names
from .tensor_files import StateDict, TensorFile, open_tensor_file

LoraSource = str | Path | Mapping[str, torch.Tensor]

_PREFIXES = ("diffusion_model.", "transformer.")
_DOWN, _UP = ".lora_down.weight", ".lora_up.weight"
_A, _B = ".lora_A.weight", ".lora_B.weight"
_DIFFERENCES = {".diff": "weight", ".diff_b": "bias", ".diff_m": "modulation"}
_ADAPTER_METADATA = "lora_adapter_metadata"  # where diffusers notes rank and alpha
_PLAIN_PATTERN = re.compile(r"\^?(\w|\.|\\\.)+\$?")
_LISTED = 20


@dataclass(frozen=True, slots=True)
class _AdapterWords:
    """What peft notes about an adapter, as far as it changes what is added."""

    lora_alpha: float | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool | None = False
    use_dora: bool | None = False


@dataclass(frozen=True, slots=True)
class LoraDelta:
    """One addition to one parameter: ``scale * up @ down`` of two stored tensors, or ``scale *`` one of them."""

    target: str
    stored: tuple[str, ...]
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class LoraReport:
    """What a LoRA file holds."""

    lora_pairs: int
    weight_diffs: int
    bias_diffs: int
    modulation_diffs: int
    source_tensors: int
    target_tensors: int


@dataclass(frozen=True)
class LoraFile:
    """A LoRA whose every tensor has been matched to a parameter of one model."""

    file: TensorFile
    deltas: tuple[LoraDelta, ...]
    report: LoraReport

    @property
    def only_pairs(self) -> bool:
        """Whether it is low-rank pairs and nothing else, so that adapters can hold it."""
        return all(len(delta.stored) == 2 for delta in self.deltas)

    def value(self, delta: LoraDelta, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """The addition itself, computed in ``dtype``: storage types differ within one file, products need more."""
        parts = [self.file.read(name).to(device, dtype) for name in delta.stored]
        value = parts[0] @ parts[1] if len(parts) == 2 else parts[0]
        return value if delta.scale == 1 else value * delta.scale


def open_lora(
    source: LoraSource,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    as_adapter: bool = False,
    skip: Sequence[str] = (),
) -> LoraFile:
    """Matches every tensor of a LoRA with the parameters of a model.

    Args:
        source: a safetensors or ``.pt`` file, a folder with one, or a state dictionary.
        shapes: our parameter name -> shape.
        as_adapter: also take ``lora_A``, ``lora_B`` and ``.alpha`` (scale alpha / rank) of published modules.
        skip: published modules to leave out, such as ``patch_embedding`` of a LoRA made for other input channels.

    Raises:
        InputError: the file is empty; a pair is incomplete, of unequal ranks or of another shape than its weight; a
            tensor is not floating point or not finite, names no parameter, means nothing here, or two tensors mean the
            same addition.
    """
    file = StateDict(source, "LoRA") if isinstance(source, Mapping) else open_tensor_file(source)
    if not file.tensors:
        raise InputError(f"{file.path}: the LoRA is empty.")
    for module in skip:
        dropped = [name for name in file.tensors if f"{_bare(name)}.".startswith(f"{module}.")]
        if not dropped:
            raise InputError(f"{file.path} has nothing for '{module}', which was to be skipped.")
        for name in dropped:
            del file.tensors[name]
    _check_values(file)
    parser = _Parser(file, shapes, as_adapter)
    deltas = tuple(parser.deltas())
    kinds = [stored.rpartition(".")[2] for delta in deltas for stored in delta.stored[:1]]
    report = LoraReport(
        lora_pairs=sum(len(delta.stored) == 2 for delta in deltas),
        weight_diffs=kinds.count("diff"),
        bias_diffs=kinds.count("diff_b"),
        modulation_diffs=kinds.count("diff_m"),
        source_tensors=len(file.tensors),
        target_tensors=len({delta.target for delta in deltas}),
    )
    return LoraFile(file, deltas, report)


def is_lora(file: TensorFile) -> bool:
    """Whether a file's names are those of a LoRA."""
    marks = (*_DIFFERENCES, _DOWN, _UP, _A, _B)
    return bool(file.tensors) and any(name.endswith(marks) for name in file.tensors)


def own_alpha(patterns: Mapping[str, float], default: float, module: str) -> float:
    """A module's alpha in peft: a pattern over module names overrules the adapter's own.

    InputError for patterns that are more than names (with ``^``, ``$`` and escaped dots): others can take for ever.
    """
    for pattern, alpha in patterns.items():
        if not _PLAIN_PATTERN.fullmatch(pattern):
            raise InputError(f"The LoRA's alpha pattern {short(pattern)} is no module's name; it is not tried.")
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return alpha
    return default


def _check_values(file: TensorFile) -> None:
    for name, info in file.tensors.items():
        if info.dtype is None or not info.dtype.is_floating_point:
            raise InputError(f"{file.path}: '{name}' is {info.format}, not floating point.")
        if not bool(torch.isfinite(file.read(name).float()).all()):
            raise InputError(f"{file.path}: '{name}' contains NaN or infinity.")
    file.release()


class _Parser:
    """One pass over the names of a file; whatever is left over at the end is an error."""

    def __init__(self, file: TensorFile, shapes: Mapping[str, tuple[int, ...]], as_adapter: bool):
        self._file, self._shapes, self._as_adapter = file, shapes, as_adapter
        self._left = dict.fromkeys(file.tensors)
        self._taken: dict[tuple[str, str], str] = {}

    def deltas(self) -> list[LoraDelta]:
        found = []
        for name in list(self._left):
            if name.endswith(_DOWN):
                found.append(self._published_pair(name, _DOWN, _UP))
            elif name.endswith(_A):
                target = _bare(name).replace(_A, ".weight")
                if target in self._shapes:
                    up = name.replace(_A, _B)
                    found.append(self._pair(target, up, name, self._adapter_scale(name)))
                elif self._as_adapter:
                    found.append(self._published_pair(name, _A, _B))
        for name in list(self._left):
            for suffix, leaf in _DIFFERENCES.items():
                if name.endswith(suffix):
                    found.append(self._difference(name, suffix, f"{_bare(name.removesuffix(suffix))}.{leaf}"))
        if self._left:
            self._refuse_rest()
        return found

    def _published_pair(self, down: str, down_suffix: str, up_suffix: str) -> LoraDelta:
        module = down.removesuffix(down_suffix)
        target = self._target(down, _bare(module) + ".weight")
        alpha = f"{module}.alpha"
        scale = 1.0
        if self._as_adapter and alpha in self._left:
            scale = float(self._file.read(alpha)) / self._file.tensors[down].shape[0]
            del self._left[alpha]
        return self._pair(target, module + up_suffix, down, scale)

    def _target(self, stored: str, published: str) -> str:
        try:
            target = names.to_diffusers_name(published)
        except InputError:
            target = None
        if target not in self._shapes:
            raise InputError(f"{self._file.path}: '{stored}' belongs to '{published}', which the model does not have.")
        return target

    def _claim(self, target: str, kind: str, *stored: str) -> None:
        other = self._taken.setdefault((target, kind), stored[0])
        if other != stored[0]:
            raise InputError(f"{self._file.path}: '{other}' and '{stored[0]}' are both for '{target}'.")
        for name in stored:
            del self._left[name]

    def _pair(self, target: str, up: str, down: str, scale: float) -> LoraDelta:
        tensors, path = self._file.tensors, self._file.path
        if up not in tensors:
            raise InputError(f"{path}: '{down}' has no '{up}' beside it.")
        up_shape, down_shape = tensors[up].shape, tensors[down].shape
        if len(up_shape) != 2 or len(down_shape) != 2 or up_shape[1] != down_shape[0] or not down_shape[0]:
            raise InputError(f"{path}: '{up}' {up_shape} and '{down}' {down_shape} do not have one common rank.")
        if (up_shape[0], down_shape[1]) != self._shapes[target]:
            product = (up_shape[0], down_shape[1])
            raise InputError(f"{path}: '{down}' makes a {product} for '{target}', which is {self._shapes[target]}.")
        self._claim(target, "pair", down, up)
        return LoraDelta(target, (up, down), scale)

    def _difference(self, name: str, suffix: str, published: str) -> LoraDelta:
        target, shape = self._target(name, published), self._file.tensors[name].shape
        if shape != self._shapes[target]:
            raise InputError(f"{self._file.path}: '{name}' is {shape}, but '{target}' is {self._shapes[target]}.")
        self._claim(target, suffix, name)
        return LoraDelta(target, (name,))

    def _adapter_scale(self, name: str) -> float:
        rank = self._file.tensors[name].shape[0]
        where = f"the adapter metadata of {self._file.path}"
        words = parse_json(self._file.metadata.get(_ADAPTER_METADATA, "{}"), dict[str, Any], where)
        words = {key.removeprefix("transformer."): value for key, value in words.items()}
        config = decode(words, _AdapterWords, where, unknown=True)
        if config.use_dora:
            raise InputError(f"{self._file.path} is a DoRA, which is more than a low-rank pair.")
        if not rank:
            raise InputError(f"{self._file.path}: '{name}' has rank 0, which adds nothing and cannot be scaled.")
        module = _bare(name.removesuffix(_A))
        alpha = own_alpha(config.alpha_pattern or {}, rank if config.lora_alpha is None else config.lora_alpha, module)
        return alpha / (rank**0.5 if config.use_rslora else rank)

    def _refuse_rest(self) -> None:
        left = sorted(self._left)
        listed = ", ".join(left[:_LISTED]) + (" ..." if len(left) > _LISTED else "")
        hint = ""
        if not self._as_adapter and any(name.endswith((".alpha", _A)) for name in left):
            hint = " A file with alpha or lora_A on published modules is for adapters: pipe.load_lora_weights()."
        raise InputError(f"{self._file.path}: {len(left)} tensors have no meaning here: {listed}.{hint}")


def _bare(name: str) -> str:
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name
