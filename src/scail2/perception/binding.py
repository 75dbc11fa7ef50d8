"""Binding: which driving character moves which reference character, and the palette colour that says so to the network.

The network routes by position first and by colour second (one colour in both masks binds the two), so the default order is
left to right in both pictures. There are six colours; more characters share them when they are far apart.
"""

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from scail2.errors import InputError
from scail2.masks import BINDING_SLOTS, BindingSlot
from scail2.perception.tracks import CharacterTrack, TrackedMasks, relabel

# Two characters may share a colour when the gap between their boxes never falls below this share of the frame's width.
SHARED_SLOT_GAP = 0.15


class BindingRule(StrEnum):
    """How characters are put in order before they are paired off."""

    LEFT_TO_RIGHT = "left-to-right"
    AREA = "area"
    FIRST_APPEARANCE = "first-appearance"

    @classmethod
    def parse(cls, value: "str | BindingRule") -> "BindingRule":
        """Accepts a rule or its name; raises `InputError` naming the choices."""
        try:
            return cls(value.removeprefix("by-"))
        except ValueError:
            raise InputError(
                f"unknown binding {value!r}: use {', '.join(rule.value for rule in cls)} or pairs like driving:2=reference:1."
            ) from None


@dataclass(frozen=True, kw_only=True)
class BoundPair:
    """Driving character `driving` moves reference character `reference` (both counted from 1), in colour `slot`."""

    driving: int
    reference: int
    slot: BindingSlot


@dataclass(frozen=True, kw_only=True)
class Binding:
    """The outcome. Characters in no pair are not animated: black in the driving mask of animation mode (unseen), white
    in that of replacement mode (they stay in the scene); background in the reference mask."""

    pairs: tuple[BoundPair, ...]
    unbound_driving: tuple[int, ...] = ()
    unbound_reference: tuple[int, ...] = ()
    rule: str = BindingRule.LEFT_TO_RIGHT.value
    notes: tuple[str, ...] = ()

    def driving_slots(self) -> dict[int, BindingSlot]:
        """Driving character number → colour."""
        return {pair.driving: pair.slot for pair in self.pairs}

    def reference_slots(self) -> dict[int, BindingSlot]:
        """Reference character number → colour."""
        return {pair.reference: pair.slot for pair in self.pairs}


_TERM = re.compile(r"^(driving|reference):(\d+)$")


def parse_bind(text: str) -> tuple[int, int]:
    """``driving:2=reference:1`` → (2, 1), either side first; raises `InputError` on anything else."""
    found = {}
    for term in text.replace(" ", "").split("="):
        match = _TERM.match(term)
        if match and int(match.group(2)) >= 1:
            found[match.group(1)] = int(match.group(2))
    if set(found) != {"driving", "reference"} or text.count("=") != 1:
        raise InputError(
            f"cannot read the binding {text!r}: write it as driving:2=reference:1, characters counted from 1."
        )
    return found["driving"], found["reference"]


@dataclass(frozen=True, kw_only=True)
class BindingRequest:
    """What the user asked for, as one object: a rule, explicit pairs, and who takes part (None for everybody)."""

    rule: BindingRule = BindingRule.LEFT_TO_RIGHT
    explicit: tuple[tuple[int, int], ...] = ()
    select_driving: tuple[int, ...] | None = None
    select_reference: tuple[int, ...] | None = None

    @classmethod
    def parse(cls, terms: Sequence[str]) -> "BindingRequest":
        """Reads ``--bind`` values: a rule's name, ``driving:2=reference:1`` pairs, and bare ``driving:1`` or
        ``reference:2`` for "only these take part". Raises `InputError` naming the term it cannot read."""
        rules, explicit = [], []
        chosen: dict[str, list[int]] = {"driving": [], "reference": []}
        for term in (each.strip() for each in terms):
            match = _TERM.match(term)
            if "=" in term:
                explicit.append(parse_bind(term))
            elif match and int(match.group(2)) >= 1:
                chosen[match.group(1)].append(int(match.group(2)))
            else:
                rules.append(BindingRule.parse(term))
        if len(set(rules)) > 1 or (rules and explicit):
            raise InputError("--bind gives two rules, or a rule and pairs: give one rule, or all pairs.")
        if explicit and (chosen["driving"] or chosen["reference"]):
            raise InputError("--bind gives both pairs and single characters: pairs already say who takes part.")
        return cls(
            rule=rules[0] if rules else BindingRule.LEFT_TO_RIGHT,
            explicit=tuple(explicit),
            select_driving=tuple(chosen["driving"]) or None,
            select_reference=tuple(chosen["reference"]) or None,
        )


def _nobody(masks: TrackedMasks, where: str, option: str) -> str:
    """What to say where nobody can be bound; a mask that was given may be empty, or show only what is cropped away."""
    if masks.origin.startswith("given"):
        return (
            f"the mask of the {where} shows no character: nothing is painted in it, or what is lies where the run's size crops "
            "it away (--fit letterbox or --reframe auto keep it)."
        )
    return f"no character was found in the {where}: supply a mask with {option}."


