"""Real people by the pose networks, on real footage."""

from pathlib import Path

import numpy as np
import pytest
from run_material import write_video

from scail2.cli.app import main
from scail2.drift.verdict import LIMITS, Measure
from scail2.errors import InputError
from scail2.modes import AnimationMode
from scail2.perception.binding import bind
from scail2.perception.bound_masks import BoundMasks
from scail2.perception.checks import framing
from scail2.perception.checks.extents import pair_extents
from scail2.perception.checks.validate import check_masks
from scail2.perception.segmenters.detail import detail_factor, with_detail
from scail2.perception.segmenters.people.joints import Joints, body_near, find_joints, motion_error, posture_near
from scail2.perception.segmenters.people.network import OUTSIDE, Body, PoseNetwork, Square, crop, installed, placed
from scail2.perception.segmenters.people.places import Finding, PlaceFinder
from scail2.perception.segmenters.people.segmenter import PeopleSegmenter
from scail2.perception.segmenters.people.skeleton import SkeletonStyle, draw_skeletons, smoothed
from scail2.perception.tracks import TrackedMasks, TrackRecorder
from scail2.request.masks import BoxPrompt, PointPrompt, Prompts
from scail2.runs.motion import MotionCheck
from scail2.runs.watching import WatchedFrames
from scail2.segments import SegmentPlan
from scail2.video import ArrayFrames, VideoReader, resize_cover

cv2 = pytest.importorskip("cv2")
pytestmark = pytest.mark.skipif(not installed(), reason="needs the extra people (ai-edge-litert and OpenCV)")
MEDIA = Path(__file__).parents[1] / "media"


@pytest.fixture(scope="module")
def network():
    return PoseNetwork()


@pytest.fixture(scope="module")
def dancer():
    return ArrayFrames(VideoReader(MEDIA / "dance_black.mp4").frames(0, 9))


@pytest.fixture(scope="module")
def masks(network, dancer):
    return PeopleSegmenter(network).segment(dancer)


def side_by_side(dancer):
    """The dancer twice, 200 pixels of the left half each: two people at known places."""
    half = dancer.array[:, :, 60:260]
    return ArrayFrames(np.concatenate([half, half[:, :, ::-1]], axis=2))


def test_a_square_goes_to_the_network_and_back_to_its_place():
    ys, xs = np.mgrid[:120, :160]
    disc = (xs + 0.5 - 90) ** 2 + (ys + 0.5 - 50) ** 2 < 15**2
    frame = np.where(disc[..., None], 255, 0).astype(np.uint8).repeat(3, axis=2)
    for square in (Square(85, 55, 90, 0.4), Square(90, 50, 64), Square(100, 60, 700, -1.2)):
        inside = crop(frame, square, 256)[..., 0] - 127.5
        back = placed(inside, square, 120, 160) > 0
        overlap = np.count_nonzero(back & disc) / np.count_nonzero(back | disc)
        assert overlap > (0.97 if square.side < 256 else 0.85), square
    assert placed(np.zeros((8, 8), np.float32), Square(10, 10, 8), 64, 64)[40, 40] == OUTSIDE


def test_joints_without_an_outline_are_the_same_joints(network, dancer):
    frame = dancer.array[4]
    for square in (Square(220, 120, 260), Square(200, 130, 300, 0.5), Square(20, 20, 64)):
        body, posture = network.body(frame, square), network.posture(frame, square)
        assert (posture.square, posture.presence, posture.following) == (square, body.presence, body.following)
        np.testing.assert_array_equal(posture.joints, body.joints)
        np.testing.assert_array_equal(posture.visibility, body.visibility)
        seen = posture_near(network, frame, square), body_near(network, frame, square)
        assert [each and each.following for each in seen] == [seen[0] and seen[0].following] * 2
    operations = [len(each._get_ops_details()) for each in (network._joints, network._body)]
    assert operations[0] < 0.8 * operations[1]


def test_a_body_that_lies_has_a_square_that_lies():
    upright = Square.of_axis(np.array([50.0, 60.0]), np.array([50.0, 20.0]))
    assert (upright.x, upright.y, upright.side) == (50, 60, 100)
    assert upright.angle == pytest.approx(0)
    lying = Square.of_axis(np.array([50.0, 60.0]), np.array([90.0, 60.0]))
    assert lying.angle == pytest.approx(np.pi / 2)


