"""Joints of people in one's own videos: whose they are, the hands, the pose renders, and what is made of them."""

import numpy as np
import pytest
from own_material import film, write
from test_own_pairs import added, pairs_in, run

from scail2.data.dataset import LatentDataset
from scail2.data.own import material
from scail2.data.own.making import Making
from scail2.data.own.material import Reading
from scail2.perception.segmenters.people import joints as known
from scail2.perception.segmenters.people.joints import Joints
from scail2.perception.segmenters.people.skeleton import SkeletonStyle

pytest.importorskip("cv2")
pytest.importorskip("ai_edge_litert")

FRAMES, SIDE = 17, 128


def body(x: float, frame: int) -> np.ndarray:
    """33 joints of somebody whose hips are at (x, 70); the left hand rises by a pixel a frame."""
    places = np.tile([x, 40.0], (33, 1))
    for left, right, dx, y in ((11, 12, 6, 45), (23, 24, 5, 70), (25, 26, 5, 90), (27, 28, 5, 110)):
        places[left], places[right] = (x + dx, y), (x - dx, y)
    for joint in (13, 15, 17, 19, 21):
        places[joint] = (x + 14, 60 - frame)
    for joint in (14, 16, 18, 20, 22):
        places[joint] = (x - 14, 60)
    return places


@pytest.fixture
def two(tmp_path, monkeypatch):
    """A film of two people, and a pose network that finds the right one first."""
    centres = (35, 90)
    ys, xs = np.mgrid[:SIDE, :SIDE]
    outlines = [
        np.stack([(np.abs(xs - x) < 18 + n % 3) & (ys > 30) & (ys < 115) for n in range(FRAMES)]) for x in centres
    ]
    frames, mask = film(outlines, colours=[(200, 60, 60), (60, 200, 60)])
    found = np.stack([[body(x, n) for n in range(FRAMES)] for x in reversed(centres)]).astype(np.float32)
    monkeypatch.setattr(
        material, "find_joints", lambda _: Joints(places=found, visibility=np.ones(found.shape[:3], np.float32))
    )
    return {"target": write(tmp_path / "two.mkv", frames), "target_mask": write(tmp_path / "mask.mkv", mask)}


@pytest.mark.parametrize("style", list(SkeletonStyle))
def test_everybody_gets_their_own_joints_hands_and_pose(two, tmp_path, style):
    making = Making(reading=Reading(size=(SIDE, SIDE)), frames=FRAMES, poses=style)
    entry = added(tmp_path / "out", two, making=making)["two"].entry
    assert entry.clips == {"pose_multi": 1}
    clip = pairs_in(tmp_path / "out")["two-000000"].real
    # From left to right, whoever was found first. A fifth of the torso of 25 pixels is around the hand.
    reach = 25 / 5
    assert np.allclose(clip.hand_boxes[0, 4, 0], (35 + 14 - reach, 56 - reach, 35 + 14 + reach, 56 + reach), atol=0.02)
    assert np.allclose(clip.hand_boxes[1, 0, 1], (90 - 14 - reach, 60 - reach, 90 - 14 + reach, 60 + reach), atol=0.02)
    assert clip.pose.shape == (FRAMES, SIDE, SIDE, 3)
    for person, x in enumerate((35, 90)):
        _rows, columns = np.nonzero(clip.pose_tracks[person, 0])
        assert abs(columns.mean() - x) < 3
        assert clip.pose_tracks[person, 0, 57:83, x - 6 : x + 7].any()
    assert not clip.pose[:, :, :10].any()
    assert (clip.pose_joints is not None) == (style is SkeletonStyle.PUPPETS)


def test_a_pose_sample_is_driven_by_the_render(two, tmp_path):
    making = Making(reading=Reading(size=(SIDE, SIDE)), frames=FRAMES)
    added(tmp_path / "pairs", two, making=making)
    told = run(
        "cache", "--source", tmp_path / "pairs", "--out", tmp_path / "latents", "--workers", "1", "--samples", "1"
    )
    assert "shares of what is there: pose_multi 100%" in told
    sample = LatentDataset(tmp_path / "latents")[0]
    assert (sample.kind, len(sample.slots)) == ("pose_multi", 2)
    # The mask drives where the skeletons are drawn, not where the bodies are.
    drawn = sample.driving_mask.float().sum()
    assert 0 < drawn < sample.character.float().sum() / 2
    assert known.HANDS["left"][0] == 15


def test_without_joints_a_single_video_drives_itself(two, tmp_path):
    making = Making(reading=Reading(size=(SIDE, SIDE), joints=False), frames=FRAMES)
    entry = added(tmp_path / "out", two, making=making)["two"].entry
    assert entry.clips == {"self_driven": 1}