def _fullest_frame(tracks: Sequence[CharacterTrack]) -> int:
    """The first frame in which most characters are visible at once: where left and right mean something."""
    return int(np.argmax(np.sum([track.present for track in tracks], axis=0)))


def order(masks: TrackedMasks, rule: BindingRule) -> list[int]:
    """Numbers of the characters that are ever visible, in the order of `rule`."""
    tracks = [track for track in masks.tracks if track.first_frame >= 0]
    if not tracks:
        return []
    if rule is BindingRule.AREA:
        return [t.number for t in sorted(tracks, key=lambda t: (-int(t.areas.max()), t.number))]
    shared = _fullest_frame(tracks)

    def x(track: CharacterTrack) -> float:
        return track.centre_x(shared if track.present[shared] else track.first_frame)

    if rule is BindingRule.FIRST_APPEARANCE:
        return [t.number for t in sorted(tracks, key=lambda t: (t.first_frame, x(t)))]
    return [t.number for t in sorted(tracks, key=lambda t: (x(t), t.number))]


def left_to_right(masks: TrackedMasks, kept: Collection[int], directory: Path | None) -> TrackedMasks:
    """The clip with only the characters in ``kept``, numbered from left to right; new label maps go to ``directory``/kept."""
    numbers = [number for number in order(masks, BindingRule.LEFT_TO_RIGHT) if number in kept]
    if numbers == [track.number for track in masks.tracks]:
        return masks
    return relabel(masks, numbers, directory / "kept" if directory is not None else None)


def smallest_gap(one: CharacterTrack, other: CharacterTrack) -> float:
    """Smallest distance between the two boxes over the frames that show both, in pixels; infinity when never together."""
    both = one.present & other.present
    if not both.any():
        return float("inf")
    a, b = one.boxes[both], other.boxes[both]
    dx = np.maximum(np.maximum(a[:, 0] - b[:, 2], b[:, 0] - a[:, 2]), 0)
    dy = np.maximum(np.maximum(a[:, 1] - b[:, 3], b[:, 1] - a[:, 3]), 0)
    return float(np.hypot(dx, dy).min())


def _together(one: CharacterTrack, other: CharacterTrack) -> bool:
    return bool((one.present & other.present).any())


def _select(masks: TrackedMasks, rule: BindingRule, wanted: Sequence[int] | None, side: str) -> list[int]:
    found = order(masks, rule)
    if wanted is None:
        return found
    for number in wanted:
        if number not in found:
            raise InputError(
                f"there is no {side} character {number}: the {side} masks show {len(found)} "
                f"({', '.join(map(str, sorted(found)))})."
            )
    return [number for number in found if number in set(wanted)]


def _check_explicit(
    explicit: Sequence[tuple[int, int]], reference: TrackedMasks, driving: TrackedMasks
) -> list[tuple[int, int]]:
    known_driving, known_reference = set(order(driving, BindingRule.AREA)), set(order(reference, BindingRule.AREA))
    for moved, shown in explicit:
        if moved not in known_driving:
            raise InputError(f"--bind names driving:{moved}, but the driving masks show {sorted(known_driving)}.")
        if shown not in known_reference:
            raise InputError(f"--bind names reference:{shown}, but the reference mask shows {sorted(known_reference)}.")
    if len({moved for moved, _ in explicit}) != len(explicit):
        raise InputError("--bind binds one driving character twice: each can move only one reference character.")
    for index, (moved, shown) in enumerate(explicit):
        for other, same in explicit[:index]:
            # One person who left and came back may be two tracks: allowed while never seen together.
            if same == shown and _together(driving.tracks[moved - 1], driving.tracks[other - 1]):
                raise InputError(
                    f"--bind binds driving:{other} and driving:{moved}, who are seen together, to reference:{shown}; "
                    "one reference character can be moved by only one of them at a time."
                )
    return list(explicit)


def _pair_by_slot(reference: TrackedMasks, driving: TrackedMasks) -> list[tuple[int, int]] | None:
    """Pairs by colour when both masks were painted in the palette by the user, else None."""
    painted = [track for track in (*reference.tracks, *driving.tracks) if track.first_frame >= 0]
    if not painted or any(track.slot is None for track in painted):
        return None
    by_slot = {track.slot: track.number for track in reference.tracks if track.first_frame >= 0}
    pairs = [
        (track.number, by_slot[track.slot])
        for track in driving.tracks
        if track.first_frame >= 0 and track.slot in by_slot
    ]
    if not pairs:
        raise InputError(
            "the reference mask and the driving mask share no colour: paint a character and the one it moves alike."
        )
    return pairs