def test_the_dancer_is_found_in_every_frame_and_nothing_else(masks):
    assert len(masks.tracks) == 1
    track = masks.tracks[0]
    assert track.present.all()
    # Measured by eye on the first frame: the raised hand at y 88, feet at 303, elbow at x 108, hand at x 248.
    # Smoothing with the next frame, where the arm has moved, reaches a little further.
    x0, y0, x1, y1 = track.boxes[0]
    assert 100 <= x0 <= 125
    assert 78 <= y0 <= 98
    assert 230 <= x1 <= 270
    assert 295 <= y1 <= 315
    assert 0.07 < track.areas[0] / (350 * 350) < 0.13


def test_confidence_is_high_on_a_person_and_a_picture_without_one_is_refused(masks, network):
    assert masks.tracks[0].mean_confidence > 0.6
    noise = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    with pytest.raises(InputError, match="no person was found"):
        PeopleSegmenter(network).segment(ArrayFrames(noise))


def test_two_people_are_numbered_from_left_to_right(network, dancer):
    found = PeopleSegmenter(network).segment(side_by_side(dancer))
    assert len(found.tracks) == 2
    centres = [float(np.nanmean(track.boxes[:, [0, 2]])) for track in found.tracks]
    assert 80 < centres[0] < 150
    assert 250 < centres[1] < 320


def test_a_box_or_a_click_picks_one_of_two_people(network, dancer):
    clip = side_by_side(dancer)
    box = Prompts(boxes=(BoxPrompt(frame=0, character=1, box=(210, 80, 350, 310)),))
    click = Prompts(points=(PointPrompt(frame=0, character=1, x=290, y=170),))
    for prompts in (box, click):
        found = PeopleSegmenter(network).segment(clip, prompts)
        assert len(found.tracks) == 1
        assert found.tracks[0].present.all()
        assert np.nanmin(found.tracks[0].boxes[:, 0]) > 180


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        (PointPrompt(frame=99, character=1, x=5, y=5), "names frame 99, but the clip has frames 0 to 3"),
        (PointPrompt(frame=0, character=0, x=5, y=5), "names character 0"),
        (PointPrompt(frame=0, character=300, x=5, y=5), "names character 300"),
        (PointPrompt(frame=0, character=1, x=33, y=5), "lies outside the 32x24 pixels"),
        (BoxPrompt(frame=0, character=1, box=(10, 10, 10, 10)), "is empty"),
        (PointPrompt(frame=0, character=1, x=5, y=5, inside=False), "not at where somebody is not"),
    ],
)
def test_places_that_cannot_be_meant_are_refused_and_not_passed_over(network, prompt, told):
    clip = ArrayFrames(np.zeros((4, 24, 32, 3), np.uint8))
    asked = Prompts(**{"boxes" if isinstance(prompt, BoxPrompt) else "points": (prompt,)})
    with pytest.raises(InputError, match=told):
        PeopleSegmenter(network, refuse_below=0).segment(clip, asked)


def test_text_is_refused(network, dancer):
    with pytest.raises(InputError, match="understands no text"):
        PeopleSegmenter(network).segment(dancer, Prompts(text=("person",)))


def test_a_gap_is_bridged_and_told(network, dancer):
    clip = dancer.array.copy()
    clip[4] = 20
    people = PlaceFinder(network).find(ArrayFrames(clip))
    assert len(people) == 1
    assert people[0].bridged == {4}
    before, at, after = (people[0].squares[n] for n in (3, 4, 5))
    assert at.x == pytest.approx((before.x + after.x) / 2)
    found = PeopleSegmenter(network, refuse_below=0).segment(ArrayFrames(clip))
    assert "not found in 1 frames (4 to 4)" in found.warnings[0]
    masks = BoundMasks(mode=AnimationMode.ANIMATION, reference=found, driving=found, binding=bind(found, found))
    told = [each for each in check_masks(masks) if each.code == "mask_source"]
    assert {each.fix.split(",")[0] for each in told} == {"look at these frames in the preview"}


@pytest.mark.parametrize(
    ("x", "side", "frame", "known"),
    [(125, 80, 7, True), (75, 110, 16, True), (160, 80, 7, False), (100, 200, 7, False), (100, 80, 17, False)],
)
def test_somebody_who_is_lost_for_a_moment_is_the_same_person(network, x, side, frame, known):
    def found(x, side, corner):
        nothing = np.zeros((33, 2), np.float32)
        square = Square(x, 100, side)
        body = Body(
            square=square,
            presence=1.0,
            joints=nothing,
            visibility=nothing[:, 0],
            following=square,
            outline=np.zeros((0, 0), np.float32),
        )
        footprint = np.zeros((64, 64), bool)
        footprint[corner : corner + 8] = True
        return Finding(body, footprint)

    finder = PlaceFinder(network)
    finder._assign(4, found(100, 80, 0))
    finder._assign(frame, found(x, side, 30))  # elsewhere, by its outline
    assert [sorted(person.findings) for person in finder.people] == ([[4, frame]] if known else [[4], [frame]])


