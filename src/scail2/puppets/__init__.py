"""Drawn puppets: a procedural source of motion pairs with exact masks, parts, hands and joints."""

from scail2.puppets.camera import Camera, Placement, Swing, sample_camera, sample_placements
from scail2.puppets.characters import Character, sample_character
from scail2.puppets.domain import DOMAINS, FULL, NANO, NANO_ANIMALS, NANO_ROBOTS, PuppetDomain, domain_named
from scail2.puppets.motions import Motion
from scail2.puppets.pose import draw_poses, render_pose
from scail2.puppets.pose_error import DistortedMotion, PoseError, corrupt_joints
from scail2.puppets.render import Performance, PuppetClip, render, render_still
from scail2.puppets.repertoire import sample_motion
from scail2.puppets.reshaping import reshape_skeleton
from scail2.puppets.scenes import Scene, sample_scene
from scail2.puppets.seeds import Split
from scail2.puppets.skeleton import JOINT_NAMES, PART_NAMES

__all__ = [
    "DOMAINS",
    "FULL",
    "JOINT_NAMES",
    "NANO",
    "NANO_ANIMALS",
    "NANO_ROBOTS",
    "PART_NAMES",
    "Camera",
    "Character",
    "DistortedMotion",
    "Motion",
    "Performance",
    "Placement",
    "PoseError",
    "PuppetClip",
    "PuppetDomain",
    "Scene",
    "Split",
    "Swing",
    "corrupt_joints",
    "domain_named",
    "draw_poses",
    "render",
    "render_pose",
    "render_still",
    "reshape_skeleton",
    "sample_camera",
    "sample_character",
    "sample_motion",
    "sample_placements",
    "sample_scene",
]
