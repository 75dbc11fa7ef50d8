"""Skeleton films of people: what pose-driven workflows take as the driving video."""

from collections.abc import Callable
from enum import StrEnum

import numpy as np

from scail2.errors import InputError
from scail2.perception.segmenters.people.joints import (
    LEFT_ANKLE,
    LEFT_EAR,
    LEFT_ELBOW,
    LEFT_HIP,
    LEFT_KNEE,
    LEFT_SHOULDER,
    LEFT_WRIST,
    NOSE,
    RIGHT_ANKLE,
    RIGHT_EAR,
    RIGHT_ELBOW,
    RIGHT_HIP,
    RIGHT_KNEE,
    RIGHT_SHOULDER,
    RIGHT_WRIST,
    Joints,
)

LEFT_EYE, RIGHT_EYE = 2, 5
_NECK, _PELVIS = "neck", "pelvis"
# Points of the OpenPose skeleton of 18 joints, each with its colour; the neck lies between the shoulders.
_POINTS: tuple[int | str, ...] = (
    NOSE, _NECK, RIGHT_SHOULDER, RIGHT_ELBOW, RIGHT_WRIST, LEFT_SHOULDER, LEFT_ELBOW, LEFT_WRIST, RIGHT_HIP,
    RIGHT_KNEE, RIGHT_ANKLE, LEFT_HIP, LEFT_KNEE, LEFT_ANKLE, RIGHT_EYE, LEFT_EYE, RIGHT_EAR, LEFT_EAR,
)  # fmt: skip
_COLOURS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85),
    (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255),
    (255, 0, 170), (255, 0, 85),
)  # fmt: skip
# Limbs between those points; each has the colour of its own number, at six tenths of its brightness.
_LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
    (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
_LIMB_LIGHT = 0.6
# Of the picture's shorter side: a limb's width.
_LINE = 1 / 80
# Bits of a pixel's fraction that OpenCV draws with.
_SHIFT = 4


class SkeletonStyle(StrEnum):
    """How a skeleton is drawn: as OpenPose does, or as the puppets' poses that the embedded checkpoint knows."""

    OPENPOSE = "openpose"
    PUPPETS = "puppets"


def smoothed(joints: Joints) -> Joints:
    """Places half their own and a quarter of each neighbouring frame's, where the person is there in all three."""
    places = joints.places.copy()
    if places.shape[1] > 2:
        before, here, after = joints.places[:, :-2], joints.places[:, 1:-1], joints.places[:, 2:]
        mixed = 0.25 * before + 0.5 * here + 0.25 * after
        places[:, 1:-1] = np.where(np.isfinite(mixed), mixed, here)
    return Joints(places=places, visibility=joints.visibility)


def draw_skeletons(joints: Joints, style: SkeletonStyle, *, height: int, width: int, frame: int) -> np.ndarray:
    """One frame's skeletons on black, uint8 (H, W, 3). Joints that are hidden or outside the picture are left out."""
    return _DRAWERS[style](joints, height, width, frame)


def _openpose(joints: Joints, height: int, width: int, frame: int) -> np.ndarray:
    import cv2

    picture = np.zeros((height, width, 3), np.uint8)
    line = max(2, round(min(height, width) * _LINE))
    # Whoever is first is the largest and lies in front.
    for person in reversed(range(len(joints.places))):
        points = [_point(joints, person, frame, each) for each in _POINTS]
        for number, (start, end) in enumerate(_LIMBS):
            first, second = points[start], points[end]
            if first is not None and second is not None:
                colour = tuple(round(_LIMB_LIGHT * channel) for channel in _COLOURS[number])
                cv2.line(picture, first, second, colour, line, cv2.LINE_AA, _SHIFT)
        for place, colour in zip(points, _COLOURS, strict=True):
            if place is not None:
                cv2.circle(picture, place, (line << _SHIFT) * 3 // 4, colour, -1, cv2.LINE_AA, _SHIFT)
    return picture


def _point(joints: Joints, person: int, frame: int, point: int | str) -> tuple[int, int] | None:
    """A point's place in sixteenths of a pixel; None where it is not seen."""
    place = _place(joints, person, frame, point)
    return None if place is None else (round(float(place[0]) * (1 << _SHIFT)), round(float(place[1]) * (1 << _SHIFT)))


def _place(joints: Joints, person: int, frame: int, point: int | str) -> np.ndarray | None:
    middles = {_NECK: [LEFT_SHOULDER, RIGHT_SHOULDER], _PELVIS: [LEFT_HIP, RIGHT_HIP]}
    parts = [point] if isinstance(point, int) else middles[point]
    if not joints.seen[person, frame, parts].all():
        return None
    return joints.places[person, frame, parts].mean(axis=0)


# The joints that the puppets' poses are drawn from, where the network has them.
_PUPPET_JOINTS: dict[str, tuple[int, ...]] = {
    "neck": (LEFT_SHOULDER, RIGHT_SHOULDER),
    "pelvis": (LEFT_HIP, RIGHT_HIP),
    "head": (LEFT_EAR, RIGHT_EAR),
    **{f"shoulder_{side}": (joint,) for side, joint in (("left", LEFT_SHOULDER), ("right", RIGHT_SHOULDER))},
    **{f"elbow_{side}": (joint,) for side, joint in (("left", LEFT_ELBOW), ("right", RIGHT_ELBOW))},
    **{f"wrist_{side}": (joint,) for side, joint in (("left", LEFT_WRIST), ("right", RIGHT_WRIST))},
    **{f"hip_{side}": (joint,) for side, joint in (("left", LEFT_HIP), ("right", RIGHT_HIP))},
    **{f"knee_{side}": (joint,) for side, joint in (("left", LEFT_KNEE), ("right", RIGHT_KNEE))},
    **{f"ankle_{side}": (joint,) for side, joint in (("left", LEFT_ANKLE), ("right", RIGHT_ANKLE))},
    "palm_left": (17, 19),
    "palm_right": (18, 20),
    "toe_left": (31,),
    "toe_right": (32,),
}


def puppet_joints(joints: Joints) -> np.ndarray:
    """People's joints as the puppets' poses have them: float (people, T, J, 2) in the order of `JOINT_NAMES`, NaN for hidden."""
    from scail2.puppets.skeleton import JOINT_INDEX

    places = np.full((*joints.places.shape[:2], len(JOINT_INDEX), 2), np.nan)
    for name, parts in _PUPPET_JOINTS.items():
        seen = joints.seen[..., list(parts)].all(axis=-1)
        places[seen, JOINT_INDEX[name]] = joints.places[seen][:, list(parts)].mean(axis=1)
    return places


def _puppets(joints: Joints, height: int, width: int, frame: int) -> np.ndarray:
    from scail2.puppets.pose import render_pose

    here = Joints(places=joints.places[:, frame : frame + 1], visibility=joints.visibility[:, frame : frame + 1])
    return render_pose(puppet_joints(here)[::-1], height=height, width=width, fingers=False)[0]


def skeleton_clip(joints: Joints, style: SkeletonStyle, *, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Every frame's skeletons on black, uint8 (T, H, W, 3), and where each person's is seen, bool (people, T, H, W).

    Later people lie in front.
    """
    people, total = joints.places.shape[:2]
    frames = np.zeros((total, height, width, 3), np.uint8)
    tracks = np.zeros((people, total, height, width), bool)
    for person in range(people):
        only = Joints(places=joints.places[person : person + 1], visibility=joints.visibility[person : person + 1])
        for frame in range(total):
            drawn = draw_skeletons(only, style, height=height, width=width, frame=frame)
            here = drawn.any(axis=-1)
            frames[frame][here] = drawn[here]
            tracks[:person, frame] &= ~here
            tracks[person, frame] = here
    return frames, tracks


_DRAWERS: dict[SkeletonStyle, Callable[[Joints, int, int, int], np.ndarray]] = {
    SkeletonStyle.OPENPOSE: _openpose,
    SkeletonStyle.PUPPETS: _puppets,
}


def check_anybody(joints: Joints, name: str) -> None:
    """Raises InputError where a clip shows nobody."""
    if not len(joints.places):
        raise InputError(f"no person was found in {name}: poses are drawn of people whose body is to be seen.")