def test_somebody_missed_at_first_is_followed_backwards(network, dancer):
    finder = PlaceFinder(network)
    for number in range(4, 9):
        finder._step(number, dancer.array[number])
    assert min(finder.people[0].squares) == 4
    finder._backwards(dancer)
    assert min(finder.people[0].squares) == 0


def test_joints_of_the_same_motion_agree_and_of_another_do_not(network, dancer):
    joints = find_joints(dancer, network)
    assert joints.places.shape == (1, 9, 33, 2)
    assert joints.seen[0, 0, [11, 12, 23, 24]].all()
    moved = Joints(places=2 * joints.places + 30, visibility=joints.visibility)
    np.testing.assert_allclose(motion_error(joints, moved), 0, atol=1e-5)
    mirrored = Joints(places=joints.places * (-1, 1), visibility=joints.visibility)
    assert np.nanmin(motion_error(joints, mirrored)) > 0.3


def test_hand_and_face_boxes_lie_at_the_ends_of_arms_and_neck(network, dancer):
    joints = find_joints(dancer, network)
    hands, faces = joints.hand_boxes()[0, 0], joints.face_boxes()[0, 0]
    assert hands.shape == (2, 4)
    for box, joint in ((hands[0], 15), (hands[1], 16), (faces, 0)):
        x, y = joints.places[0, 0, joint]
        assert box[0] < x < box[2]
        assert box[1] < y < box[3]
        assert 10 < box[2] - box[0] < 60
    # By eye: the raised right hand is at (198, 92), the face at (186, 130).
    assert hands[1][0] < 198 < hands[1][2]
    assert hands[1][1] < 92 < hands[1][3]
    assert faces[0] < 186 < faces[2]
    assert faces[1] < 130 < faces[3]
    hidden = Joints(places=joints.places, visibility=np.zeros_like(joints.visibility))
    assert np.isnan(hidden.hand_boxes()).all()


@pytest.fixture(scope="module")
def check(network, dancer):
    """Compares an output with the dancer's motion."""
    check = MotionCheck(WatchedFrames(dancer))
    check.__dict__["_network"] = network
    return check


@pytest.fixture(scope="module")
def palette(masks):
    labels = np.concatenate([each for _, each in masks.windows()])
    return np.where((labels == 1)[..., None], np.uint8([0, 0, 255]), np.uint8(0))


SEGMENT = SegmentPlan.of(9, segment_frame_length=9).segments[0]


def test_an_output_that_moves_alike_has_no_motion_error_and_another_has(check, dancer, palette):
    frames = dancer.array
    same = check.measure(SEGMENT, frames, palette)
    assert same.frames == (0, 2, 4, 6, 8)
    assert same.value < 0.05
    smaller = np.stack([cv2.resize(cv2.copyMakeBorder(f, 60, 60, 60, 60, 1), (350, 350)) for f in frames])
    assert check.measure(SEGMENT, smaller, palette).value < 0.15
    mirrored = check.measure(SEGMENT, np.ascontiguousarray(frames[:, :, ::-1]), palette)
    assert mirrored.value > LIMITS[Measure.MOTION_ERROR]
    still = check.measure(SEGMENT, np.repeat(frames[:1], 9, axis=0), palette)
    assert still.errors[0] < 0.05 < 0.2 < still.errors[-1]


def test_why_there_is_no_motion_error_is_said(check, dancer, palette, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, dancer.array.shape, dtype=np.uint8)
    assert "in the output" in check.measure(SEGMENT, noise, palette).reason
    wrong = np.zeros_like(palette)
    wrong[:, 5:60, 5:60, 2] = 255  # a character where the dancer is not
    assert "driving video's characters" in check.measure(SEGMENT, dancer.array, wrong).reason
    monkeypatch.setattr("scail2.runs.motion.installed", lambda: False)
    assert "pip install 'scail2[people]'" in check.measure(SEGMENT, dancer.array, palette).reason


def standing(labels: np.ndarray) -> TrackedMasks:
    """Masks of one character from labels uint8 (T, H, W)."""
    recorder = TrackRecorder(None, height=labels.shape[1], width=labels.shape[2])
    recorder.add(np.ascontiguousarray(labels))
    return recorder.finish("test")


