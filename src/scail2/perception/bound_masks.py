"""Who is where on both sides, and who moves whom: what is painted, stored, checked and shown."""

from collections.abc import Mapping
from dataclasses import dataclass

from scail2.masks import BindingSlot
from scail2.modes import AnimationMode
from scail2.perception.binding import Binding
from scail2.perception.tracks import TrackedMasks


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """The characters of one additional reference, and in which slot each is painted, by its number."""

    characters: TrackedMasks
    slots: Mapping[int, BindingSlot]


@dataclass(frozen=True, kw_only=True, slots=True)
class BoundMasks:
    """The masks of a reference picture and a driving video.

    Attributes:
        mode: decides the backgrounds they are painted on.
        reference, driving: the characters of the two.
        binding: who moves whom.
        views: the characters of the additional references.
        own_backgrounds: backgrounds that came with the additional references' masks, None where the mode decides.
        backgrounds: backgrounds that given palette masks of (reference, driving) were painted on and that must be the
            mode's; None where they need not be.
    """

    mode: AnimationMode
    reference: TrackedMasks
    driving: TrackedMasks
    binding: Binding
    views: tuple[View, ...] = ()
    own_backgrounds: tuple[str | None, ...] = ()
    backgrounds: tuple[str | None, str | None] = (None, None)
