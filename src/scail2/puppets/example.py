"""Writes one small example of everything: `python -m scail2.puppets.example OUTDIR [--domain full]`.

reference.png, reference_mask.png; driving.npy, driving_mask.npy and target.npy (uint8, T x H x W x 3); contact.png. The
reference character is bound to the driving character in blue; masks are as animation mode wants them (reference background
white, driving background black).
"""

import argparse
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from scail2.files.staging import atomic_file
from scail2.puppets.camera import sample_camera, sample_placements
from scail2.puppets.characters import sample_character
from scail2.puppets.domain import DOMAINS, PuppetDomain, domain_named
from scail2.puppets.render import Performance, PuppetClip, render, render_still
from scail2.puppets.repertoire import sample_motion
from scail2.puppets.scenes import sample_scene
from scail2.puppets.seeds import Split

logger = logging.getLogger(__name__)

COLORS = np.array([(0, 0, 255), (255, 0, 0), (0, 255, 0), (255, 0, 255), (0, 255, 255), (255, 255, 0)], np.uint8)
"""Mask colours in the order in which they are handed out to characters."""


@dataclass(frozen=True, slots=True)
class PuppetExample:
    """A reference still, a driving clip and the clip that should come out."""

    reference: PuppetClip
    driving: PuppetClip
    target: PuppetClip


def make_example(
    index: int,
    *,
    split: str | Split = Split.TEST,
    domain: PuppetDomain,
    frames: int,
    size: tuple[int, int],
    fps: float = 16.0,
    characters: int = 1,
) -> PuppetExample:
    """Example `index`: the reference characters in their scene, others in another scene who move, and the first doing so too.

    `size` is (height, width) in pixels. The reference shows an unrelated pose.
    """
    height, width = size
    places = sample_placements(split, index, domain, count=characters)
    scenes = [sample_scene(split, 2 * index + number, domain) for number in range(2)]

    def cast(first_character: int, first_motion: int) -> list[Performance]:
        return [
            Performance(
                character=sample_character(split, first_character + number, domain),
                motion=sample_motion(split, first_motion + number, domain),
                placement=place,
            )
            for number, place in enumerate(places)
        ]

    own, other = 2 * characters * index, 2 * characters * index + characters
    camera = sample_camera(split, index, domain)
    clip = partial(render, frames=frames, height=height, width=width, fps=fps, camera=camera)
    return PuppetExample(
        reference=render_still(cast(own, other), scenes[0], height=height, width=width),
        driving=clip(cast(other, own), scenes[1]),
        target=clip(cast(own, own), scenes[0]),
    )


def color_mask(masks: np.ndarray, background: int) -> np.ndarray:
    """RGB mask (T, H, W, 3) of character masks (S, T, H, W) on a background of grey value `background`."""
    picture = np.full((*masks.shape[1:], 3), background, np.uint8)
    for number, mask in enumerate(masks):
        picture[mask] = COLORS[number % len(COLORS)]
    return picture


def contact_sheet(example: PuppetExample, columns: int = 6) -> np.ndarray:
    """Reference beside `columns` times driving over target, one uint8 RGB picture."""
    times = np.linspace(0, len(example.driving.frames) - 1, columns).round().astype(int)
    blank = np.full_like(example.reference.frames[0], 255)
    upper = [example.reference.frames[0], *(example.driving.frames[time] for time in times)]
    lower = [blank, *(example.target.frames[time] for time in times)]
    return np.concatenate([np.concatenate(upper, axis=1), np.concatenate(lower, axis=1)], axis=0)


def write_example(example: PuppetExample, folder: Path) -> list[Path]:
    """Writes the files named at the top of this module; each appears whole or not at all. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "reference.png": example.reference.frames[0],
        "reference_mask.png": color_mask(example.reference.masks, 255)[0],
        "contact.png": contact_sheet(example),
    }
    arrays = {
        "driving.npy": example.driving.frames,
        "driving_mask.npy": color_mask(example.driving.masks, 0),
        "target.npy": example.target.frames,
    }
    for name, picture in pictures.items():
        with atomic_file(folder / name) as stream:
            Image.fromarray(picture).save(stream, format="PNG")
    for name, array in arrays.items():
        with atomic_file(folder / name) as stream:
            np.save(stream, array)
    return [folder / name for name in (*pictures, *arrays)]


def main(arguments: list[str] | None = None) -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description="Write a puppet example.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--domain", default="nano", choices=sorted(DOMAINS))
    parser.add_argument("--index", type=int, default=0)
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 128), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--characters", type=int, default=1)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    example = make_example(
        given.index,
        domain=domain_named(given.domain),
        frames=given.frames,
        size=tuple(given.size),
        characters=given.characters,
    )
    for path in write_example(example, given.folder):
        logger.info("%s", path)


if __name__ == "__main__":
    main()
