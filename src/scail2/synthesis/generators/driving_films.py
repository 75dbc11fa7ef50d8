"""What pose-driven generators are driven by: a film of the skeleton, one of the face, and what of the scene stays."""

import numpy as np

from scail2.perception.segmenters.people.joints import Joints, find_joints
from scail2.perception.segmenters.people.network import installed
from scail2.perception.segmenters.people.skeleton import SkeletonStyle, draw_skeletons, smoothed
from scail2.synthesis.generators.protocol import Array
from scail2.synthesis.performers import widened
from scail2.video import ArrayFrames
from scail2.video.resize import resize_stretch

# How far a hole in the scene reaches beyond the performer, of the picture's shorter side.
_HOLE_MARGIN = 0.0125


def pose_film(joints: Joints, size: tuple[int, int]) -> Array:
    """Skeletons of the first person as OpenPose draws them, on black, uint8 (T, H, W, 3); the joints smoothed over time."""
    height, width = size
    steady = smoothed(Joints(places=joints.places[:1], visibility=joints.visibility[:1]))
    frames = range(joints.places.shape[1])
    style = SkeletonStyle.OPENPOSE
    return np.stack([draw_skeletons(steady, style, height=height, width=width, frame=frame) for frame in frames])


def face_film(frames: Array, joints: Joints, side: int) -> Array:
    """The first person's face, cut out as a square, uint8 (T, side, side, 3).

    Where the face is not seen its place is that of the nearest frame in which it is; of somebody whose face is never seen,
    all is black, which generators take as no expression at all. What lies beyond the picture is black.

    Args:
        frames: uint8 (T, H, W, 3).
    """
    squares = _face_squares(joints)
    seen = np.flatnonzero(np.isfinite(squares).all(axis=-1))
    film = np.zeros((len(frames), side, side, 3), np.uint8)
    for number, frame in enumerate(frames):
        if len(seen):
            nearest = seen[np.abs(seen - number).argmin()]
            film[number] = _cut(frame, squares[nearest], side)
    return film


def face_close_up(picture: Array, side: int) -> Array | None:
    """The face of the largest person in a picture uint8 (H, W, 3), as a square of that side; None where nobody's is found.

    None, too, without the extra `people`.
    """
    if not installed():
        return None
    joints = find_joints(ArrayFrames(picture[None]))
    if not len(joints.places) or not np.isfinite(joints.face_boxes()[0, 0]).all():
        return None
    return np.asarray(face_film(picture[None], joints, side)[0])


def _face_squares(joints: Joints) -> Array:
    """Middle and half side of the first person's face, float (T, 3); NaN where it is not seen."""
    steady = smoothed(joints)
    boxes = Joints(places=steady.places, visibility=joints.visibility).face_boxes()[0]
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]).max(axis=-1, keepdims=True) / 2
    return np.concatenate([middle, half], axis=-1)


def _cut(frame: Array, square: Array, side: int) -> Array:
    height, width = frame.shape[:2]
    reach = max(1, round(float(square[2])))
    left, top = round(float(square[0])) - reach, round(float(square[1])) - reach
    cut = np.zeros((2 * reach, 2 * reach, 3), np.uint8)
    rows, columns = (slice(max(0, at), max(0, min(at + 2 * reach, end))) for at, end in ((top, height), (left, width)))
    shown = frame[rows, columns]
    if shown.size:
        at_row, at_column = rows.start - top, columns.start - left
        cut[at_row : at_row + shown.shape[0], at_column : at_column + shown.shape[1]] = shown
    return np.asarray(resize_stretch(cut[None], side, side)[0])


def holes(performer: Array, others: Array | None = None) -> Array:
    """Where a new character is to be drawn, bool (T, H, W): each frame's box around the performer, a little wider.

    A box and not the outline, for the new character's body is another; the pixels of others who stand in it are left alone.

    Args:
        performer: bool (T, H, W). others: bool (T, H, W), who is not to be touched.
    """
    margin = max(1, round(_HOLE_MARGIN * min(performer.shape[1:])))
    boxed = np.zeros_like(performer)
    for frame, mask in enumerate(performer):
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        if len(rows):
            row, column = max(0, rows[0] - margin), max(0, columns[0] - margin)
            boxed[frame, row : rows[-1] + 1 + margin, column : columns[-1] + 1 + margin] = True
    if others is None or not others.any():
        return boxed
    return boxed & (widened(performer, margin) | ~others)
