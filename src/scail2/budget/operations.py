"""Operations of every stage in closed form: floating-point multiplications and additions, two of them a multiply-add.

They describe this network as `scail2.models` computes it, not as it was published: the last block works on the video's
tokens only, the pictures' tokens and the prompt are embedded once a segment, and the passes of one step share the first
block's self-attention. Whatever is no matrix product, convolution or attention is left to the bytes it moves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from scail2.budget.shapes import AutoencoderShape, ImageEncoderShape, TextEncoderShape, TransformerShape
from scail2.models.tiles import decoder_margins, encoder_margins, tiles, with_margin

# Keys and values of a context are kept from pass to pass while a sequence has at most so many times its tokens
# (`scail2.models.direct.WORTH_KEEPING`).
KEPT_CONTEXT = 16


@dataclass(frozen=True, slots=True)
class Operations:
    """Operations by the kernel that does them: matrix products, attention, convolutions."""

    matmul: float = 0.0
    attention: float = 0.0
    convolution: float = 0.0

    def __add__(self, other: Operations) -> Operations:
        return Operations(
            self.matmul + other.matmul, self.attention + other.attention, self.convolution + other.convolution
        )

    def __mul__(self, times: float) -> Operations:
        return Operations(self.matmul * times, self.attention * times, self.convolution * times)

    @property
    def total(self) -> float:
        """All of them."""
        return self.matmul + self.attention + self.convolution


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceShape:
    """Tokens of one segment: what the transformer attends to."""

    references: int
    video: int
    driving: int

    @classmethod
    def of(
        cls,
        transformer: TransformerShape,
        autoencoder: AutoencoderShape,
        size: tuple[int, int],
        frames: int,
        additional_references: int = 0,
    ) -> SequenceShape:
        """Of a segment of ``frames`` (4n + 1) frames of ``size`` (height, width) pixels."""
        latents = 1 + (frames - 1) // autoencoder.scale_factor_temporal
        _, patch_h, patch_w = transformer.patch_size
        height, width = (
            side // autoencoder.scale_factor_spatial // patch
            for side, patch in zip(size, (patch_h, patch_w), strict=True)
        )
        grid = height * width
        small = (height // transformer.driving_downsample) * (width // transformer.driving_downsample)
        return cls(references=(1 + additional_references) * grid, video=latents * grid, driving=latents * small)

    @property
    def total(self) -> int:
        """Length of the sequence."""
        return self.references + self.video + self.driving


@dataclass(frozen=True, kw_only=True, slots=True)
class PassKind:
    """Which of a segment's passes: what is remembered of earlier ones need not be computed again.

    Attributes:
        direct: through `scail2.models.direct`; False under hooks (offloading through diffusers), compilation and adapters
            that listen, where every block works on every token and nothing is remembered.
        first: the segment's first pass with its prompt.
        first_of_segment: and the segment's first at all: the pictures are embedded.
        shares_start: not the first pass of a guided step: the first block's self-attention is known.
    """

    direct: bool = True
    first: bool = False
    first_of_segment: bool = False
    shares_start: bool = False


def keeps_context(shape: TransformerShape, sequence: SequenceShape) -> bool:
    """Whether the keys and values of the prompt are kept from pass to pass."""
    return sequence.total <= KEPT_CONTEXT * context_tokens(shape)


def context_tokens(shape: TransformerShape) -> int:
    """Tokens of prompt and picture that every block attends to."""
    text = shape.text_length if shape.text_dim is not None else 0
    return text + (shape.image_length if shape.image_dim is not None else 0)


def transformer_pass(shape: TransformerShape, sequence: SequenceShape, kind: PassKind = PassKind()) -> Operations:
    """One forward pass, batch 1."""
    total = _embedding(shape, sequence, kind) + _head(shape, sequence, kind)
    projects = context_tokens(shape) > 0 and (kind.first or not kind.direct or not keeps_context(shape, sequence))
    for index in range(shape.num_layers):
        last = kind.direct and index == shape.num_layers - 1
        rows = sequence.video if last else sequence.total
        if not (index == 0 and kind.shares_start and kind.direct):
            total += _self_attention(shape, sequence.total, rows)
        total += _rest_of_block(shape, rows, projects=projects)
    return total


def _self_attention(shape: TransformerShape, tokens: int, rows: int) -> Operations:
    width = shape.dim
    return Operations(matmul=2 * width**2 * (2 * rows + 2 * tokens), attention=4 * rows * tokens * width)


def _rest_of_block(shape: TransformerShape, rows: int, *, projects: bool) -> Operations:
    width, context = shape.dim, context_tokens(shape)
    matmul = 4 * rows * width * shape.ffn_dim
    if context:
        matmul += 4 * rows * width**2
    if projects:
        matmul += 4 * context * width**2
    return Operations(matmul=matmul, attention=4 * rows * context * width)


def _embedding(shape: TransformerShape, sequence: SequenceShape, kind: PassKind) -> Operations:
    width, taps = shape.dim, math.prod(shape.patch_size)
    video = sequence.video * shape.in_channels
    pictures = (sequence.references + sequence.driving) * (
        shape.in_channels + shape.mask_channels
    ) + shape.mask_channels
    known = kind.direct and not kind.first_of_segment
    convolution = 2 * width * taps * (video + (0 if known else pictures))
    matmul = 2 * width * (shape.freq_dim + width + 6 * width)
    if kind.first or not kind.direct:
        if shape.text_dim is not None:
            matmul += 2 * shape.text_length * width * (shape.text_dim + width)
        if shape.image_dim is not None:
            matmul += 2 * shape.image_length * shape.image_dim * (shape.image_dim + width)
    return Operations(matmul=matmul, convolution=convolution)


def _head(shape: TransformerShape, sequence: SequenceShape, kind: PassKind) -> Operations:
    rows = sequence.video if kind.direct else sequence.total
    return Operations(matmul=2 * rows * shape.dim * shape.out_channels * math.prod(shape.patch_size))


def pass_without_attention(shape: TransformerShape, sequence: SequenceShape) -> Operations:
    """One pass whose attention, with its projections, a step cache extrapolates; such a pass goes through hooks."""
    feed_forward = shape.num_layers * 4 * sequence.total * shape.dim * shape.ffn_dim
    kind = PassKind(direct=False)
    return _embedding(shape, sequence, kind) + _head(shape, sequence, kind) + Operations(matmul=feed_forward)


def segment_denoising(
    shape: TransformerShape,
    sequence: SequenceShape,
    *,
    steps: int,
    passes: int,
    direct: bool = True,
    attending: int | None = None,
) -> Operations:
    """All passes of one segment: ``steps`` of ``passes`` each (1 without guidance, 2 with it).

    ``attending`` of the steps compute attention; None: all.
    """
    total = Operations()
    if attending is not None:
        total += pass_without_attention(shape, sequence) * (passes * (steps - attending))
        steps = attending
    for number in range(passes):
        later = PassKind(direct=direct, shares_start=number > 0)
        begin = PassKind(direct=direct, shares_start=number > 0, first=True, first_of_segment=number == 0)
        total += transformer_pass(shape, sequence, begin) + transformer_pass(shape, sequence, later) * (steps - 1)
    return total


# ---- encoders -----------------------------------------------------------------------------------------------------


def text_encoding(shape: TextEncoderShape, tokens: int = 512) -> Operations:
    """One prompt through umT5."""
    inner = shape.num_heads * shape.d_kv
    matmul = shape.num_layers * tokens * (8 * shape.d_model * inner + 6 * shape.d_model * shape.d_ff)
    return Operations(matmul=matmul, attention=shape.num_layers * 4 * tokens**2 * inner)


def image_encoding(shape: ImageEncoderShape) -> Operations:
    """One picture through CLIP."""
    patches = (shape.image_size // shape.patch_size) ** 2
    tokens, width = patches + 1, shape.hidden_size
    matmul = shape.num_hidden_layers * tokens * (8 * width**2 + 4 * width * shape.intermediate_size)
    attention = shape.num_hidden_layers * 4 * tokens**2 * width
    return Operations(matmul=matmul, attention=attention, convolution=2 * patches * width * 3 * shape.patch_size**2)


# ---- autoencoders -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Areas:
    """Pixels that the stages of Wan's coders work on: each tile with the margin it has there.

    Attributes:
        whole: of the picture.
        all: of every stage, all tiles together; ``largest``: of the largest tile.
    """

    whole: int
    tiles: int
    all: tuple[int, ...]
    largest: tuple[int, ...]

    @classmethod
    def decoding(cls, shape: AutoencoderShape, size: tuple[int, int], tile: int | None) -> Areas:
        """Stages from the coarsest to the finest."""
        levels = len(shape.dim_mult)
        margins = decoder_margins(levels, shape.num_res_blocks + 1)
        return cls._of(shape, size, tile, [each << (levels - 1 - level) for level, each in enumerate(margins)])

    @classmethod
    def encoding(cls, shape: AutoencoderShape, size: tuple[int, int], tile: int | None) -> Areas:
        """Stages from the finest to the last that halves."""
        margins = encoder_margins(len(shape.dim_mult), shape.num_res_blocks)
        return cls._of(shape, size, tile, [each << level for level, each in enumerate(margins)])

    @classmethod
    def _of(cls, shape: AutoencoderShape, size: tuple[int, int], tile: int | None, reaches: list[int]) -> Areas:
        regions = tiles(size, tile, shape.scale_factor_spatial)
        seen = [[with_margin(each, reach, size) for each in regions] for reach in reaches]
        areas = [[(bottom - top) * (right - left) for top, bottom, left, right in stage] for stage in seen]
        return cls(
            whole=math.prod(size), tiles=len(regions), all=tuple(map(sum, areas)), largest=tuple(map(max, areas))
        )


def video_encoding(
    shape: AutoencoderShape, size: tuple[int, int], frames: int, *, tile: int | None = None
) -> Operations:
    """``frames`` (4n + 1) frames of ``size`` pixels to latents, in tiles of about ``tile`` pixels where given."""
    if shape.base_dim is None:
        return _patch_transform(shape, size, frames)
    areas = Areas.encoding(shape, size, tile)
    chunks = [1] + [shape.scale_factor_temporal] * ((frames - 1) // shape.scale_factor_temporal)
    total = sum(
        (_wan_encoder(shape, areas, chunk, first=number == 0) for number, chunk in enumerate(chunks)), Operations()
    )
    cells = len(chunks) * _cells(shape, size)
    return total + Operations(convolution=2 * cells * (2 * shape.z_dim) ** 2)


def video_decoding(
    shape: AutoencoderShape,
    size: tuple[int, int],
    frames: int,
    refined: int | None = None,
    *,
    tile: int | None = None,
) -> Operations:
    """Latents to ``frames`` (4n + 1) frames of ``size`` pixels, of which the small models refine ``refined`` (None: all)."""
    if shape.base_dim is None:
        return _patch_transform(shape, size, frames) + _refining(shape, size) * (frames if refined is None else refined)
    areas = Areas.decoding(shape, size, tile)
    latents = 1 + (frames - 1) // shape.scale_factor_temporal
    first, later = (_wan_decoder(shape, areas, first=first) for first in (True, False))
    return first + later * (latents - 1) + Operations(convolution=2 * latents * _cells(shape, size) * shape.z_dim**2)


def _cells(shape: AutoencoderShape, size: tuple[int, int]) -> int:
    return math.prod(side // shape.scale_factor_spatial for side in size)


def _patch_transform(shape: AutoencoderShape, size: tuple[int, int], frames: int) -> Operations:
    patch = 3 * shape.scale_factor_spatial**2
    groups = (frames - 1) // shape.scale_factor_temporal
    numbers = patch * (1 + groups * shape.scale_factor_temporal)
    return Operations(matmul=2 * _cells(shape, size) * shape.z_dim * numbers)


def _refining(shape: AutoencoderShape, size: tuple[int, int]) -> Operations:
    """One frame through the refiner, whose finest level has half the frame's sides."""
    if not shape.refiner_widths:
        return Operations()
    widths, height, width = shape.refiner_widths, size[0] // 2, size[1] // 2
    total = 2 * height * width * 9 * widths[0] * (36 + 12)
    for level, (channels, blocks) in enumerate(zip(widths, shape.refiner_blocks, strict=True)):
        cells = (height >> level) * (width >> level)
        times = 1 if level == len(widths) - 1 else 2  # down and up again
        total += times * blocks * 2 * 2 * cells * 9 * channels**2
    for level, (finer, coarser) in enumerate(pairwise(widths), start=1):
        total += 2 * 2 * (height >> level) * (width >> level) * 4 * finer * coarser
    return Operations(convolution=total)


