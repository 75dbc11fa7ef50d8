"""Whole clips checked from pixels: characters found, joints and looks measured; a good clip passes, a wrong one is told why."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("skia")

from benchmarks.clip_checks import FAULTS, auc, clips, fresh, limit_of, source, together
from scail2.errors import InputError
from scail2.modes import AnimationMode
from scail2.synthesis.checks import check_clip, told
from scail2.synthesis.generators.protocol import Clip
from scail2.synthesis.generators.puppet_world import PuppetCharacter, PuppetTake
from scail2.synthesis.generators.puppets import PuppetGenerator
from scail2.synthesis.limits import LIMITS
from scail2.synthesis.measures import Measure
from scail2.synthesis.roles.protocol import Made
from scail2.synthesis.whole_clips import MeasuredClips

SIZE = {"height": 128, "width": 128}
MOTION = PuppetTake(index=1, split="validation", start=0.7).motion(frames=9, **SIZE)
WHO = PuppetCharacter(index=4, split="validation").picture(**SIZE)
ANIMATION = AnimationMode.ANIMATION


@pytest.fixture(scope="module")
def generated():
    return PuppetGenerator(error="mild").generate(WHO, MOTION, ANIMATION, None, 5)


def test_a_good_clip_passes(generated):
    verdict = check_clip(generated, MOTION, WHO)
    assert verdict.passed, told(verdict)
    assert verdict.values[Measure.COUNT] == 0
    assert verdict.values[Measure.FROZEN] == 0
    assert told(verdict)[0] == "passed"


def test_a_clip_with_two_faults_is_told_both(generated):
    """The loop's check: another scene from the middle on, and frames that stand still."""
    leaked = PuppetGenerator().generate(WHO, MOTION, AnimationMode.REPLACEMENT, None, 5)
    frames = np.concatenate([generated.frames[:3], leaked.frames[3:]])
    frames[4:] = frames[4]
    made = Made(clip=Clip(frames=frames, fps=16.0), character=WHO, motion=MOTION)
    verdict = MeasuredClips().check(made)
    assert not verdict.passed
    assert {Measure.BACKGROUND, Measure.FROZEN} <= set(verdict.beyond)
    assert any("stand still while the driving video moves" in reason for reason in verdict.reasons)
    assert any("the scene is not that of the character's picture" in reason for reason in verdict.reasons)


def test_limits_can_be_changed_and_left_out():
    check = MeasuredClips(limits={Measure.FLICKER: 7.0}, without=(Measure.HANDS,))
    limits = check.describe()["limits"]
    assert limits["flicker"] == 7.0
    assert "hands" not in limits
    assert limits["count"] == LIMITS[Measure.COUNT].value


def test_a_clip_of_another_length_is_refused(generated):
    short = Clip(frames=generated.frames[:5], fps=16.0)
    with pytest.raises(
        InputError, match=r"The generated clip is \(5, 128, 128\) .*, puppet motion validation 1 \(9, 128, 128\)"
    ):
        check_clip(short, MOTION, WHO)


# ---- the calibration ------------------------------------------------------------------------------------------------


def test_the_area_under_a_curve_counts_pairs():
    assert auc(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 1
    assert auc(np.array([0.0, 2.0]), np.array([1.0, 3.0])) == 0.75
    assert auc(np.zeros(3), np.zeros(2)) == 0.5


def test_a_limit_lies_between_both_near_the_good_or_where_least_is_wrong():
    good = np.arange(1, 41) / 100.0
    assert limit_of(good, np.full(20, 0.8)) == pytest.approx(0.5)
    assert limit_of(np.zeros(10), np.full(20, 0.2)) == pytest.approx(0.05)
    # One good clip in forty among the bad ones is given up, many are not.
    assert limit_of(np.append(good, 0.9), np.full(20, 0.8)) == pytest.approx(0.5)
    assert limit_of(np.append(good, np.full(20, 0.9)), np.full(20, 0.8)) == pytest.approx(0.9)


def test_fresh_clips_tell_of_the_packages_limits_and_choose_nothing():
    limit = LIMITS[Measure.OUTLINE].value
    beyond, within = {Measure.OUTLINE: limit + 0.01}, {Measure.OUTLINE: limit - 0.01}
    every = dict.fromkeys(Measure, 0.0)
    rows = [{"label": "good", "number": n, "values": every | (beyond if n == 1 else within)} for n in range(8)]
    rows += [{"label": "late", "number": n, "values": every | (within if n == 1 else beyond)} for n in range(4)]
    others = {make.__name__ for makers in FAULTS.values() for make in makers} - {"late", "other_motion"}
    rows += [{"label": label, "number": 0, "values": every} for label in sorted(others)]
    told = fresh(rows)
    assert told[Measure.OUTLINE] == {
        "value": limit, "auc": 0.812, "refused_good": 0.125, "found_bad": 0.75, "good": 8, "bad": 4,
    }  # fmt: skip
    assert (told[Measure.HANDS]["value"], told[Measure.HANDS]["refused_good"]) == (None, None)
    assert together(rows, told) == {"good": 0.125, "late": 0.75} | {row["label"]: 0.0 for row in rows[12:]}
    chosen, drawn = ({(make.__name__, scene.number) for make, scene in clips(120, 12, first)} for first in (0, 200))
    assert len(chosen) == len(drawn) == 120 + 13 * 12
    assert not chosen & drawn


def test_the_file_of_limits_is_what_the_calibration_writes():
    """Written again with the same numbers it says the same."""
    from benchmarks.clip_checks import LIMITS_FILE

    numbers = {name: dataclasses.asdict(limit) for name, limit in LIMITS.items()}
    again = source(numbers, [{"label": "good"}] * 2 + [{"label": "late"}])
    body = "LIMITS: dict[Measure, Limit] = {"
    assert again[again.index(body) :] == LIMITS_FILE.read_text()[LIMITS_FILE.read_text().index(body) :]
    assert "Calibrated on 2 good clips and 1 with one known fault each" in again
