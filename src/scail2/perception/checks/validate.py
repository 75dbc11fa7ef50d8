"""Checks of masks and bindings: the silent mistakes (inverted backgrounds, swapped colours, holes) found before a run."""

import itertools
from collections.abc import Sequence

import numpy as np

from scail2.masks import BindingSlot
from scail2.modes import MODE_TRAITS, AnimationMode
from scail2.perception.binding import Binding, BoundPair, smallest_gap
from scail2.perception.bound_masks import BoundMasks
from scail2.perception.checks import findings
from scail2.perception.checks.findings import Finding
from scail2.perception.tracks import CharacterTrack, TrackedMasks

# A hole of at most this many frames inside a track is a dropped mask rather than somebody leaving.
SHORT_GAP = 4
# Share of a character's pixels that belong to another one a frame later, beyond which colours were swapped.
SWAP_SHARE = 0.5
# Box overlap (intersection over the smaller box) from which two identities count as overlapping.
OVERLAP = 0.1
# A character that shows less than this share of its usual area while it touches another is partly hidden by it.
HIDDEN = 0.75
# Colour changes of characters below this share of the picture go unreported.
_SMALL_CHARACTER = 0.005


def check_polarity(mode: AnimationMode, reference: str | None, driving: str | None) -> list[Finding]:
    """Compares the backgrounds that given palette masks were painted on ("white", "black", None) with the mode."""
    traits = MODE_TRAITS[mode]
    wrong = []
    for side, seen, wanted in (
        ("reference", reference, traits.reference_background),
        ("driving", driving, traits.driving_background),
    ):
        if seen is not None and seen != wanted:
            wrong.append((side, seen, wanted))
    if not wrong:
        return []
    if len(wrong) == 2 or (reference is None or driving is None):
        other = next(each for each in AnimationMode if each is not mode)
        fix = f"use {other.value} mode, for which it is painted, or have the background repainted with --fix-polarity"
    else:
        fix = "the two masks contradict each other; have the background repainted with --fix-polarity"
    return [
        findings.error(
            "polarity",
            f"the {side} mask has a {seen} background but {mode.value} mode needs {wanted} "
            "(the network would mix up whose background is to be seen)",
            fix,
        )
        for side, seen, wanted in wrong
    ]


def _holes(track: CharacterTrack) -> list[tuple[int, int]]:
    spans = track.spans()
    return [(a, b) for (_, a), (b, _) in itertools.pairwise(spans) if b - a <= SHORT_GAP]


def _title(track: CharacterTrack) -> str:
    return f"driving character {track.number}" + (f" ({track.name})" if track.name else "")


def check_presence(driving: TrackedMasks) -> list[Finding]:
    """Holes in tracks, frames without anybody, people entering and leaving."""
    found = []
    tracks = [track for track in driving.tracks if track.first_frame >= 0]
    total = len(driving)
    for track in tracks:
        holes = _holes(track)
        if holes:
            found.append(
                findings.warning(
                    "missing_frames",
                    f"the mask of {_title(track)} is missing in frames {findings.told(holes)} and back right after",
                    "repaint these frames; a hole makes the character vanish and come back",
                    holes,
                )
            )
        away = [run for run in findings.runs_of(~track.present) if run not in holes]
        if away and total > 1:
            verbs = []
            if away[0][0] == 0:
                verbs.append(f"enters at frame {track.first_frame}")
            verbs += [f"is away in frames {a}–{b - 1}" for a, b in away if a > 0 and b < total]
            if away[-1][1] == total:
                verbs.append(f"leaves after frame {track.last_frame}")
            found.append(
                findings.warning(
                    "enters_or_leaves",
                    f"{_title(track)} {', '.join(verbs)}",
                    "the number of characters should stay constant; cut the clip there or expect its identity to weaken",
                    away,
                )
            )
    return found


def check_swaps(driving: TrackedMasks) -> list[Finding]:
    """Colour flicker: most of one character's pixels belong to another a frame later."""
    count = len(driving.tracks) + 1
    small = _SMALL_CHARACTER * driving.height * driving.width
    swapped: list[int] = []
    last = None
    for start, labels in driving.windows():
        stack = labels if last is None else np.concatenate([last[None], labels])
        offset = start if last is None else start - 1
        for index in range(len(stack) - 1):
            before, after = stack[index].astype(np.int32), stack[index + 1]
            joint = np.bincount((before * count + after).ravel(), minlength=count * count).reshape(count, count)
            people = joint[1:, 1:]
            moved = people.sum(axis=1) - np.diag(people)
            area = joint[1:].sum(axis=1)
            if ((moved > SWAP_SHARE * area) & (area > small)).any():
                swapped.append(offset + index + 1)
        last = labels[-1]
    if not swapped:
        return []
    flags = np.zeros(len(driving), bool)
    flags[swapped] = True
    runs = findings.runs_of(flags)
    return [
        findings.error(
            "colour_flicker",
            f"characters change colour at frames {findings.told(runs)}: one identity would jump to another's body",
            "repaint these frames so that every character keeps one colour through the whole video",
            runs,
        )
    ]


def check_count(reference: TrackedMasks, driving: TrackedMasks, binding: Binding) -> list[Finding]:
    """Different numbers of characters on the two sides."""
    shown = sum(track.first_frame >= 0 for track in reference.tracks)
    moved = sum(track.first_frame >= 0 for track in driving.tracks)
    found = [findings.info("binding", "; ".join(_pair_told(pair) for pair in binding.pairs) + f" ({binding.rule})")]
    if binding.unbound_driving or binding.unbound_reference:
        found.append(
            findings.warning(
                "subject_count",
                f"the reference shows {shown} and the driving video {moved} characters: {'; '.join(binding.notes)}",
                "name pairs with --bind driving:1=reference:1, or crop the picture to who is to be seen",
            )
        )
    return found


