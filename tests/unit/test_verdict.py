"""The verdict names what is wrong with its segment and frame, and says nothing of what is right."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from run_material import make_request
from test_drift import scene
from tiny import SIZE, bare_pipeline

from scail2.drift import measure as drift
from scail2.drift.driving import DrivingMeasures
from scail2.drift.glance import Glance
from scail2.drift.motion import MotionError
from scail2.drift.verdict import LIMITS, Measure, judge
from scail2.runs import RunDirectory
from scail2.runs.comparison import ComparedRun
from scail2.runs.sealed import read_sealed, write_sealed
from scail2.runs.watching import WatchedFrames
from scail2.video import to_uint8

FRAMES, SEGMENT = 36, 12


@pytest.fixture(scope="module")
def film():
    """36 frames uint8 of a disc that moves before a textured background, and its mask."""
    frames, mask = scene(frames=FRAMES, shift=-6)
    return to_uint8(frames), mask


def report_on(output, driving, mask, *, is_scene=False, errors=None) -> drift.DriftReport:
    """Measures a film uint8 (T, H, W, 3) as a run of three segments that was driven by another."""
    report = drift.DriftReport()
    for index, start in enumerate(range(0, len(output), SEGMENT)):
        stop, tail = start + SEGMENT, min(start, 4)
        measured = drift.measure_segment(
            output[start:stop],
            reference=None,
            first_segment_stats=report.first,
            previous_tail=output[start - tail : start] if tail else None,
            character_mask=mask[start:stop],
            driving=DrivingMeasures(
                glance=Glance.at(driving[start - tail : stop]),
                statistics=drift.segment_statistics(driving[start:stop], mask[start:stop]),
                first=report.segments[0].driving if index else None,
                is_scene=is_scene,
            ),
            index=index,
        )
        error = None if errors is None else errors[index]
        report.add(replace(measured, motion_error=error))
    return report


def troubles(output, driving, mask, **options):
    """What is wrong, as {measure: (segment, frame)}."""
    found = judge(report_on(output, driving, mask, **options))
    return {each.measure: (each.segment, each.frame) for each in found.troubles}


def changed(frames, change) -> np.ndarray:
    wide = frames.astype(np.float32)
    change(wide)
    return wide.clip(0, 255).round().astype(np.uint8)


def test_a_clean_film_gets_a_clean_verdict(film):
    frames, mask = film
    found = judge(report_on(frames, frames, mask))
    assert not found.troubles
    assert {each.measure for each in found.measured} == set(Measure) - {Measure.MOTION_ERROR}
    assert found.lines()[0] == "nothing stands out"
    assert found.to_json()["good"] is True


def test_only_what_is_above_its_limit_is_told_in_words(film):
    frames, mask = film
    frozen = frames.copy()
    frozen[15:21] = frozen[14]
    for output, wrong in ((frames, set()), (frozen, {"freeze"})):
        report = report_on(output, frames, mask, errors=[MotionError(frames=(1,) * 5, errors=(0.1,) * 5)] * 3)
        measured = judge(report).to_json()["measured"]
        assert {each["measure"] for each in measured} == set(Measure)
        assert {each["measure"] for each in measured if each["message"]} == wrong
        assert {each["measure"] for each in measured if each["is_bad"]} == wrong
    told = next(each["message"] for each in measured if each["message"])
    assert told == "segment 1 stands still from frame 15 to 20 while the driving video moves on"


def test_a_jump_at_a_seam_is_named(film):
    frames, mask = film

    def jump(wide):
        wide[24:] = np.roll(wide[24:], 7, axis=2)

    assert troubles(changed(frames, jump), frames, mask)[Measure.SEAM] == (2, 24)


def test_a_jump_that_the_driving_video_makes_too_is_none(film):
    frames, mask = film

    def jump(wide):
        wide[24:] = np.roll(wide[24:], 7, axis=2)

    both = changed(frames, jump)
    assert troubles(both, both, mask) == {}


def test_a_step_of_colour_at_a_seam_is_named_in_grey_levels(film):
    frames, mask = film

    def step(wide):
        wide[12:] += np.array([0, 5, 0])

    found = judge(report_on(changed(frames, step), frames, mask))
    seam = next(each for each in found.troubles if each.measure is Measure.SEAM_COLOUR)
    assert (seam.segment, seam.frame) == (1, 12)
    assert seam.value == pytest.approx(5, abs=0.5)


def test_a_cast_that_grows_is_a_drift_of_colour_in_the_last_segment(film):
    frames, mask = film

    def cast(wide):
        wide += np.clip((np.arange(FRAMES) - 8) / 20, 0, 1)[:, None, None, None] * np.array([30, -10, -30])

    found = judge(report_on(changed(frames, cast), frames, mask))
    assert [each.measure for each in found.troubles] == [Measure.DRIFT]
    worst = found.troubles[0]
    assert (worst.segment, worst.frame, worst.cause, worst.also) == (2, 24, "colour", (1,))
    assert worst.value > 1.5


@pytest.mark.parametrize("is_scene", [True, False])
def test_what_the_driving_video_changes_itself_is_no_drift_where_the_output_shows_it(film, is_scene):
    frames, mask = film

    def evening(wide):
        wide[24:] *= np.where(mask[24:, ..., None], 1.0, np.array([0.75, 0.75, 1.0]))

    darker = changed(frames, evening)
    found = judge(report_on(darker, darker, mask, is_scene=is_scene))
    drifted = [each for each in found.troubles if each.measure is Measure.DRIFT]
    assert bool(drifted) is not is_scene


@pytest.mark.parametrize(("lit", "frame"), [([17], 17), ([16, 18, 20], 18), ([17, 18], 17)])
def test_flicker_is_named_with_its_frame(film, lit, frame):
    frames, mask = film

    def flash(wide):
        wide[lit] *= 1.04

    found = judge(report_on(changed(frames, flash), frames, mask))
    assert [each.measure for each in found.troubles] == [Measure.FLICKER]
    assert found.troubles[0].segment == 1
    assert abs(found.troubles[0].frame - frame) <= 2
    assert found.troubles[0].value == pytest.approx(4.5, abs=2)


def test_a_flash_in_the_last_frame_of_a_segment_belongs_to_that_segment(film):
    frames, mask = film

    def flash(wide):
        wide[23] *= 1.04

    assert troubles(changed(frames, flash), frames, mask)[Measure.FLICKER] == (1, 23)


def test_a_frozen_stretch_is_named_where_the_driving_video_moves_on(film):
    frames, mask = film
    frozen = frames.copy()
    frozen[15:21] = frozen[14]
    assert troubles(frozen, frames, mask) == {Measure.FREEZE: (1, 15)}
    assert troubles(frozen, frozen, mask) == {}


def test_motion_that_is_not_followed_is_named_and_single_mistakes_are_not(film):
    frames, mask = film
    places = (0, 3, 6, 9, 11)
    good, bad = (0.1, 0.12, 0.15, 0.9, 0.11), (0.1, 0.6, 0.7, 0.8, 0.75)
    errors = [MotionError(frames=places, errors=values) for values in (good, good, good)]
    assert not judge(report_on(frames, frames, mask, errors=errors)).troubles
    errors[2] = MotionError(frames=places, errors=bad)
    errors[1] = MotionError(frames=places, errors=(0.3, *bad[1:]))
    found = judge(report_on(frames, frames, mask, errors=errors)).troubles
    assert [each.measure for each in found] == [Measure.MOTION_ERROR]
    assert found[0].segment == 2
    assert found[0].frame == 24 + 9
    assert found[0].value > LIMITS[Measure.MOTION_ERROR]


def test_why_motion_could_not_be_measured_is_told(film):
    frames, mask = film
    errors = [MotionError(reason="nobody there")] * 3
    found = judge(report_on(frames, frames, mask, errors=errors))
    assert found.unmeasured == {Measure.MOTION_ERROR: "nobody there"}
    assert "motion error: could not be measured (nobody there)" in found.lines()
    for errors, told in (((1.0,), "only 1 frame could be compared"), ((1.0, 1.0), "only 2 frames could be compared")):
        few = [MotionError(frames=tuple(range(len(errors))), errors=errors), MotionError(), MotionError()]
        assert judge(report_on(frames, frames, mask, errors=few)).unmeasured == {Measure.MOTION_ERROR: told}


def test_measures_behind_a_gap_are_not_judged(film):
    """A cascade that stopped at the drift limit leaves later segments that are measured, and one before them that is not."""
    frames, mask = film

    def jumps(wide):
        wide[12:24, :, 20:] += 60
        wide[24:, :, 40:] += 60

    report = report_on(changed(frames, jumps), frames, mask)
    jump = next(each for each in judge(report).troubles if each.measure is Measure.SEAM)
    assert sorted([jump.segment, *jump.also]) == [1, 2]
    report.segments[2] = replace(report.segments[2], index=3)
    found = {each.measure: each for each in judge(report).measured}
    assert (found[Measure.SEAM].segment, found[Measure.SEAM].frame, found[Measure.SEAM].also) == (1, 12, ())
    assert found[Measure.DRIFT].segment == 1
    assert report.worst == found[Measure.DRIFT].value == report.segments[1].score != report.segments[2].score


def test_measures_survive_json_and_those_of_earlier_versions_are_read(film):
    frames, mask = film
    report = report_on(frames, frames, mask, errors=[MotionError(frames=(1,), errors=(0.25,))] * 3)
    values = json.loads(json.dumps(report.to_json()))
    assert drift.DriftReport.from_json(values) == report
    new = (
        "seam_jump",
        "seam_colour",
        "stalled",
        "flicker",
        "flicker_frame",
        "driving",
        "driving_to_first",
        "motion_error",
    )
    for segment in values["segments"]:
        for name in new:
            del segment[name]
    assert [each.measure for each in judge(drift.DriftReport.from_json(values)).measured] == [Measure.DRIFT]


# In a run


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    return bare_pipeline(native_height=SIZE, native_width=SIZE)


@pytest.fixture(scope="module")
def executed(tmp_path_factory, pipe):
    """A finished run, its verdict events, and what it wrote of its measures."""
    folder = tmp_path_factory.mktemp("run")
    run = RunDirectory.create(folder / "film.run", make_request(folder, frames=19, seed=6))
    events = []
    run.execute(pipe, events=events.append)
    verdicts = [each.facts for each in events if each.name == "verdict"]
    return run, verdicts, read_sealed(run.path / "drift.json", dict)


def edited(executed, segment, **measures):
    """The run's verdict as if a segment had been measured to be like this."""
    run, _, values = executed
    values = copy.deepcopy(values)
    values["segments"][segment] |= measures
    write_sealed(run.path / "drift.json", values)
    return run.status().verdict


