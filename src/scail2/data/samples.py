"""Cached samples and batches of them, as training sees them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from scail2.data.coverage import LEVELS
from scail2.data.triplet_settings import SampleKind
from scail2.errors import InputError
from scail2.masks import PLANES, WHITE, BindingSlot, SlotName
from scail2.modes import AnimationMode


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentSample:
    """One cached sample. Latents float16, masks and coverages uint8 with `levels` for 1; no batch axis.

    Where a driving video is augmented in training, both it and the augmented one are here, and each visit draws one of them:
    `augmented_share` is the augmented one's chance. A preference sample also holds the video that is worse than its target
    (`rejected`) and the regions in which it is (`regions`, one plane for each of `region_names`). `character` and `parts_*`
    describe where characters are. None of these is ever an input; they are for losses.
    """

    target: Tensor  # (C, Tl, h, w)
    reference: Tensor  # (C, 1, h, w)
    driving: Tensor  # (C, Tl, hd, wd)
    reference_mask: Tensor  # (28, 1, h, w)
    driving_mask: Tensor  # (28, Tl, hd, wd)
    character: Tensor  # (4, Tl, h, w)
    parts_target: Tensor | None = None  # (4·P, Tl, h, w)
    parts_driving: Tensor | None = None  # (4·P, Tl, h, w)
    parts_reference: Tensor | None = None  # (4·P, 1, h, w)
    prompt_embeds: Tensor | None = None  # (512, text_dim)
    image_embeds: Tensor | None = None  # (257, image_dim)
    excluded: Tensor | None = None  # (4, Tl, h, w), share of each cell that the loss must not see (burned-in text)
    hand_boxes: Tensor | None = None  # (S, T, 2, 4) float16, pixels of the target; not batched
    driving_augmented: Tensor | None = None  # as `driving`
    driving_mask_augmented: Tensor | None = None
    parts_driving_augmented: Tensor | None = None
    rejected: Tensor | None = None  # (C, Tl, h, w)
    regions: Tensor | None = None  # (R, Tl, h, w) uint8, 1 where the region of either video touches a cell
    levels: int = LEVELS
    augmented_share: float = 0.0
    region_names: tuple[str, ...] = ()
    key: str
    kind: SampleKind
    mode: AnimationMode
    position_mode: AnimationMode
    slots: tuple[SlotName, ...]
    caption: str = ""
    meta: Mapping[str, Any]

    def self_driven(self) -> "LatentSample":
        """The same sample driven by its own target (the first thing a network can learn).

        Exact for one character and driving latents at full size, where target and driving latents are made alike.

        Raises:
            InputError: several characters (their coverages are stored together) or driving at half size.
        """
        if len(self.slots) != 1 or self.driving.shape != self.target.shape:
            raise InputError(f"{self.key}: only single-character samples with full-size driving can drive themselves")
        mask = torch.zeros_like(self.driving_mask)
        mask[slot_plane(self.slots[0]) :: len(PLANES)] = self.character
        white = slice(PLANES.index(WHITE), None, len(PLANES))
        if self.driving_mask[white].any():  # the environment switch is on in the driving mask (replacement)
            mask[white] = self.levels - self.character
        own = replace(
            self, driving=self.target, driving_mask=mask, parts_driving=self.parts_target, augmented_share=0.0
        )
        return replace(own, kind=SampleKind.SELF_DRIVEN)

    def augmented(self) -> "LatentSample":
        """The same sample driven by its augmented driving video; raises InputError where there is none."""
        if self.driving_augmented is None or self.driving_mask_augmented is None:
            raise InputError(f"{self.key}: the sample says that its driving video is augmented, but holds none that is")
        return replace(
            self,
            driving=self.driving_augmented,
            driving_mask=self.driving_mask_augmented,
            parts_driving=self.parts_driving_augmented,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentBatch:
    """Samples of one position mode and one shape, stacked; latents and masks as float32, coverages in [0, 1]."""

    target: Tensor  # (B, C, Tl, h, w)
    reference: Tensor
    driving: Tensor
    reference_mask: Tensor
    driving_mask: Tensor
    character: Tensor
    parts_target: Tensor | None = None
    parts_driving: Tensor | None = None
    parts_reference: Tensor | None = None
    prompt_embeds: Tensor | None = None
    image_embeds: Tensor | None = None
    excluded: Tensor | None = None  # zero where a sample excludes nothing
    rejected: Tensor | None = None  # (B, C, Tl, h, w)
    regions: Tensor | None = None  # (B, R, Tl, h, w), 0 or 1
    region_names: tuple[str, ...] = ()
    mode: AnimationMode  # whose positions the network is to use
    keys: tuple[str, ...]
    kinds: tuple[SampleKind, ...]
    captions: tuple[str, ...]
    from_middle: tuple[bool, ...]  # cut from a longer video after its beginning

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "LatentBatch":
        """A copy on `device`."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: v.to(device, non_blocking=non_blocking) for k, v in tensors.items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def only(self, rows: slice) -> "LatentBatch":
        """Some of its samples."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        along = {k: v[rows] for k, v in values.items() if isinstance(v, Tensor) or k in _OF_SAMPLES}
        return replace(self, **along)

    def region_weight(self, weights: Sequence[tuple[str, float]]) -> Tensor:
        """``(B, 1, Tl, h, w)``: for each cell the largest weight of the regions that touch it, 0 elsewhere.

        Raises:
            InputError: the samples were cached without such a region.
        """
        unknown = [name for name, _ in weights if name not in self.region_names]
        if unknown or self.regions is None:
            held = ", ".join(self.region_names) or "none"
            raise InputError(
                f"The recipe weighs the regions {', '.join(name for name, _ in weights)}, but the samples hold {held}; cache "
                "preference pairs all of which have boxes around those regions (scail2 preferences --boxes)."
            )
        planes = [weight * self.regions[:, self.region_names.index(name)] for name, weight in weights]
        return torch.stack(planes, dim=1).amax(dim=1, keepdim=True)


# What a batch says of each of its samples beside its tensors.
_OF_SAMPLES = ("keys", "kinds", "captions", "from_middle")
# Tensors that every batch has, those that it has when all its samples do, and those that stay with the sample.
REQUIRED = ("target", "reference", "driving", "reference_mask", "driving_mask", "character")
_BATCHED = (
    "parts_target", "parts_driving", "parts_reference", "prompt_embeds", "image_embeds", "rejected", "regions",
)  # fmt: skip
OPTIONAL = (
    *_BATCHED, "excluded", "hand_boxes", "driving_augmented", "driving_mask_augmented", "parts_driving_augmented",
)  # fmt: skip


def collate(samples: Sequence[LatentSample]) -> LatentBatch:
    """Stacks samples; optional tensors are kept when every sample has them.

    Raises:
        InputError: samples of different position modes, or with other regions.
    """
    modes = {sample.position_mode for sample in samples}
    if len(modes) != 1:
        raise InputError("a batch has one position mode: draw its samples from one bucket")
    region_names = {sample.region_names for sample in samples}
    if len(region_names) != 1:
        raise InputError("a batch's samples have the same regions: train on one cache of preference pairs at a time")
    optional = tuple(name for name in _BATCHED if all(getattr(sample, name) is not None for sample in samples))
    if any(sample.excluded is not None for sample in samples):
        blank = torch.zeros_like(samples[0].character)
        samples = [s if s.excluded is not None else replace(s, excluded=blank) for s in samples]
        optional += ("excluded",)
    stacked = {
        name: torch.stack(
            [_unit(getattr(sample, name), sample.levels if name != "regions" else 1) for sample in samples]
        )
        for name in REQUIRED + optional
    }
    return LatentBatch(
        **stacked,
        region_names=region_names.pop(),
        mode=modes.pop(),
        keys=tuple(sample.key for sample in samples),
        kinds=tuple(sample.kind for sample in samples),
        captions=tuple(sample.caption for sample in samples),
        from_middle=tuple(float(sample.meta.get("start", 0)) > 0 for sample in samples),
    )


def _unit(tensor: Tensor, levels: int) -> Tensor:
    return tensor.float() / levels if tensor.dtype == torch.uint8 else tensor.float()


def slot_plane(slot: SlotName) -> int:
    """Index of a slot's plane (`"blue"`) among the seven of a mask's sub-frame."""
    return PLANES.index(BindingSlot.of_colour(slot).rgb)
