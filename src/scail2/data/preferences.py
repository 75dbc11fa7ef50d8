"""Preference pairs: one motion, performed by one character twice, once better; where they differ is what is to be learnt.

p = P(y) is an estimated pose, r = G(p, R) a generator's video of character R, s = G(p, S) of another character S, and
r⁻ = G(P″(G(P′(y), R)), R) one more round of the same error with a weaker estimator. A sample has s as driving video, a frame of
r as reference, r as the preferred and r⁻ as the rejected target. Masks are those of the driving video and of the reference; what
is known about the targets (regions, tracks) goes into losses only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np

from scail2.data.media import decode_png, decode_video, encode_png, encode_video
from scail2.data.pairs import Array, Still, paint_tracks, unpaint_tracks
from scail2.data.shards import DamagedSample, DamageReport, Record, find_shards, read_index, records_digest
from scail2.data.triplet_settings import SampleKind
from scail2.errors import InputError
from scail2.files.documents import Between, DocumentError, decode, load_json
from scail2.masks import BINDING_SLOTS
from scail2.modes import AnimationMode

REGIONS = ("hands", "faces", "feet")
"""What boxes may be around; hands are what the published training looks at."""

MADE = "preferences.json"
"""In a folder of pairs: how they were made."""

Boxes = Mapping[str, Array]
"""Region -> float32 (N, T, 4): x0, y0, x1, y1 in pixels, x1 <= x0 where it is not seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferencePair:
    """Two versions of a video, the better and the worse, and what drives them. S characters, T = 4k + 1 frames."""

    mode: AnimationMode
    driving: Array  # uint8 (T, H, W, 3)
    driving_tracks: Array  # bool (S, T, H, W)
    reference: Still  # a frame of the preferred video, or a picture of its characters in the same order
    preferred: Array  # uint8 (T, H, W, 3)
    rejected: Array  # uint8 (T, H, W, 3)
    preferred_boxes: Boxes
    rejected_boxes: Boxes
    preferred_tracks: Array | None = None  # bool (S, T, H, W)
    caption: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames, shape = len(self.preferred), self.preferred.shape
        if not self.driving.shape == shape == self.rejected.shape:
            raise InputError(
                f"A preference pair's videos must agree in frames and size: the driving video is {_size(self.driving)}, the "
                f"preferred {_size(self.preferred)}, the rejected {_size(self.rejected)}."
            )
        if frames % 4 != 1:
            raise InputError(
                f"A preference pair has 4k+1 frames, not {frames}; cut its videos to {frames - (frames - 1) % 4}."
            )
        if self.driving_tracks.shape[1:] != shape[:3] or len(self.driving_tracks) != len(self.reference.tracks):
            raise InputError(
                f"The driving video's masks show {len(self.driving_tracks)} characters in {self.driving_tracks.shape[1:]}, "
                f"the reference's {len(self.reference.tracks)}; the videos are {shape[:3]} (frames, height, width)."
            )
        for boxes in (self.preferred_boxes, self.rejected_boxes):
            unknown = sorted(set(boxes) - set(REGIONS))
            if unknown or any(each.ndim != 3 or each.shape[1:] != (frames, 4) for each in boxes.values()):
                raise InputError(
                    f"Boxes are given for {', '.join(REGIONS)} as (boxes, {frames} frames, 4), not "
                    f"{ {name: each.shape for name, each in boxes.items()} }."
                )
        if self.preferred_boxes.keys() != self.rejected_boxes.keys() or "hands" not in self.preferred_boxes:
            raise InputError("Both videos of a preference pair need boxes around the same regions, hands among them.")

    @property
    def kind(self) -> SampleKind:
        """The kind of sample that it becomes."""
        count = "multi" if len(self.driving_tracks) > 1 else "single"
        return SampleKind(f"{self.mode.value}_{count}")

    def region(self, name: str) -> Array:
        """bool (T, H, W): pixels that a box of a region touches in either video."""
        return box_pixels(self.preferred_boxes[name], self.preferred.shape[1:3]) | box_pixels(
            self.rejected_boxes[name], self.preferred.shape[1:3]
        )


def _size(video: Array) -> str:
    return f"{video.shape[0]} frames of {video.shape[2]}x{video.shape[1]}"