def _residual(cells: float, inputs: int, outputs: int) -> float:
    shortcut = inputs * outputs if inputs != outputs else 0
    return 2 * cells * (27 * inputs * outputs + 27 * outputs**2 + shortcut)


def _middle(channels: int, frames: int, cells: int) -> Operations:
    """Two residual blocks with attention within each frame between them."""
    convolution = 2 * _residual(frames * cells, channels, channels) + 2 * frames * cells * 4 * channels**2
    return Operations(convolution=convolution, attention=4 * frames * cells**2 * channels)


def wan_encoder_levels(shape: AutoencoderShape) -> Iterator[tuple[int, int, bool | None]]:
    """(channels in, channels out, whether the sampler behind it halves time; None without one) of the encoder's levels."""
    assert shape.base_dim is not None
    widths = [shape.base_dim * each for each in (1, *shape.dim_mult)]
    for level, (inputs, outputs) in enumerate(pairwise(widths)):
        yield inputs, outputs, shape.temporal_downsample[level] if level < len(shape.dim_mult) - 1 else None


def wan_decoder_levels(shape: AutoencoderShape) -> Iterator[tuple[int, int, bool | None]]:
    """The same of the decoder's, whose samplers double."""
    assert shape.base_dim is not None
    widths = [shape.base_dim * each for each in (shape.dim_mult[-1], *reversed(shape.dim_mult))]
    doubles = list(reversed(shape.temporal_downsample))
    for level, (inputs, outputs) in enumerate(pairwise(widths)):
        halved = inputs // 2 if level else inputs
        yield halved, outputs, doubles[level] if level < len(shape.dim_mult) - 1 else None


