"""Pictures for the segmentation network: puppets with exact masks and body centres, and pictures unlike them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from scail2.puppets import (
    FULL,
    JOINT_NAMES,
    NANO,
    Performance,
    Placement,
    PuppetDomain,
    Split,
    Swing,
    render,
    sample_camera,
    sample_character,
    sample_motion,
    sample_placements,
    sample_scene,
)

CLIP_FRAMES = 4
_CENTRE_JOINT = JOINT_NAMES.index("chest")
# NANO as it is, a wider world around it (other proportions, sizes and places, moving cameras, busier scenery), and
# everything the renderer can show (animals, robots, props, night).
WIDE = replace(
    NANO,
    name="segmenter-wide",
    proportion_spread=0.3,
    yaw=70.0,
    camera_spread=0.6,
    extras_chance=0.3,
    scenery_items=(3, 9),
    solo_height=(0.45, 0.95),
    group_height=(0.4, 0.8),
)
_DOMAINS, _DOMAIN_SHARES = (NANO, WIDE, FULL), (0.55, 0.15, 0.3)
# Shares of clips: bare scenery (familiar, nobody there), and pictures that are unlike puppets.
_EMPTY_SHARE = 0.06
# Share of clips with several characters in which they stand in each other's way.
_TOGETHER_SHARE = 0.4
# How far apart neighbours then are, in heights of a body: from half behind each other to touching with the arms.
_TOGETHER_DISTANCE = (0.12, 0.4)
_STRANGE_SHARE = 0.2


@dataclass(frozen=True)
class Batch:
    """B pictures with their truth.

    Attributes:
        pictures: float (B, 3, H, W) in [-1, 1].
        foreground: float (B, H, W), 1 inside characters.
        centre: float (B, 2, H, W), x and y offsets to the body centre of the pixel's character, in picture sides.
        known: float (B,), 1 where foreground and centre are to be learnt.
        familiar: float (B,), 1 where the picture belongs to the puppet world.
    """

    pictures: Tensor
    foreground: Tensor
    centre: Tensor
    known: Tensor
    familiar: Tensor


@dataclass
class _Clip:
    """CLIP_FRAMES pictures uint8 (T, H, W, 3), label maps (T, H, W) and body centres in pixels (S, T, 2)."""

    frames: np.ndarray
    labels: np.ndarray
    centres: np.ndarray


def sample_batch(split: Split, index: int, *, clips: int, size: int, strange: bool = True) -> Batch:
    """Batch number `index` of a split: always the same pictures for the same arguments.

    Args:
        clips: puppet clips in it; each gives 4 pictures, half a second apart.
        size: height and width in pixels.
        strange: whether some clips are turned into pictures unlike puppets.
    """
    parts = [_sample(split, index * clips + number, size, strange) for number in range(clips)]
    return Batch(*[torch.cat([getattr(part, name) for part in parts]) for name in Batch.__dataclass_fields__])


def _sample(split: Split, index: int, size: int, strange: bool) -> Batch:
    rng = np.random.default_rng([list(Split).index(split), index])
    clip = _render(
        split, index, size, rng, count=0 if rng.random() < _EMPTY_SHARE else int(rng.choice(3, p=(0.5, 0.4, 0.1))) + 1
    )
    pictures, foreground, centre = _augmented(clip, size, rng)
    known, familiar = 1.0, 1.0
    if strange and rng.random() < _STRANGE_SHARE:
        pictures, known = _estranged(pictures, rng)
        familiar = 0.0
        if known:
            foreground, centre = torch.zeros_like(foreground), torch.zeros_like(centre)
    count = len(pictures)
    return Batch(pictures, foreground, centre, torch.full((count,), known), torch.full((count,), familiar))


def drawn_together(placements: Sequence[Placement], rng: np.random.Generator) -> tuple[Placement, ...]:
    """The same characters so close that neighbours touch or stand half behind each other; none walks away."""
    distances = [rng.uniform(*_TOGETHER_DISTANCE) * (a.height + b.height) / 2 for a, b in pairwise(placements)]
    places = np.concatenate([[0.0], np.cumsum(distances)])
    places += rng.uniform(-0.15, 0.15) - places.mean()
    return tuple(replace(each, x=Swing(middle=float(x))) for each, x in zip(placements, places, strict=True))


def _render(split: Split, index: int, size: int, rng: np.random.Generator, *, count: int) -> _Clip:
    domain: PuppetDomain = _DOMAINS[rng.choice(len(_DOMAINS), p=_DOMAIN_SHARES)]
    placements = sample_placements(split, index, domain, count=count) if count else ()
    if count > 1 and rng.random() < _TOGETHER_SHARE:
        placements = drawn_together(placements, rng)
    cast = [
        Performance(
            character=sample_character(split, 3 * index + number, domain),
            motion=sample_motion(split, 3 * index + number, domain),
            placement=placement,
        )
        for number, placement in enumerate(placements)
    ]
    rendered = render(
        cast,
        sample_scene(split, index, domain),
        frames=CLIP_FRAMES,
        height=size,
        width=size,
        fps=2.0,
        start=float(rng.uniform(0, 20)),
        camera=sample_camera(split, index, domain),
    )
    labels = np.zeros(rendered.frames.shape[:3], np.uint8)
    for number, mask in enumerate(rendered.masks, start=1):
        labels[mask] = number
    return _Clip(rendered.frames, labels, rendered.joints[:, :, _CENTRE_JOINT])


def _augmented(clip: _Clip, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (T, 3, H, W), foreground (T, H, W) and centre offsets (T, 2, H, W) after zoom, shift, mirror and colour."""
    pictures = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    labels = torch.from_numpy(clip.labels).float()[:, None]
    zoom = float(np.exp(rng.uniform(np.log(0.75), np.log(1.7)))) if rng.random() < 0.6 else 1.0
    shift = rng.uniform(-0.25, 0.25, 2) if zoom != 1.0 else np.zeros(2)
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    # affine_grid maps output to input positions in [-1, 1].
    matrix = torch.tensor([[mirror / zoom, 0, shift[0]], [0, 1 / zoom, shift[1]]], dtype=torch.float32)
    if zoom != 1.0 or mirror < 0:
        grid = F.affine_grid(matrix.expand(len(pictures), 2, 3), pictures.shape, align_corners=False)
        pictures = F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
        labels = F.grid_sample(labels, grid, mode="nearest", padding_mode="border", align_corners=False)
    labels = labels[:, 0].round().long()
    moved = torch.from_numpy(clip.centres.astype(np.float32)) / size * 2 - 1
    moved = (moved - matrix[:, 2]) * zoom * torch.tensor([mirror, 1.0])
    return _recoloured(pictures, rng), (labels > 0).float(), _offsets(labels, (moved + 1) / 2, size)


