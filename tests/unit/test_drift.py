"""Drift: every measure must rise with the fault it is named after, and correction must take the fault away."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from scail2.drift import measure as drift
from scail2.drift.colour import LabStatistics, lab_to_rgb, rgb_to_lab
from scail2.drift.driving import DrivingMeasures
from scail2.drift.glance import Glance
from scail2.drift.plot import plot, ticks
from scail2.errors import InputError

FRAMES, HEIGHT, WIDTH = 8, 64, 80


def scene(seed: int = 0, frames: int = FRAMES, shift: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """A textured background and a textured disc that moves: float (T, 3, H, W) in [-1, 1] and its mask."""
    rng = np.random.default_rng(seed)
    background = np.asarray(Image.fromarray(rng.integers(60, 180, (8, 10, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT)))
    background = background.astype(np.float64) + rng.normal(0, 6, background.shape)
    body = (
        np.array([170, 90, 60])
        + 30 * np.sin(np.arange(HEIGHT)[:, None, None] / 3.0)
        + rng.normal(0, 6, (HEIGHT, WIDTH, 3))
    )
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    clip, masks = [], []
    for number in range(frames):
        inside = (y - 34) ** 2 + (x - 24 - 2 * (number + shift)) ** 2 < 16**2
        clip.append(np.where(inside[..., None], body, background))
        masks.append(inside)
    pixels = np.clip(np.stack(clip), 0, 255).transpose(0, 3, 1, 2)
    return torch.from_numpy(pixels / 127.5 - 1).float(), np.stack(masks)


def measure(frames, mask=None, base=None, **kwargs) -> drift.SegmentDrift:
    return drift.measure_segment(
        frames, reference=None, first_segment_stats=base, character_mask=mask, index=1, **kwargs
    )


def blurred(frames: torch.Tensor, times: int) -> torch.Tensor:
    for _ in range(times):
        frames = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(frames, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return frames


# Colour space


def test_lab_of_known_colours():
    """Values from the formulas of CIE 15 and IEC 61966-2-1 as published by several calculators, two decimals."""
    known = {
        (255, 255, 255): (100.0, 0.0, 0.0),
        (0, 0, 0): (0.0, 0.0, 0.0),
        (255, 0, 0): (53.24, 80.09, 67.20),
        (0, 255, 0): (87.73, -86.18, 83.18),
        (0, 0, 255): (32.30, 79.19, -107.86),
        (119, 119, 119): (50.03, 0.0, 0.0),
    }
    for rgb, lab in known.items():
        np.testing.assert_allclose(rgb_to_lab(np.array(rgb) / 255.0), lab, atol=0.02)


def test_lab_and_back_is_exact_enough_for_float_history():
    rgb = np.random.default_rng(0).random((40, 40, 3))
    np.testing.assert_allclose(lab_to_rgb(rgb_to_lab(rgb)), rgb, atol=1e-9)
    single = rgb.astype(np.float32)
    assert rgb_to_lab(single).dtype == np.float32
    np.testing.assert_allclose(lab_to_rgb(rgb_to_lab(single)), single, atol=2e-5)


def test_statistics_inside_and_outside():
    frames, mask = scene()
    statistics = drift.colour_statistics(frames, mask)
    values = rgb_to_lab(frames.permute(0, 2, 3, 1).double().numpy() / 2 + 0.5)
    for part, region in ((statistics.inside, mask), (statistics.outside, ~mask), (statistics.whole, mask | True)):
        np.testing.assert_allclose(part.mean, values[region].mean(axis=0), atol=1e-3)
        np.testing.assert_allclose(part.std, values[region].std(axis=0), atol=1e-3)
    assert drift.colour_statistics(frames, np.zeros_like(mask)).inside is None
    as_bytes = ((frames + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(drift.colour_statistics(as_bytes).whole.mean, statistics.whole.mean, atol=0.1)
    with pytest.raises(ValueError, match="mask must be bool"):
        drift.colour_statistics(frames, mask[:, :-1])


# Measures


def test_a_segment_has_not_drifted_from_itself_or_its_continuation():
    frames, mask = scene()
    same = measure(frames, mask, drift.segment_statistics(frames, mask))
    assert same.score == 0
    following, later_mask = scene(shift=FRAMES)
    later = measure(following, later_mask, drift.segment_statistics(frames, mask), previous_tail=frames[-5:])
    assert later.score < 0.4  # the disc now covers another part of the background
    assert 0.8 < later.seam_energy < 1.25
    assert later.repeated_frames == ()
    assert not later.is_frozen


def faults():
    frames, mask = scene()
    inside = torch.from_numpy(mask)[:, None]
    tint = torch.tensor([1.0, -0.3, -0.8]).view(1, 3, 1, 1)
    return {
        "colour_inside": lambda a: torch.where(inside, frames + 0.15 * a * tint, frames).clamp(-1, 1),
        "colour_outside": lambda a: torch.where(inside, frames, frames + 0.15 * a * tint).clamp(-1, 1),
        "colour_whole": lambda a: (frames - 0.1 * a).clamp(-1, 1),
        "contrast": lambda a: frames * (1 - 0.15 * a),
        "sharpness": lambda a: blurred(frames, a),
    }


@pytest.mark.parametrize("measure_name", ["colour_inside", "colour_outside", "colour_whole", "contrast", "sharpness"])
def test_measures_rise_with_their_fault(measure_name):
    frames, mask = scene()
    base = drift.segment_statistics(frames, mask)
    worse = [measure(faults()[measure_name](amount), mask, base) for amount in range(4)]
    values = [abs(getattr(segment.to_first, measure_name)) for segment in worse]
    assert values[0] < 1e-6
    assert all(before < after for before, after in pairwise(values)), values
    assert [segment.score for segment in worse] == sorted(segment.score for segment in worse)
    assert worse[-1].score > 0.5


def test_regions_are_told_apart():
    frames, mask = scene()
    base = drift.segment_statistics(frames, mask)
    inside = measure(faults()["colour_inside"](3), mask, base).to_first
    outside = measure(faults()["colour_outside"](3), mask, base).to_first
    assert inside.colour_outside < 1e-3 < 5 < inside.colour_inside
    assert outside.colour_inside < 1e-3 < 5 < outside.colour_outside
    without_mask = measure(frames, None, drift.segment_statistics(frames))
    assert without_mask.to_first.colour_inside is None


def test_identity_tells_other_clothes_from_other_places():
    frames, mask = scene()
    base = drift.segment_statistics(frames, mask)
    moved = drift.segment_statistics(*scene(shift=6))
    gradual = []
    for amount in (0.25, 0.5, 1.0):  # from its own colours towards those of another character
        other = frames.flip(1) * amount + frames * (1 - amount)
        changed = torch.where(torch.from_numpy(mask)[:, None], other, frames)
        gradual.append(drift.compare(drift.segment_statistics(changed, mask), base).identity)
    assert drift.compare(moved, base).identity < 0.05
    assert 0.05 < gradual[0] < gradual[1] < gradual[2]
    assert gradual[2] > 0.35
    upside_down = torch.where(torch.from_numpy(mask)[:, None], frames.flip(2), frames)
    assert (
        drift.compare(drift.segment_statistics(upside_down, mask), base).identity > drift.compare(moved, base).identity
    )


def test_seam_energy_grows_with_the_jump():
    frames, _ = scene(frames=16)
    energies = [measure(frames[8:] + jump, previous_tail=frames[3:8]).seam_energy for jump in (0.0, 0.05, 0.2)]
    assert energies[0] == pytest.approx(1, abs=0.25)
    assert energies[0] < energies[1] < energies[2]
    assert energies[2] > 3
    assert measure(frames).seam_energy is None


@pytest.mark.filterwarnings("error")
def test_a_segment_of_one_frame_is_measured_without_remarks():
    frames, _ = scene(frames=9)
    driving = DrivingMeasures(
        glance=Glance.at(frames[3:9]), statistics=drift.segment_statistics(frames[8:]), first=None, is_scene=False
    )
    found = measure(frames[8:], previous_tail=frames[3:8], driving=driving)
    assert (found.frames, found.motion, found.repeated_frames, found.stalled) == (1, 0.0, (), None)
    assert found.seam_energy == pytest.approx(1, abs=0.25)


def test_repeated_and_frozen_frames():
    frames, _ = scene(frames=12)
    once = frames.clone()
    once[5] = once[4]
    assert measure(once).repeated_frames == (5,)
    assert not measure(once).is_frozen
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 2e-4, frames.shape)).float()
    frozen = frames.clone()
    frozen[6:] = frozen[5]
    tail = measure(frozen + noise)  # nearly the same: a codec or a network adds a little noise
    assert tail.repeated_frames == tuple(range(6, 12))
    assert (tail.longest_freeze, tail.is_frozen) == (6, True)


def test_reference_as_picture_or_statistics():
    frames, mask = scene()
    by_picture = drift.measure_segment(frames, reference=frames[0], character_mask=mask)
    statistics = drift.segment_statistics(frames[:1], mask[:1])
    by_statistics = drift.measure_segment(frames, reference=statistics, character_mask=mask)
    assert by_picture.to_reference.colour_whole == by_statistics.to_reference.colour_whole
    assert by_picture.to_reference.colour_inside is None
    assert by_statistics.to_reference.colour_inside < 0.5


# Report and limit


def report_of(amounts) -> drift.DriftReport:
    report, (frames, mask) = drift.DriftReport(), scene()
    reference = drift.segment_statistics(frames[:1], mask[:1])
    tail = None
    for index, amount in enumerate(amounts):
        segment = frames * (1 - amount)
        report.add(
            drift.measure_segment(
                segment,
                reference=reference,
                first_segment_stats=report.first,
                previous_tail=tail,
                character_mask=mask,
                index=index,
            )
        )
        tail = segment[-5:]
    return report


def test_report_survives_json_exactly(tmp_path):
    report = report_of([0, 0.1, 0.3])
    assert drift.DriftReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    report.save(tmp_path / "drift.json")
    assert drift.DriftReport.load(tmp_path / "drift.json") == report
    assert [p.name for p in tmp_path.iterdir()] == ["drift.json"]
    assert report.to_json()["worst"] == report.worst == report.segments[2].score
    assert drift.DriftReport().worst is None


def test_a_rendered_again_segment_replaces_the_old_one():
    report, again = report_of([0, 0.3, 0.1]), report_of([0, 0.1, 0.1])
    report.add(again.segments[1])
    assert [s.index for s in report.segments] == [0, 1, 2]
    assert report.segments[1] == again.segments[1]


def test_limit():
    segment = report_of([0, 0.4]).segments[1]
    drift.check_limit(segment, None)
    drift.check_limit(segment, segment.score)
    with pytest.raises(
        drift.DriftLimitExceeded, match=r"segment 1 has drifted by .* everything rendered is kept"
    ) as caught:
        drift.check_limit(segment, segment.score * 0.99)
    assert isinstance(caught.value, InputError)
    assert caught.value.drift is segment


def test_plot(tmp_path):
    report = report_of([0, 0.1, 0.2, 0.1])
    report.add(replace(report.segments[3], longest_freeze=4))
    plot(report, tmp_path / "drift.png", limit=2 * report.worst)
    picture = np.asarray(Image.open(tmp_path / "drift.png").convert("RGB")).astype(int)
    assert picture.shape == (1200, 900, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["drift.png"]

    def rows(colour, top, bottom):
        """Where a colour is seen in one panel: per column the mean row, NaN without it."""
        seen = (np.abs(picture[top:bottom] - colour) < 20).all(axis=-1)
        with np.errstate(invalid="ignore"):
            return (seen * np.arange(top, bottom)[:, None]).sum(axis=0) / seen.sum(axis=0)

    # In the first panel the highest score lies half-way between those of the first segment and the limit.
    score, limit = rows((31, 119, 180), 46, 219), rows((214, 39, 40), 46, 219)
    first, highest = np.flatnonzero(np.isfinite(score))[0] + 4, int(np.nanargmin(score))
    assert score[highest] == pytest.approx((score[first] + np.nanmean(limit)) / 2, abs=2)
    assert (highest - first) / (np.flatnonzero(np.isfinite(score))[-1] - 4 - first) == pytest.approx(2 / 3, abs=0.02)
    assert np.isfinite(rows((255, 217, 183), 967, 1138)[830:870]).all()  # the frozen segment, in the last panel
    assert np.isnan(rows((255, 217, 183), 967, 1138)[:500]).all()
    with pytest.raises(InputError, match="no segments"):
        plot(drift.DriftReport(), tmp_path / "none.png")


def test_a_plot_of_one_segment_and_of_measures_that_are_not_finite(tmp_path):
    report = report_of([0])
    plot(report, tmp_path / "one.png")
    report.add(replace(report.segments[0], index=1, seam_energy=float("inf")))
    plot(report, tmp_path / "two.png")
    assert Image.open(tmp_path / "two.png").size == (900, 1200)


@pytest.mark.parametrize(
    ("low", "high", "most", "whole", "expected"),
    [
        (-0.05, 1.05, 5, False, [0, 0.25, 0.5, 0.75, 1]),
        (-0.07, 0.07, 5, False, [-0.05, 0, 0.05]),
        (-1.6, 33.6, 10, True, [0, 5, 10, 15, 20, 25, 30]),
        (-0.05, 0.05, 10, True, [0]),
        (0.95, 3.8, 5, False, [1, 2, 3]),
    ],
)
def test_ticks_are_round_numbers(low, high, most, whole, expected):
    assert ticks(low, high, most, whole=whole) == pytest.approx(expected)


# Correction


def cast(frames: torch.Tensor) -> torch.Tensor:
    """Darker, flatter, redder: what repeated decoding and encoding does, exaggerated."""
    return (frames * 0.85 + torch.tensor([0.08, -0.03, -0.1]).view(1, 3, 1, 1)).clamp(-1, 1)


@pytest.mark.parametrize("with_mask", [False, True])
def test_first_restores_the_statistics(with_mask):
    frames, mask = scene()
    mask = mask if with_mask else None
    anchor = drift.colour_statistics(frames, mask)
    fixed = drift.correct(cast(frames), anchor, "reinhard-first", mask=mask)
    before = drift.colour_statistics(cast(frames), mask)
    after = drift.colour_statistics(fixed, mask)
    for region in ("whole",) if mask is None else ("inside", "outside"):
        was, now = (
            getattr(before, region).distance(getattr(anchor, region)),
            getattr(after, region).distance(getattr(anchor, region)),
        )
        assert was > 2.5
        assert now < 0.2 * was
        assert abs(getattr(after, region).contrast_change(getattr(anchor, region))) < 0.06
    assert (fixed - frames).abs().mean() < 0.25 * (cast(frames) - frames).abs().mean()


def test_previous_matches_at_the_join_and_keeps_later_light():
    """A light that is switched on after the join is content: a correction measured at the join leaves it there."""
    frames, _ = scene(frames=16)
    tail, segment = frames[3:8], frames[8:].clone()
    segment[5:] = (segment[5:] + 0.3).clamp(-1, 1)
    fixed = drift.correct(cast(segment), drift.colour_statistics(tail), "reinhard-previous", window=5)
    assert measure(fixed, previous_tail=tail).seam_energy < 0.5 * measure(cast(segment), previous_tail=tail).seam_energy
    assert (fixed[6:].mean() - fixed[:4].mean()).item() == pytest.approx(0.3, abs=0.05)


def test_first_does_not_chain_errors_and_previous_does():
    """Ten segments, each losing a little colour against the corrected one before: the choice of anchor decides."""
    frames, _ = scene()
    anchor = drift.colour_statistics(frames)
    ends = {}
    for mode in ("off", "reinhard-first"):
        segment = frames
        for _ in range(10):
            segment = drift.correct(segment * 0.97 - 0.01, anchor, mode)
        ends[mode] = drift.compare(drift.segment_statistics(segment), drift.segment_statistics(frames))
    assert ends["off"].score > 4 * ends["reinhard-first"].score


@pytest.mark.parametrize("mode", ["reinhard-first", "reinhard-previous"])
def test_somebody_who_leaves_or_comes_tints_nothing(mode):
    """The surroundings stay as they are, and whoever comes back later, too: nothing has drifted."""
    frames, mask = scene()
    empty, nobody = scene(shift=1000)
    later, later_mask = torch.cat([empty, frames]), np.concatenate([nobody, mask])
    anchors = {
        name: drift.colour_statistics(*each) for name, each in (("with", (frames, mask)), ("without", (empty, nobody)))
    }
    for anchor, segment, segment_mask in (
        ("with", empty, nobody),
        ("without", frames, mask),
        ("with", later, later_mask),
    ):
        fixed = drift.correct(segment, anchors[anchor], mode, mask=segment_mask)
        outside = ~torch.from_numpy(segment_mask)[:, None].expand_as(fixed)
        # The character hides part of the texture: statistics of the rest differ a little.
        assert (fixed - segment)[outside].abs().mean() < 0.02, anchor
        if anchor == "without":
            assert (fixed - segment).abs().mean() < 0.02


def test_a_light_that_changes_is_mended_without_the_character_too():
    frames, mask = scene()
    empty, nobody = scene(shift=1000)
    fixed = drift.correct(empty + 0.1, drift.colour_statistics(frames, mask), "reinhard-first", mask=nobody)
    wanted = drift.colour_statistics(frames, mask).outside
    assert drift.colour_statistics(fixed, nobody).outside.distance(wanted) < 0.5
    filled = np.ones_like(mask)  # a close-up: no surroundings to compare with an empty scene's
    assert drift.correct(frames, drift.colour_statistics(empty, nobody), "reinhard-first", mask=filled) is frames


def test_somebody_who_leaves_is_no_drift(tmp_path):
    frames, mask = scene()
    empty, nobody = scene(shift=1000)
    first = replace(measure(frames, mask), index=0)
    gone = measure(empty, nobody, first.statistics)
    assert gone.to_first.identity is None
    assert "identity" not in gone.to_first.parts
    assert drift.SegmentDrift.from_json(json.loads(json.dumps(gone.to_json()))) == gone
    back = replace(measure(frames, mask, first.statistics), index=2)
    assert back.to_first.identity == 0
    assert measure(empty, base=drift.segment_statistics(frames)).to_first.identity > 0  # without masks
    plot(drift.DriftReport([first, gone, back]), tmp_path / "drift.png")


def test_off_and_purity():
    frames, mask = scene()
    anchor = drift.colour_statistics(frames, mask)
    assert drift.correct(frames, anchor, "off") is frames
    bad = cast(frames)
    kept = bad.clone()
    once, twice = (drift.correct(bad, anchor, "reinhard-first", mask=mask) for _ in range(2))
    assert torch.equal(once, twice)
    assert torch.equal(bad, kept)
    assert (once.dtype, once.shape) == (bad.dtype, bad.shape)
    assert once.abs().max() <= 1
    restored = drift.ColourStatistics.from_json(json.loads(json.dumps(anchor.to_json())))
    assert torch.equal(drift.correct(bad, restored, "reinhard-first", mask=mask), once)
    with pytest.raises(ValueError, match="is not a valid"):
        drift.correct(frames, anchor, "histogram")


def test_flat_pictures_do_not_explode():
    frames, _ = scene()
    flat = torch.full_like(frames, 0.1)
    fixed = drift.correct(flat, drift.colour_statistics(frames), "reinhard-first")
    assert torch.isfinite(fixed).all()
    assert fixed.std() < 1e-3 + flat.std() + fixed.mean(dim=(0, 2, 3)).std()
    assert LabStatistics((0, 0, 0), (0, 0, 0)).contrast_change(LabStatistics((0, 0, 0), (0, 0, 0))) == 0
