"""Simulated errors of pose estimation.

A generator that is driven by estimated poses makes the estimator's mistakes. `PoseError` names their kinds and strengths; it
is applied to joints (then `render_pose` shows what the estimator saw) or to a motion (then rendering a character with the
distorted motion is a pose-driven generator with a known bias). Everything is a smooth function of time and of a seed.
"""

import math
from dataclasses import dataclass

import numpy as np

from scail2.puppets.motions import Motion
from scail2.puppets.seeds import Draws
from scail2.puppets.skeleton import DIGIT_NAMES, DOF_INDEX, JOINT_INDEX, JOINT_NAMES, SIDES

WAVES = 3
"""Sinusoids in each error curve."""

OWN_SHARE = 0.3
"""Share of a joint's noise that is its own, not its limb's."""

CHAIN_DEPTHS = {
    "shoulder": 0.25,
    "elbow": 0.5,
    "wrist": 0.75,
    "palm": 1.0,
    "hip": 0.2,
    "knee": 0.35,
    "ankle": 0.5,
    "toe": 0.6,
}
"""How far along its limb a joint is: errors grow toward the hands."""

DOF_DEPTHS = {
    "raise": 0.25,
    "swing": 0.25,
    "twist": 0.4,
    "elbow": 0.6,
    "pronate": 0.9,
    "wrist": 0.9,
    "curl": 1.0,
    "spread": 0.8,
}
DOF_DEPTHS |= {"flex": 0.2, "abduct": 0.15, "turn": 0.3, "knee": 0.35, "ankle": 0.4}

LIMB_ENDS = {"arm": ("shoulder", "elbow", "wrist", "palm"), "leg": ("hip", "knee", "ankle", "toe")}


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseError:
    """Strengths of the errors; all zero is a perfect estimator."""

    joint_noise: float = 0.0
    """Standard deviation at the hands, in body heights (an angle of as many body heights over the arm's length)."""
    shoulder_share: float = 0.2
    """Share of the noise that joints of the trunk have; the rest grows along the limb."""
    noise_rate: float = 2.0
    """Cycles a second of the noise."""
    missing_fingers: float = 0.0
    """Chance of each finger to be lost in a clip."""
    swapped_limbs: float = 0.0
    """Share of the time in which left and right of a limb pair are exchanged."""
    lag: float = 0.0
    """Seconds by which the estimate trails."""

    def scaled(self, factor: float) -> "PoseError":
        """All strengths times a factor; chances and shares stay below 1."""
        return PoseError(
            joint_noise=factor * self.joint_noise,
            shoulder_share=self.shoulder_share,
            noise_rate=self.noise_rate,
            missing_fingers=min(1.0, factor * self.missing_fingers),
            swapped_limbs=min(1.0, factor * self.swapped_limbs),
            lag=factor * self.lag,
        )


MILD = PoseError(joint_noise=0.012, missing_fingers=0.1, swapped_limbs=0.01, lag=0.02)
"""A strong estimator."""
STRONG = PoseError(joint_noise=0.045, missing_fingers=0.4, swapped_limbs=0.06, lag=0.08)
"""A weak estimator."""


def _waves(draws: Draws, name: str, times: np.ndarray, rate: float) -> np.ndarray:
    """A smooth random curve (T,) of unit standard deviation."""
    curve = np.zeros(len(times))
    for number in range(WAVES):
        frequency = rate * draws.uniform(f"{name}.frequency{number}", 0.4, 1.6)
        curve += np.sin(2.0 * math.pi * frequency * times + draws.phase(f"{name}.phase{number}"))
    return curve * math.sqrt(2.0 / WAVES)


def _swapped(draws: Draws, limb: str, times: np.ndarray, share: float) -> np.ndarray:
    """Frames (T,) in which the two sides of a limb are exchanged, about `share` of them."""
    if share <= 0.0:
        return np.zeros(len(times), bool)
    if share >= 1.0:
        return np.ones(len(times), bool)
    turns = 2.0 * math.pi * draws.uniform(f"{limb}.swap_frequency", 0.2, 0.6) * times + draws.phase(
        f"{limb}.swap_phase"
    )
    return np.cos(turns) > math.cos(math.pi * share)


def corrupt_joints(joints: np.ndarray, error: PoseError, seed: int, *, fps: float, body_pixels: float) -> np.ndarray:
    """What an estimator with these errors would report.

    `joints` (S, T, J, 2) pixels; `body_pixels` is the height of a body in pixels. Returns float32 of the same shape; lost
    fingers are NaN. The lag holds the first frame.
    """
    frames = joints.shape[1]
    times = np.arange(frames) / fps
    result = np.empty(joints.shape, np.float32)
    for number, points in enumerate(joints):
        draws = Draws(seed, f"pose_error/{number}/")
        estimate = _delayed(points.astype(float), error.lag * fps)
        _swap_joints(estimate, draws, times, error.swapped_limbs)
        estimate += body_pixels * error.joint_noise * _joint_noise(draws, times, error)
        for name in _lost_fingers(draws, error.missing_fingers):
            estimate[:, [JOINT_INDEX[name.replace("*", bone)] for bone in ("knuckle", "middle", "tip")]] = np.nan
        result[number] = estimate
    return result


