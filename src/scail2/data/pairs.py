"""Motion pairs: two videos in which different characters perform the same motion, in memory and as shard members.

Files are for people as much as for programs: every member opens in a viewer. Frames, pose renders and in-palette
character tracks are lossless FFV1 (`.mkv`), stills are PNG, numbers are JSON.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Annotated, Any, Literal

import numpy as np

from scail2.data.media import decode_png, decode_video, encode_png, encode_video
from scail2.data.shards import DamagedSample, Record
from scail2.data.triplet_settings import SampleKind
from scail2.errors import InputError
from scail2.files.documents import Between, decode, parse_json
from scail2.files.limits import DOCUMENT_BYTES
from scail2.masks import BINDING_SLOTS, paint_mask, split_mask

Array = np.ndarray
# Sides of clips are multiples of a token of the embedded model; others want more, and say so when they are cached.
SIDE_STEP = 16


def check_sides(height: int, width: int) -> None:
    """Raises `InputError` for a size that could not be cached for any model."""
    if height % SIDE_STEP or width % SIDE_STEP:
        raise InputError(f"clip sides are multiples of {SIDE_STEP}, not {height}×{width}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Still:
    """A picture of a clip's characters in an unrelated pose."""

    frame: Array  # uint8 (H, W, 3)
    tracks: Array  # bool (S, H, W)
    parts: Array | None = None  # uint8 (H, W), 0 none


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One video of a pair and what is known about it. S bound characters in a fixed order, T frames."""

    frames: Array  # uint8 (T, H, W, 3)
    tracks: Array  # bool (S, T, H, W), visible pixels
    parts: Array | None = None  # uint8 (T, H, W), part classes, 0 none
    pose: Array | None = None  # uint8 (T, H, W, 3), pose render on black
    pose_tracks: Array | None = None  # bool (S, T, H, W), drawn pixels per character
    pose_joints: Array | None = None  # float (S, T, J, 2), pixels of the joints drawn there, NaN for none
    hand_boxes: Array | None = None  # float (S, T, 2, 4), x0 y0 x1 y1 in pixels
    excluded: Array | None = None  # bool (T, H, W), burned-in text and the like, which nobody should learn
    still: Still | None = None
    caption: str = ""

    def __post_init__(self) -> None:
        if self.frames.dtype != np.uint8 or self.frames.ndim != 4 or self.frames.shape[-1] != 3:
            raise InputError(f"clip frames must be uint8 (T, H, W, 3), not {self.frames.dtype} {self.frames.shape}")
        if self.tracks.ndim != 4 or self.tracks.shape[1:] != self.frames.shape[:3]:
            raise InputError(f"clip tracks {self.tracks.shape} must be (S, T, H, W) of frames {self.frames.shape}")

    @property
    def region(self) -> Array:
        """bool (T, H, W): pixels of any bound character."""
        return np.asarray(self.tracks.any(axis=0))


@dataclass(frozen=True, kw_only=True, slots=True)
class MotionPair:
    """ỹ (`synthetic`) and y (`real`): the same motion, other characters; same scene iff `shared_scene` (replacement).

    `meta` holds what the source wants to keep: seeds, names, the order in which characters were replaced. `meta["start"]` is
    the place in a longer performance, in seconds, that the clips were cut from: above 0, training keeps history more often.
    `meta["fps"]` is the clips' rate (16 where it says nothing).
    A single video is a pair of one clip (both sides the same object). `reversible` is False where ỹ must never be a target:
    it shows what nobody should learn to make.
    """

    synthetic: Clip
    real: Clip
    construction: SampleKind
    meta: Mapping[str, Any] = field(default_factory=dict)
    reversible: bool = True

    @property
    def is_single(self) -> bool:
        """Whether it is a single video."""
        return self.synthetic is self.real

    def __post_init__(self) -> None:
        one, other = self.synthetic, self.real
        if one.frames.shape != other.frames.shape or len(one.tracks) != len(other.tracks):
            raise InputError(
                f"a pair's clips must agree: {one.frames.shape} with {len(one.tracks)} characters against "
                f"{other.frames.shape} with {len(other.tracks)}"
            )


def frames_of_all(tracks: Array) -> Array:
    """Numbers of the frames that show every character of bool (S, T, H, W): if there are any, those at no less than half of each
    one's largest visible area."""
    areas = tracks.sum(axis=(2, 3))  # (S, T)
    well = np.flatnonzero(((areas > 0) & (2 * areas >= areas.max(axis=1, keepdims=True))).all(axis=0))
    return well if len(well) else np.flatnonzero((areas > 0).all(axis=0))


# Part classes as grey levels that can be told apart by eye; up to 15 classes.
_PART_STEP = 16


