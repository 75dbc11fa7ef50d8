"""What is known of a generated clip beside its pixels: everything of a drawn one; of any other, whoever is found in it."""

import numpy as np

from scail2 import puppets
from scail2.data import pairs
from scail2.errors import InputError
from scail2.synthesis.generators.protocol import Array, Generator
from scail2.synthesis.generators.puppets import PuppetGenerator
from scail2.synthesis.performers import found
from scail2.synthesis.roles.protocol import Made


def annotated(made: Made, generator: Generator, real: pairs.Clip) -> pairs.Clip:
    """The generated clip with its characters, in the order of the motion's performers.

    Args:
        real: the motion's clip.

    Raises:
        InputError: fewer are found than performed.
    """
    if not isinstance(generator, PuppetGenerator):
        tracks = in_order(found(made.clip.frames), real.tracks, made.motion.name)
        return pairs.Clip(frames=made.clip.frames, tracks=tracks)
    shot = generator.shot(made.character, made.motion, made.mode, made.masks, made.seed)
    height, width = made.clip.size
    pose, pose_tracks = (None, None)
    if real.pose is not None:
        pose, pose_tracks = puppets.draw_poses(shot.joints, height=height, width=width)
    return pairs.Clip(
        frames=made.clip.frames, tracks=shot.masks, parts=shot.parts, hand_boxes=shot.hand_boxes, pose=pose,
        pose_tracks=pose_tracks, pose_joints=None if pose is None else shot.joints,
    )  # fmt: skip


def in_order(tracks: Array, like: Array, name: str) -> Array:
    """Characters found in a clip, bool (N, T, H, W), as many and in the order of the motion's performers (S, T, H, W).

    Raises:
        InputError: fewer are found than performed.
    """
    tracks = tracks[tracks.any(axis=(1, 2, 3))]
    if len(tracks) < len(like):
        raise InputError(f"Of {len(like)} performers of {name}, {len(tracks)} are found in the generated clip.")
    common = np.array([[np.count_nonzero(one & other) for other in tracks] for one in like])
    order = np.full(len(like), -1)
    for _ in like:  # the surest first
        performer, place = np.unravel_index(common.argmax(), common.shape)
        order[performer] = place
        common[performer], common[:, place] = -1, -1
    return tracks[order]
