"""Bias-Aware DPO's loss restated in NumPy's float64, straight from its formulas; no torch, nothing of the package.

v = noise − x0,  Δ(x0) = ‖M(v_θ − v)‖² − ‖M(v_ref − v)‖²,  z = −β/2 (Δ⁺ − Δ⁻),  L = ‖v_θ⁺ − v⁺‖² + λ (−log σ(z))
"""

import numpy as np


def dpo_loss(
    videos: dict[str, np.ndarray],
    noise: np.ndarray,
    policy: dict[str, np.ndarray],
    reference: dict[str, np.ndarray],
    mask: np.ndarray,
    *,
    beta: float,
    weight: float,
    mean_over: str = "region",
) -> dict[str, float]:
    """The loss and its parts for one batch; arrays (B, C, T, h, w), mask (B, 1, T, h, w), dictionaries over "+" and "-".

    ``mean_over``: "region" divides squared norms by C times the sum of the mask, "all" by the number of elements, "sum" by one.
    """
    videos, policy, reference = ({k: v.astype(np.float64) for k, v in d.items()} for d in (videos, policy, reference))
    noise, mask = noise.astype(np.float64), mask.astype(np.float64)
    samples, channels = noise.shape[:2]

    def squared_norm(velocity: np.ndarray, video: np.ndarray) -> np.ndarray:
        found = []
        for n in range(samples):
            total = (mask[n] * (velocity[n] - (noise[n] - video[n])) ** 2).sum()
            divisor = {"region": channels * mask[n].sum(), "all": float(noise[n].size), "sum": 1.0}[mean_over]
            found.append(total / divisor if divisor else 0.0)
        return np.array(found)

    delta = {k: squared_norm(policy[k], videos[k]) - squared_norm(reference[k], videos[k]) for k in ("+", "-")}
    logit = -0.5 * beta * (delta["+"] - delta["-"])
    preference = np.logaddexp(0.0, -logit)
    sft = np.mean((policy["+"] - (noise - videos["+"])) ** 2)
    return {
        "delta_pos": float(delta["+"].mean()),
        "delta_neg": float(delta["-"].mean()),
        "logit": float(logit.mean()),
        "l_m": float(preference.mean()),
        "l_sft": float(sft),
        "total": float(sft + weight * preference.mean()),
    }


def slope(f, at: np.ndarray, place: tuple[int, ...], step: float = 1e-5) -> float:
    """Derivative of ``f`` by one element of ``at``: the central difference."""
    ends = []
    for sign in (1, -1):
        moved = at.astype(np.float64).copy()
        moved[place] += sign * step
        ends.append(f(moved))
    return (ends[0] - ends[1]) / (2 * step)