def _wan_encoder(shape: AutoencoderShape, areas: Areas, frames: int, *, first: bool) -> Operations:
    assert shape.base_dim is not None
    total: float = 2 * frames * areas.all[0] * 27 * 3 * shape.base_dim
    channels, scale = shape.base_dim, 1
    for level, (inputs, channels, halves_time) in enumerate(wan_encoder_levels(shape)):
        cells = (areas.whole if halves_time is None else areas.all[level]) // scale
        total += _residual(frames * cells, inputs, channels)
        total += (shape.num_res_blocks - 1) * _residual(frames * cells, channels, channels)
        if halves_time is None:
            continue
        scale *= 4
        cells //= 4
        total += 2 * frames * cells * 9 * channels**2
        if halves_time and not first:
            frames //= 2
            total += 2 * frames * cells * 3 * channels**2
    cells = areas.whole // scale
    convolution = total + 2 * frames * cells * 27 * channels * 2 * shape.z_dim
    return Operations(convolution=convolution) + _middle(channels, frames, cells)


def _wan_decoder(shape: AutoencoderShape, areas: Areas, *, first: bool) -> Operations:
    assert shape.base_dim is not None
    scale, frames = shape.scale_factor_spatial**2, 1
    channels = shape.base_dim * shape.dim_mult[-1]
    cells = areas.whole // scale
    middle = _middle(channels, frames, cells)
    total: float = 2 * frames * cells * 27 * shape.z_dim * channels
    for level, (inputs, channels, doubles_time) in enumerate(wan_decoder_levels(shape)):
        cells = (areas.whole if level == 0 else areas.all[level]) // scale
        total += _residual(frames * cells, inputs, channels)
        total += shape.num_res_blocks * _residual(frames * cells, channels, channels)
        if doubles_time is None:
            continue
        cells = areas.all[level] // scale
        if doubles_time and not first:
            total += 2 * frames * cells * 3 * channels * 2 * channels
            frames *= 2
        scale //= 4
        total += 2 * frames * 4 * cells * 9 * channels * (channels // 2)
    return middle + Operations(convolution=total + 2 * frames * areas.all[-1] * 27 * channels * 3)
