import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scail2.errors import InputError
from scail2.segments import SegmentPlan, round_up_frames

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "segments.json").read_text())
FAMILIES = [GOLDENS["default"], *GOLDENS["other"]]


def plan(total: int, family: dict) -> SegmentPlan:
    return SegmentPlan.of(
        total,
        segment_frame_length=family["segment_len"],
        overlap=family["segment_overlap"],
        temporal_stride=family["temporal_stride"],
    )


@pytest.mark.parametrize(
    "family", FAMILIES, ids=lambda f: f"{f['segment_len']}-{f['segment_overlap']}-{f['temporal_stride']}"
)
def test_plans_are_the_published_ones(family):
    for expected in family["plans"]:
        segments = plan(expected["total"], family)
        assert [[s.start, s.stop, s.padded_frames, s.overlap] for s in segments] == expected["segments"]


@pytest.mark.parametrize("setting", GOLDENS["raises"])
def test_impossible_settings_are_refused(setting):
    with pytest.raises(InputError):
        plan(setting["total"], setting)


def test_round_up():
    for frames, expected in GOLDENS["round_up"]:
        assert round_up_frames(frames) == expected


@pytest.mark.parametrize("wrong", [81.0, "81", None, True])
def test_frame_counts_must_be_whole_numbers(wrong):
    with pytest.raises(InputError, match="whole number"):
        SegmentPlan.of(wrong)


def test_numpy_integers_are_whole_numbers():
    assert SegmentPlan.of(np.int64(200)).segments == SegmentPlan.of(200).segments


def test_the_refusal_names_a_number_that_works():
    with pytest.raises(InputError, match="for example 85"):
        SegmentPlan.of(100, segment_frame_length=82)


@given(
    total=st.integers(1, 2000),
    overlap=st.integers(0, 10).map(lambda n: 4 * n + 1),
    extra=st.integers(1, 30),
    equal=st.booleans(),
)
def test_every_plan_covers_every_frame_once(total, overlap, extra, equal):
    length = overlap + 4 * extra
    segments = SegmentPlan.of(total, segment_frame_length=length, overlap=overlap, equal=equal).segments
    assert [s.index for s in segments] == list(range(len(segments)))
    covered = [frame for s in segments for frame in range(s.first_new, s.first_new + s.new_frames)]
    assert covered == list(range(total))
    for before, segment in itertools.pairwise(segments):
        # The overlap is exactly the end of what the segment before put out, none of it padding.
        assert segment.start + segment.overlap == before.stop
        assert segment.overlap == overlap <= before.stop - before.start
        assert before.padding == 0
    for segment in segments:
        assert segment.new_frames > 0
        assert segment.padded_frames % 4 == 1
        assert segment.stop - segment.start <= segment.padded_frames <= length
    if equal:
        published = SegmentPlan.of(total, segment_frame_length=length, overlap=overlap)
        assert len(segments) == len(published)
        lengths = [s.padded_frames for s in segments]
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[0] - lengths[-1] in (0, 4)
        if len(segments) > 1:
            whole = lengths[-1] - overlap
            assert segments[-1].new_frames >= whole - max(7, (whole + 4) // 4)


def test_equal_segments_have_no_short_tail():
    lengths = [(s.padded_frames, s.new_frames) for s in SegmentPlan.of(1450, equal=True)]
    assert set(lengths[1:-1]) == {(81, 76), (77, 72)}  # all of one length, the last would have a single new frame
    assert lengths[-1] == (77, 69)
    assert [s.padded_frames for s in SegmentPlan.of(82)] == [81, 9]
    assert [s.padded_frames for s in SegmentPlan.of(82, equal=True)] == [45, 45]
