"""Whether one network is better than another, from the same clips by both, over several trainings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scail2.errors import InputError

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean difference and where it lies with the level's confidence."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 above zero, −1 below, 0 where the interval holds it."""
        return 1 if self.low > 0 else -1 if self.high < 0 else 0

    def told(self, digits: int, *, scale: float = 1.0) -> str:
        """``+0.43 (+0.37 … +0.49)``, with so many digits after the point; what is zero then has no sign."""
        mean, low, high = (_signed(scale * value, digits) for value in (self.mean, self.low, self.high))
        return f"{mean} ({low} … {high})"


def _signed(value: float, digits: int) -> str:
    if value != value:
        return "–"
    text = f"{value:+.{digits}f}"
    return text.replace("-", "−") if text.strip("+-0.") else text[1:]


def paired_interval(differences: Array, *, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean of paired differences.

    Clips and trainings are drawn anew with replacement, each training on the same drawn clips: both are samples of what there
    could have been.

    Args:
        differences: `(trainings, clips)`, one recipe's measure minus the other's; clips with a nan in any training are left out.
        level: confidence in (0, 1).

    Raises:
        InputError: fewer than two clips can be compared.
    """
    compared = np.asarray(differences, float)
    if compared.ndim != 2:
        raise InputError(f"Differences are (trainings, clips), not {compared.shape}.")
    compared = compared[:, np.isfinite(compared).all(axis=0)]
    trainings, clips = compared.shape
    if clips < 2 or trainings < 1:
        raise InputError(f"{clips} clips were measured on both sides; an interval takes two at least.")
    generator = np.random.default_rng(seed)
    # How often each is drawn, instead of which: all draws at once.
    rows = generator.multinomial(trainings, np.full(trainings, 1 / trainings), size=draws)
    columns = generator.multinomial(clips, np.full(clips, 1 / clips), size=draws)
    means = ((rows @ compared) * columns).sum(axis=1) / (trainings * clips)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(compared.mean()), float(low), float(high))


def interval_of_means(values: Sequence[float], *, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> Interval:
    """Mean of values and its percentile bootstrap interval; of a single value there is none, low and high are nan."""
    known = np.asarray(values, float)
    if len(known) < 2:
        return Interval(float(known.mean()) if len(known) else float("nan"), float("nan"), float("nan"))
    return paired_interval(known[None], level=level, draws=draws, seed=seed)


def interval_of_share(
    hits: Sequence[int], totals: Sequence[int], *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Interval:
    """Share of hits among all, and its percentile bootstrap interval over cases, which keep their answers together.

    Args:
        hits, totals: of each case; a single case has no interval, low and high are nan.
    """
    found, asked = np.asarray(hits, float), np.asarray(totals, float)
    mean = float(found.sum() / asked.sum()) if asked.sum() else float("nan")
    if len(found) < 2:
        return Interval(mean, float("nan"), float("nan"))
    drawn = np.random.default_rng(seed).multinomial(len(found), np.full(len(found), 1 / len(found)), size=draws)
    shares = (drawn @ found) / (drawn @ asked)
    low, high = np.quantile(shares, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high))
