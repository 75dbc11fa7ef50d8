"""Drawn videos for one's own pairs: a figure that moves by a seeded curve, its mask, and the frame's number in a corner."""

from fractions import Fraction
from pathlib import Path

import numpy as np

from scail2.masks import BINDING_SLOTS
from scail2.video import VideoWriter

FPS = Fraction(16)
CORNER = 8  # pixels of the corner that says a frame's number


def curve(seconds: np.ndarray, seed: int) -> np.ndarray:
    """Where and how wide a figure is at some times, (T, 4) in [-1, 1]: sums of seeded waves of no common period."""
    generator = np.random.default_rng(seed)
    rates, phases = generator.uniform(0.3, 1.1, (4, 3)), generator.uniform(0, 2 * np.pi, (4, 3))
    return np.sin(2 * np.pi * rates * seconds[:, None, None] + phases).mean(axis=-1)


def figure(
    seconds: np.ndarray, *, seed: int = 0, size: int = 64, scale: float = 1.0, centre: float = 0.5
) -> np.ndarray:
    """Outline of a figure at some times, bool (T, H, W): a trunk that sways and ducks, and arms that open and close."""
    ys, xs = np.mgrid[:size, :size] / size
    out = []
    for x, y, arms, duck in curve(seconds, seed):
        middle, top = centre + 0.12 * x, 0.35 + 0.1 * y + 0.1 * duck
        trunk = (np.abs(xs - middle) < 0.08 * scale) & (ys > top) & (ys < 0.9)
        beam = (np.abs(ys - top - 0.15) < 0.05 * scale) & (np.abs(xs - middle) < (0.18 + 0.1 * arms) * scale)
        out.append(trunk | beam)
    return np.stack(out)


def film(
    outlines: list[np.ndarray], *, colours: list[tuple[int, int, int]], ground: int = 60, first: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 (T, H, W, 3) that show outlines, with the frame's number in the corner; and their palette mask."""
    total, height, width = outlines[0].shape
    frames = np.full((total, height, width, 3), ground, np.uint8)
    mask = np.zeros_like(frames)
    for outline, colour, slot in zip(outlines, colours, BINDING_SLOTS, strict=False):
        frames[outline], mask[outline] = colour, slot.rgb
    for number in range(total):
        frames[number, :CORNER, :CORNER] = 2 * (first + number) % 250
    return frames, mask


def number_of(frame: np.ndarray) -> int:
    """The number in the corner of a frame of `film`."""
    return round(float(frame[: CORNER // 2, : CORNER // 2].mean()) / 2)


def write(path: Path, frames: np.ndarray, fps: Fraction = FPS) -> Path:
    """A lossless video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, fps, frames.shape[1:3], codec="ffv1") as writer:
        writer.write(frames)
    return path


def make_pair(folder: Path, *, late: int = 5, frames: int = 45, seed: int = 0, driving_seed: int | None = None) -> dict:
    """A pair in which the motion is ``late`` frames later in the driving video, with masks: (role: path)."""
    times = np.arange(frames) / float(FPS)
    target = film([figure(times, seed=seed)], colours=[(220, 40, 40)], ground=60)
    other = seed if driving_seed is None else driving_seed
    moved = figure(times - late / float(FPS), seed=other, scale=1.3, centre=0.55)
    driving = film([moved], colours=[(40, 90, 230)], ground=150)
    named = {"target": target[0], "target_mask": target[1], "driving": driving[0], "driving_mask": driving[1]}
    return {role: write(folder / f"{role}.mkv", array) for role, array in named.items()}
