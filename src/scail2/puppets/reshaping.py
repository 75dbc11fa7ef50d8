"""Other bodies for a pose: limbs longer or shorter, joint by joint in the picture, the feet where they were."""

import itertools

import numpy as np

from scail2.errors import InputError
from scail2.puppets.skeleton import DIGIT_NAMES, JOINT_INDEX, SIDES

# Joint -> (the joint it hangs on, the limb between them). Left and right share a limb: bodies stay symmetric.
_HANGS_ON: dict[str, tuple[str, str]] = {
    "chest": ("pelvis", "trunk"),
    "neck": ("chest", "trunk"),
    "head": ("neck", "head"),
    "head_top": ("head", "head"),
}
for _side in SIDES:
    _chain = ("neck", "shoulder", "elbow", "wrist", "palm"), ("pelvis", "hip", "knee", "ankle", "toe")
    for _names in _chain:
        for _parent, _child in itertools.pairwise(_names):
            _root = _parent in ("neck", "pelvis")
            _limb = "hand" if _child == "palm" else _child
            _HANGS_ON[f"{_child}_{_side}"] = (_parent if _root else f"{_parent}_{_side}", _limb)
    for _digit in DIGIT_NAMES:
        _HANGS_ON[f"{_digit}_knuckle_{_side}"] = (f"wrist_{_side}", "hand")
        _HANGS_ON[f"{_digit}_middle_{_side}"] = (f"{_digit}_knuckle_{_side}", "hand")
        _HANGS_ON[f"{_digit}_tip_{_side}"] = (f"{_digit}_middle_{_side}", "hand")

LIMBS = tuple(dict.fromkeys(limb for _, limb in _HANGS_ON.values()))
"""What has a length of its own; a limb is named after the joint at its end."""

_ON_THE_GROUND = [JOINT_INDEX[f"{joint}_{side}"] for joint in ("ankle", "toe") for side in SIDES]


def reshape_skeleton(joints: np.ndarray, generator: np.random.Generator, largest: float) -> np.ndarray:
    """The poses of another body.

    Each of `LIMBS` is scaled by its own factor between e^-largest and e^largest, the same in all frames. The pelvis keeps its
    column, and in every frame the lowest joint of the feet its row. `joints` (T, J, 2) pixels, NaN where unknown; returns
    float32 of the same shape. Raises InputError for another number of joints.
    """
    if joints.ndim != 3 or joints.shape[1:] != (len(JOINT_INDEX), 2):
        raise InputError(f"Pose joints have the shape {joints.shape}: expected (T, {len(JOINT_INDEX)}, 2).")
    factors = dict(zip(LIMBS, np.exp(generator.uniform(-largest, largest, len(LIMBS))), strict=True))
    before = joints.astype(float)
    after = before.copy()
    for name, (parent, limb) in _HANGS_ON.items():
        child, root = JOINT_INDEX[name], JOINT_INDEX[parent]
        after[:, child] = after[:, root] + factors[limb] * (before[:, child] - before[:, root])
    after[..., 1] += (_lowest(before) - _lowest(after))[:, None]
    return after.astype(np.float32)


def _lowest(joints: np.ndarray) -> np.ndarray:
    """Row (T,) of the lowest known joint of the feet, 0 where none is known."""
    rows = joints[:, _ON_THE_GROUND, 1]
    return np.where(np.isfinite(rows).any(axis=1), np.nanmax(np.where(np.isfinite(rows), rows, -np.inf), axis=1), 0.0)
