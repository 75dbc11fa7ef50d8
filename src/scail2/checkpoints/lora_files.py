"""LoRA files of the SCAIL-2 and Wan world, read strictly: every tensor has one meaning or the file is refused.

How entries are spelled is `lora_names`' table; what they add:

| parts of a module | added |
|---|---|
| down (rank, in), up (out, rank) | up @ down to the weight |
| `diff`, `diff_b` | itself to the weight or bias, norms and patch embeddings included |
| `diff_m` of a block | itself to the modulation table |
| `hada_w1_a` … (LoHa) | (w1_a @ w1_b) * (w2_a @ w2_b) to the weight |
| `lokr_w1` … (LoKr) | the Kronecker product of w1 and w2, each whole or as a product, to the weight |

Where an alpha is stored (as a tensor beside the pair, in the header diffusers writes, or in the `adapter_config.json`
beside peft's `adapter_model.safetensors`) the addition is multiplied by alpha / rank; elsewhere by nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scail2.checkpoints.adapter_words import own_alpha, read_adapter_words
from scail2.checkpoints.lora_names import ModuleNames, Part, is_for_text_encoder, part_of, without_prefix
from scail2.checkpoints.stored import TensorFile
from scail2.checkpoints.tensor_files import StateDict, open_tensor_file
from scail2.errors import InputError

if TYPE_CHECKING:
    import torch

LoraSource = str | Path | Mapping[str, Any]  # a file, a folder with one, or tensors by name

_LARGEST_SCALE = 1e6
_LISTED = 20
_KRONECKER = (Part.KRON_1, Part.KRON_1A, Part.KRON_1B, Part.KRON_2, Part.KRON_2A, Part.KRON_2B)


class Form(StrEnum):
    """How the stored tensors of an addition make it."""

    WHOLE = "full difference"
    PAIR = "low-rank pair"
    HADAMARD = "LoHa"
    KRONECKER = "LoKr"


@dataclass(frozen=True, slots=True)
class LoraDelta:
    """One addition to one parameter: ``scale`` times what ``form`` makes of the stored tensors.

    ``stored`` is: the difference; up and down; or LoHa's and LoKr's factors, of which LoKr's may be whole (None beside).
    """

    target: str
    stored: tuple[str | None, ...]
    scale: float = 1.0
    form: Form = Form.WHOLE


@dataclass(frozen=True, slots=True)
class LoraReport:
    """What a LoRA file holds; entries for a text encoder are passed over."""

    lora_pairs: int
    weight_diffs: int
    bias_diffs: int
    modulation_diffs: int
    source_tensors: int
    target_tensors: int
    text_encoder_tensors: int = 0

    def told_passed_over(self, name: str) -> str:
        """What of the file of that name is passed over, in a sentence; empty where nothing is."""
        count = self.text_encoder_tensors
        told = f"{name}: its {count} tensors for a text encoder are passed over; those for the transformer count"
        return told if count else ""


@dataclass(frozen=True)
class LoraFile:
    """A LoRA whose every tensor has been matched to a parameter of one model."""

    file: TensorFile
    deltas: tuple[LoraDelta, ...]
    report: LoraReport

    def value(self, delta: LoraDelta, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """The addition itself, computed in ``dtype``: storage types differ within one file, products need more."""
        parts: list[Any] = [None if name is None else self.file.read(name).to(device, dtype) for name in delta.stored]
        if delta.form is Form.WHOLE:
            value = parts[0]
        elif delta.form is Form.PAIR:
            up, down = parts
            value = (up.flatten(1) @ down.flatten(1)).reshape(up.shape[0], *down.shape[1:])
        elif delta.form is Form.HADAMARD:
            value = (parts[0] @ parts[1]) * (parts[2] @ parts[3])
        else:
            import torch

            first, second = (a if b is None else a @ b for a, b in (parts[:2], parts[2:]))
            value = torch.kron(first, second)
        return value if delta.scale == 1 else value * delta.scale

    def pair(self, delta: LoraDelta) -> tuple[torch.Tensor, torch.Tensor]:
        """The same addition as one low-rank pair (up, down) of scale 1, exactly: what an adapter can hold.

        Raises:
            InputError: it is a full difference, or its rank would be half its size and more.
        """
        import torch

        parts: list[Any] = [None if name is None else self.file.read(name) for name in delta.stored]
        if delta.form is Form.PAIR:
            up, down = parts
        elif delta.form is Form.HADAMARD:
            # Entry by entry, a product of sums is the sum over all pairs of terms.
            up = torch.einsum("or,os->ors", parts[0], parts[2]).flatten(1)
            down = torch.einsum("ri,si->rsi", parts[1], parts[3]).flatten(0, 1)
        elif delta.form is Form.KRONECKER:
            (up_1, down_1), (up_2, down_2) = (_as_pair(*parts[:2]), _as_pair(*parts[2:]))
            up, down = torch.kron(up_1, up_2), torch.kron(down_1, down_2)
        else:
            raise self._no_adapter(delta)
        if delta.form is not Form.PAIR and down.shape[0] > min(up.shape[0], down.shape[1]) // 2:
            raise self._no_adapter(delta)
        return (up if delta.scale == 1 else up * delta.scale), down

    def _no_adapter(self, delta: LoraDelta) -> InputError:
        others = sum(each.form is delta.form for each in self.deltas)
        return InputError(
            f"{self.file.path} holds {others} {_NOT_HELD[delta.form]} beside its low-rank pairs, which adapters would drop: "
            "fuse it with scail2.checkpoints.lora.apply_loras (or --lora)."
        )


_NOT_HELD = {
    Form.WHOLE: "full differences",
    Form.HADAMARD: "LoHa products of a high rank",
    Form.KRONECKER: "LoKr products of a high rank",
}


def _as_pair(whole: torch.Tensor, right: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    if right is not None:
        return whole, right
    rows, columns = whole.shape
    identity = torch.eye(min(rows, columns), dtype=whole.dtype)
    return (whole, identity) if columns <= rows else (identity, whole)


def open_lora(
    source: LoraSource,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    skip: Sequence[str] = (),
    values: bool = True,
) -> LoraFile:
    """Matches every tensor of a LoRA with the parameters of a model.

    Args:
        source: a safetensors or ``.pt`` file, a folder with one, or a state dictionary.
        shapes: our parameter name -> shape.
        skip: published modules to leave out, such as ``patch_embedding`` of a LoRA made for other input channels.
        values: whether every number is read to see that it is finite, which takes torch; names and shapes are always
            looked at.

    Raises:
        InputError: the file is empty; a pair is incomplete, of unequal ranks or of another shape than its weight; a
            tensor is not floating point or not finite, names no parameter, means nothing here, or two tensors mean the
            same addition.
    """
    file = StateDict(source, "LoRA") if isinstance(source, Mapping) else open_tensor_file(source)
    if not file.tensors:
        raise InputError(f"{file.path}: the LoRA is empty.")
    for module in skip:
        dropped = [name for name in file.tensors if _is_of(name, module)]
        if not dropped:
            raise InputError(f"{file.path} has nothing for '{module}', which was to be skipped.")
        for name in dropped:
            del file.tensors[name]
    text_encoder = [name for name in file.tensors if is_for_text_encoder(name)]
    for name in text_encoder:
        del file.tensors[name]
    if not file.tensors:
        raise InputError(f"{file.path}: the LoRA is for a text encoder alone; it changes nothing here.")
    _check_types(file)
    if values:
        _check_values(file)
    deltas = tuple(_Parser(file, shapes).deltas())
    report = LoraReport(
        lora_pairs=sum(delta.form is not Form.WHOLE for delta in deltas),
        weight_diffs=_differences(deltas, "weight"),
        bias_diffs=_differences(deltas, "bias"),
        modulation_diffs=_differences(deltas, "scale_shift_table"),
        source_tensors=len(file.tensors),
        target_tensors=len({delta.target for delta in deltas}),
        text_encoder_tensors=len(text_encoder),
    )
    return LoraFile(file, deltas, report)


def _differences(deltas: Sequence[LoraDelta], leaf: str) -> int:
    return sum(delta.form is Form.WHOLE and delta.target.endswith(leaf) for delta in deltas)


def _is_of(name: str, module: str) -> bool:
    """Whether a stored name belongs to a module or lies inside it, in either spelling."""
    written = (part_of(name) or (without_prefix(name),))[0]
    flat = module.replace(".", "_")
    # `patch_embedding_pose` does not lie in `patch_embedding`; only a block's name says that more follows.
    inside = (f"{module}.", f"{flat}_") if "." in module else (f"{module}.",)
    return written in (module, flat) or written.startswith(inside)


def _check_types(file: TensorFile) -> None:
    for name, info in file.tensors.items():
        is_alpha = (part_of(name) or ("", None))[1] is Part.ALPHA
        if not (info.is_floating or (is_alpha and info.number is not None)):
            raise InputError(f"{file.path}: '{name}' is {info.format}, not floating point.")


def _check_values(file: TensorFile) -> None:
    import torch

    for name in file.tensors:
        if not bool(torch.isfinite(file.read(name).float()).all()):
            raise InputError(f"{file.path}: '{name}' contains NaN or infinity.")
    file.release()


class _Parser:
    """One pass over the names of a file, module by module; whatever is left over at the end is an error."""

    def __init__(self, file: TensorFile, shapes: Mapping[str, tuple[int, ...]]):
        self._file, self._shapes = file, shapes
        meant = {name: part_of(name) for name in file.tensors}
        self._modules = ModuleNames(shapes, {each[0] for each in meant.values() if each})
        self._left = dict.fromkeys(file.tensors)
        self._taken: dict[tuple[str, Form], str | None] = {}
        self._entries: dict[str, dict[Part, str]] = {}
        for name, each in meant.items():
            if each and (other := self._entries.setdefault(each[0], {}).setdefault(each[1], name)) != name:
                raise InputError(f"{file.path}: '{other}' and '{name}' are both for '{each[0]}'.")
        self._words = read_adapter_words(file)

    def deltas(self) -> list[LoraDelta]:
        found = [each for module, parts in self._entries.items() for each in self._additions(module, parts)]
        if self._left:
            self._refuse_rest()
        return found

    def _additions(self, module: str, parts: Mapping[Part, str]) -> Iterator[LoraDelta]:
        if Part.MAGNITUDE in parts or self._words.use_dora:
            raise InputError(
                f"{self._file.path} is a DoRA: it rescales the weights it is added to, which is more than an addition; merge it "
                "into the model with the program it was made with, or take a plain LoRA."
            )
        if Part.UP in parts:
            self._beside(parts, Part.DOWN, Part.UP)
        for form, needed in (
            (Form.PAIR, (Part.UP, Part.DOWN)),
            (Form.HADAMARD, (Part.HADA_1A, Part.HADA_1B, Part.HADA_2A, Part.HADA_2B)),
        ):
            if needed[-1] in parts:
                yield self._product(module, parts, form, [self._beside(parts, each, needed[-1]) for each in needed])
        if given := [part for part in _KRONECKER if part in parts]:
            factors = []
            for whole, left, right in (_KRONECKER[:3], _KRONECKER[3:]):
                if whole in parts:
                    factors += [parts[whole], None]
                else:
                    factors += [self._beside(parts, each, given[0]) for each in (left, right)]
            yield self._product(module, parts, Form.KRONECKER, factors)
        for part in (Part.DIFF, Part.DIFF_BIAS, Part.DIFF_MODULATION):
            if part in parts:
                yield self._difference(module, part, parts[part])

    def _beside(self, parts: Mapping[Part, str], wanted: Part, present: Part) -> str:
        if wanted in parts:
            return parts[wanted]
        name = parts[present]
        spelled = {
            Part.UP: name.replace("lora_A", "lora_B").replace("down", "up"),
            Part.DOWN: name.replace("lora_B", "lora_A").replace("up", "down"),
        }.get(wanted, wanted.value)
        raise InputError(f"{self._file.path}: '{name}' has no '{spelled}' beside it.")

    def _target(self, module: str, part: Part, stored: str) -> str:
        target = self._modules.target(module, part)
        if target is None or target not in self._shapes:
            raise InputError(f"{self._file.path}: '{stored}' belongs to '{module}', which the model does not have.")
        return target

    def _claim(self, target: str, form: Form, *stored: str | None) -> None:
        other = self._taken.setdefault((target, form), stored[0])
        if other != stored[0]:
            raise InputError(f"{self._file.path}: '{other}' and '{stored[0]}' are both for '{target}'.")
        for name in stored:
            if name is not None:
                self._left.pop(name, None)

    def _product(self, module: str, parts: Mapping[Part, str], form: Form, stored: Sequence[str | None]) -> LoraDelta:
        path, last = self._file.path, next(name for name in reversed(stored) if name)
        target = self._target(module, Part.DOWN, last)
        shapes = [None if name is None else self._file.tensors[name].shape for name in stored]
        made = _PRODUCTS[form](shapes)
        if made is None:
            described = " and ".join(f"'{name}' {shape}" for name, shape in zip(stored, shapes, strict=True) if name)
            raise InputError(f"{path}: {described} do not have one common rank.")
        if made != self._shapes[target]:
            raise InputError(f"{path}: '{last}' makes a {made} for '{target}', which is {self._shapes[target]}.")
        self._claim(target, form, *reversed(stored))
        ranks = [right[0] for right in shapes[1::2] if right]
        scale = self._scale(module, parts.get(Part.ALPHA), ranks[-1]) if ranks else 1.0
        if Part.ALPHA in parts:
            self._left.pop(parts[Part.ALPHA], None)
        return LoraDelta(target, tuple(stored), scale, form)

    def _difference(self, module: str, part: Part, name: str) -> LoraDelta:
        target, shape = self._target(module, part, name), self._file.tensors[name].shape
        if shape != self._shapes[target]:
            raise InputError(f"{self._file.path}: '{name}' is {shape}, but '{target}' is {self._shapes[target]}.")
        self._claim(target, Form.WHOLE, name)
        return LoraDelta(target, (name,))

    def _scale(self, module: str, alpha: str | None, rank: int) -> float:
        if not rank:
            raise InputError(f"{self._file.path}: '{module}' has rank 0, which adds nothing and cannot be scaled.")
        scale = self._stored_scale(module, alpha, rank)
        if not abs(scale) <= _LARGEST_SCALE:
            raise InputError(f"{self._file.path}: '{module}' is scaled by {scale:g}, which no LoRA means.")
        return scale

    def _stored_scale(self, module: str, alpha: str | None, rank: int) -> float:
        if alpha is not None:
            if math.prod(self._file.tensors[alpha].shape) != 1:
                raise InputError(f"{self._file.path}: '{alpha}' is {self._file.tensors[alpha].shape}, not one number.")
            return float(self._file.numbers(alpha, 0, 1)[0]) / rank
        words = self._words
        own = own_alpha(words.alpha_pattern or {}, rank if words.lora_alpha is None else words.lora_alpha, module)
        return own / (rank**0.5 if words.use_rslora else rank)

    def _refuse_rest(self) -> None:
        left = sorted(self._left)
        listed = ", ".join(left[:_LISTED]) + (" ..." if len(left) > _LISTED else "")
        raise InputError(f"{self._file.path}: {len(left)} tensors have no meaning here: {listed}.")


def _pair_shape(shapes: Sequence[Any]) -> tuple[int, ...] | None:
    """Shape of up @ down, of matrices or of convolutions whose upper one is a single tap; None if they do not fit."""
    up, down = shapes
    if len(up) != len(down) or len(up) < 2 or up[1] != down[0] or not down[0] or any(size != 1 for size in up[2:]):
        return None
    return up[0], *down[1:]


def _hadamard_shape(shapes: Sequence[Any]) -> tuple[int, ...] | None:
    first, second = _matrices(shapes[:2]), _matrices(shapes[2:])
    return first if first == second else None


def _kronecker_shape(shapes: Sequence[Any]) -> tuple[int, ...] | None:
    first, second = _matrices(shapes[:2]), _matrices(shapes[2:])
    return first and second and (first[0] * second[0], first[1] * second[1])


def _matrices(shapes: Sequence[Any]) -> tuple[int, ...] | None:
    left, right = shapes
    if right is None:
        return left if len(left) == 2 else None
    return _pair_shape(shapes) if len(left) == 2 else None


_PRODUCTS = {Form.PAIR: _pair_shape, Form.HADAMARD: _hadamard_shape, Form.KRONECKER: _kronecker_shape}
