"""From an accepted state to a motion pair as shards hold it."""

import dataclasses

import numpy as np

from scail2 import puppets
from scail2.data import pairs
from scail2.data.pairs import MotionPair
from scail2.errors import InputError
from scail2.synthesis.generators.protocol import Array, Generator
from scail2.synthesis.generators.puppets import PuppetGenerator
from scail2.synthesis.loop import Job, PairLoop
from scail2.synthesis.machine import State
from scail2.synthesis.performers import found
from scail2.synthesis.roles.protocol import Made


def assembled(loop: PairLoop, job: Job, state: State) -> MotionPair:
    """The pair: ỹ with its own masks, y as the pool has it, and where both are from. A pose pair is y alone, with its pose.

    Raises:
        InputError: those who perform in the generated clip are not found there.
    """
    drawn = loop.pool_motion(state)
    real = dataclasses.replace(drawn.real, caption=state.captions[0])
    meta = {**drawn.meta, "source": "synthesis", "motion": state.motion, "number": job.number, "seed": loop.bench.seed}
    if not state.replaced:
        return MotionPair(synthetic=real, real=real, construction=state.kind, meta={**meta, "made": "pose"})
    made, generator = loop.made(state), loop.bench.generators[state.kind.mode]
    synthetic = dataclasses.replace(_annotated(made, generator, real), caption=state.captions[1])
    characters = {each.character: loop.bench.characters.meta(each.character) for each in state.replaced}
    meta |= {"made": "generated", "generator": generator.facts.name, "characters": characters}
    if made.replaces:
        meta["replaced"] = list(state.order)
    return MotionPair(synthetic=synthetic, real=real, construction=state.kind, meta=meta)


def _annotated(made: Made, generator: Generator, real: pairs.Clip) -> pairs.Clip:
    """The generated clip with what is known of a drawn one, and with whoever is found in any other."""
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
