"""Skeleton pictures: what a pose estimator would hand to a pose-driven generator."""

import numpy as np
import skia

from scail2.errors import InputError
from scail2.puppets.characters import Color
from scail2.puppets.drawing import Pen
from scail2.puppets.skeleton import DIGIT_NAMES, JOINT_INDEX

TRUNK: Color = (255, 255, 255)
HEAD: Color = (255, 236, 20)

BONES: tuple[tuple[str, str, Color], ...] = (
    ("neck", "pelvis", TRUNK),
    ("shoulder_left", "shoulder_right", TRUNK),
    ("hip_left", "hip_right", TRUNK),
    ("neck", "head", TRUNK),
    ("shoulder_right", "elbow_right", (255, 96, 20)),
    ("elbow_right", "wrist_right", (255, 176, 20)),
    ("wrist_right", "palm_right", (255, 214, 90)),
    ("shoulder_left", "elbow_left", (20, 224, 110)),
    ("elbow_left", "wrist_left", (20, 200, 230)),
    ("wrist_left", "palm_left", (130, 220, 255)),
    ("hip_right", "knee_right", (255, 20, 200)),
    ("knee_right", "ankle_right", (216, 20, 255)),
    ("ankle_right", "toe_right", (255, 120, 230)),
    ("hip_left", "knee_left", (120, 40, 255)),
    ("knee_left", "ankle_left", (60, 60, 255)),
    ("ankle_left", "toe_left", (120, 140, 255)),
)
"""Left and right limbs never share a colour: a picture says which is which."""

FINGER_COLORS: tuple[Color, ...] = ((255, 90, 90), (255, 200, 90), (150, 255, 110), (110, 220, 255), (190, 140, 255))

LINE_SHARE = 0.05
"""Line width of a bone as a fraction of the height of the skeleton."""


def render_pose(
    joints: np.ndarray, *, height: int, width: int, visible: np.ndarray | None = None, fingers: bool = True
) -> np.ndarray:
    """Draws skeletons on black.

    `joints` (S, T, J, 2) pixels in the order of JOINT_NAMES; a joint that is NaN, or False in `visible` (S, T, J) bool, is
    missing and its bones are not drawn. Returns uint8 (T, H, W, 3) RGB; later characters are drawn over earlier ones.
    Raises InputError if the shapes do not fit.
    """
    if joints.ndim != 4 or joints.shape[2:] != (len(JOINT_INDEX), 2):
        raise InputError(f"Pose joints have the shape {joints.shape}: expected (S, T, {len(JOINT_INDEX)}, 2).")
    if visible is not None and visible.shape != joints.shape[:3]:
        raise InputError(f"The visibility has the shape {visible.shape}: expected {joints.shape[:3]} like the joints.")
    known = np.isfinite(joints).all(axis=-1)
    if visible is not None:
        known &= visible
    frames = joints.shape[1]
    pixels = np.zeros((frames, height, width, 4), np.uint8)
    ignored = np.zeros((height, width), np.uint8)
    sizes = _skeleton_sizes(joints, known)
    for frame in range(frames):
        pen = Pen(pixels[frame], ignored)
        pen.colors.clear(skia.ColorBLACK)
        for number in range(len(joints)):
            _draw_skeleton(pen, joints[number, frame], known[number, frame], sizes[number], fingers)
    return np.ascontiguousarray(pixels[..., :3])


def draw_poses(joints: np.ndarray, *, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Skeletons of all characters, later ones in front, and where each is seen; `joints` as in `render_pose`.

    Returns uint8 (T, H, W, 3) RGB on black and bool (S, T, H, W).
    """
    frames = np.zeros((joints.shape[1], height, width, 3), np.uint8)
    tracks = np.zeros((len(joints), *frames.shape[:3]), bool)
    for number in range(len(joints)):
        alone = render_pose(joints[number : number + 1], height=height, width=width)
        drawn = alone.any(axis=-1)
        tracks[:number] &= ~drawn
        tracks[number] = drawn
        frames[drawn] = alone[drawn]
    return frames, tracks


def _skeleton_sizes(joints: np.ndarray, known: np.ndarray) -> list[float]:
    """Height in pixels of each skeleton: head to pelvis and both leg bones, the median over its frames."""
    sizes = []
    for points, seen in zip(joints.astype(float), known, strict=True):
        length = np.zeros(len(points))
        for first, second in (("head", "pelvis"), ("hip_left", "knee_left"), ("knee_left", "ankle_left")):
            ends = [JOINT_INDEX[first], JOINT_INDEX[second]]
            bone = np.linalg.norm(points[:, ends[0]] - points[:, ends[1]], axis=-1)
            length += np.where(seen[:, ends].all(axis=-1), bone, 0.0)
        sizes.append(float(np.median(length)))
    return sizes


def _draw_skeleton(pen: Pen, points: np.ndarray, known: np.ndarray, size: float, fingers: bool) -> None:
    line = max(1.0, LINE_SHARE * size)
    if fingers:
        _draw_fingers(pen, points, known, max(0.7, 0.35 * line))
    for first, second, color in BONES:
        start, end = JOINT_INDEX[first], JOINT_INDEX[second]
        if known[start] and known[end]:
            pen.line(tuple(points[start].tolist()), tuple(points[end].tolist()), line, color)
    head = JOINT_INDEX["head"]
    if known[head]:
        pen.oval(tuple(points[head].tolist()), 1.6 * line, 1.6 * line, HEAD)


def _draw_fingers(pen: Pen, points: np.ndarray, known: np.ndarray, line: float) -> None:
    for side in ("left", "right"):
        for digit, color in zip(DIGIT_NAMES, FINGER_COLORS, strict=True):
            chain = [JOINT_INDEX[f"wrist_{side}"]]
            chain += [JOINT_INDEX[f"{digit}_{bone}_{side}"] for bone in ("knuckle", "middle", "tip")]
            if known[chain].all():
                pen.polyline([tuple(points[joint].tolist()) for joint in chain], line, color)
