"""What ``tracks.json`` of a mask store must say, as types: anybody may have written or edited it."""

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Literal

from scail2.files.documents import Between
from scail2.masks import BindingSlot, SlotName
from scail2.modes import AnimationMode
from scail2.perception.binding import Binding, BoundPair

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
