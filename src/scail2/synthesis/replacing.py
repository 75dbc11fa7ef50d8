"""Replacing performers one after the other: each generated clip is the motion that the next replacement starts from."""

import dataclasses

import numpy as np

from scail2.data.pairs import paint_tracks, unpaint_tracks
from scail2.errors import InputError
from scail2.masks import BINDING_SLOTS, paint_mask, slots_shown
from scail2.synthesis.generators.protocol import Array, Character, Clip, Motion
from scail2.synthesis.generators.puppet_world import take_replaced

_DRAWN = "puppet:"


def performers_of(motion: Motion) -> Array:
    """The motion's performers, bool (S, T, H, W), in the order of their slots.

    Raises:
        InputError: it comes without masks.
    """
    if motion.masks is None:
        raise InputError(f"{motion.name} comes without masks: a performer that is to be replaced has to be known.")
    shown = slots_shown(motion.masks)
    count = max((number for number, slot in enumerate(BINDING_SLOTS, 1) if slot in shown), default=1)
    return unpaint_tracks(motion.masks, count)


def one_performer(motion: Motion, performer: int) -> Array:
    """The mask of one performer in its slot's colour on black, uint8 (T, H, W, 3)."""
    tracks = performers_of(motion)
    return paint_mask(tracks[performer : performer + 1], [list(BINDING_SLOTS)[performer]], "black")


def replaced_motion(motion: Motion, performer: int, character: Character, frames: np.ndarray) -> Motion:
    """The motion after a performer was replaced: the new frames; the others are where they were.

    Of a drawn motion everything about it is known again. Elsewhere the mask of whoever was replaced is that of the one who
    was there, which is all that the next replacement needs of it.
    """
    clip = Clip(frames=frames, fps=motion.clip.fps)
    if motion.source.startswith(_DRAWN) and character.source.startswith(_DRAWN):
        return take_replaced(motion, performer, character, clip)
    return dataclasses.replace(motion, clip=clip, masks=paint_tracks(performers_of(motion)))