def _assign_slots(
    pairs: Sequence[tuple[int, int]], reference: TrackedMasks, driving: TrackedMasks
) -> dict[int, BindingSlot]:
    """Reference character → colour, handed out in palette order; beyond six, shared between the farthest apart."""
    moved_by: dict[int, list[CharacterTrack]] = {}
    for moved, shown in pairs:
        moved_by.setdefault(shown, []).append(driving.tracks[moved - 1])
    slots: dict[int, BindingSlot] = {}
    for shown in moved_by:
        if len(slots) < len(BINDING_SLOTS):
            slots[shown] = BINDING_SLOTS[len(slots)]
            continue

        def room(slot: BindingSlot, shown: int = shown) -> float:
            gaps = []
            for other in (number for number, taken in slots.items() if taken is slot):
                still = smallest_gap(reference.tracks[shown - 1], reference.tracks[other - 1]) / reference.width
                moving = [smallest_gap(a, b) / driving.width for a in moved_by[shown] for b in moved_by[other]]
                gaps.append(min([still, *moving]))
            return min(gaps)

        best = max(BINDING_SLOTS, key=room)
        if room(best) < SHARED_SLOT_GAP:
            raise InputError(
                f"{len(moved_by)} characters need more than the six colours, and reference:{shown} comes close to all "
                "others, so no colour can be shared: select at most six of them and render the rest in a second pass."
            )
        slots[shown] = best
    return slots


def bind(
    reference: TrackedMasks,
    driving: TrackedMasks,
    rule: "BindingRule | str | BindingRequest" = BindingRule.LEFT_TO_RIGHT,
    *,
    explicit: Sequence[tuple[int, int]] = (),
    select_driving: Sequence[int] | None = None,
    select_reference: Sequence[int] | None = None,
) -> Binding:
    """Pairs driving characters with reference characters and hands out the colours.

    Explicit pairs come first. Masks that the user painted in the palette on both sides keep their colours, those who take part
    theirs. Otherwise both sides are put in the order of `rule` and paired off; what is left over on the longer side stays
    unbound, and a note says so.

    Args:
        reference, driving: the characters of the reference picture and of the driving video.
        rule: order of both sides, or a whole `BindingRequest`, which then replaces the arguments below.
        explicit: (driving number, reference number) pairs from `parse_bind`.
        select_driving, select_reference: only these characters take part.

    Raises:
        InputError: nothing to bind, unknown numbers, contradictory pairs, or more characters than colours can tell apart.
    """
    if isinstance(rule, BindingRequest):
        explicit, select_driving, select_reference = rule.explicit, rule.select_driving, rule.select_reference
        rule = rule.rule
    rule = BindingRule.parse(rule)
    moved_order = _select(driving, rule, select_driving, "driving")
    shown_order = _select(reference, rule, select_reference, "reference")
    if not shown_order:
        raise InputError(_nobody(reference, "reference picture", "--reference-mask"))
    if not moved_order:
        raise InputError(_nobody(driving, "driving video", "--driving-mask"))
    painted = None
    if explicit:
        pairs, told = _check_explicit(explicit, reference, driving), "explicit"
    elif painted := [
        pair for pair in _pair_by_slot(reference, driving) or () if pair[0] in moved_order and pair[1] in shown_order
    ]:
        pairs, told = painted, "colour"
    else:
        pairs, told = list(zip(moved_order, shown_order, strict=False)), rule.value
    slots = {s: slot for _, s in painted or () if (slot := reference.tracks[s - 1].slot) is not None}
    slots = slots or _assign_slots(pairs, reference, driving)
    unbound_driving = tuple(n for n in order(driving, rule) if n not in {moved for moved, _ in pairs})
    unbound_reference = tuple(n for n in order(reference, rule) if n not in {shown for _, shown in pairs})
    return Binding(
        pairs=tuple(BoundPair(driving=m, reference=s, slot=slots[s]) for m, s in pairs),
        unbound_driving=unbound_driving,
        unbound_reference=unbound_reference,
        rule=told,
        notes=_notes(slots, unbound_driving, unbound_reference),
    )


def _notes(
    slots: dict[int, BindingSlot],
    unbound_driving: tuple[int, ...],
    unbound_reference: tuple[int, ...],
) -> tuple[str, ...]:
    notes = []
    if unbound_driving:
        notes.append(f"driving characters {list(unbound_driving)} move nobody")
    if unbound_reference:
        notes.append(f"reference characters {list(unbound_reference)} are moved by nobody and count as background")
    if len(set(slots.values())) < len(slots):
        notes.append(f"{len(slots)} characters share {len(set(slots.values()))} colours")
    return tuple(notes)


def colours_in_order(known: Mapping[int, BindingSlot]) -> list[BindingSlot | None]:
    """Colours of the characters 1, 2, …, where some have one by ``known``: colours that nobody had get the numbers left over.

    Of those who share a colour the first is meant: in a picture they are one.
    """
    first = {slot: number for number, slot in sorted(known.items(), reverse=True)}
    numbers = (number for number in itertools.count(1) if number not in first.values())
    first |= {slot: next(numbers) for slot in BINDING_SLOTS if slot not in first}
    slots: list[BindingSlot | None] = [None] * max(first.values())
    for slot, number in first.items():
        slots[number - 1] = slot
    return slots
