"""The limits of the check of whole clips, written by `python -m benchmarks.clip_checks --write`.

Calibrated on 120 good clips and 157 with one known fault each: drawn puppets, 128x128 pixels, 17 frames.
What they are worth elsewhere is not known; calibrate again on clips of your own kind.
"""

from dataclasses import dataclass

from scail2.synthesis.measures import Measure


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """Beyond this value a clip is refused.

    Attributes:
        auc: area under the curve of this measure, good clips against those with its own fault; None for one of your own.
        refused_good, found_bad: shares of both beyond the limit, of the half of the clips that chose no number, only which
            measures have one. What limits do with clips that had no say stands in `docs/synthesis.md`.
    """

    value: float
    auc: float | None = None
    refused_good: float | None = None
    found_bad: float | None = None


LIMITS: dict[Measure, Limit] = {
    # share of frames that show another number of characters than they should
    Measure.COUNT: Limit(value=0.088, auc=0.886, refused_good=0.05, found_bad=0.75),
    # look of the character against its picture, 0 the same to 1
    Measure.IDENTITY: Limit(value=0.38, auc=1, refused_good=0.017, found_bad=1),
    # largest change of its look within the clip, 0 none to 1
    Measure.CHANGE: Limit(value=0.2, auc=1, refused_good=0.05, found_bad=1),
    # how the outline changes against the driving performer's, 0 one motion, 1 nothing in common
    Measure.OUTLINE: Limit(value=0.83, auc=0.984, refused_good=0, found_bad=1),
    # largest change of the whole picture that is taken back, grey levels
    Measure.FLICKER: Limit(value=3.1, auc=1, refused_good=0, found_bad=1),
    # frames that stand still in a row while the driving video moves
    Measure.FROZEN: Limit(value=1.5, auc=1, refused_good=0, found_bad=1),
    # share of frames that repeat the one before while the driving video moves
    Measure.REPEATED: Limit(value=0.078, auc=1, refused_good=0, found_bad=1),
    # look of an animation's scene against its picture, 0 the same to 1
    Measure.BACKGROUND: Limit(value=0.18, auc=1, refused_good=0, found_bad=1),
    # a replacement's scene against the driving video's, grey levels (mean of the worst quarter of the frames)
    Measure.SCENE: Limit(value=12, auc=1, refused_good=0, found_bad=1),
}
