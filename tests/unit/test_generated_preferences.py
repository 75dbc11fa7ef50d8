"""Preference pairs from generators: what each video repeats, of whom, and what is known of pairs that nobody drew."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("skia")

from PIL import Image

from scail2.cli.app import main
from scail2.data.media import encode_video
from scail2.data.preferences import PreferenceShards, Strictness
from scail2.errors import InputError
from scail2.modes import AnimationMode
from scail2.perception.segmenters.people.joints import LEFT_SHOULDER, LEFT_WRIST, RIGHT_SHOULDER, RIGHT_WRIST, Joints
from scail2.puppets.pose_error import STRONG, PoseError
from scail2.synthesis.estimators import PeopleEstimator, mistaken
from scail2.synthesis.generated_preferences import DrawnMaterial, FolderMaterial, GeneratedPreferences
from scail2.synthesis.generators.puppet_world import PuppetTake
from scail2.synthesis.generators.puppets import PuppetEstimator, PuppetGenerator

DRAWN = DrawnMaterial(frames=5, height=128, width=128, split="test")
MILD_AND_STRONG = {"estimator": PuppetEstimator(error="mild"), "weaker": PuppetEstimator(error="strong")}
SOURCE = GeneratedPreferences(material=DRAWN, generator=PuppetGenerator(), **MILD_AND_STRONG)


@dataclasses.dataclass(frozen=True)
class Opaque:
    """A generator that gives frames and nothing else, as other people's do."""

    drawn: PuppetGenerator = dataclasses.field(default_factory=PuppetGenerator)

    @property
    def facts(self):
        return dataclasses.replace(self.drawn.facts, name="opaque")

    def describe(self):
        return {"generator": "opaque"}

    def generate(self, *arguments):
        return self.drawn.generate(*arguments)


def drawn(pair, side, errors):
    """What the renderer makes of pair 0's motion with one of its characters and these estimates."""
    motion = DRAWN.motion(0)
    for error, number in errors:
        motion = PuppetEstimator(error=error).estimate(motion, number)
    who = DRAWN.characters(0, np.random.default_rng(0))[side]
    return PuppetGenerator().shot(who, motion, AnimationMode.ANIMATION, None, 0)


def test_the_three_videos_are_what_the_construction_says():
    pair = SOURCE.preference(0, np.random.default_rng(0))
    preferred, driving = drawn(pair, 0, [("mild", 0)]), drawn(pair, 1, [("mild", 0)])
    rejected = drawn(pair, 0, [("strong", 3), ("strong", 5)])
    np.testing.assert_array_equal(pair.preferred, preferred.frames)
    np.testing.assert_array_equal(pair.driving, driving.frames)
    np.testing.assert_array_equal(pair.rejected, rejected.frames)
    np.testing.assert_array_equal(pair.reference.frame, pair.preferred[pair.meta["frame"]])
    np.testing.assert_array_equal(pair.preferred_boxes["hands"], preferred.hand_boxes[0].transpose(1, 0, 2))
    assert pair.meta["preferred_error"] < 0.5 * pair.meta["rejected_error"]
    assert Strictness(hands_seen=0.5, least_contrast=1.0).refusal(pair) is None


def test_of_frames_alone_everything_is_found():
    pytest.importorskip("ai_edge_litert")
    known = SOURCE.preference(0, np.random.default_rng(0))
    pair = dataclasses.replace(SOURCE, generator=Opaque()).preference(0, np.random.default_rng(0))
    np.testing.assert_array_equal(pair.preferred, known.preferred)
    for ours, true in ((pair.driving_tracks, known.driving_tracks), (pair.preferred_tracks, known.preferred_tracks)):
        assert (ours & true).sum() / (ours | true).sum() > 0.8
    assert "preferred_error" not in pair.meta
    centres = [
        (boxes["hands"][..., :2] + boxes["hands"][..., 2:]) / 2
        for boxes in (pair.preferred_boxes, known.preferred_boxes)
    ]
    assert np.nanmedian(np.abs(centres[0] - centres[1])) < 12


def test_a_generator_that_is_not_driven_by_poses_is_refused():
    facts = dataclasses.replace(PuppetGenerator().facts, name="clips", driven_by_poses=False)

    class Clips(Opaque):
        facts = property(lambda _: facts)

    with pytest.raises(InputError, match="The generator clips is not driven by poses"):
        dataclasses.replace(SOURCE, generator=Clips())


# ---- estimators -----------------------------------------------------------------------------------------------------


