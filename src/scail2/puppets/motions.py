"""What a puppet does: joint angle curves that fit every body."""

import math
from dataclasses import dataclass

import numpy as np

from scail2.puppets.domain import PuppetDomain
from scail2.puppets.seeds import Draws
from scail2.puppets.skeleton import DOF_INDEX, DOF_NAMES, SIDES

HARMONICS = 3

# Comfortable limits in degrees; curves are bent softly toward them, never clipped.
LIMITS = {
    "elbow": (0.0, 150.0),
    "knee": (0.0, 140.0),
    "raise": (-20.0, 172.0),
    "curl": (0.0, 95.0),
    "spread": (-4.0, 24.0),
}


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """Angles (and root trajectory in body heights) as sums of sinusoids, one row for each name in DOF_NAMES.

    angle(t) = mean + rate t + sum over k of amplitude[k] sin(2 pi frequency[k] t + phase[k]), t in seconds, radians.
    The body that performs it does not enter: one motion on two characters is exactly one motion.
    """

    seed: int
    program: str
    mean: np.ndarray
    """(D,)"""
    amplitude: np.ndarray
    """(D, HARMONICS)"""
    frequency: np.ndarray
    """(D, HARMONICS) in cycles a second."""
    phase: np.ndarray
    """(D, HARMONICS)"""
    rate: np.ndarray
    """(D,) steady change a second, for spins."""
    plant: float
    """0: the pelvis follows the path, 1: the middle of the feet does."""

    seat: float = 0.0
    """Width of the stool the character sits on, in body heights; 0 for none."""

    def angles(self, times: np.ndarray) -> np.ndarray:
        """Values (T, D) at `times` (T,) in seconds, in the order of DOF_NAMES."""
        turns = 2.0 * math.pi * self.frequency * times[:, None, None] + self.phase
        values = self.mean + (self.amplitude * np.sin(turns)).sum(axis=-1) + self.rate * times[:, None]
        for column, (low, high) in LIMIT_COLUMNS:
            values[:, column] = _bend(values[:, column], low, high)
        return values


LIMIT_COLUMNS = tuple(
    (DOF_INDEX[f"{name}_{side}"], (math.radians(low), math.radians(high)))
    for name, (low, high) in LIMITS.items()
    for side in SIDES
)


def _bend(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Soft limits: identity in the middle, approaching the ends smoothly."""
    softness = 0.06
    values = low + softness * np.logaddexp(0.0, (values - low) / softness)
    return high - softness * np.logaddexp(0.0, (high - values) / softness)


class MotionBuilder:
    """Collects curves by name, in degrees (sway, lift and advance in body heights)."""

    def __init__(self, draws: Draws, domain: PuppetDomain):
        self.draws = draws
        self.domain = domain
        self.frequency = draws.uniform("speed", *domain.speed)
        self.phase = draws.phase("phase")
        self.plant = 0.5
        shape = (len(DOF_NAMES), HARMONICS)
        self.seat = 0.0
        self._mean, self._rate = np.zeros(len(DOF_NAMES)), np.zeros(len(DOF_NAMES))
        self._amplitude, self._phase = np.zeros(shape), np.zeros(shape)
        self._frequency = np.ones(shape) * self.frequency
        self._used = np.zeros(len(DOF_NAMES), dtype=int)

    def hold(self, name: str, value: float) -> None:
        """Sets the middle value of a curve."""
        self._mean[DOF_INDEX[name]] = value

    def slow_down(self, factor: float) -> None:
        """Multiplies the base frequency of the curves that are added from now on."""
        self.frequency *= factor

    def drift(self, name: str, rate: float) -> None:
        """Sets the steady change a second."""
        self._rate[DOF_INDEX[name]] = rate

    def add(self, name: str, amplitude: float, *, phase: float = 0.0, harmonic: float = 1.0) -> None:
        """Adds amplitude * sin(harmonic * base turn + phase); `phase` in radians is relative to the motion's own."""
        row = DOF_INDEX[name]
        slot = self._used[row]
        self._used[row] += 1
        self._amplitude[row, slot] = amplitude
        self._phase[row, slot] = harmonic * self.phase + phase
        self._frequency[row, slot] = harmonic * self.frequency

    def between(self, name: str, first: float, second: float, *, phase: float = 0.0, harmonic: float = 1.0) -> None:
        """Swings between two values."""
        self.hold(name, 0.5 * (first + second))
        self.add(name, 0.5 * (first - second), phase=phase, harmonic=harmonic)

    def build(self, seed: int, program: str) -> Motion:
        """The finished motion."""
        metric = np.array([DOF_INDEX[name] for name in ("sway", "lift", "advance")])
        scale = np.full(len(DOF_NAMES), math.pi / 180.0)
        scale[metric] = 1.0
        return Motion(
            seed=seed,
            program=program,
            mean=self._mean * scale,
            amplitude=self._amplitude * scale[:, None],
            frequency=self._frequency,
            phase=self._phase,
            rate=self._rate * scale,
            plant=self.plant,
            seat=self.seat,
        )
