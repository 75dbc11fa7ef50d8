"""Performances in a scene → frames, masks, parts, hand boxes and joints."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import skia

from scail2.errors import InputError
from scail2.puppets.animals import draw_animal
from scail2.puppets.camera import Camera, Placement, View, project
from scail2.puppets.characters import Character
from scail2.puppets.drawing import Pen
from scail2.puppets.figure import Figure
from scail2.puppets.motions import Motion
from scail2.puppets.people import draw_person
from scail2.puppets.pose_error import DistortedMotion
from scail2.puppets.props import draw_stool
from scail2.puppets.quadruped import pose_animal
from scail2.puppets.robots import draw_robot
from scail2.puppets.scenery import paint_scene
from scail2.puppets.scenes import Scene
from scail2.puppets.skeleton import DIGIT_NAMES, JOINT_INDEX, PART_NAMES, SIDES, pose_body, rotation

DRAWERS = {"person": draw_person, "robot": draw_robot, "animal": draw_animal}
BACKGROUNDS = {"black": (0, 0, 0), "white": (255, 255, 255)}
SCENERY_DISTANCE = 0.8
"""Frame heights from the stage back to the scenery."""
MAX_PERFORMANCES = 255 // len(PART_NAMES)
"""The parts of all characters share one byte while they are drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Performance:
    """A character doing a motion at a place."""

    character: Character
    motion: Motion | DistortedMotion
    placement: Placement


@dataclass(frozen=True, slots=True, eq=False)
class PuppetClip:
    """Rendered frames and everything known about them; S characters in the order given, T frames."""

    frames: np.ndarray
    """uint8 (T, H, W, 3) RGB."""
    masks: np.ndarray
    """bool (S, T, H, W): pixels where the character is seen (what others hide of it is not in its mask)."""
    parts: np.ndarray
    """uint8 (T, H, W): 0 nothing, else 1 + index into PART_NAMES, the same numbers for all characters."""
    hand_boxes: np.ndarray
    """float32 (S, T, 2, 4): left, right hand as x0, y0, x1, y1 pixels cut to the frame; empty (x1 <= x0) outside it."""
    joints: np.ndarray
    """float32 (S, T, J, 2): x, y pixels in the order of JOINT_NAMES."""
    joint_visible: np.ndarray
    """bool (S, T, J): inside the frame and not hidden behind another character."""


def render(
    performances: Sequence[Performance],
    scene: Scene,
    *,
    frames: int,
    height: int,
    width: int,
    fps: float = 16.0,
    start: float = 0.0,
    background: str = "scene",
    camera: Camera | None = None,
) -> PuppetClip:
    """Renders `frames` frames of `height` x `width` pixels.

    `start` is the time of the first frame in seconds; `background` is "scene", "black" or "white". Without a camera the
    picture stands still. Raises InputError for sizes below 8 pixels, no frames, too many characters or an unknown background.
    """
    _check(performances, frames, (height, width), fps, background)
    times = start + np.arange(frames) / fps
    camera = camera or Camera()
    view = View.of(camera, times)
    casts = [_cast(performance, view, times, (height, width)) for performance in performances]
    order = sorted(range(len(casts)), key=lambda number: -performances[number].placement.depth)
    pixels = np.zeros((frames, height, width, 4), np.uint8)
    numbers = np.zeros((frames, height, width), np.uint8)
    backdrop = _Backdrop(scene, background, camera.still)
    for frame in range(frames):
        pen = Pen(pixels[frame], numbers[frame])
        backdrop.paint(pen.colors, view, frame, (height, width))
        for number in order:
            pen.offset = number * len(PART_NAMES)
            _draw(pen, performances[number].character, casts[number].figure(frame))
    return _collect(performances, casts, pixels, numbers)


def render_still(
    performances: Sequence[Performance],
    scene: Scene,
    *,
    height: int,
    width: int,
    time: float = 0.0,
    background: str = "scene",
    camera: Camera | None = None,
) -> PuppetClip:
    """One frame at `time` seconds, as a clip with T = 1."""
    return render(
        performances, scene, frames=1, height=height, width=width, start=time, background=background, camera=camera
    )


def _check(
    performances: Sequence[Performance], frames: int, size: tuple[int, int], fps: float, background: str
) -> None:
    if frames < 1:
        raise InputError(f"A puppet clip of {frames} frames cannot be rendered: ask for at least 1.")
    if min(size) < 8:
        raise InputError(f"A puppet frame of {size[0]}x{size[1]} pixels is too small: use at least 8x8.")
    if not fps > 0.0:
        raise InputError(f"The frame rate of a puppet clip is {fps}: it must be above 0.")
    if len(performances) > MAX_PERFORMANCES:
        raise InputError(f"{len(performances)} characters in one clip: at most {MAX_PERFORMANCES} can be rendered.")
    if background != "scene" and background not in BACKGROUNDS:
        raise InputError(f'Unknown background {background!r}: use "scene", "black" or "white".')


@dataclass(frozen=True, slots=True)
class _Cast:
    """A performance in pixels, all frames."""

    points: np.ndarray
    scale: np.ndarray
    head: np.ndarray
    pelvis: np.ndarray
    ground: np.ndarray
    seat: float

    def figure(self, frame: int) -> Figure:
        return Figure(
            points=self.points[frame].tolist(),
            scale=float(self.scale[frame]),
            head=self.head[frame],
            pelvis=self.pelvis[frame],
            seat=self.seat,
            ground=float(self.ground[frame]),
        )