def box_pixels(boxes: Array, size: tuple[int, int]) -> Array:
    """bool (T, H, W): pixels touched by boxes float (N, T, 4)."""
    height, width = size
    touched = np.zeros((boxes.shape[1], height, width), bool)
    for track in np.nan_to_num(boxes):
        for frame, (x0, y0, x1, y1) in enumerate(track):
            if x1 > x0 and y1 > y0:
                rows = slice(max(0, int(np.floor(y0))), max(0, int(np.ceil(y1))))
                columns = slice(max(0, int(np.floor(x0))), max(0, int(np.ceil(x1))))
                touched[frame, rows, columns] = True
    return touched


@dataclass(frozen=True, kw_only=True, slots=True)
class Strictness:
    """Which pairs are good enough: the preferred video must be right and the difference worth learning.

    Attributes:
        hands_seen: least share of frames in which a hand of the preferred video is seen.
        smallest_hand: shorter side, as a share of the picture's height, below which a box shows no hand.
        largest_error: how far, in hand sizes, the hands of the preferred video may be from the true motion on average; judged
            where the source knows the truth.
        least_contrast: mean absolute difference of the two videos, of 255, inside the hands' boxes.
    """

    hands_seen: float = 0.75
    smallest_hand: float = 0.03
    largest_error: float = 0.5
    least_contrast: float = 4.0

    def __post_init__(self) -> None:
        if not 0 <= self.hands_seen <= 1 or min(self.smallest_hand, self.largest_error, self.least_contrast) < 0:
            raise InputError(
                "The share of frames with hands is in [0, 1], and no limit of a preference pair is negative."
            )

    def refusal(self, pair: PreferencePair) -> str | None:
        """Why a pair is not used, as a sentence; None for a good one."""
        boxes = np.nan_to_num(pair.preferred_boxes["hands"])
        sides = np.minimum(boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1])
        seen = (sides >= self.smallest_hand * pair.preferred.shape[1]).any(axis=0).mean()
        if seen < self.hands_seen:
            return f"hands are seen in {seen:.0%} of the preferred video's frames, {self.hands_seen:.0%} are asked for"
        error = pair.meta.get("preferred_error")
        if error is not None and error > self.largest_error:
            return (
                f"the preferred hands are {error:.2f} hand sizes off the motion, {self.largest_error:.2f} are allowed"
            )
        if error is not None and pair.meta["rejected_error"] <= error:
            return f"the rejected hands ({pair.meta['rejected_error']:.2f} hand sizes off) are as good as the preferred"
        inside = pair.region("hands")
        difference = np.abs(pair.preferred.astype(np.int16) - pair.rejected)[inside]
        contrast = float(difference.mean()) if len(difference) else 0.0
        if contrast < self.least_contrast:
            return f"the videos differ by {contrast:.1f} of 255 at the hands, {self.least_contrast:.1f} are asked for"
        return None


class PreferenceSource(Protocol):
    """Where preference pairs come from; picklable, and a pure function of its arguments."""

    def preference(self, index: int, generator: np.random.Generator) -> PreferencePair:
        """Pair number `index`; raises InputError where it cannot be made."""

    def describe(self) -> dict[str, Any]:
        """JSON-able facts that fix the source's output."""


# ---- files ----------------------------------------------------------------------------------------------------------


def preference_members(pair: PreferencePair) -> tuple[dict[str, Any], dict[str, bytes]]:
    """JSON record and members of a pair for `ShardWriter.write`; `read_preference` inverts it."""
    meta = {
        "preference": pair.mode.value,
        "characters": len(pair.driving_tracks),
        "caption": pair.caption,
        "boxes": {"preferred": _written(pair.preferred_boxes), "rejected": _written(pair.rejected_boxes)},
        "meta": dict(pair.meta),
    }
    members = {
        "driving.mkv": encode_video(pair.driving),
        "driving.tracks.mkv": encode_video(paint_tracks(pair.driving_tracks)),
        "preferred.mkv": encode_video(pair.preferred),
        "rejected.mkv": encode_video(pair.rejected),
        "reference.png": encode_png(pair.reference.frame),
        "reference_tracks.png": encode_png(paint_tracks(pair.reference.tracks[:, None])[0]),
    }
    if pair.preferred_tracks is not None:
        members["preferred.tracks.mkv"] = encode_video(paint_tracks(pair.preferred_tracks))
    return meta, members


