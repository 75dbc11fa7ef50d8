"""Where the picture is seen from, and where the performers stand in it."""

import math
from dataclasses import dataclass

import numpy as np

from scail2.puppets.domain import PuppetDomain
from scail2.puppets.seeds import Draws, Split, seed_of

CAMERA_DISTANCE = 5.0
"""Distance to the stage in frame heights: a mild perspective."""

WIDEST_STAGE = 1.3
"""In wide frames the performers move apart up to this factor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Swing:
    """A number that swings: middle + amplitude sin(2 pi frequency t + phase)."""

    middle: float = 0.0
    amplitude: float = 0.0
    frequency: float = 0.0
    phase: float = 0.0

    def at(self, times: np.ndarray) -> np.ndarray:
        """Values (T,) at `times` (T,) seconds."""
        return self.middle + self.amplitude * np.sin(2.0 * math.pi * self.frequency * times + self.phase)


@dataclass(frozen=True, kw_only=True, slots=True)
class Camera:
    """A camera looking at the stage: pan in frame heights, zoom as a factor, orbit in radians."""

    seed: int = 0
    pan_x: Swing = Swing()
    pan_y: Swing = Swing()
    zoom: Swing = Swing(middle=1.0)
    orbit: Swing = Swing()

    @property
    def still(self) -> bool:
        """True if the picture of the background never changes."""
        return not any(swing.amplitude for swing in (self.pan_x, self.pan_y, self.zoom, self.orbit))


def sample_camera(split: str | Split, index: int, domain: PuppetDomain, salt: str = "") -> Camera:
    """Camera `index` of a split; with a `camera_spread` of 0 it stands still."""
    draws = Draws(seed_of(split, "camera", index, domain.name, salt))
    spread = domain.camera_spread
    if not spread:
        return Camera(seed=draws.seed)

    def swing(name: str, middle: float, reach: float) -> Swing:
        moves = draws.chance(f"{name}.moves", 0.6)
        return Swing(
            middle=middle + 0.3 * reach * spread * draws.uniform(f"{name}.middle", -1.0, 1.0),
            amplitude=reach * spread * draws.unit(f"{name}.amplitude") if moves else 0.0,
            frequency=draws.uniform(f"{name}.frequency", 0.08, 0.3),
            phase=draws.phase(f"{name}.phase"),
        )

    # A close-up keeps the head where it was in the frame and loses the legs.
    closeness = draws.uniform("closeness", 1.4, 2.0) if draws.chance("close_up", domain.close_up_chance) else 1.0
    return Camera(
        seed=draws.seed,
        pan_x=swing("pan_x", 0.0, 0.10),
        pan_y=swing("pan_y", 0.2 * (closeness - 1.0), 0.04),
        zoom=swing("zoom", closeness, 0.12),
        orbit=swing("orbit", 0.0, 0.5),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where in the frame a character performs. It belongs to the clip, not to the character: both clips of a pair share it."""

    height: float
    """Height of the middle body standing, as a fraction of the stage (the frame height, or the width where that is narrow)."""
    x: Swing = Swing()
    """Middle of the feet right of the middle of the frame, in heights of a square frame (narrower in narrow frames, wider in
    wide ones); a swing makes characters cross."""
    ground: float = 0.95
    """Height of the ground line below the upper edge, as a fraction of the frame height."""
    depth: float = 0.0
    """Distance behind the stage, in frame heights: larger is drawn first."""
    turn: float = 0.0
    """Added to the facing, radians."""
    delay: float = 0.0
    """Seconds added to the motion's time."""


def sample_placements(
    split: str | Split, index: int, domain: PuppetDomain, salt: str = "", *, count: int = 1
) -> tuple[Placement, ...]:
    """Places for `count` characters in one clip, left to right; in a part of the clips neighbours cross."""
    draws = Draws(seed_of(split, "placement", index, domain.name, salt)).child(str(count))
    if count == 1:
        height = draws.uniform("height", *domain.solo_height)
        x = Swing(middle=draws.uniform("x", -0.05, 0.05))
        return (Placement(height=height, x=x, ground=draws.uniform("ground", 0.935, 0.965)),)
    crossing = draws.chance("crossing", 0.35)
    speed = draws.uniform("crossing_speed", 0.5, 0.8) * domain.speed[0]
    phase = draws.phase("crossing_phase")
    gap = 0.92 / count
    places = []
    for number in range(count):
        child = draws.child(f"{number}")
        middle = (number - 0.5 * (count - 1)) * gap
        reach = (0.8 * gap if number % 2 == 0 else -0.8 * gap) if crossing else 0.0
        depth = child.uniform("depth", 0.0, 0.3)
        places.append(
            Placement(
                height=child.uniform("height", *domain.group_height) * min(1.0, 2.6 / (count + 0.6)),
                x=Swing(
                    middle=0.6 * middle if crossing else middle + child.uniform("x", -0.04, 0.04),
                    amplitude=0.5 * reach,
                    frequency=speed,
                    phase=phase,
                ),
                ground=0.955 - 0.2 * depth,
                depth=depth,
            )
        )
    return tuple(places)


@dataclass(frozen=True, slots=True)
class View:
    """A camera's numbers at T times."""

    pan_x: np.ndarray
    pan_y: np.ndarray
    zoom: np.ndarray
    orbit: np.ndarray

    @classmethod
    def of(cls, camera: Camera, times: np.ndarray) -> "View":
        return cls(*(swing.at(times) for swing in (camera.pan_x, camera.pan_y, camera.zoom, camera.orbit)))


def project(
    points: np.ndarray, placement: Placement, view: View, times: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of body points.

    `points` (T, N, 3) in body heights. Returns pixels (T, N, 3): x right, y down, and nearness (larger is nearer), and the
    pixels per body height (T,).
    """
    height, width = size
    stage = min(1.0, 1.05 * width / height)
    scale = placement.height * stage
    yaw = placement.turn + view.orbit
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    x = scale * (points[..., 0] * cos + points[..., 2] * sin)
    z = scale * (points[..., 2] * cos - points[..., 0] * sin)
    # An orbit also moves a performer that stands off the middle of the stage.
    place_x = placement.x.at(times) * min(WIDEST_STAGE, width / height)
    x = x + (place_x * np.cos(view.orbit) - placement.depth * np.sin(view.orbit))[:, None]
    near = CAMERA_DISTANCE / (CAMERA_DISTANCE - z)
    down = placement.ground - scale * points[..., 1] * near
    zoom = view.zoom[:, None]
    pixels = np.empty(points.shape)
    pixels[..., 0] = 0.5 * width + height * (zoom * x * near + view.pan_x[:, None])
    pixels[..., 1] = height * (0.5 + zoom * (down - 0.5) + view.pan_y[:, None])
    pixels[..., 2] = z / scale
    return pixels, view.zoom * scale * height
