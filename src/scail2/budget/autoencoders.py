"""Bytes that live at once in the autoencoders, in closed form: whole or in tiles (`scail2.models.streamed_autoencoder`)."""

from __future__ import annotations

import math

from scail2.budget.operations import Areas, wan_decoder_levels, wan_encoder_levels
from scail2.budget.shapes import AutoencoderShape

_FLOAT = 4
# Frames that the small models' refiner works on at once (`scail2.models.autoencoder`).
_REFINED_AT_ONCE = 8


def picture_bytes(size: tuple[int, int], frames: int, itemsize: int) -> float:
    """Bytes of a clip's pixels."""
    return 3.0 * frames * math.prod(size) * itemsize


def decoding_peak(
    shape: AutoencoderShape, size: tuple[int, int], frames: int, itemsize: int, *, tile: int | None = None
) -> float:
    """Most bytes of decoding ``frames`` frames of ``size`` pixels; in tiles of about ``tile`` pixels where given.

    Of the convolution at full size that needs most: three copies of its input, the input behind its cached frames and
    the same padded; and the cached frames of every convolution. Wan's decoded frames leave the device as they are made and
    are not counted (`picture_bytes`); the small models' are.
    """
    if shape.base_dim is None:
        return _patch_decoding(shape, size, frames, itemsize)
    *_, (_, channels, _) = wan_decoder_levels(shape)
    areas = Areas.decoding(shape, size, tile)
    step = min(shape.scale_factor_temporal, frames)
    working = 3 * step * channels + (2 + step) * channels * _padding(areas.largest[-1])
    if frames > 1:
        working += (2 + step) * channels + 2 * channels
    coarse, fine = _decoder_caches(shape, areas)
    share = 1 if frames > 1 else 0.5
    latents = 1 + (frames - 1) // shape.scale_factor_temporal
    cells = math.prod(size) / shape.scale_factor_spatial**2
    held = cells * 2 * latents * shape.z_dim
    if areas.tiles == 1:
        return (areas.largest[-1] * working + share * (coarse + fine) + held) * itemsize
    hidden = cells * latents * shape.base_dim * shape.dim_mult[-1]  # of every frame, for the next tile
    return (areas.largest[-1] * working + share * fine + hidden + held) * itemsize


def encoding_peak(
    shape: AutoencoderShape, size: tuple[int, int], frames: int, itemsize: int, *, tile: int | None = None
) -> float:
    """Most bytes of encoding ``frames`` frames of ``size`` pixels, the frames included; of five or one up to a fifth too much."""
    if shape.base_dim is None:
        return _patch_encoding(shape, size, frames)
    areas = Areas.encoding(shape, size, tile)
    step = min(shape.scale_factor_temporal, frames)
    channels = next(wan_encoder_levels(shape))[1]
    working = 2 * step * channels + (2 + step) * channels * _padding(areas.largest[0])
    if frames > 1:  # the frames before, in front of them, and kept anew
        working += (2 + step) * channels + 2 * channels
    coarse, fine = _encoder_caches(shape, areas, 2 if frames > 1 else 1)
    peak = areas.largest[0] * working + fine
    if areas.tiles == 1:
        peak += coarse
    else:
        latents = 1 + (frames - 1) // shape.scale_factor_temporal
        peak += latents * math.prod(size) / shape.scale_factor_spatial**2 * shape.base_dim * shape.dim_mult[-2]
    return peak * itemsize + picture_bytes(size, frames, itemsize)


def _padding(pixels: float) -> float:
    """What a border of one cell makes of an area."""
    side = math.sqrt(pixels)
    return (side + 2) ** 2 / pixels


def _decoder_caches(shape: AutoencoderShape, areas: Areas) -> tuple[float, float]:
    """Numbers that the decoder's convolutions keep of the two frames before: those computed whole, and those of a tile."""
    assert shape.base_dim is not None
    scale = 1 / shape.scale_factor_spatial**2
    middle = shape.base_dim * shape.dim_mult[-1]
    coarse, fine = 2 * scale * areas.whole * (shape.z_dim + 4 * middle), 0.0
    channels = middle
    for level, (inputs, channels, doubles_time) in enumerate(wan_decoder_levels(shape)):
        blocks = 2 * scale * (inputs + (2 * shape.num_res_blocks + 1) * channels)
        if level == 0:
            coarse += areas.whole * blocks
        else:
            fine += areas.largest[level] * blocks
        if doubles_time is not None:
            fine += 2 * scale * areas.largest[level] * channels if doubles_time else 0
            scale *= 4
    return coarse, fine + 2 * areas.largest[-1] * channels


def _encoder_caches(shape: AutoencoderShape, areas: Areas, kept: int) -> tuple[float, float]:
    """The same of the encoder, with ``kept`` frames before: one where there is a single frame."""
    assert shape.base_dim is not None
    scale, coarse, fine = 1.0, 0.0, 3.0 * areas.largest[0]
    channels = shape.base_dim
    for level, (inputs, channels, halves_time) in enumerate(wan_encoder_levels(shape)):
        blocks = scale * (inputs + (2 * shape.num_res_blocks - 1) * channels)
        if halves_time is None:
            coarse += areas.whole * (blocks + scale * 5 * channels)
            continue
        fine += areas.largest[level] * blocks
        scale /= 4
        fine += areas.largest[level] * scale * channels / 2 if halves_time else 0
    return kept * coarse, kept * fine


def _patch_encoding(shape: AutoencoderShape, size: tuple[int, int], frames: int) -> float:
    """The clip, its patches in order, and the latents a few times."""
    latents = 1 + (frames - 1) // shape.scale_factor_temporal
    cells = math.prod(size) / shape.scale_factor_spatial**2
    return _FLOAT * (math.prod(size) * 3 * (2 * frames - 1) + 7.3 * latents * cells * shape.z_dim)


def _patch_decoding(shape: AutoencoderShape, size: tuple[int, int], frames: int, itemsize: int) -> float:
    """The clip twice; of the frames that are refined at once their windows and the finest level's activations."""
    pixels = math.prod(size)
    clip = 6 * frames * pixels * _FLOAT
    if not shape.refiner_widths:
        return clip
    refined, finest = min(frames, _REFINED_AT_ONCE), shape.refiner_widths[0] / 4
    if itemsize == _FLOAT:
        return clip + refined * pixels * _FLOAT * (6.5 + 5 * finest)
    cast_weights = itemsize * shape.weights.parameters  # autocast keeps them
    return clip + refined * pixels * (_FLOAT * 11.4 + itemsize * 4 * finest) + cast_weights
