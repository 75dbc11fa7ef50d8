"""The networks of mediapipe's pose solution, run directly: who is in the picture, and one body's outline and joints.

The model files of mediapipe 0.10.14 (Apache-2.0) are in `assets/people` and run on LiteRT, so nothing is downloaded and the
solution's own graph, which follows a single person, is not needed. What the tensors mean is in Google's model card
"BlazePose GHUM 3D" and in the graph `pose_landmark_cpu`: detector 224×224, landmarks and outline 256×256.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from scail2.errors import InputError
from scail2.perception.segmenters.people.joints_alone import joints_alone

WEIGHTS = Path(__file__).parents[3] / "assets" / "people"
_NEEDS = {"ai_edge_litert": "ai-edge-litert", "cv2": "opencv-python-headless"}
DETECTOR_SIZE, BODY_SIZE = 224, 256
NUM_JOINTS = 33
# Longer side of a coarse outline, by which two findings are told to be the same person.
_FOOTPRINT = 64
_FACE_SEEN = 0.9
# Of the 33 joints the first eleven are the face's; these are the shoulders.
_FACE_JOINTS, _SHOULDERS = 11, [11, 12]
# The graph's settings: detections below this score are dropped, overlapping ones above this IoU are one.
_DETECTION_SCORE, _SAME_DETECTION = 0.5, 0.3
# A body's square reaches from the hips' centre over the whole body and a quarter more.
_MARGIN = 1.25
# Logit of a place that a body's square does not reach.
OUTSIDE = -1e4
_BODY = WEIGHTS / "pose_landmark_full.tflite"
_MARKS = (39, 5)


@dataclass(frozen=True, slots=True)
class Square:
    """A turned square of the picture: centre (x, y) and side in pixels, angle in radians (0: the body stands upright)."""

    x: float
    y: float
    side: float
    angle: float = 0.0

    @classmethod
    def of_axis(cls, hips: np.ndarray, end: np.ndarray) -> "Square":
        """The square of a body from its hips' centre and the point that gives size and direction, (x, y) in pixels."""
        offset = np.asarray(end, np.float64) - hips
        angle = np.pi / 2 - np.arctan2(-offset[1], offset[0])
        angle -= 2 * np.pi * np.floor((angle + np.pi) / (2 * np.pi))
        return cls(float(hips[0]), float(hips[1]), float(2 * np.hypot(*offset)) * _MARGIN, float(angle))

    @classmethod
    def of_box(cls, box: tuple[float, float, float, float]) -> "Square":
        """An upright square around a box x0, y0, x1, y1 in pixels."""
        x0, y0, x1, y1 = box
        return cls((x0 + x1) / 2, (y0 + y1) / 2, max(x1 - x0, y1 - y0) * _MARGIN)

    def mixed(self, other: "Square", share: float) -> "Square":
        """The square on the way to another one, ``share`` of it done; angles go the shorter way."""
        turn = (other.angle - self.angle + np.pi) % (2 * np.pi) - np.pi
        mix = lambda a, b: a + share * (b - a)  # noqa: E731
        return Square(
            mix(self.x, other.x), mix(self.y, other.y), mix(self.side, other.side), float(self.angle + share * turn)
        )

    def points(self, inside: np.ndarray) -> np.ndarray:
        """Places (N, 2) given in [0, 1]² of the square, as pixels of the picture."""
        local = (np.asarray(inside, np.float64) - 0.5) * self.side
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return np.stack(
            [self.x + cos * local[:, 0] - sin * local[:, 1], self.y + sin * local[:, 0] + cos * local[:, 1]], axis=1
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Posture:
    """The joints that the body network sees in one square.

    Attributes:
        square: where it looked.
        presence: probability that a person is there.
        joints: float32 (33, 2), x and y in pixels of the picture, in the order of the BlazePose topology.
        visibility: float32 (33,), probability that a joint is in the picture and not hidden.
        following: the square of the same body by its own landmarks, for the next frame.
    """

    square: Square
    presence: float
    joints: np.ndarray
    visibility: np.ndarray
    following: Square


@dataclass(frozen=True, kw_only=True, slots=True)
class Body(Posture):
    """All that the body network says about one square.

    Attributes:
        outline: float32 (256, 256), logit of the body's outline in the square.
    """

    outline: np.ndarray

    def footprint(self, height: int, width: int) -> np.ndarray:
        """The outline as a coarse bool mask (h, w) of a picture of height x width pixels, longer side 64."""
        scale = _FOOTPRINT / max(height, width)
        square = Square(scale * self.square.x, scale * self.square.y, scale * self.square.side, self.square.angle)
        return placed(self.outline, square, round(height * scale), round(width * scale)) > 0

    def faces_apart(self, other: "Body") -> bool:
        """Whether both show a face, and those are further apart than a head from its shoulders: two people for sure."""
        if min(self.visibility[:_FACE_JOINTS].mean(), other.visibility[:_FACE_JOINTS].mean()) < _FACE_SEEN:
            return False
        faces = [each.joints[:_FACE_JOINTS].mean(axis=0) for each in (self, other)]
        necks = [
            np.hypot(*(each.joints[_SHOULDERS].mean(axis=0) - face))
            for face, each in zip(faces, (self, other), strict=True)
        ]
        return bool(np.hypot(*(faces[0] - faces[1])) > 1.5 * max(necks))


class PoseNetwork:
    """Detector and body network, one thread each, loaded on first use. Raises `InputError` where the extra is not installed."""

    def __init__(self) -> None:
        _refuse_without()

    @cached_property
    def _detector(self):
        return _interpreter(model_path=str(WEIGHTS / "pose_detection.tflite"))

    @cached_property
    def _body(self):
        return _interpreter(model_path=str(_BODY))

    @cached_property
    def _joints(self):
        return _interpreter(model_content=joints_alone(_BODY))

    @cached_property
    def _anyone(self):
        return _interpreter(model_path=str(WEIGHTS / "selfie_segmentation.tflite"))

    def detect(self, frame: np.ndarray) -> list[tuple[float, Square]]:
        """People in a frame uint8 (H, W, 3), as (score, square), the surest first."""
        height, width = frame.shape[:2]
        whole = Square(width / 2, height / 2, max(width, height))
        picture = crop(frame, whole, DETECTOR_SIZE) / 127.5 - 1
        raw, logits = _run(self._detector, picture, (2254, 12), (2254, 1))
        scores = _sigmoid(logits[:, 0])
        kept = np.flatnonzero(scores >= _DETECTION_SCORE)
        centres = np.tile(_anchors()[kept], 6)
        decoded = raw[kept] / DETECTOR_SIZE + np.where(np.arange(12) % 12 == 2, 0, centres)
        decoded[:, 2:4] = raw[kept, 2:4] / DETECTOR_SIZE
        found = []
        for group in _merged(decoded, scores[kept]):
            weights = scores[kept][group]
            place = (decoded[group] * weights[:, None]).sum(axis=0) / weights.sum()
            hips, end = whole.points(place[4:8].reshape(2, 2))
            found.append((float(weights.max()), Square.of_axis(hips, end)))
        return found

    def body(self, frame: np.ndarray, square: Square) -> Body:
        """The body in a square of a frame uint8 (H, W, 3)."""
        picture = crop(frame, square, BODY_SIZE) / 255
        marks, presence, outline = _run(self._body, picture, _MARKS, (1,), (BODY_SIZE, BODY_SIZE))
        return Body(**_posture(square, marks, presence), outline=outline)

    def posture(self, frame: np.ndarray, square: Square) -> Posture:
        """What `body` says of its joints, at three fifths of the cost."""
        picture = crop(frame, square, BODY_SIZE) / 255
        return Posture(**_posture(square, *_run(self._joints, picture, _MARKS, (1,))))

    def anyone(self, frame: np.ndarray) -> np.ndarray:
        """Probability float32 (H, W) that a pixel of a frame uint8 (H, W, 3) shows somebody who is near the camera."""
        import cv2

        small = cv2.resize(frame, (BODY_SIZE, BODY_SIZE), interpolation=cv2.INTER_AREA)
        found = _run(self._anyone, small / np.float32(255), (BODY_SIZE, BODY_SIZE))[0]
        return cv2.resize(found, (frame.shape[1], frame.shape[0]), interpolation=cv2.INTER_LINEAR)


def _posture(square: Square, marks: np.ndarray, presence: np.ndarray) -> dict[str, Any]:
    """The attributes of a `Posture` by the network's outputs, landmarks (39, 5) in pixels of the square and presence (1,)."""
    places = square.points(marks[:, :2] / BODY_SIZE)
    return {
        "square": square,
        "presence": float(presence[0]),
        "joints": places[:NUM_JOINTS].astype(np.float32),
        "visibility": _sigmoid(marks[:NUM_JOINTS, 3]),
        "following": Square.of_axis(places[33], places[34]),
    }


def crop(frame: np.ndarray, square: Square, size: int) -> np.ndarray:
    """A square of a frame uint8 (H, W, 3) as float32 (size, size, 3) in 0…255; black outside the picture."""
    import cv2

    shrink = square.side / (2 * size)
    if shrink > 1:
        # Sampling every other pixel of a large picture would show patterns that are not in it.
        height, width = (max(1, round(length / shrink)) for length in frame.shape[:2])
        factors = width / frame.shape[1], height / frame.shape[0]
        frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    else:
        factors = 1.0, 1.0
    # Pixel centres lie at half numbers here and at whole ones in OpenCV.
    inside = np.diag([*factors, 1.0]) @ _matrix(square, size) @ _shift(0.5)
    to_frame = (_shift(-0.5) @ inside)[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(frame, to_frame, (size, size), flags=flags).astype(np.float32)


def placed(outline: np.ndarray, square: Square, height: int, width: int) -> np.ndarray:
    """An outline's logits (h, h) over a square as float32 (height, width) of the picture; `OUTSIDE` outside the square."""
    import cv2

    to_frame = (_shift(-0.5) @ _matrix(square, len(outline)) @ _shift(0.5))[:2]
    return cv2.warpAffine(
        outline, to_frame, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=OUTSIDE
    )


def _matrix(square: Square, size: int) -> np.ndarray:
    """From pixels of the square drawn at ``size`` to pixels of the picture, (3, 3)."""
    scale = square.side / size
    cos, sin = scale * np.cos(square.angle), scale * np.sin(square.angle)
    half = size / 2
    return np.array(
        [
            [cos, -sin, square.x - cos * half + sin * half],
            [sin, cos, square.y - sin * half - cos * half],
            [0.0, 0.0, 1.0],
        ]
    )


def _shift(by: float) -> np.ndarray:
    return np.array([[1.0, 0.0, by], [0.0, 1.0, by], [0.0, 0.0, 1.0]])


def installed() -> bool:
    """Whether the extra `people` is there: what runs the networks and what warps their pictures."""
    return not _missing()


def _missing() -> list[str]:
    return [name for module, name in _NEEDS.items() if find_spec(module) is None]


def _refuse_without() -> None:
    """Raises `InputError` where the extra is not installed."""
    if missing := _missing():
        reason = f"{' and '.join(missing)} not installed"
        raise InputError(f"masks of real people need the extra `people` ({reason}): pip install 'scail2[people]'.")


def _interpreter(**model: str | bytes):
    from ai_edge_litert.interpreter import Interpreter

    with _silent():
        interpreter = Interpreter(**model, num_threads=1)
        interpreter.allocate_tensors()
    return interpreter


@contextmanager
def _silent() -> Iterator[None]:
    """The runtime greets on the process's own stderr, past Python, and has no switch for it."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _run(interpreter, picture: np.ndarray, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    """The first outputs of a network for a picture (H, W, 3), in the given shapes."""
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], picture[None].astype(np.float32))
    interpreter.invoke()
    details = interpreter.get_output_details()
    return [
        interpreter.get_tensor(detail["index"]).reshape(shape) for detail, shape in zip(details, shapes, strict=False)
    ]


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits.astype(np.float64))).astype(np.float32)


@cache
def _anchors() -> np.ndarray:
    """Centres (2254, 2) in [0, 1] of the detector's places: two a cell at stride 8 and 16, six at stride 32."""
    centres = []
    for stride, each in ((8, 2), (16, 2), (32, 6)):
        steps = (np.arange(DETECTOR_SIZE // stride) + 0.5) * stride / DETECTOR_SIZE
        grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
        centres.append(np.repeat(grid, each, axis=0))
    return np.concatenate(centres)


def _merged(decoded: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
    """Indices of detections that are one person, groups by falling score."""
    left = np.argsort(-scores, kind="stable")
    groups = []
    while len(left):
        overlap = _overlap(decoded[left[0], :4], decoded[left, :4])
        same = overlap > _SAME_DETECTION
        same[0] = True
        groups.append(left[same])
        left = left[~same]
    return groups


def _overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """IoU of a box (centre x, y, width, height) with boxes (N, 4)."""
    low = np.maximum(box[:2] - box[2:] / 2, boxes[:, :2] - boxes[:, 2:] / 2)
    high = np.minimum(box[:2] + box[2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2)
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    return shared / np.maximum(box[2] * box[3] + boxes[:, 2] * boxes[:, 3] - shared, 1e-9)
