"""Motions are curves of angles: the same on every body, smooth, within comfortable limits."""

import dataclasses
import itertools

import numpy as np
import pytest

from scail2.puppets import FULL, NANO, sample_character, sample_motion
from scail2.puppets.quadruped import pose_animal
from scail2.puppets.repertoire import PROGRAMS
from scail2.puppets.skeleton import DOF_INDEX, SIDES, pose_body, rotation, sole_height

TIMES = np.arange(33) / 16.0


def limb_angles(pose):
    """Directions of the limb bones as cosines between neighbours and with the vertical, (T, N)."""
    bones = []
    for side in SIDES:
        for chain in (("shoulder", "elbow", "wrist", "palm"), ("hip", "knee", "ankle")):
            points = [pose.joint(f"{name}_{side}") for name in chain]
            directions = [second - first for first, second in itertools.pairwise(points)]
            directions = [vector / np.linalg.norm(vector, axis=-1, keepdims=True) for vector in directions]
            bones += [direction[:, axis] for direction in directions for axis in range(3)]
    return np.stack(bones, axis=1)


@pytest.mark.parametrize("domain", [NANO, FULL], ids=lambda domain: domain.name)
def test_one_motion_gives_the_same_angles_on_any_person(domain):
    people = dataclasses.replace(domain, kinds=("person", "robot"))
    for index in range(12):
        motion = sample_motion("test", index, domain)
        bodies = [sample_character("test", index * 2 + number, people).body for number in range(2)]
        assert bodies[0] != bodies[1]
        first, second = (pose_body(body, motion.angles(TIMES), plant=motion.plant) for body in bodies)
        np.testing.assert_allclose(limb_angles(first), limb_angles(second), atol=1e-9)
        np.testing.assert_allclose(first.head, second.head, atol=1e-12)


def test_bones_keep_their_length():
    for kind, pose_kind in (("person", pose_body), ("animal", pose_animal)):
        body = sample_character("test", 3, dataclasses.replace(FULL, kinds=(kind,))).body
        pose = pose_kind(body, sample_motion("test", 5, FULL).angles(TIMES))
        for side in SIDES:
            for start, end, length in (
                ("shoulder", "elbow", body.upper_arm),
                ("elbow", "wrist", body.forearm),
                ("hip", "knee", body.thigh),
                ("knee", "ankle", body.shin),
            ):
                bone = pose.joint(f"{end}_{side}") - pose.joint(f"{start}_{side}")
                np.testing.assert_allclose(np.linalg.norm(bone, axis=-1), length, rtol=1e-9)


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_every_program_moves_smoothly(program):
    domain = dataclasses.replace(FULL, programs=(program,))
    for index in range(6):
        motion = sample_motion("train", index, domain)
        assert motion.program == program
        angles = motion.angles(np.arange(200) / 100.0)
        assert np.isfinite(angles).all()
        assert np.ptp(angles, axis=0).max() > 0.1
        # No jumps: half the step in time is close to half the step in angle.
        step = np.abs(np.diff(angles, axis=0)).max()
        assert step < 0.4
        assert np.abs(np.diff(angles, 2, axis=0)).max() < 0.12


def test_elbows_and_knees_bend_one_way_only():
    for index in range(60):
        angles = sample_motion("train", index, FULL).angles(TIMES)
        for side in SIDES:
            for joint, limit in (("elbow", 150.0), ("knee", 140.0)):
                values = np.degrees(angles[:, DOF_INDEX[f"{joint}_{side}"]])
                assert values.min() > -0.1
                assert values.max() < limit + 0.1


def test_nano_motion_is_about_half_a_cycle_in_17_frames():
    for index in range(100):
        motion = sample_motion("train", index, NANO)
        cycles = motion.frequency[DOF_INDEX["yaw"], 0] * 17 / 16
        assert 0.35 < cycles < 0.65


def test_feet_stand_on_the_ground_unless_they_jump():
    for index in range(30):
        character = sample_character("train", index, NANO)
        motion = sample_motion("train", index, NANO)
        pose = pose_body(character.body, motion.angles(TIMES), plant=motion.plant)
        lowest = np.minimum(pose.joint("ankle_left")[:, 1], pose.joint("ankle_right")[:, 1]) - sole_height(
            character.body
        )
        assert np.abs(lowest).max() < 0.016
    jumping = sample_motion("train", 0, dataclasses.replace(FULL, programs=("jump",)))
    pose = pose_body(character.body, jumping.angles(np.arange(64) / 16.0))
    assert min(pose.joint(f"ankle_{side}")[:, 1].max() for side in SIDES) > sole_height(character.body) + 0.04


def test_sitting_on_the_ground_does_not_sink_in():
    motion = sample_motion("train", 1, dataclasses.replace(FULL, programs=("sit_down",)))
    body = sample_character("train", 1, dataclasses.replace(FULL, kinds=("person",))).body
    pelvis = pose_body(body, motion.angles(TIMES)).joint("pelvis")[:, 1]
    assert pelvis.min() >= 0.5 * body.depth - 1e-9
    assert pelvis.max() < 0.25


def test_fingers_bend_one_by_one():
    motion = sample_motion("train", 0, dataclasses.replace(FULL, programs=("point",)))
    angles = motion.angles(TIMES)
    bent = [side for side in SIDES if angles[0, DOF_INDEX[f"curl_middle_{side}"]] > 1.0]
    assert len(bent) == 1
    assert angles[0, DOF_INDEX[f"curl_index_{bent[0]}"]] == 0.0


def test_rotations_are_rotations():
    angle = np.linspace(-3.0, 3.0, 7)
    for axis in range(3):
        matrix = rotation(axis, angle)
        np.testing.assert_allclose(
            matrix @ matrix.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (7, 3, 3)), atol=1e-12
        )
        np.testing.assert_allclose(np.linalg.det(matrix), 1.0)
    np.testing.assert_allclose(rotation(2, np.array([np.pi / 2])) @ [1.0, 0.0, 0.0], [[0.0, 1.0, 0.0]], atol=1e-12)
