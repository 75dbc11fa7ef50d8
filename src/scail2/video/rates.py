"""Frame rates: telling constant from variable, and holding frames onto a constant grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from scail2.errors import InputError
from scail2.video.source import MAX_FRAMES

Rate = int | float | str | Fraction

_COMMON = [Fraction(n) for n in (8, 10, 12, 15, 16, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120)]
_COMMON += [Fraction(n * 1000, 1001) for n in (24, 30, 60)]
_SNAP = Fraction(3, 200)  # a variable rate within 1.5 % of a common one is named by it
_MAX_FPS = 1000
FALLBACK = Fraction(25)  # one single picture without any rate
# Ratios of rates with denominators up to this are simple, and rounding moves them by less than that share.
_SIMPLE, _ROUNDED = 5, Fraction(1, 2000)
# A picture on show for longer than both of these (seconds, usual intervals) is a gap: it says nothing about the rate.
_GAP_SECONDS, _GAP_INTERVALS = 1.0, 10
# Even intervals differ by at most this share; behind a lost picture one is so much longer; and at least so many are even.
_EVEN, _LOST, _FEW_LOST = 0.02, 1.5, 0.85
_COARSE_TICKS = 4


@dataclass(frozen=True, slots=True)
class Timing:
    fps: Fraction
    variable: bool
    duration: Fraction


def parse_rate(fps: Rate) -> Fraction:
    """A rate in frames per second from an int, float, Fraction or text such as ``"30000/1001"``; 0 < fps ≤ 1000.

    Raises:
        InputError: not a number, NaN, zero, negative, or absurd.
    """
    try:
        if isinstance(fps, bool) or (isinstance(fps, float) and not math.isfinite(fps)):
            raise ValueError(fps)
        rate = Fraction(fps).limit_denominator(1_000_000)
    except (ValueError, TypeError, ZeroDivisionError):
        raise InputError(f"the frame rate must be a number such as 16, 29.97 or 30000/1001, got {fps!r}") from None
    if not 0 < rate <= _MAX_FPS:
        raise InputError(f"the frame rate must lie above 0 and up to {_MAX_FPS}, got {fps}")
    return rate


def typical_interval(ticks: np.ndarray) -> int:
    """The median distance of neighbouring times; 0 for a single picture."""
    return int(np.median(np.diff(ticks))) if len(ticks) > 1 else 0


def gaps(ticks: np.ndarray, time_base: Fraction) -> list[tuple[Fraction, Fraction]]:
    """Where a variable film stands still: (seconds after its first picture, seconds it lasts) of each gap."""
    steps = np.diff(ticks)
    limit = max(_GAP_SECONDS, _GAP_INTERVALS * float(typical_interval(ticks) * time_base))
    return [
        (int(ticks[at] - ticks[0]) * time_base, int(steps[at]) * time_base)
        for at in np.flatnonzero(steps * float(time_base) > limit).tolist()
    ]


def is_constant(ticks: np.ndarray, time_base: Fraction, fps: Fraction) -> bool:
    """Whether picture i is nearest to time i / fps, for all i: coarse clocks (1 ms in Matroska) do not disturb this."""
    position = (ticks - ticks[0]).astype(np.float64) * float(time_base * fps)
    return bool(np.array_equal(np.rint(position), np.arange(len(ticks))))


def _with_losses(ticks: np.ndarray, time_base: Fraction, announced: Sequence[Fraction]) -> Fraction | None:
    """The rate of a film of even intervals in which a few pictures are missing; None for any other film.

    Its mean rate would be a false one, to which no part of it keeps.
    """
    usual = typical_interval(ticks)
    if usual == 0:
        return None
    steps = np.diff(ticks)
    # Coarse clocks round to a tick, which is much only of very short intervals.
    even = np.abs(steps - usual) <= max(_EVEN * usual, 1 if usual >= _COARSE_TICKS else 0)
    lost = steps >= _LOST * usual
    if not lost.any() or not (even | lost).all() or even.mean() < _FEW_LOST:
        return None
    interval = Fraction(int(steps[even].sum()), int(even.sum())) * time_base
    near = (each for each in announced if abs(each * interval - 1) <= _SNAP)
    return next(near, None) or _snap(1 / interval)


def describe(ticks: np.ndarray, end_tick: int, time_base: Fraction, hints: Sequence[Fraction | None] = ()) -> Timing:
    """Rate and duration of pictures shown at ``ticks`` (rising), the last until ``end_tick``.

    ``hints`` are rates that the file announces; they are believed only if the times agree.
    """
    duration = max(0, end_tick - int(ticks[0])) * time_base
    measured = []
    if len(ticks) > 1:
        measured = [Fraction(len(ticks) - 1) / ((int(ticks[-1]) - int(ticks[0])) * time_base)]
    elif duration > 0:
        measured = [1 / duration]
    announced = [Fraction(h) for h in hints if h]
    if (rate := _with_losses(ticks, time_base, announced)) is not None:
        return Timing(min(rate, Fraction(_MAX_FPS)), True, duration)
    for candidate in [*announced, *(_snap(m) for m in measured), *(m.limit_denominator(1001) for m in measured)]:
        if 0 < candidate <= _MAX_FPS and is_constant(ticks, time_base, candidate):
            return Timing(candidate, False, max(duration, len(ticks) / candidate) if len(ticks) == 1 else duration)
    if not measured:
        return Timing(FALLBACK, False, 1 / FALLBACK)
    missing = gaps(ticks, time_base)
    shown = duration - sum(length for _, length in missing)
    mean = Fraction(len(ticks) - len(missing)) / shown if shown > 0 else measured[0]
    return Timing(min(max(_snap(mean), Fraction(1, 1000)), Fraction(_MAX_FPS)), True, duration)


def _snap(rate: Fraction) -> Fraction:
    nearest = min(_COMMON, key=lambda common: abs(common - rate))
    return nearest if abs(nearest - rate) <= nearest * _SNAP else rate.limit_denominator(100)


def hold_constant(count: int, source: Fraction, fps: Fraction) -> np.ndarray:
    """As :func:`hold` for ``count`` pictures at the constant rate ``source``: picture floor(k · source / fps), exactly.

    Rates are rounded (29.97, 23.98): two whose ratio is nearly a simple one, to half a picture in the whole film, have it.
    """
    frames = _frame_count(count / source, fps)
    step = source / fps
    simple = step.limit_denominator(_SIMPLE)
    if abs(simple - step) <= _ROUNDED * step and abs(simple - step) * frames < Fraction(1, 2):
        step = simple
    return np.array([min(k * step.numerator // step.denominator, count - 1) for k in range(frames)], dtype=np.int64)


def hold(ticks: np.ndarray, end_tick: int, time_base: Fraction, fps: Fraction) -> np.ndarray:
    """For each output frame k, the picture on show at time k / fps after the first: int64 ``(N,)``, not falling.

    N is the duration times the rate, rounded: at most half an output frame longer or shorter than the source. Stored
    times are rounded to the file's clock, so a picture counts as on show half a tick early (never more than a quarter
    of the usual interval).

    Raises:
        InputError: the result would have more than ``MAX_FRAMES`` frames.
    """
    span = max(end_tick, int(ticks[-1])) - int(ticks[0])
    frames = _frame_count(span * time_base, fps)
    tolerance = min(0.5, typical_interval(ticks) / 4)
    wanted = np.arange(frames) / float(time_base * fps) + tolerance
    return np.searchsorted((ticks - ticks[0]).astype(np.float64), wanted, side="right").astype(np.int64) - 1


def _frame_count(duration: Fraction, fps: Fraction) -> int:
    count = max(1, round(duration * fps))
    if count > MAX_FRAMES:
        raise InputError(f"{count:,} frames at {fps} fps: more than {MAX_FRAMES:,}; cut the video or lower the rate")
    return count