def _offsets(labels: Tensor, centres: Tensor, size: int) -> Tensor:
    """Offsets (T, 2, H, W), in picture sides, from pixels of labels (T, H, W) to centres (S, T, 2) in [0, 1]."""
    axis = (torch.arange(size, dtype=torch.float32) + 0.5) / size
    here = torch.stack([axis.expand(size, size), axis[:, None].expand(size, size)])
    offsets = torch.zeros(len(labels), 2, size, size)
    for number, centre in enumerate(centres, start=1):
        to_centre = centre[:, :, None, None] - here[None]
        offsets = torch.where((labels == number)[:, None], to_centre, offsets)
    return offsets


def _recoloured(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast, tint, a little blur and noise, JPEG: what happens to the same puppets on their way here."""
    gain, bias = float(rng.uniform(0.75, 1.2)), float(rng.uniform(-0.15, 0.15))
    tint = torch.tensor(rng.uniform(-0.08, 0.08, 3), dtype=torch.float32)[:, None, None]
    pictures = (pictures * gain + bias + tint).clamp(-1, 1)
    if rng.random() < 0.2:
        pictures = F.interpolate(
            F.interpolate(pictures, scale_factor=float(rng.uniform(0.5, 0.9)), mode="bilinear", antialias=True),
            size=pictures.shape[2:],
            mode="bilinear",
        )
    if rng.random() < 0.3:
        noise = rng.standard_normal(pictures.shape, dtype=np.float32) * rng.uniform(0.005, 0.03)
        pictures = (pictures + torch.from_numpy(noise)).clamp(-1, 1)
    if rng.random() < 0.35:
        quality = int(rng.integers(35, 95))
        pictures = torch.stack([_through_jpeg(picture, quality) for picture in pictures])
    return pictures


def _through_jpeg(picture: Tensor, quality: int) -> Tensor:
    stream = io.BytesIO()
    pixels = ((picture.permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8)
    Image.fromarray(pixels).save(stream, format="JPEG", quality=quality)
    decoded = np.asarray(Image.open(stream), np.float32)
    return torch.from_numpy(decoded).permute(2, 0, 1) / 127.5 - 1


def _cloud(shape: tuple[int, int], rng: np.random.Generator, slope: float) -> np.ndarray:
    """Noise float32 (H, W) of unit deviation whose amplitude falls as 1 / frequency ** slope, as in photographs (1)."""
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / max(shape)) ** slope
    amplitude[0, 0] = 0
    field = np.fft.irfft2(amplitude * np.fft.rfft2(rng.standard_normal(shape)), s=shape)
    return (field / field.std()).astype(np.float32)


def _estranged(pictures: Tensor, rng: np.random.Generator) -> tuple[Tensor, float]:
    """Pictures unlike puppets, and 1.0 where nobody is in them for sure.

    Pure clouds of noise; puppets under photographic texture, light and shade (nobody can say what is right there); puppet
    pictures cut into shuffled tiles.
    """
    count, _, height, width = pictures.shape
    kind = rng.choice(3, p=(0.3, 0.5, 0.2))
    if kind == 0:
        slope, depth = rng.uniform(0, 1.8), rng.uniform(0.15, 0.6)
        clouds = np.stack([[_cloud((height, width), rng, slope) for _ in range(3)] for _ in range(count)])
        shared = np.stack([_cloud((height, width), rng, slope) for _ in range(count)])[:, None]
        base = rng.uniform(-0.5, 0.5, (count, 3, 1, 1)).astype(np.float32)
        mix = rng.uniform(0, 1)
        return torch.from_numpy((base + depth * ((1 - mix) * clouds + mix * shared)).astype(np.float32)).clamp(
            -1, 1
        ), 1.0
    if kind == 1:
        texture = np.stack([_cloud((height, width), rng, rng.uniform(0.6, 1.4)) for _ in range(count)])[:, None]
        light = np.stack([_cloud((height, width), rng, 2.5) for _ in range(count)])[:, None]
        textured = pictures * torch.from_numpy(1 + rng.uniform(0.2, 0.6) * light)
        textured = textured + torch.from_numpy(texture * np.float32(rng.uniform(0.08, 0.3)))
        return textured.clamp(-1, 1).float(), 0.0
    tile = int(rng.choice([16, 32]))
    rows, columns = height // tile, width // tile
    tiles = pictures.unfold(2, tile, tile).unfold(3, tile, tile).reshape(count, 3, rows * columns, tile, tile)
    tiles = tiles[:, :, torch.from_numpy(rng.permutation(rows * columns))]
    tiles = tiles.reshape(count, 3, rows, columns, tile, tile).permute(0, 1, 2, 4, 3, 5)
    return tiles.reshape(count, 3, rows * tile, columns * tile).contiguous(), 0.0