def _written(boxes: Boxes) -> dict[str, Any]:
    return {name: np.round(np.nan_to_num(each.astype(float)), 2).tolist() for name, each in boxes.items()}


@dataclass(frozen=True, kw_only=True)
class _Facts:
    preference: AnimationMode
    characters: Annotated[int, Between(1, len(BINDING_SLOTS))]
    boxes: dict[Literal["preferred", "rejected"], dict[str, Any]]
    caption: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


def read_preference(record: Record) -> PreferencePair:
    """The pair stored in a shard record.

    Raises:
        DamagedSample: a member is missing, changed or does not decode.
    """
    try:
        facts = decode(record.meta, _Facts, record.key, unknown=True)
        boxes = {
            side: {name: np.asarray(each, np.float32) for name, each in facts.boxes[side].items()}
            for side in ("preferred", "rejected")
        }
        tracks = "preferred.tracks.mkv"
        return PreferencePair(
            mode=facts.preference,
            driving=decode_video(record.read("driving.mkv")),
            driving_tracks=unpaint_tracks(decode_video(record.read("driving.tracks.mkv")), facts.characters),
            reference=Still(
                frame=decode_png(record.read("reference.png")),
                tracks=unpaint_tracks(decode_png(record.read("reference_tracks.png"))[None], facts.characters)[:, 0],
            ),
            preferred=decode_video(record.read("preferred.mkv")),
            rejected=decode_video(record.read("rejected.mkv")),
            preferred_boxes=boxes["preferred"],
            rejected_boxes=boxes["rejected"],
            preferred_tracks=unpaint_tracks(decode_video(record.read(tracks)), facts.characters)
            if tracks in record.members
            else None,
            caption=facts.caption,
            meta=facts.meta,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedSample(record.shard, record.key, f"not a preference pair ({error})") from error


class PreferenceShards:
    """Preference pairs written by `scail2 preferences`, by number; damaged shards and pairs are named in `damage`."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths, self.damage = tuple(paths), DamageReport()
        found = [record for shard in find_shards(*paths) for record in read_index(shard, self.damage)]
        others = [record for record in found if "preference" not in record.meta]
        if others:
            raise InputError(
                f"{others[0].shard} holds no preference pairs ({others[0].key}): give shards of scail2 preferences alone."
            )
        self._records = [record for record in found if self._is_usable(record)]
        if not self._records:
            raise InputError(f"There are no preference pairs in {', '.join(map(str, paths))}.")

    def _is_usable(self, record: Record) -> bool:
        try:
            facts = decode(record.meta, _Facts, record.key, unknown=True)
        except DocumentError:
            usable = False
        else:
            usable = facts.boxes.keys() == {"preferred", "rejected"}
        if not usable:
            self.damage.add_sample(record.shard, record.key, "not a preference pair")
        return usable

    def __len__(self) -> int:
        return len(self._records)

    def pair(self, index: int) -> PreferencePair:
        """Pair `index` modulo their number; raises DamagedSample for one that cannot be read."""
        return read_preference(self._records[index % len(self)])

    @property
    def regions(self) -> tuple[str, ...]:
        """The regions that all of them have boxes for."""
        held = [set(record.meta["boxes"]["preferred"]) for record in self._records]
        return tuple(name for name in REGIONS if all(name in each for each in held))

    def describe(self) -> dict[str, Any]:
        """Names, number and content of the pairs, and how they were made, where their folders say it."""
        made = [load_json(path / MADE, dict[str, Any]) for path in self.paths if (path / MADE).is_file()]
        return {
            "preferences": [path.name for path in self.paths],
            "count": len(self),
            "digest": records_digest(self._records),
            "made": made,
        }


def holds_preferences(paths: Sequence[Path]) -> bool:
    """Whether shards or folders begin with a preference pair."""
    report = DamageReport()
    first = next((record for shard in find_shards(*paths) for record in read_index(shard, report)), None)
    return first is not None and "preference" in first.meta
