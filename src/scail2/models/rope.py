"""Token layout of the in-context sequence and its mode-specific shifted rotary positions.

Sequence order: ``[additional references ; reference ; noisy video ; driving]``, each raster-ordered (t, h, w) on its
patch grid. All tables are computed in float64 (a float32 angle at position 120 and above is visibly wrong) and cached
per layout, so that neither layers nor denoising steps repeat the work.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn

from scail2.errors import InputError
from scail2.modes import MODE_TRAITS, AnimationMode

# Tables kept at a time. A run uses two or three layouts (full segment, tail segment), training windows a few more.
CACHED_LAYOUTS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLayout:
    """Grid sizes and positions of one forward pass, in patches. Mode is already turned into shifts.

    Attributes:
        additional_references: number of additional reference pictures ``n``.
        frames, height, width: patch grid ``Tv x Hv x Wv`` of the noisy video (a reference has ``1 x Hv x Wv``).
        driving_downsample: side of the block of video patches that one driving patch stands for (2, or 1 = full size).
        reference_height_shift: height position of the references' first row.
        video_time: time position of the first noisy and driving frame.
        driving_width_shift: width position of the driving video's first column.
    """

    additional_references: int
    frames: int
    height: int
    width: int
    driving_downsample: int
    reference_height_shift: int
    video_time: int
    driving_width_shift: int

    @property
    def tokens_per_frame(self) -> int:
        return self.height * self.width

    @property
    def reference_tokens(self) -> int:
        """Tokens of all references, the additional ones first."""
        return (self.additional_references + 1) * self.tokens_per_frame

    @property
    def video_tokens(self) -> int:
        return self.frames * self.tokens_per_frame

    @property
    def driving_tokens(self) -> int:
        return self.frames * (self.height // self.driving_downsample) * (self.width // self.driving_downsample)

    @property
    def total(self) -> int:
        return self.reference_tokens + self.video_tokens + self.driving_tokens

    @property
    def video_slice(self) -> slice:
        """Where the noisy video's tokens lie: the only ones whose prediction is kept."""
        return slice(self.reference_tokens, self.reference_tokens + self.video_tokens)


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Lanes of a head given to time, height and width: ``d - 4*floor(d/6), 2*floor(d/6), 2*floor(d/6)``."""
    sixth = head_dim // 6
    return head_dim - 4 * sixth, 2 * sixth, 2 * sixth


def _grid_angles(starts: tuple[int, int, int], sizes: tuple[int, int, int], head_dim: int, theta: float):
    """Rotary angles float64 ``(t, h, w, head_dim/2)`` of a grid of ``sizes`` patches beginning at ``starts``."""
    parts = []
    for axis, (start, size, dim) in enumerate(zip(starts, sizes, axis_dims(head_dim), strict=True)):
        # Frequencies theta^(-2i/dim), i = 0 ... dim/2 - 1 (RoPE, arXiv 2104.09864), separately on each axis.
        exponents = torch.arange(0, dim, 2, dtype=torch.float64, device="cpu") / max(dim, 1)
        positions = torch.arange(start, start + size, dtype=torch.float64, device="cpu")
        angles = torch.outer(positions, theta**-exponents)
        shape = [1, 1, 1, dim // 2]
        shape[axis] = size
        parts.append(angles.reshape(shape).expand(*sizes, dim // 2))
    return torch.cat(parts, dim=-1)


def _block_mean(values: torch.Tensor, side: int) -> torch.Tensor:
    """Mean of ``(t, h, w, d)`` over ``side x side`` blocks of the h, w grid."""
    t, h, w, d = values.shape
    return values.reshape(t, h // side, side, w // side, side, d).mean(dim=(2, 4))


def rotary_table(layout: TokenLayout, head_dim: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, float64 ``(tokens, head_dim / 2)`` each, of every token of a layout, on the CPU.

    Driving factors are block means of the full-resolution factors: cosine and sine are averaged separately, so their
    modulus is below 1 (intended; the published network was trained so).
    """
    n, grid = layout.additional_references, (layout.frames, layout.height, layout.width)
    references = _grid_angles(
        (0, layout.reference_height_shift, 0), (n + 1, layout.height, layout.width), head_dim, theta
    )
    video = _grid_angles((layout.video_time, 0, 0), grid, head_dim, theta)
    driving = _grid_angles((layout.video_time, 0, layout.driving_width_shift), grid, head_dim, theta)
    return tuple(
        torch.cat(
            [
                function(references).flatten(0, 2),
                function(video).flatten(0, 2),
                _block_mean(function(driving), layout.driving_downsample).flatten(0, 2),
            ]
        )
        for function in (torch.cos, torch.sin)
    )


class SCAIL2RotaryPosEmbed(nn.Module):
    """Rotary factors of a layout in the form Wan's attention processors take, cached per layout and device."""

    def __init__(
        self,
        head_dim: int,
        theta: float = 10000.0,
        reference_height_shift: int = 120,
        driving_width_shift: int = 120,
        driving_downsample: int = 2,
    ):
        super().__init__()
        if head_dim % 2:
            raise InputError(
                f"attention_head_dim is {head_dim}; rotary positions rotate pairs of lanes, so it must be even."
            )
        self.head_dim = head_dim
        self.theta = theta
        self.reference_height_shift = reference_height_shift
        self.driving_width_shift = driving_width_shift
        self.driving_downsample = driving_downsample
        self._tables: OrderedDict[tuple, tuple[torch.Tensor, torch.Tensor]] = OrderedDict()

    def layout(
        self, mode: AnimationMode, grid: tuple[int, int, int], additional_references: int = 0, frame_offset: int = 0
    ) -> TokenLayout:
        """Layout for a mode and a video grid ``(Tv, Hv, Wv)`` in patches.

        ``frame_offset`` places a window of a longer segment: its first frame has the time position of frame
        ``frame_offset`` of that segment.
        """
        traits = MODE_TRAITS[mode]
        frames, height, width = grid
        start = additional_references + int(traits.video_follows_reference_time)
        return TokenLayout(
            additional_references=additional_references,
            frames=frames,
            height=height,
            width=width,
            driving_downsample=self.driving_downsample,
            reference_height_shift=self.reference_height_shift if traits.shifts_reference_height else 0,
            video_time=start + frame_offset,
            driving_width_shift=self.driving_width_shift,
        )

    def forward(self, layout: TokenLayout, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotary factors, float32 ``(1, tokens, 1, head_dim)``: cosine in even lanes, sine in odd lanes.

        The same tensor is returned twice, as Wan's attention processors take cosines from the first (even lanes) and
        sines from the second (odd lanes); context parallelism shards either.
        """
        if torch.compiler.is_compiling():
            return self._build(layout, device)
        key = (layout, device)
        if key not in self._tables:
            # A table made under inference mode could never take part in a later backward pass.
            with torch.inference_mode(False), torch.no_grad():
                self._tables[key] = self._build(layout, device)
            while len(self._tables) > CACHED_LAYOUTS:
                self._tables.popitem(last=False)
        self._tables.move_to_end(key)
        return self._tables[key]

    def _build(self, layout: TokenLayout, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        factors = torch.stack(rotary_table(layout, self.head_dim, self.theta), dim=-1).flatten(-2)
        factors = factors.float()[None, :, None, :].to(device)
        return factors, factors