def _joint_noise(draws: Draws, times: np.ndarray, error: PoseError) -> np.ndarray:
    """Noise (T, J, 2) of unit size at the hands: mostly common to a limb, so that hands move as a whole, growing along it."""
    noise = np.zeros((len(times), len(JOINT_NAMES), 2))
    limbs: dict[str, np.ndarray] = {}
    for joint, name in enumerate(JOINT_NAMES):
        limb = _limb_of(name)
        for axis in range(2):
            key = f"{limb}.{axis}"
            if key not in limbs:
                limbs[key] = _waves(draws, key, times, error.noise_rate)
            own = _waves(draws, f"{name}.{axis}", times, error.noise_rate)
            noise[:, joint, axis] = (1.0 - OWN_SHARE) * limbs[key] + OWN_SHARE * own
        noise[:, joint] *= error.shoulder_share + (1.0 - error.shoulder_share) * _joint_depth(name)
    return noise


def _limb_of(name: str) -> str:
    stem, _, _ = name.partition("_")
    side = name.rsplit("_", 1)[-1]
    if side not in SIDES:
        return "trunk"
    return f"leg_{side}" if stem in LIMB_ENDS["leg"] else f"arm_{side}"


def _delayed(points: np.ndarray, frames: float) -> np.ndarray:
    """The curve `frames` (a fraction is interpolated) later, starting with its first value held."""
    positions = np.maximum(np.arange(len(points)) - frames, 0.0)
    low = np.floor(positions).astype(int)
    high = np.minimum(low + 1, len(points) - 1)
    share = (positions - low)[:, None, None]
    return (1.0 - share) * points[low] + share * points[high]


def _joint_depth(name: str) -> float:
    stem = name.split("_")[0]
    return 1.0 if stem in DIGIT_NAMES else CHAIN_DEPTHS.get(stem, 0.0)


def _swap_joints(points: np.ndarray, draws: Draws, times: np.ndarray, share: float) -> None:
    for limb, stems in LIMB_ENDS.items():
        frames = _swapped(draws, limb, times, share)
        names = list(stems)
        if limb == "arm":
            names += [f"{digit}_{bone}" for digit in DIGIT_NAMES for bone in ("knuckle", "middle", "tip")]
        left = [JOINT_INDEX[f"{name}_left"] for name in names]
        right = [JOINT_INDEX[f"{name}_right"] for name in names]
        rows = np.flatnonzero(frames)[:, None]
        points[rows, left + right] = points[rows, right + left]


def _lost_fingers(draws: Draws, chance: float) -> list[str]:
    """Joint names with "*" for the bone of the fingers that are lost."""
    return [
        f"{digit}_*_{side}" for side in SIDES for digit in DIGIT_NAMES if draws.chance(f"lost.{digit}.{side}", chance)
    ]


@dataclass(frozen=True, slots=True, eq=False)
class DistortedMotion:
    """A motion as a pose-driven generator would repeat it: `angles` like Motion, with the estimator's errors."""

    motion: "Motion | DistortedMotion"
    error: PoseError
    seed: int

    @property
    def plant(self) -> float:
        """As the motion's."""
        return self.motion.plant

    @property
    def seat(self) -> float:
        """As the motion's."""
        return self.motion.seat

    @property
    def program(self) -> str:
        """As the motion's."""
        return self.motion.program

    def angles(self, times: np.ndarray) -> np.ndarray:
        """Values (T, D) at `times` (T,) seconds, in the order of DOF_NAMES."""
        error, draws = self.error, Draws(self.seed, "pose_error/")
        values = self.motion.angles(times - error.lag)
        for limb, names in (("arm", ARM_COLUMNS), ("leg", LEG_COLUMNS)):
            frames = np.flatnonzero(_swapped(draws, limb, times, error.swapped_limbs))[:, None]
            values[frames, names[0] + names[1]] = values[frames, names[1] + names[0]]
        for stem, depth in DOF_DEPTHS.items():
            size = error.joint_noise / ARM_LENGTH * (error.shoulder_share + (1.0 - error.shoulder_share) * depth)
            for side in SIDES:
                values[:, DOF_INDEX[f"{stem}_{side}"]] += size * _waves(
                    draws, f"{stem}_{side}", times, error.noise_rate
                )
        for name in _lost_fingers(draws, error.missing_fingers):
            digit, _, side = name.split("_")
            # A generator that is told of no finger draws a closed one.
            values[:, DOF_INDEX[f"curl_{digit}_{side}"]] += 1.6
        return values


ARM_LENGTH = 0.35
"""Length of the middle arm in body heights: turns distances at the hand into angles."""


def _columns(stems: tuple[str, ...]) -> tuple[list[int], list[int]]:
    left, right = ([DOF_INDEX[f"{stem}_{side}"] for stem in stems] for side in SIDES)
    return left, right


ARM_COLUMNS = _columns(
    (
        "raise",
        "swing",
        "twist",
        "elbow",
        "pronate",
        "wrist",
        "curl",
        "spread",
        *(f"curl_{digit}" for digit in DIGIT_NAMES),
    )
)
LEG_COLUMNS = _columns(("flex", "abduct", "turn", "knee", "ankle"))