def framed(reference, reference_labels, driving, driving_labels):
    """What the framing check says of a picture and a clip, with the masks that are known."""
    shown, moving = standing(reference_labels[None]), standing(driving_labels)
    binding = bind(shown, moving)
    masks = BoundMasks(mode=AnimationMode.ANIMATION, reference=shown, driving=moving, binding=binding)
    extents = pair_extents(masks, reference, ArrayFrames(driving))
    found = framing.check(shown, moving, binding, extents).findings
    return [(each.severity.value, each.message) for each in found if each.code == "cut_off"]


def test_a_reference_that_ends_at_the_knees_is_told_by_joints(dancer, palette, monkeypatch):
    labels = (palette[..., 2] > 0).astype(np.uint8)
    frame, mask = dancer.array[5], labels[5]
    knees = 262  # by eye; the feet are at 303
    picture, cut = np.full_like(frame, 255), mask.copy()
    picture[:knees], cut[knees:] = frame[:knees], 0
    ((severity, message),) = framed(picture, cut, dancer.array, labels)
    assert severity == "warning"
    assert "reference character 1 is shown down to the knees only" in message
    assert "driving character 1 down to the feet (frame 0)" in message
    # The other way round nothing has to be invented.
    ((severity, message),) = framed(frame, mask, dancer.array[:, :knees], labels[:, :knees])
    assert severity == "info"
    assert "reference character 1 down to the feet" in message
    # A mask that touches no border says nothing of this.
    monkeypatch.setattr("scail2.perception.checks.extents.installed", lambda: False)
    assert framed(picture, cut, dancer.array, labels) == []


def test_feet_on_the_picture_s_edge_are_not_cut_off(dancer, palette, monkeypatch):
    labels = (palette[..., 2] > 0).astype(np.uint8)
    bottom = int(np.flatnonzero(labels[0].any(axis=1))[-1])
    picture, mask = dancer.array[0, : bottom + 1], labels[0, : bottom + 1].copy()
    mask[-1, 100:260] = 1  # a shadow, or a mask painted down to the edge
    assert framed(picture, mask, dancer.array, labels) == []
    monkeypatch.setattr("scail2.perception.checks.extents.installed", lambda: False)
    assert "cut off at the bottom" in framed(picture, mask, dancer.array, labels)[0][1]


# ---- skeleton films --------------------------------------------------------------------------------------------------


def somebody(**places: tuple[float, float]) -> Joints:
    """One person in one frame with these joints seen, numbered as j11, j12 …"""
    points, seen = np.full((1, 1, 33, 2), np.nan, np.float32), np.zeros((1, 1, 33), np.float32)
    for name, place in places.items():
        points[0, 0, int(name[1:])], seen[0, 0, int(name[1:])] = place, 1
    return Joints(places=points, visibility=seen)


def test_limbs_lie_between_their_joints_in_the_colours_of_their_side():
    right_arm = somebody(j12=(20, 20), j14=(20, 60), j16=(60, 60))
    picture = draw_skeletons(right_arm, SkeletonStyle.OPENPOSE, height=100, width=100, frame=0)
    assert picture[40, 20].tolist() == [153, 102, 0]  # upper arm: the third limb, at six tenths
    assert picture[60, 40].tolist() == [153, 153, 0]
    assert picture[60, 60].tolist() == [170, 255, 0]  # the wrist itself
    assert not picture[:, 70:].any()
    assert not picture[20, 40].any()  # no neck without the other shoulder
    left_arm = somebody(j11=(20, 20), j13=(20, 60), j15=(60, 60))
    other = draw_skeletons(left_arm, SkeletonStyle.OPENPOSE, height=100, width=100, frame=0)
    assert other[40, 20].tolist() == [102, 153, 0]
    both = somebody(j11=(80, 20), j12=(20, 20))
    shoulders = draw_skeletons(both, SkeletonStyle.OPENPOSE, height=100, width=100, frame=0)
    assert shoulders[20, 50].tolist() == [255, 85, 0]  # the neck, in the middle
    hidden = Joints(places=both.places, visibility=both.visibility * 0.4)
    assert not draw_skeletons(hidden, SkeletonStyle.OPENPOSE, height=100, width=100, frame=0).any()