def _pair_told(pair: BoundPair) -> str:
    return f"driving {pair.driving} → reference {pair.reference} ({pair.slot.colour})"


def check_order(reference: TrackedMasks, driving: TrackedMasks, binding: Binding) -> list[Finding]:
    """The network routes by position first: bound characters should stand in the same order in both pictures."""
    pairs = binding.pairs
    if len(pairs) < 2:
        return []
    tracks = [driving.tracks[pair.driving - 1] for pair in pairs]
    frame = int(np.argmax(np.sum([track.present for track in tracks], axis=0)))
    seen = [(pair, track) for pair, track in zip(pairs, tracks, strict=True) if track.present[frame]]
    moved = [pair.slot.name for pair, _ in sorted(seen, key=lambda item: item[1].centre_x(frame))]
    shown_slots = {pair.slot for pair, _ in seen}
    shown = sorted(
        (pair for pair in pairs if pair.slot in shown_slots),
        key=lambda pair: reference.tracks[pair.reference - 1].centre_x(0),
    )
    if moved == [pair.slot.name for pair in shown]:
        return []
    return [
        findings.warning(
            "order",
            f"bound characters stand in another left-to-right order in the reference than in driving frame {frame}",
            "mirror or rearrange the reference picture, or bind left to right; identities may swap",
            [(frame, frame + 1)],
        )
    ]


def overlap_flags(one: CharacterTrack, other: CharacterTrack) -> np.ndarray:
    """bool (T,): frames in which one of two characters hides part of the other, as far as boxes of visible pixels tell.

    Either the boxes overlap by more than a tenth of the smaller one, or they touch while one of the two shows clearly less
    of itself than it usually does.
    """
    a, b = one.boxes, other.boxes
    with np.errstate(invalid="ignore"):
        width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
        height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
        smaller = np.minimum((a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1]), (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]))
        crossing = np.nan_to_num(width.clip(0) * height.clip(0) / smaller) > OVERLAP
        touching = (width >= -1) & (height >= -1)
    hidden = np.zeros(len(a), bool)
    for track in (one, other):
        usual = np.median(track.areas[track.present]) if track.present.any() else 0
        hidden |= track.areas < HIDDEN * usual
    return crossing | (touching & hidden)


def check_overlaps(driving: TrackedMasks) -> list[Finding]:
    """Identities that overlap, and pairs that change sides."""
    found = []
    tracks = [track for track in driving.tracks if track.first_frame >= 0]
    for index, one in enumerate(tracks):
        for other in tracks[index + 1 :]:
            flags = overlap_flags(one, other)
            if flags.any():
                runs = findings.runs_of(flags)
                found.append(
                    findings.warning(
                        "overlap",
                        f"driving characters {one.number} and {other.number} overlap in {int(flags.sum())} of "
                        f"{len(flags)} frames ({findings.told(runs)})",
                        "look at these frames in the preview; swapped identities start here",
                        runs,
                    )
                )
            both = np.flatnonzero(one.present & other.present)
            side = np.sign([one.centre_x(t) - other.centre_x(t) for t in both.tolist()])
            if len(both) and (side > 0).any() and (side < 0).any():
                crossing = int(both[np.flatnonzero(np.diff(side[side != 0]))[0]])
                found.append(
                    findings.warning(
                        "crossing",
                        f"driving characters {one.number} and {other.number} change sides around frame {crossing}",
                        "check the frames after it; binding is strongest while the order stays",
                        [(crossing, crossing + 1)],
                    )
                )
    return found


def check_sharing(driving: TrackedMasks, binding: Binding) -> list[Finding]:
    """Characters that share a colour although they come close."""
    by_slot: dict[BindingSlot, list[BoundPair]] = {}
    for pair in binding.pairs:
        by_slot.setdefault(pair.slot, []).append(pair)
    found = []
    for slot, pairs in by_slot.items():
        shown = {pair.reference for pair in pairs}
        if len(shown) < 2:
            continue
        gap = min(
            smallest_gap(driving.tracks[a.driving - 1], driving.tracks[b.driving - 1])
            for index, a in enumerate(pairs)
            for b in pairs[index + 1 :]
            if a.reference != b.reference
        )
        found.append(
            findings.info(
                "shared_slot",
                f"reference characters {sorted(shown)} share {slot.colour}; their smallest distance is {gap:.0f} pixels",
            )
        )
    return found


def check_masks(masks: BoundMasks) -> list[Finding]:
    """All mask checks, most serious first."""
    reference, driving, binding = masks.reference, masks.driving, masks.binding
    found = [
        *check_polarity(masks.mode, *masks.backgrounds),
        *check_swaps(driving),
        *check_presence(driving),
        *check_count(reference, driving, binding),
        *check_order(reference, driving, binding),
        *check_overlaps(driving),
        *check_sharing(driving, binding),
    ]
    found += [*_sources(reference), *_sources(driving)]
    return sort_findings(found)


def _sources(masks: TrackedMasks) -> list[Finding]:
    """What whoever read or made the masks has to say."""
    fix = (
        "give lossless masks"
        if masks.origin.startswith("given")
        else "look at these frames in the preview, and paint or supply the mask where it is wrong"
    )
    return [findings.warning("mask_source", text, fix) for text in masks.warnings]


def sort_findings(found: Sequence[Finding]) -> list[Finding]:
    """Errors, then warnings, then information, each in the order found."""
    rank = list(findings.Severity)
    return sorted(found, key=lambda each: rank.index(each.severity))
