"""Who is in a clip, where, and in which pose: as it came with the clip, else found in it."""

import numpy as np

from scail2.errors import InputError
from scail2.masks import BindingSlot, split_mask
from scail2.perception.segmenters.automatic import AutomaticSegmenter
from scail2.perception.segmenters.people.joints import Joints, find_joints
from scail2.perception.segmenters.people.network import installed
from scail2.synthesis.generators.protocol import Array, Character, Motion
from scail2.video import ArrayFrames


def marked(mask: Array) -> dict[BindingSlot, Array]:
    """Where each colour of a palette mask uint8 (..., 3) is, bool (...), of those that it shows."""
    return {slot: region for slot, region in split_mask(mask).items() if region.any()}


def found(frames: Array) -> Array:
    """The characters of frames uint8 (T, H, W, 3), bool (S, T, H, W): drawn puppets, people, or whoever stands before one colour.

    Raises:
        InputError: no segmenter here knows what they show.
    """
    return AutomaticSegmenter().segment(ArrayFrames(frames)).masks(0, len(frames))


def found_again(frames: Array, driving: Array) -> Array:
    """The characters of a clip that was made of another, by the segmenter that knows the driving one; nobody where it is lost.

    Raises:
        InputError: no segmenter here knows what the driving clip shows.
    """
    segmenter = AutomaticSegmenter(accept=True).choose(ArrayFrames(driving))
    try:
        return segmenter.segment(ArrayFrames(frames)).masks(0, len(frames))
    except InputError:  # it knows such clips and finds nobody in this one
        return np.zeros((0, *frames.shape[:3]), bool)


def performers(motion: Motion, masks: Array | None) -> dict[BindingSlot, Array]:
    """Those whom a character stands in for, bool (T, H, W) by slot: of the masks given, else all of the motion's.

    Raises:
        InputError: the masks show nobody, or there are none and nobody is found.
    """
    given = motion.masks if masks is None else masks
    if given is not None:
        shown = marked(given)
        if not shown:
            raise InputError(f"The masks of {motion.name} show nobody: none of the six slot colours occurs in them.")
        return shown
    return _in_slots(found(motion.clip.frames), motion.name)


def pictured(character: Character) -> dict[BindingSlot, Array]:
    """Where a character is in its picture, bool (H, W) by slot; errors as for `performers`."""
    if character.mask is not None:
        shown = marked(character.mask)
        if not shown:
            raise InputError(f"The mask of {character.name} shows nobody: none of the six slot colours occurs in it.")
        return shown
    return _in_slots(found(character.image[None])[:, 0], character.name)


def _in_slots(tracks: Array, name: str) -> dict[BindingSlot, Array]:
    slots = list(BindingSlot)
    if not tracks.any():
        raise InputError(f"Nobody was found in {name}: give its masks.")
    shown = [track for track in tracks if track.any()]
    if len(shown) > len(slots):
        raise InputError(f"{len(shown)} characters were found in {name}; masks have {len(slots)} colours.")
    return dict(zip(slots, shown, strict=False))


def poses(motion: Motion) -> Joints:
    """The joints of a motion, the largest person first: those that came with it, else found.

    Raises:
        InputError: there are none and the extra `people` is absent, or it finds nobody.
    """
    if motion.joints is not None:
        return motion.joints
    if not installed():
        raise InputError(
            f"{motion.name} comes without joints, and finding them needs the extra `people`: pip install 'scail2[people]'."
        )
    joints = find_joints(ArrayFrames(motion.clip.frames))
    if not len(joints.places):
        raise InputError(f"No person was found in {motion.name}: this generator is driven by the poses of people.")
    return joints


def person(joints: Joints, region: Array) -> Joints:
    """The one person whom a masked region bool (T, H, W) shows: of whom most visible joints lie in it."""
    frames, height, width = region.shape
    places = np.nan_to_num(joints.places, nan=-1.0)
    column, row = np.floor(places[..., 0]).astype(int), np.floor(places[..., 1]).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & joints.seen
    hit = region[np.arange(frames)[:, None], row.clip(0, height - 1), column.clip(0, width - 1)] & inside
    chosen = int(hit.sum(axis=(1, 2)).argmax())
    return Joints(places=joints.places[chosen : chosen + 1], visibility=joints.visibility[chosen : chosen + 1])


def widened(mask: Array, pixels: int) -> Array:
    """A mask bool (T, H, W) and every pixel within so many of it, diagonals included."""
    import torch
    from torch.nn import functional

    planes = torch.from_numpy(mask)[:, None].float()
    return functional.max_pool2d(planes, 2 * pixels + 1, 1, pixels)[:, 0].numpy() > 0
