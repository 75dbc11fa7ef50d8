"""Stretches of opened videos as clips of a pair: frames, masks, hands, poses, and where text is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scail2.data.own.material import Material
from scail2.data.own.sources import OwnSource
from scail2.data.own.text_regions import excluded_pixels
from scail2.data.own.timing import Array
from scail2.data.pairs import Clip
from scail2.perception.segmenters.people.joints import Joints
from scail2.perception.segmenters.people.skeleton import SkeletonStyle, puppet_joints, skeleton_clip, smoothed

# What silhouettes are filled with: no mask's colour, and nobody's clothes.
SILHOUETTE = (128, 128, 128)


@dataclass(frozen=True, slots=True)
class Piece:
    """Frames [start, stop) of a video, in a scene that begins at `scene`."""

    start: int
    stop: int
    scene: int


@dataclass(frozen=True, kw_only=True)
class MadeSide:
    """A clip before it is known who stays in it: everything by character, in the target's order."""

    frames: Array
    tracks: Array
    joints: Joints | None
    excluded: Array | None
    caption: str
    style: SkeletonStyle | None

    def only(self, characters: Sequence[int]) -> "MadeSide":
        """With some of the characters only."""
        kept = list(characters)
        joints = self.joints
        if joints is not None:
            joints = Joints(places=joints.places[kept], visibility=joints.visibility[kept])
        return replace(self, tracks=self.tracks[kept], joints=joints)

    @property
    def clip(self) -> Clip:
        """As it goes into a pair."""
        hands = None if self.joints is None else np.nan_to_num(self.joints.hand_boxes())
        clip = Clip(
            frames=self.frames, tracks=self.tracks, hand_boxes=hands, excluded=self.excluded, caption=self.caption
        )
        # A pose drawn of some of the characters would drive the others with nothing.
        if self.joints is None or self.style is None or not self._all_posed:
            return clip
        height, width = self.frames.shape[1:3]
        joints = smoothed(self.joints)
        pose, tracks = skeleton_clip(joints, self.style, height=height, width=width)
        # Limbs are scaled by drawing them again, which is done in the puppets' style.
        places = puppet_joints(joints) if self.style is SkeletonStyle.PUPPETS else None
        return replace(clip, pose=pose, pose_tracks=tracks, pose_joints=places)

    @property
    def _all_posed(self) -> bool:
        assert self.joints is not None
        shown = self.tracks.any(axis=(2, 3))
        known = np.isfinite(self.joints.places[..., 0]).any(axis=-1)
        return bool(((known & shown).sum(axis=1) >= 0.9 * shown.sum(axis=1)).all())


def made_clip(
    source: OwnSource, material: Material, piece: Piece, order: Sequence[int], style: SkeletonStyle | None
) -> MadeSide:
    """Frames [start, stop) of a video with its characters in ``order``."""
    reader, kept = material.reader, list(order)
    joints = material.joints
    if joints is not None:
        span = slice(piece.start, piece.stop)
        joints = Joints(places=joints.places[kept][:, span], visibility=joints.visibility[kept][:, span])
    side = material.side
    regions = tuple(region for region in source.text if region.side == side)
    return MadeSide(
        frames=reader.frames(piece.start, piece.stop),
        tracks=material.masks.masks(piece.start, piece.stop)[kept],
        joints=joints,
        excluded=excluded_pixels(
            regions, reader.source_info, (reader.height, reader.width), range(piece.start, piece.stop), reader.fps
        ),
        caption=source.driving_caption if side == "driving" else source.caption,
        style=style,
    )


def silhouettes(clip: Clip) -> Clip:
    """The same scene with every character a flat grey shape: what drives a replacement pair made of one video."""
    frames = clip.frames.copy()
    frames[clip.region] = SILHOUETTE
    return Clip(frames=frames, tracks=clip.tracks, caption=clip.caption)