def seam_of(verdict):
    return next(each for each in verdict.troubles if each.measure is Measure.SEAM)


def test_a_run_ends_with_its_verdict_and_status_tells_the_same(executed):
    run, verdicts, _ = executed
    status = run.status()
    assert verdicts == [status.verdict.to_json()] == [status.to_json()["verdict"]]
    assert {each["measure"] for each in verdicts[0]["measured"]} >= {
        "drift",
        "seam",
        "seam_colour",
        "flicker",
        "freeze",
    }
    assert "motion_error" in verdicts[0]["unmeasured"]  # nobody is tall enough in that footage
    assert [name for name, _ in status.rows()].count("verdict") == 1


def test_a_drift_of_colour_asks_for_correction_and_one_of_sharpness_does_not(executed):
    first = executed[2]["segments"][2]["to_first"]
    assert (
        "--drift-correction reinhard-first" in edited(executed, 2, to_first=first | {"colour_outside": 99.0}).lines()[1]
    )
    assert "rerender" in edited(executed, 2, to_first=first | {"sharpness": -40.0}).lines()[1]


def test_the_worst_drift_is_one_number_wherever_it_is_told(executed):
    """Of a run whose driving video changes as much as its film does: what that explains is in none of them."""
    run, _, values = executed
    steady = values["segments"][1]["to_first"]
    darker = steady | {"colour_outside": 60.0, "sharpness": -5.0}
    verdict = edited(
        executed, 1, to_first=darker, driving_to_first=steady | {"colour_outside": 54.0, "sharpness": -4.0}
    )
    status, report = run.status(), drift.DriftReport.load(run.path / "drift.json")
    told = [
        status.worst_drift,
        status.to_json()["worst_drift"],
        verdict.value(Measure.DRIFT),
        report.worst,
        report.to_json()["segments"][1]["score"],
        report.segments[1].score,
    ]
    assert told == pytest.approx([1.0] * len(told))
    assert dict(status.rows())["worst drift"] == "1.00"
    assert ComparedRun("film", run).numbers["worst drift"] == 1.0
    drift.check_limit(report.segments[1], 1.001)
    with pytest.raises(drift.DriftLimitExceeded, match=r"drifted by 1\.00"):
        drift.check_limit(report.segments[1], 0.999)