def test_the_puppets_style_is_that_of_their_pose_films():
    from scail2.puppets.pose import render_pose
    from scail2.puppets.skeleton import JOINT_INDEX

    legs = {"hip": (24, 23), "knee": (26, 25), "ankle": (28, 27)}
    found = somebody(j24=(40, 20), j26=(40, 50), j28=(45, 90), j23=(60, 20), j25=(62, 50), j27=(60, 90))
    places = np.full((1, 1, len(JOINT_INDEX), 2), np.nan)
    for name, numbers in legs.items():
        for side, number in zip(("right", "left"), numbers, strict=True):
            places[0, 0, JOINT_INDEX[f"{name}_{side}"]] = found.places[0, 0, number]
    places[0, 0, JOINT_INDEX["pelvis"]] = (50, 20)
    expected = render_pose(places, height=100, width=100, fingers=False)[0]
    assert expected.any()
    drawn = draw_skeletons(found, SkeletonStyle.PUPPETS, height=100, width=100, frame=0)
    np.testing.assert_array_equal(drawn, expected)


def test_a_shaking_joint_is_smoothed_and_gaps_stay_gaps():
    joints = Joints(
        places=np.float32([[[[0, 0]] * 33, [[8, 0]] * 33, [[0, 0]] * 33, [[np.nan] * 2] * 33, [[4, 4]] * 33]]),
        visibility=np.ones((1, 5, 33), np.float32),
    )
    places = smoothed(joints).places[0, :, 0]
    np.testing.assert_array_equal(places[1], (4, 0))
    np.testing.assert_array_equal(places[2], (0, 0))  # beside a gap nothing is mixed in
    assert np.isnan(places[3]).all()
    np.testing.assert_array_equal(places[4], (4, 4))


def test_the_verb_draws_the_dancer_and_refuses_what_it_must(dancer, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "dance.mkv", dancer.array[:3])
    with pytest.raises(SystemExit) as code:
        main(["pose", "dance.mkv", "--output", "skeleton.mkv"])
    assert code.value.code == 0
    assert "1 person" in capsys.readouterr().out
    film = VideoReader("skeleton.mkv")
    assert (len(film), film.height, film.width) == (3, 350, 350)
    first = film.frames(0, 1)[0]
    # By eye: the raised right wrist (yellow-green dot) near (199, 97), the left knee (blue) near (222, 261).
    ys, xs = np.nonzero((first[..., 1] > 180) & (first[..., 0] > 100) & (first[..., 2] < 60))
    assert np.hypot(xs - 199, ys - 97).min() < 8
    assert (first.reshape(-1, 3).max(axis=1) < 30).mean() > 0.95
    noise = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    write_video(tmp_path / "noise.mkv", noise)
    for words, said in (
        (["dance.mkv", "--output", "skeleton.mkv"], "--overwrite"),
        (["dance.mkv", "--output", "dance.mkv", "--overwrite"], "would overwrite it"),
        (["dance.mkv", "--output", "other.mkv", "--style", "cubist"], "openpose, puppets"),
        (["noise.mkv", "--output", "other.mkv"], "no person was found in noise.mkv"),
    ):
        with pytest.raises(SystemExit) as code:
            main(["pose", *words])
        assert code.value.code == 2
        assert said in capsys.readouterr().err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["dance.mkv", "noise.mkv", "skeleton.mkv"]


def test_a_small_run_looks_for_people_in_the_detail_of_its_file(network, dancer, masks):
    """At a third of its clip's size the dancer is found as in the whole clip, in the small frames' own pixels."""

    def sized(size):
        return ArrayFrames(np.stack([resize_cover(each, *size) for each in dancer.array]))

    height, width = (side // 3 for side in dancer.array.shape[1:3])
    detailed = with_detail(sized((height, width)), (3 * height, 3 * width), sized)
    assert (detailed.height, detailed.detail.height) == (height, 3 * height)
    found = PeopleSegmenter(network).segment(detailed)
    assert len(found.tracks) == 1
    mask, whole = found.labels.labels(0, 1)[0] > 0, masks.labels.labels(0, 1)[0][1::3, 1::3][:height, :width] > 0
    assert mask.shape == (height, width)
    assert (mask & whole).sum() / (mask | whole).sum() > 0.85


def test_detail_is_only_as_fine_as_the_file():
    assert [detail_factor((128, 128), source) for source in ((128, 128), (255, 300), (350, 350), (2000, 2000))] == [
        1,
        2,
        2,
        2,
    ]
    assert detail_factor((512, 896), (1080, 1920)) == 1
    assert detail_factor((64, 64), (1080, 1920)) == 4