def _cast(performance: Performance, view: View, times: np.ndarray, size: tuple[int, int]) -> _Cast:
    character, motion, placement = (performance.character, performance.motion, performance.placement)
    animal = character.kind == "animal"
    pose_kind = pose_animal if animal else pose_body
    pose = pose_kind(character.body, motion.angles(times + placement.delay), plant=motion.plant)
    points, scale = project(pose.joints, placement, view, times, size)
    turned = rotation(1, placement.turn + view.orbit)
    ground = project(np.zeros((len(times), 1, 3)), placement, view, times, size)[0][:, 0, 1]
    seat = 0.0 if animal else motion.seat
    return _Cast(points, scale, turned @ pose.head, turned @ pose.pelvis, ground, seat)


def _draw(pen: Pen, character: Character, figure: Figure) -> None:
    if figure.seat:
        draw_stool(pen, character, figure)
    DRAWERS[character.kind](pen, character, figure)


class _Backdrop:
    """Paints the background; a still camera paints it once and copies it."""

    def __init__(self, scene: Scene, background: str, still: bool):
        self.scene, self.background, self.still = scene, background, still
        self.image: skia.Image | None = None

    def paint(self, canvas: skia.Canvas, view: View, frame: int, size: tuple[int, int]) -> None:
        if self.background in BACKGROUNDS:
            canvas.clear(skia.Color(*BACKGROUNDS[self.background]))
            return
        if self.image is None or not self.still:
            self.image = self._image(view, frame, size)
        canvas.drawImage(self.image, 0, 0)

    def _image(self, view: View, frame: int, size: tuple[int, int]) -> skia.Image:
        height, width = size
        surface = skia.Surface(width, height)
        canvas = surface.getCanvas()
        zoom = float(view.zoom[frame])
        canvas.translate(0.5 * width + height * float(view.pan_x[frame]), height * (0.5 + float(view.pan_y[frame])))
        canvas.scale(height * zoom, height * zoom)
        # The scenery stands behind the stage: an orbiting camera moves it against the performers.
        canvas.translate(-SCENERY_DISTANCE * math.sin(float(view.orbit[frame])), -0.5)
        paint_scene(canvas, self.scene)
        return surface.makeImageSnapshot()


def _collect(
    performances: Sequence[Performance], casts: list[_Cast], pixels: np.ndarray, numbers: np.ndarray
) -> PuppetClip:
    frames, height, width = numbers.shape
    part_count = len(PART_NAMES)
    masks = np.empty((len(casts), frames, height, width), bool)
    for number in range(len(casts)):
        first = 1 + number * part_count
        masks[number] = (numbers >= first) & (numbers < first + part_count)
    parts = numbers if len(casts) < 2 else np.where(numbers > 0, (numbers - 1) % part_count + 1, 0).astype(np.uint8)
    joints = np.zeros((len(casts), frames, len(JOINT_INDEX), 2), np.float32)
    boxes = np.zeros((len(casts), frames, 2, 4), np.float32)
    visible = np.zeros(joints.shape[:3], bool)
    for number, (performance, cast) in enumerate(zip(performances, casts, strict=True)):
        joints[number] = cast.points[..., :2]
        boxes[number] = _hand_boxes(performance.character, cast, (height, width))
        others = np.asarray(np.delete(masks, number, axis=0).any(axis=0))
        visible[number] = _visible(joints[number], others)
    return PuppetClip(np.ascontiguousarray(pixels[..., :3]), masks, parts, boxes, joints, visible)


def _visible(joints: np.ndarray, others: np.ndarray) -> np.ndarray:
    frames, height, width = others.shape
    column, row = (np.floor(joints[..., 0]).astype(int), np.floor(joints[..., 1]).astype(int))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    hidden = others[np.arange(frames)[:, None], row.clip(0, height - 1), column.clip(0, width - 1)]
    return inside & ~hidden


def _hand_boxes(character: Character, cast: _Cast, size: tuple[int, int]) -> np.ndarray:
    """Boxes (T, 2, 4) around palm and fingers with their line widths."""
    height, width = size
    boxes = np.empty((len(cast.scale), 2, 4))
    for number, side in enumerate(SIDES):
        names = [f"wrist_{side}"] + [
            f"{digit}_{bone}_{side}" for digit in DIGIT_NAMES for bone in ("knuckle", "middle", "tip")
        ]
        points = cast.points[:, [JOINT_INDEX[name] for name in names], :2]
        margin = (0.5 * _hand_width(character) * cast.scale + 1.0)[:, None]
        boxes[:, number, :2] = points.min(axis=1) - margin
        boxes[:, number, 2:] = points.max(axis=1) + margin
    boxes[..., 0::2] = boxes[..., 0::2].clip(0, width)
    boxes[..., 1::2] = boxes[..., 1::2].clip(0, height)
    return boxes


def _hand_width(character: Character) -> float:
    """Widest line a hand is drawn with, in body heights."""
    body = character.body
    widths = {"person": 0.7 * body.palm, "robot": 0.85 * body.palm, "animal": 0.95 * body.leg_width}
    return max(widths[character.kind], 1.2 * body.finger_width)
