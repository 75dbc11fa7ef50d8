"""Wan's autoencoder a few frames at a time and, where asked, a tile at a time: the same values in less memory.

Its convolutions look back in time, so frames can leave the device as they are made. In space only the attention at the
coarsest resolution looks further than its neighbours: what is as coarse as latents is computed whole, everything finer in
tiles, each with as wide a margin as its convolutions reach. Nothing is blended, because nothing differs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor, nn

from scail2.models.tiles import Region, decoder_margins, encoder_margins, tiles, with_margin

# Frames before, by convolution: what diffusers calls a feature cache.
Memory = defaultdict[int, Any]
Layer = Callable[[Tensor, Memory, list[int]], Tensor]


@dataclass(frozen=True, slots=True)
class _Stage:
    """Layers from one resolution to the next.

    Attributes:
        scale: pixels a cell of their input.
        margin: cells around a tile that they have to see, for everything after them as well.
    """

    layers: tuple[Layer, ...]
    scale: int
    margin: int


def stream_autoencoder(vae: nn.Module, tile: int | None) -> bool:
    """Has ``vae.encode`` and ``vae.decode`` work so; decoded pixels are in main memory. Whether it is one that can.

    Args:
        tile: longest side of tiles in pixels, about; None: whole pictures.
    """
    config = getattr(vae, "config", None)
    if not isinstance(vae, AutoencoderKLWan) or config is None or config.is_residual or config.patch_size is not None:
        return False
    if config.attn_scales or len(config.dim_mult) < 2:
        return False
    changed: Any = vae
    changed._decode = partial(_decode, vae, tile)
    changed._encode = partial(_encode, vae, tile)
    return True


# ---- decoding ------------------------------------------------------------------------------------------------------


def _decode(vae: AutoencoderKLWan, tile: int | None, latents: Tensor, return_dict: bool = True) -> Any:
    """In place of ``AutoencoderKLWan._decode``: latents (B, C, Tl, h, w) to pixels (B, 3, T, H, W) in [-1, 1]."""
    scale = vae.config.scale_factor_spatial
    height, width = (side * scale for side in latents.shape[-2:])
    stages = _decoder_stages(vae)
    hidden = vae.post_quant_conv(latents)
    first = vae.decoder.up_blocks[0]
    head: tuple[Layer, ...] = (
        partial(_convolve, vae.decoder.conv_in),
        *_blocks([vae.decoder.mid_block, *first.resnets]),
    )
    coarse = _run_over(head, (hidden[:, :, index : index + 1] for index in range(hidden.shape[2])))
    frames = 1 + (latents.shape[2] - 1) * vae.config.scale_factor_temporal
    pixels = torch.empty(len(latents), 3, frames, height, width, dtype=latents.dtype)
    regions = tiles((height, width), tile, scale)
    # A second tile needs the coarse frames again.
    kept: Iterable[Tensor] = coarse if len(regions) == 1 else list(coarse)
    for top, bottom, left, right in regions:
        start = 0
        for made in _run_tile(stages, kept, (top, bottom, left, right), (height, width), 1):
            stop = start + made.shape[2]
            pixels[:, :, start:stop, top:bottom, left:right] = made.clamp_(-1.0, 1.0)
            start = stop
    return DecoderOutput(sample=pixels) if return_dict else (pixels,)


def _decoder_stages(vae: AutoencoderKLWan) -> list[_Stage]:
    blocks, decoder = list(vae.decoder.up_blocks), vae.decoder
    margins = decoder_margins(len(blocks), len(blocks[0].resnets))
    stages = [_Stage(tuple(_blocks(blocks[0].upsamplers)), 2 ** (len(blocks) - 1), margins[0])]
    for level, block in enumerate(blocks[1:], start=1):
        layers = [*_blocks(block.resnets), *_blocks(block.upsamplers or ())]
        if level == len(blocks) - 1:
            layers += [partial(_finish, decoder)]
        stages.append(_Stage(tuple(layers), 2 ** (len(blocks) - 1 - level), margins[level]))
    return stages


# ---- encoding ------------------------------------------------------------------------------------------------------


def _encode(vae: AutoencoderKLWan, tile: int | None, pixels: Tensor) -> Tensor:
    """In place of ``AutoencoderKLWan._encode``: pixels (B, 3, T, H, W) to moments (B, 2C, Tl, h, w)."""
    scale, step = vae.config.scale_factor_spatial, vae.config.scale_factor_temporal
    size = (pixels.shape[-2], pixels.shape[-1])
    stages, rest = _encoder_stages(vae)
    starts = range(1, pixels.shape[2], step)
    chunks = [pixels[:, :, :1], *(pixels[:, :, start : start + step] for start in starts)]
    regions = tiles(size, tile, scale)
    coarse: Iterable[Tensor] = _run_tile(stages, chunks, regions[0], size, scale)
    if len(regions) > 1:
        coarse = _joined([list(_run_tile(stages, chunks, each, size, scale)) for each in regions], regions, scale)
    head: tuple[Layer, ...] = (*_blocks([*rest, vae.encoder.mid_block]), partial(_finish, vae.encoder))
    return vae.quant_conv(torch.cat(list(_run_over(head, coarse)), dim=2))


def _joined(parts: list[list[Tensor]], regions: list[Region], scale: int) -> Iterator[Tensor]:
    """Coarse frames whole again: ``parts`` by region and time."""
    height, width = regions[-1][1] // scale, regions[-1][3] // scale
    for now in zip(*parts, strict=True):
        whole = now[0].new_empty(*now[0].shape[:3], height, width)
        for part, (top, bottom, left, right) in zip(now, regions, strict=True):
            whole[..., top // scale : bottom // scale, left // scale : right // scale] = part
        yield whole


def _encoder_stages(vae: AutoencoderKLWan) -> tuple[list[_Stage], list[nn.Module]]:
    """Stages that each end with a halving, and the blocks behind the last of them."""
    encoder = vae.encoder
    groups: list[list[nn.Module]] = [[]]
    for block in encoder.down_blocks:
        groups[-1].append(block)
        if isinstance(block, WanResample):
            groups.append([])
    margins = encoder_margins(len(groups), vae.config.num_res_blocks)
    stages = []
    for level, (group, margin) in enumerate(zip(groups[:-1], margins, strict=True)):
        begin: list[Layer] = [partial(_convolve, encoder.conv_in)] if level == 0 else []
        stages.append(_Stage((*begin, *_blocks(group)), 2**level, margin))
    return stages, groups[-1]


# ---- layers --------------------------------------------------------------------------------------------------------


def _run_tile(
    stages: list[_Stage], chunks: Iterable[Tensor], tile: Region, size: tuple[int, int], scale: int
) -> Iterator[Tensor]:
    """One tile of whole ``chunks`` (B, C, t, h, w) through the stages, chunk by chunk; the results at ``scale``."""
    memories: list[Memory] = [defaultdict(lambda: None) for _ in stages]
    for chunk in chunks:
        seen: Region = (0, size[0], 0, size[1])
        for stage, memory in zip(stages, memories, strict=True):
            wanted = with_margin(tile, stage.margin * stage.scale, size)
            chunk = _run(stage.layers, _cut(chunk, seen, wanted, stage.scale), memory)
            seen = wanted
        yield _cut(chunk, seen, tile, scale)


def _cut(frames: Tensor, seen: Region, wanted: Region, scale: int) -> Tensor:
    """The wanted region of frames that show another, at ``scale`` pixels a cell."""
    rows = slice((wanted[0] - seen[0]) // scale, (wanted[1] - seen[0]) // scale)
    columns = slice((wanted[2] - seen[2]) // scale, (wanted[3] - seen[2]) // scale)
    return frames[..., rows, columns]


def _run_over(layers: tuple[Layer, ...], chunks: Iterable[Tensor]) -> Iterator[Tensor]:
    memory: Memory = defaultdict(lambda: None)
    return (_run(layers, chunk, memory) for chunk in chunks)


def _run(layers: tuple[Layer, ...], frames: Tensor, memory: Memory) -> Tensor:
    place = [0]
    for layer in layers:
        frames = layer(frames, memory, place)
    return frames


def _blocks(blocks: Iterable[nn.Module]) -> Iterator[Layer]:
    return (partial(_block, each) for each in blocks)


def _block(block: nn.Module, frames: Tensor, memory: Memory, place: list[int]) -> Tensor:
    return block(frames, feat_cache=memory, feat_idx=place)


def _convolve(convolution: nn.Module, frames: Tensor, memory: Memory, place: list[int]) -> Tensor:
    """A causal convolution behind the two frames before, as the coders' own ``forward`` calls their first and last."""
    index = place[0]
    last = frames[:, :, -2:].clone()
    if last.shape[2] < 2 and memory[index] is not None:
        last = torch.cat([memory[index][:, :, -1:], last], dim=2)
    result = convolution(frames, memory[index])
    memory[index] = last
    place[0] += 1
    return result


def _finish(coder: Any, frames: Tensor, memory: Memory, place: list[int]) -> Tensor:
    return _convolve(coder.conv_out, coder.nonlinearity(coder.norm_out(frames)), memory, place)