def test_damaged_measures_are_told_and_give_no_verdict(executed):
    run, _, values = executed
    write_sealed(run.path / "drift.json", values | {"segments": [{"index": 0}]})
    status = run.status()
    assert status.verdict is None
    assert "drift.json" in status.damaged


def test_the_command_that_would_help_is_one_that_runs(executed, pipe):
    run = executed[0]
    last = len(run.status().finished) - 1
    assert seam_of(edited(executed, 1, seam_jump=9.0)).help == (
        f"scail2 rerender {run.path} --segment 1 --seed 7 --cascade"
    )
    seam = seam_of(edited(executed, last, seam_jump=10.0))
    assert seam.help == f"scail2 rerender {run.path} --segment {last} --seed 7"
    run.rerender(last, seed=7, pipe=pipe)
    assert seam_of(edited(executed, last, seam_jump=10.0)).help.endswith("--seed 8")


def test_driving_frames_are_read_once_for_rendering_and_measuring():
    footage = np.random.default_rng(0).integers(0, 256, (20, 32, 48, 3), dtype=np.uint8)
    read = []

    class Source:
        def __len__(self):
            return len(footage)

        def frames(self, start, stop):
            read.extend(range(start, stop))
            return footage[start:stop]

    watched = WatchedFrames(Source(), kept=(3, 12))
    np.testing.assert_array_equal(watched.frames(0, 9), footage[:9])
    np.testing.assert_array_equal(watched.frames(4, 20), footage[4:])
    count = len(read)
    np.testing.assert_allclose(watched.glance(5, 20).steps, Glance.at(footage[5:]).steps, rtol=1e-6)
    np.testing.assert_allclose(watched.glance(0, 9).cells, Glance.at(footage[:9]).cells, rtol=1e-6)
    np.testing.assert_array_equal(watched.frame(12), footage[12])
    np.testing.assert_array_equal(watched.small(0, 20), footage)
    assert len(read) == count
    watched.forget(9)
    np.testing.assert_array_equal(watched.frame(3), footage[3])
    assert len(read) == count + 1
