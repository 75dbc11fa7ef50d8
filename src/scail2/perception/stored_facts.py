"""What ``tracks.json`` of a mask store says: written here, and as types, since anybody may have edited it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np

from scail2.files.documents import Between
from scail2.masks import BindingSlot, SlotName
from scail2.modes import AnimationMode
from scail2.perception.binding import Binding, BoundPair
from scail2.perception.bound_masks import BoundMasks
from scail2.perception.tracks import CharacterTrack, TrackedMasks

STORE_VERSION = 1
_Number = Annotated[int, Between(1, 10_000)]
_Side = Annotated[int, Between(1, 65_536)]


@dataclass(frozen=True, kw_only=True)
class _StoredPair:
    driving: _Number
    reference: _Number
    slot: SlotName


@dataclass(frozen=True, kw_only=True)
class _StoredBinding:
    pairs: tuple[_StoredPair, ...]
    unbound_driving: tuple[_Number, ...]
    unbound_reference: tuple[_Number, ...]
    rule: str
    notes: tuple[str, ...]

    def to_binding(self) -> Binding:
        """The same as the binding it was written from."""
        return Binding(
            pairs=tuple(
                BoundPair(driving=each.driving, reference=each.reference, slot=BindingSlot.of_colour(each.slot))
                for each in self.pairs
            ),
            unbound_driving=self.unbound_driving,
            unbound_reference=self.unbound_reference,
            rule=self.rule,
            notes=self.notes,
        )


@dataclass(frozen=True, kw_only=True)
class StoredFacts:
    """What ``tracks.json`` must say, as far as it is read; its tracks are for people and other programs."""

    mode: AnimationMode
    height: _Side
    width: _Side
    frames: Annotated[int, Between(1, 10**9)]
    fps: Annotated[Fraction, Between(1e-6, 1e6)]
    source_hash: str
    sources: dict[str, str]
    binding: _StoredBinding
    frozen: bool = False
    content_hash: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    reference_height: _Side | None = None
    reference_width: _Side | None = None
    additional_backgrounds: tuple[Literal["black", "white"] | None, ...] = ()
    warnings: tuple[str, ...] = ()


def _seen(masks: TrackedMasks) -> list[CharacterTrack]:
    return [track for track in masks.tracks if track.first_frame >= 0]


def describe(masks: BoundMasks, fps: Fraction, sources: Mapping[str, str], files: Mapping[str, str]) -> dict[str, Any]:
    """The contents of tracks.json."""
    reference, driving, binding = masks.reference, masks.driving, masks.binding
    shown, moved = binding.reference_slots(), binding.driving_slots()
    sources = dict(sorted(sources.items()))
    return {
        "version": STORE_VERSION,
        "mode": masks.mode.value,
        "height": driving.height,
        "width": driving.width,
        "reference_height": reference.height,
        "reference_width": reference.width,
        "frames": len(driving),
        "fps": str(fps),
        "frozen": False,
        "content_hash": None,
        "sources": sources,
        "files": dict(files),
        "source_hash": hashlib.sha256(json.dumps(sources).encode()).hexdigest(),
        "origin": {"reference": reference.origin, "driving": driving.origin},
        "binding": {
            "rule": binding.rule,
            "pairs": [{"driving": p.driving, "reference": p.reference, "slot": p.slot.colour} for p in binding.pairs],
            "unbound_driving": list(binding.unbound_driving),
            "unbound_reference": list(binding.unbound_reference),
            "notes": list(binding.notes),
        },
        "additional_backgrounds": list(masks.own_backgrounds),
        "warnings": [*reference.warnings, *driving.warnings],
        "reference": [_track_json(track, shown.get(track.number)) for track in _seen(reference)],
        "driving": [_track_json(track, moved.get(track.number)) for track in _seen(driving)],
    }


def _track_json(track: CharacterTrack, slot: BindingSlot | None) -> dict[str, Any]:
    boxes = [None if np.isnan(box[0]) else [int(value) for value in box] for box in track.boxes]
    return {
        "number": track.number,
        "name": track.name,
        "slot": slot.colour if slot else None,
        "first_frame": track.first_frame,
        "last_frame": track.last_frame,
        "spans": track.spans(),
        "confidence": round(track.mean_confidence, 4),
        "boxes": boxes,
        "areas": [int(area) for area in track.areas],
    }