def pair_members(pair: MotionPair) -> tuple[dict[str, Any], dict[str, bytes]]:
    """JSON record and members of a pair for `ShardWriter.write`; `read_pair` inverts it."""
    meta: dict[str, Any] = {"construction": pair.construction.value, "meta": dict(pair.meta), "clips": {}}
    rate = Fraction(pair.meta.get("fps", 16))
    members: dict[str, bytes] = {}
    if not pair.reversible:
        meta["reversible"] = False
    for name, clip in (("synthetic", pair.synthetic), ("real", pair.real))[int(pair.is_single) :]:
        # JSON knows no NaN: a hand that is not seen has an empty box.
        boxes = None if clip.hand_boxes is None else np.round(np.nan_to_num(clip.hand_boxes.astype(float)), 2).tolist()
        meta["clips"][name] = {"characters": len(clip.tracks), "caption": clip.caption, "hand_boxes": boxes}
        members[f"{name}.mkv"] = encode_video(clip.frames, rate)
        members[f"{name}.tracks.mkv"] = encode_video(paint_tracks(clip.tracks), rate)
        if clip.parts is not None:
            members[f"{name}.parts.mkv"] = encode_video(_grey(clip.parts), rate)
        if clip.pose is not None and clip.pose_tracks is not None:
            members[f"{name}.pose.mkv"] = encode_video(clip.pose, rate)
            members[f"{name}.pose_tracks.mkv"] = encode_video(paint_tracks(clip.pose_tracks), rate)
            if clip.pose_joints is not None:
                members[f"{name}.pose_joints.json"] = _written_joints(clip.pose_joints)
        if clip.excluded is not None:
            members[f"{name}.excluded.mkv"] = encode_video(_grey(15 * clip.excluded.astype(np.uint8)), rate)
        if clip.still is not None:
            members[f"{name}.still.png"] = encode_png(clip.still.frame)
            members[f"{name}.still_tracks.png"] = encode_png(paint_tracks(clip.still.tracks[:, None])[0])
            if clip.still.parts is not None:
                members[f"{name}.still_parts.png"] = encode_png(_grey(clip.still.parts))
    return meta, members


def read_pair(record: Record) -> MotionPair:
    """The pair stored in a shard record.

    Raises:
        DamagedSample: a member is missing, changed or does not decode.
    """
    try:
        stored = decode(
            record.meta["clips"], dict[Literal["synthetic", "real"], _ClipFacts], record.key, "clips", unknown=True
        )
        clips = {name: _read_clip(record, name, facts) for name, facts in stored.items()}
        construction = SampleKind(record.meta["construction"])
        reversible = decode(record.meta.get("reversible", True), bool, record.key, "reversible")
        clips.setdefault("synthetic", clips["real"])
        return MotionPair(**clips, construction=construction, meta=record.meta["meta"], reversible=reversible)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedSample(record.shard, record.key, f"not a motion pair ({error})") from error


@dataclass(frozen=True, kw_only=True)
class _ClipFacts:
    characters: Annotated[int, Between(1, len(BINDING_SLOTS))]
    caption: str = ""
    hand_boxes: Any = None


def _read_clip(record: Record, name: str, facts: _ClipFacts) -> Clip:
    count = facts.characters

    def video(suffix: str) -> Array | None:
        key = f"{name}{suffix}.mkv"
        return decode_video(record.read(key)) if key in record.members else None

    def tracks(suffix: str) -> Array | None:
        painted = video(suffix)
        return None if painted is None else unpaint_tracks(painted, count)

    parts, boxes, excluded = video(".parts"), facts.hand_boxes, video(".excluded")
    return Clip(
        frames=decode_video(record.read(f"{name}.mkv")),
        tracks=unpaint_tracks(decode_video(record.read(f"{name}.tracks.mkv")), count),
        parts=None if parts is None else parts[..., 0] // _PART_STEP,
        pose=video(".pose"),
        pose_tracks=tracks(".pose_tracks"),
        pose_joints=_read_joints(record, f"{name}.pose_joints.json", count),
        hand_boxes=None if boxes is None else np.asarray(boxes, np.float32),
        excluded=None if excluded is None else excluded[..., 0] > 127,
        still=_read_still(record, name, count),
        caption=facts.caption,
    )


def _written_joints(joints: Array) -> bytes:
    """JSON of joints in hundredths of a pixel, null where there is none."""
    hundredths = np.round(joints.astype(float), 2)
    told = hundredths.astype(object)
    told[~np.isfinite(hundredths)] = None
    return json.dumps(told.tolist()).encode()


def _read_joints(record: Record, member: str, count: int) -> Array | None:
    if member not in record.members:
        return None
    size = record.members[member].size
    DOCUMENT_BYTES.check(size, f"{record.shard}: {record.key}.{member}")
    joints = np.array(parse_json(record.read(member), list, f"{record.shard}: {record.key}.{member}"), float)
    if joints.ndim != 4 or joints.shape[0] != count or joints.shape[-1] != 2:
        raise ValueError(f"{member} holds joints of shape {joints.shape} for {count} characters")
    return joints.astype(np.float32)


def _read_still(record: Record, name: str, count: int) -> Still | None:
    if f"{name}.still.png" not in record.members:
        return None
    parts = None
    if f"{name}.still_parts.png" in record.members:
        parts = decode_png(record.read(f"{name}.still_parts.png"))[..., 0] // _PART_STEP
    return Still(
        frame=decode_png(record.read(f"{name}.still.png")),
        tracks=unpaint_tracks(decode_png(record.read(f"{name}.still_tracks.png"))[None], count)[:, 0],
        parts=parts,
    )


def _slots(count: int) -> Sequence[Any]:
    if count > len(BINDING_SLOTS):
        raise InputError(f"a pair binds at most {len(BINDING_SLOTS)} characters, not {count}")
    return list(BINDING_SLOTS)[:count]


def paint_tracks(tracks: Array) -> Array:
    """Characters bool (S, T, H, W), none over another, in slot colours on black: uint8 (T, H, W, 3)."""
    return paint_mask(tracks, _slots(len(tracks)), "black")


def unpaint_tracks(painted: Array, count: int) -> Array:
    """Inverts `paint_tracks` for `count` characters."""
    regions = split_mask(painted)
    return np.stack([regions[slot] for slot in _slots(count)])


def _grey(parts: Array) -> Array:
    if parts.max(initial=0) * _PART_STEP > 255:
        raise InputError(f"at most {255 // _PART_STEP} part classes can be stored, not {int(parts.max())}")
    return np.repeat((parts * _PART_STEP)[..., None], 3, axis=-1).astype(np.uint8)