def test_simulated_errors_of_peoples_joints_grow_toward_the_hands():
    joints = PuppetTake(index=1).motion(frames=17, height=256, width=256).joints
    noisy = mistaken(joints, PoseError(joint_noise=0.05), 3, fps=16.0)
    moved = np.linalg.norm(noisy.places - joints.places, axis=-1)[0].mean(axis=0)
    assert moved[[LEFT_WRIST, RIGHT_WRIST]].mean() > 2 * moved[[LEFT_SHOULDER, RIGHT_SHOULDER]].mean() > 0
    assert not moved[:11].any()  # the face stays
    np.testing.assert_array_equal(
        mistaken(joints, STRONG, 3, fps=16.0).places, mistaken(joints, STRONG, 3, fps=16.0).places
    )
    lost = mistaken(joints, PoseError(missing_fingers=1.0), 3, fps=16.0)
    assert not lost.visibility[0, :, 17:23].any()
    assert lost.visibility[0, :, LEFT_WRIST].all()
    nobody = Joints(places=np.full((1, 17, 33, 2), np.nan, np.float32), visibility=np.zeros((1, 17, 33), np.float32))
    assert np.isnan(mistaken(nobody, STRONG, 3, fps=16.0).places).all()


def test_the_peoples_estimator_looks_at_the_clip_and_not_at_given_joints():
    pytest.importorskip("ai_edge_litert")
    motion = PuppetTake(index=1, start=1.0).motion(frames=5, height=128, width=128)
    wrong = dataclasses.replace(
        motion, joints=Joints(places=motion.joints.places + 40, visibility=motion.joints.visibility)
    )
    seen = PeopleEstimator().estimate(wrong, 0).joints
    assert np.nanmedian(np.abs(seen.places[0] - motion.joints.places[0])) < 8
    weaker = PeopleEstimator(error="strong").estimate(wrong, 0).joints
    assert np.nanmean(np.abs(weaker.places[:1, :, 15] - seen.places[:1, :, 15])) > 1


# ---- the command ----------------------------------------------------------------------------------------------------


def command(*words):
    with pytest.raises(SystemExit) as ended:
        main(["preferences", *map(str, words)])
    return ended.value.code


def test_the_command_writes_pairs_of_a_generator(tmp_path, capsys):
    out, settings = tmp_path / "pairs", tmp_path / "settings.toml"
    settings.write_text('error = "mild"\n')
    words = ("--generator", "puppets", "--generator-settings", settings, "--pairs", 2, "--frames", 5, "--size", 96)
    assert not command(
        *words, "--hands-seen", 0, "--least-contrast", 0, "--largest-error", 9, "--workers", 1, "--out", out
    )
    pairs = PreferenceShards([out])
    assert len(pairs) == 2
    assert [pairs.pair(number).meta["generator"] for number in (0, 1)] == ["puppets", "puppets"]
    assert pairs.pair(0).preferred.shape == (5, 96, 96, 3)
    assert pairs.describe()["made"][0]["source"]["generated preferences"]["error"]["joint_noise"] == 0.012


def test_options_that_do_not_go_together_are_refused(tmp_path, capsys):
    (tmp_path / "clips").mkdir()
    assert command("--motions", tmp_path / "clips", "--out", tmp_path / "out") == 2
    assert "--motions belong to --generator" in capsys.readouterr().err
    settings = tmp_path / "settings.toml"
    settings.write_text('model = "weights"\n')
    assert command("--generator", "wan-animate", "--generator-settings", settings, "--out", tmp_path / "out") == 2
    assert "takes --motions (a folder of clips) and --pictures" in capsys.readouterr().err
    words = ("--motions", tmp_path / "clips", "--pictures", tmp_path / "clips")
    assert (
        command("--generator", "wan-animate-2", "--generator-settings", settings, *words, "--out", tmp_path / "out")
        == 2
    )
    assert "wan-animate-2 is not driven by poses" in capsys.readouterr().err


def test_folders_give_clips_in_turn_and_two_different_pictures(tmp_path):
    clips, pictures = tmp_path / "clips", tmp_path / "pictures"
    clips.mkdir()
    pictures.mkdir()
    for number in range(2):
        frames = np.full((7, 32, 48, 3), 40 + 100 * number, np.uint8)
        (clips / f"{number}.mkv").write_bytes(encode_video(frames))
        Image.fromarray(frames[0]).save(pictures / f"{number}.png")
    material = FolderMaterial(clips, pictures)
    assert [int(material.motion(index).clip.frames.mean()) for index in (0, 1, 2)] == [40, 140, 40]
    assert material.motion(0).clip.frames.shape == (5, 32, 48, 3)
    names = {tuple(each.name for each in material.characters(0, np.random.default_rng(seed))) for seed in range(8)}
    assert names == {("0.png", "1.png"), ("1.png", "0.png")}
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds 0 files: at least 2 are needed, one for each character"):
        FolderMaterial(clips, tmp_path / "empty").characters(0, np.random.default_rng(0))
