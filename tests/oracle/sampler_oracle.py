"""The published schedules and solvers restated in float64, from their papers and formulas. Imports nothing of scail2.

UniPC (arXiv 2302.04867) in its B2 form, order 2, predictor and corrector; DPM-Solver++(2M) (arXiv 2211.01095), midpoint;
both on x0 = x - sigma v, with alpha = 1 - sigma and lambda = log(alpha / sigma), falling to order 1 for the last step.
"""

import math
from collections.abc import Callable

import numpy as np

Velocity = Callable[[np.ndarray, float], np.ndarray]


def schedule(solver: str, steps: int, shift: float) -> tuple[list[float], list[float]]:
    """Noise levels (``steps + 1``, the last one 0) and the timesteps they go by."""
    top = {"unipc": float(np.float32(0.999)), "dpm++": 1.0, "euler": 1.0}[solver]
    even = np.linspace(top, 0, steps + 1)[:steps]
    levels = [shift * level / (1 + (shift - 1) * level) for level in even.tolist()]
    times = [1000 * level for level in levels]
    return [*levels, 0.0], times if solver == "euler" else [float(int(time)) for time in times]


def _half_log_snr(sigma: float) -> float:
    if sigma in (0.0, 1.0):
        return math.inf if sigma == 0.0 else -math.inf
    return math.log(1 - sigma) - math.log(sigma)


def _first_order(x: np.ndarray, x0: np.ndarray, sigma: float, target: float) -> tuple[np.ndarray, float]:
    """The exact step for a constant x0, and the weight that higher orders give to its change."""
    h = _half_log_snr(target) - _half_log_snr(sigma)
    weight = (1 - target) * -math.expm1(-h)
    return target / sigma * x + weight * x0, weight


def sample(solver: str, steps: int, shift: float, x: np.ndarray, velocity: Velocity) -> np.ndarray:
    """What ``x`` at the first noise level becomes at 0 under ``velocity(x, timestep)``."""
    levels, times = schedule(solver, steps, shift)
    walk = {"unipc": _unipc, "dpm++": _dpmpp, "euler": _euler}[solver]
    return walk(levels, times, x.astype(np.float64), velocity)


def _euler(levels: list[float], times: list[float], x: np.ndarray, velocity: Velocity) -> np.ndarray:
    for here, there, time in zip(levels, levels[1:], times, strict=False):
        x = x + (there - here) * velocity(x, time)
    return x


def _dpmpp(levels: list[float], times: list[float], x: np.ndarray, velocity: Velocity) -> np.ndarray:
    previous = None
    for i, time in enumerate(times):
        here, there = levels[i], levels[i + 1]
        x0 = x - here * velocity(x, time)
        x, weight = _first_order(x, x0, here, there)
        if previous is not None and i < len(times) - 1:
            h = _half_log_snr(there) - _half_log_snr(here)
            ratio = (_half_log_snr(here) - _half_log_snr(levels[i - 1])) / h
            x = x + weight / 2 * (x0 - previous) / ratio
        previous = x0
    return x


def _unipc(levels: list[float], times: list[float], x: np.ndarray, velocity: Velocity) -> np.ndarray:
    known: list[np.ndarray] = []  # x0 at each level so far
    start, order = x, 0  # where the last step set out from, and its order
    for i, time in enumerate(times):
        x0 = x - levels[i] * velocity(x, time)
        if i:
            x = _corrected(levels, i, start, [*known, x0], order)
        known.append(x0)
        start, order = x, 1 if i in (0, len(times) - 1) else 2
        x, weight = _first_order(start, x0, levels[i], levels[i + 1])
        if order == 2:
            x = x + weight / 2 * (known[i - 1] - x0) / _ratio(levels, i)
    return x


def _ratio(levels: list[float], i: int) -> float:
    """How far back level ``i - 1`` lies from level ``i``, in units of the step from ``i`` to ``i + 1``."""
    h = _half_log_snr(levels[i + 1]) - _half_log_snr(levels[i])
    return (_half_log_snr(levels[i - 1]) - _half_log_snr(levels[i])) / h


def _corrected(levels: list[float], i: int, start: np.ndarray, known: list[np.ndarray], order: int) -> np.ndarray:
    """The step from ``i - 1`` to ``i`` again, now that x0 is known at its end."""
    base, weight = _first_order(start, known[i - 1], levels[i - 1], levels[i])
    change = known[i] - known[i - 1]
    if order == 1:
        return base + weight / 2 * change
    hh = _half_log_snr(levels[i - 1]) - _half_log_snr(levels[i])
    first = math.expm1(hh) / hh - 1
    right = np.array([first, 2 * (first / hh - 0.5)]) / math.expm1(hh)
    ratio = _ratio(levels, i - 1)
    old, new = np.linalg.solve(np.array([[1.0, 1.0], [ratio, 1.0]]), right)
    return base + weight * (old * (known[i - 2] - known[i - 1]) / ratio + new * change)
