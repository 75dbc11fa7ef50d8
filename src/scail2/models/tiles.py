"""Tiles of a picture and how far around them an autoencoder's convolutions look; no torch, so that plans can reckon with it."""

from __future__ import annotations

from itertools import pairwise

Region = tuple[int, int, int, int]  # top, bottom, left, right in pixels


def tiles(size: tuple[int, int], tile: int | None, scale: int) -> list[Region]:
    """Regions of a picture of ``size`` pixels, about ``tile`` pixels or less to a side, all cut on the latents' grid.

    Args:
        tile: None for one region, the picture.
        scale: pixels of a latent cell.
    """
    spans = []
    for side in size:
        cells = side // scale
        count = 1 if tile is None else -(-side // tile)
        edges = [round(cells * number / count) * scale for number in range(count + 1)]
        spans.append(list(pairwise(edges)))
    return [(*rows, *columns) for rows in spans[0] for columns in spans[1]]


def with_margin(tile: Region, reach: int, size: tuple[int, int]) -> Region:
    """A tile with ``reach`` pixels around it, as far as there is a picture of ``size``."""
    top, bottom, left, right = tile
    return max(0, top - reach), min(size[0], bottom + reach), max(0, left - reach), min(size[1], right + reach)


def decoder_margins(levels: int, resnets: int) -> list[int]:
    """Cells that stages of Wan's decoder must see around a tile, in cells of their inputs, the coarsest first.

    The coarsest stage only enlarges; the others have so many residual blocks of two convolutions, the last one more.
    """
    found = [1 + 2 * resnets]
    for level in range(1, levels):
        enlarged = -(-(found[0] + 1) // 2)
        found.insert(0, enlarged + (2 * resnets if level < levels - 1 else 0))
    return found


def encoder_margins(levels: int, resnets: int) -> list[int]:
    """The same of the encoder's stages, each of which ends with a halving, the finest first.

    A margin can be halved as often as there are halvings left.
    """
    found: list[int] = []
    for halvings in range(1, levels):
        reach = 2 * (found[0] if found else 0) + 2 + 2 * resnets + (1 if halvings == levels - 1 else 0)
        found.insert(0, -(-reach // 2**halvings) * 2**halvings)
    return found
