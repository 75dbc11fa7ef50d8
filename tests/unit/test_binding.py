"""Who moves whom, and in which colour."""

import numpy as np
import pytest

from scail2.errors import InputError
from scail2.masks import BINDING_SLOTS, BindingSlot
from scail2.perception.binding import BindingRequest, BindingRule, bind, order, parse_bind, smallest_gap
from scail2.perception.tracks import TrackedMasks, TrackRecorder


def clip(
    boxes: list[list[tuple[int, int, int, int] | None]], slots=(), height: int = 40, width: int = 200
) -> TrackedMasks:
    """Characters drawn as boxes: one list per character, one x0, y0, x1, y1 (or None) per frame."""
    labels = np.zeros((len(boxes[0]), height, width), np.uint8)
    for number, places in enumerate(boxes, start=1):
        for frame, box in enumerate(places):
            if box is not None:
                labels[frame, box[1] : box[3], box[0] : box[2]] = number
    recorder = TrackRecorder(None, height=height, width=width)
    recorder.add(labels)
    return recorder.finish("test", slots=slots)


def row(count: int, frames: int = 1, *, step: int = 20) -> TrackedMasks:
    """`count` characters from left to right, standing still."""
    return clip([[(5 + step * i, 5, 15 + step * i, 35)] * frames for i in range(count)])


def test_left_to_right_pairs_by_position_not_by_number():
    reference = clip([[(100, 5, 120, 35)], [(10, 5, 30, 35)]])
    bound = bind(reference, row(2))
    assert [(p.driving, p.reference) for p in bound.pairs] == [(1, 2), (2, 1)]
    assert [p.slot for p in bound.pairs] == [BindingSlot.BLUE, BindingSlot.RED]


def test_area_and_first_appearance_orders():
    late_left = clip([[None, (0, 5, 10, 35)], [(100, 5, 110, 20)] * 2])
    assert order(late_left, BindingRule.AREA) == [1, 2]
    assert order(late_left, BindingRule.FIRST_APPEARANCE) == [2, 1]
    assert order(late_left, BindingRule.LEFT_TO_RIGHT) == [1, 2]
    assert BindingRule.parse("by-area") is BindingRule.AREA


def test_explicit_pairs_win_and_leave_the_rest_unbound():
    bound = bind(row(2), row(3), BindingRequest.parse(["driving:3=reference:1"]))
    assert [(p.driving, p.reference) for p in bound.pairs] == [(3, 1)]
    assert bound.unbound_driving == (1, 2)
    assert bound.unbound_reference == (2,)
    assert bound.rule == "explicit"


def test_either_side_may_be_written_first():
    assert parse_bind("reference:1=driving:2") == parse_bind(" driving:2 = reference:1 ") == (2, 1)


@pytest.mark.parametrize(
    "text", ["driving:2", "driving:0=reference:1", "driving:1=driving:2", "a=b", "", "driving:1=reference:1=x"]
)
def test_unreadable_pairs_are_refused(text):
    with pytest.raises(InputError, match="driving:2=reference:1"):
        parse_bind(text)


def test_selection_takes_only_the_named_characters():
    bound = bind(row(1), row(3), BindingRequest.parse(["driving:2"]))
    assert [(p.driving, p.reference) for p in bound.pairs] == [(2, 1)]
    assert set(bound.unbound_driving) == {1, 3}


def test_surplus_driving_characters_are_noted():
    bound = bind(row(1), row(2))
    assert bound.unbound_driving == (2,)
    assert "move nobody" in bound.notes[0]


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        (["driving:9=reference:1"], "driving:9"),
        (["driving:1=reference:9"], "reference:9"),
        (["driving:1=reference:1", "driving:1=reference:2"], "twice"),
        (["driving:1=reference:1", "driving:2=reference:1"], "seen together"),
        (["driving:7"], "no driving character 7"),
        (["sideways"], "unknown binding"),
        (["driving:1", "driving:1=reference:1"], "pairs already say"),
    ],
)
def test_contradictory_requests_are_refused(terms, said):
    with pytest.raises(InputError, match=said):
        bind(row(2), row(2), BindingRequest.parse(terms))


def test_two_tracks_of_one_person_who_left_and_came_back_may_share_a_reference():
    person = clip([[(0, 5, 10, 35), None, None], [None, None, (50, 5, 60, 35)]])
    bound = bind(row(1), person, BindingRequest.parse(["driving:1=reference:1", "driving:2=reference:1"]))
    assert {pair.slot for pair in bound.pairs} == {BindingSlot.BLUE}


def test_painted_colours_are_kept():
    slots = [BindingSlot.YELLOW, BindingSlot.CYAN]
    reference = clip([[(0, 5, 10, 35)], [(50, 5, 60, 35)]], slots=slots)
    driving = clip([[(80, 5, 90, 35)], [(20, 5, 30, 35)]], slots=slots)
    bound = bind(reference, driving)
    assert {(p.driving, p.reference, p.slot) for p in bound.pairs} == {
        (1, 1, BindingSlot.YELLOW),
        (2, 2, BindingSlot.CYAN),
    }


def test_painted_masks_without_a_common_colour_are_refused():
    with pytest.raises(InputError, match="share no colour"):
        bind(clip([[(0, 5, 9, 9)]], slots=[BindingSlot.RED]), clip([[(0, 5, 9, 9)]], slots=[BindingSlot.BLUE]))


def test_seven_characters_share_a_colour_only_between_the_farthest():
    bound = bind(row(7, step=28), row(7, 3, step=28))
    assert len(bound.pairs) == 7
    by_slot: dict[BindingSlot, list[int]] = {}
    for pair in bound.pairs:
        by_slot.setdefault(pair.slot, []).append(pair.reference)
    assert set(by_slot) == set(BINDING_SLOTS)
    (shared,) = [numbers for numbers in by_slot.values() if len(numbers) == 2]
    assert sorted(shared) == [1, 7]


def test_seven_characters_close_together_are_refused():
    crowd = clip([[(5 + 9 * i, 5, 14 + 9 * i, 35)] for i in range(7)], width=400)
    with pytest.raises(InputError, match="six colours"):
        bind(crowd, crowd)


def test_gap_counts_only_frames_that_show_both():
    masks = clip([[(0, 5, 10, 35), (0, 5, 10, 35)], [None, (30, 5, 40, 35)]])
    assert smallest_gap(*masks.tracks) == 20
    apart = clip([[(0, 5, 10, 35), None], [None, (10, 5, 20, 35)]])
    assert smallest_gap(*apart.tracks) == float("inf")


def test_nobody_to_bind_is_refused_by_side():
    nobody = clip([[None]])
    with pytest.raises(InputError, match="reference-mask"):
        bind(nobody, row(1))
    with pytest.raises(InputError, match="driving-mask"):
        bind(row(1), nobody)
