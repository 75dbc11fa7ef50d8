"""In-context masks: a fixed palette that binds characters, and its way into the network's 28-channel latent.

A mask is an RGB picture or video. A colour channel counts as on above 225 (of 255), which leaves eight colours: black
(this background is not to be seen), white (this background is to be seen: the environment switch) and six binding
slots. The same slot colour in the reference mask and in the driving mask binds the two characters.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from scail2.errors import InputError
from scail2.modes import MODE_TRAITS, AnimationMode

if TYPE_CHECKING:
    import torch

THRESHOLD = 225
"""A channel is on above this value: 225 is off, 226 is on."""

WHITE = (255, 255, 255)
BLACK = (0, 0, 0)
BACKGROUNDS = {"white": WHITE, "black": BLACK}


SlotName = Literal["blue", "red", "green", "magenta", "cyan", "yellow"]


class BindingSlot(Enum):
    """A colour that binds a driving character to a reference character, in the order slots are handed out."""

    BLUE = (0, 0, 255)
    RED = (255, 0, 0)
    GREEN = (0, 255, 0)
    MAGENTA = (255, 0, 255)
    CYAN = (0, 255, 255)
    YELLOW = (255, 255, 0)

    @property
    def rgb(self) -> tuple[int, int, int]:
        return self.value

    @property
    def colour(self) -> SlotName:
        """Its name in files and messages."""
        return SLOT_NAMES[self]

    @classmethod
    def of_colour(cls, name: SlotName) -> BindingSlot:
        """The slot of a colour's name."""
        return cls[name.upper()]


BINDING_SLOTS: tuple[BindingSlot, ...] = tuple(BindingSlot)
SLOT_NAMES: dict[BindingSlot, SlotName] = dict(zip(BINDING_SLOTS, get_args(SlotName), strict=True))

PLANES: tuple[tuple[int, int, int], ...] = (
    WHITE,
    BindingSlot.RED.rgb,
    BindingSlot.GREEN.rgb,
    BindingSlot.BLUE.rgb,
    BindingSlot.YELLOW.rgb,
    BindingSlot.MAGENTA.rgb,
    BindingSlot.CYAN.rgb,
)
"""Colours in the order of the network's mask planes, which is not the order of handing out."""

SUBFRAMES = 4
# Frames turned into planes at a time: seven float planes of a full-size video would take a gigabyte.
_CHUNK = 16
# Shares of pixels below which the polarity check stays silent: no background to judge, a few off-palette edge pixels.
_BACKGROUND_SHARE = 0.01
_OFF_PALETTE_SHARE = 0.02
_NEARLY_OFF = 30


def _code(rgb: tuple[int, int, int]) -> int:
    """Palette index 0..7 of a pure colour: bit 0 red, bit 1 green, bit 2 blue."""
    return sum(1 << bit for bit, value in enumerate(rgb) if value > THRESHOLD)


def palette_codes(rgb: np.ndarray) -> np.ndarray:
    """Palette index of every pixel: uint8 ``(..., 3)`` -> uint8 ``(...)``; 0 is black, 7 is white."""
    on = rgb > THRESHOLD
    return on[..., 0] + (on[..., 1].astype(np.uint8) << 1) + (on[..., 2].astype(np.uint8) << 2)


def paint_mask(characters: np.ndarray, slots: Sequence[BindingSlot], background: str) -> np.ndarray:
    """Paint characters in their slots' colours; where they overlap, the later one lies in front.

    Args:
        characters: bool, ``(S, T, H, W)`` for a video or ``(S, H, W)`` for a picture.
        slots: one per character; far-apart characters may share one.
        background: ``"white"`` or ``"black"`` (see ``MODE_TRAITS``).

    Returns:
        uint8 ``(T, H, W, 3)``, or ``(H, W, 3)`` for a picture.
    """
    characters = np.asarray(characters, dtype=bool)
    if characters.ndim not in (3, 4):
        raise InputError(f"characters has {characters.ndim} dimensions; it must be (S, H, W) or (S, T, H, W).")
    if len(slots) != len(characters):
        raise InputError(f"{len(characters)} characters but {len(slots)} binding slots; give one slot per character.")
    if background not in BACKGROUNDS:
        raise InputError(f"mask background is {background!r}; it must be 'white' or 'black'.")
    mask = np.empty((*characters.shape[1:], 3), dtype=np.uint8)
    mask[:] = BACKGROUNDS[background]
    for character, slot in zip(characters, slots, strict=True):
        mask[character] = slot.rgb
    return mask


def split_mask(rgb: np.ndarray) -> dict[BindingSlot, np.ndarray]:
    """Where each slot is: uint8 ``(..., 3)`` -> bool ``(...)`` for all six (absent ones all False)."""
    codes = palette_codes(np.asarray(rgb))
    return {slot: codes == _code(slot.rgb) for slot in BINDING_SLOTS}


def check_polarity(
    reference_mask: np.ndarray,
    driving_mask: np.ndarray,
    mode: AnimationMode | str,
    additional_reference_masks: Sequence[np.ndarray] = (),
) -> list[str]:
    """What in a set of masks contradicts the mode or each other, a sentence each; empty when all is well.

    A wrong mask fails silently: with a white driving background, animation can collapse into replacement. Additional
    references may have backgrounds of their own (views of a character on black, a scene that is all white).

    Args:
        reference_mask: uint8 ``(H, W, 3)``, the primary reference's.
        driving_mask: uint8 ``(T, H, W, 3)``.
        mode: the mode the masks are meant for.
        additional_reference_masks: uint8 ``(H, W, 3)``, one for each additional reference.
    """
    mode = AnimationMode.parse(mode)
    traits = MODE_TRAITS[mode]
    reference, driving = np.asarray(reference_mask), np.asarray(driving_mask)
    problems: list[str] = []
    for name, mask, wanted in (
        ("reference mask", reference, traits.reference_background),
        ("driving mask", driving, traits.driving_background),
    ):
        if found := wrong_background(mask, wanted):
            problems.append(f"The {name} has a {found} background; {mode} mode needs a {wanted} one.")
        problems += _off_palette_problems(name, mask)
        if not slots_shown(mask):
            problems.append(
                f"The {name} shows no character: none of the six slot colours occurs in it.{_matte_hint(mask)}"
            )
    shown, moved = slots_shown(reference), slots_shown(driving)
    for number, mask in enumerate(additional_reference_masks, start=1):
        name = f"mask of additional reference {number}"
        problems += _off_palette_problems(name, mask)
        if shown and (names := colours_nobody_moves(mask, moved)):
            problems.append(f"The {name} shows {', '.join(names)}, in which nobody is bound.")
        shown |= slots_shown(mask) & moved
    if shown and moved:
        problems += _binding_problems(shown, moved)
    return problems


def _matte_hint(mask: np.ndarray) -> str:
    """What to do with a mask uint8 (..., 3) that is black and white, as mattes are."""
    if (mask != mask[..., :1]).any() or mask.min() == mask.max():
        return ""
    return " It is black and white, as a matte is: paint the character blue, or give a bool array, True where the character is."


def colours_nobody_moves(additional_mask: np.ndarray, moved: set[BindingSlot]) -> list[str]:
    """Names of the slots that an additional reference's mask uint8 ``(H, W, 3)`` shows and no driving character has."""
    shown = slots_shown(additional_mask)
    return [slot.colour for slot in BINDING_SLOTS if slot in shown - moved]


def wrong_background(mask: np.ndarray, wanted: str) -> str | None:
    """The background, ``white`` or ``black``, that a mask uint8 ``(..., 3)`` has instead of ``wanted``; None if it agrees."""
    counts = np.bincount(palette_codes(mask).ravel(), minlength=8) / (mask.size // 3)
    shares = {"white": counts[_code(WHITE)], "black": counts[_code(BLACK)]}
    found = max(shares, key=shares.__getitem__)
    return found if found != wanted and shares[found] > _BACKGROUND_SHARE else None


def slots_shown(mask: np.ndarray) -> set[BindingSlot]:
    """The binding slots whose colours occur in a mask, uint8 ``(..., 3)``."""
    found = np.bincount(palette_codes(np.asarray(mask)).ravel(), minlength=8)
    return {slot for slot in BINDING_SLOTS if found[_code(slot.rgb)] > 0}


def _off_palette_problems(name: str, mask: np.ndarray) -> list[str]:
    share = _off_palette_share(mask)
    if share <= _OFF_PALETTE_SHARE:
        return []
    return [f"{share:.0%} of the {name} is not in the palette; save masks losslessly, unblurred."]


def _off_palette_share(mask: np.ndarray) -> float:
    """Share of pixels that are neither clearly on nor clearly off in some channel."""
    return float(((mask > _NEARLY_OFF) & (mask <= THRESHOLD)).any(axis=-1).mean())


def _binding_problems(reference: set[BindingSlot], driving: set[BindingSlot]) -> list[str]:
    problems = []
    for first, second, here, there in (
        (driving, reference, "driving mask", "reference mask"),
        (reference, driving, "reference mask", "driving mask"),
    ):
        missing = [slot.colour for slot in BINDING_SLOTS if slot in first - second]
        if missing:
            problems.append(
                f"The {here} uses {', '.join(missing)}, which the {there} does not: nothing is bound to it."
            )
    return problems


def latent_grid(height: int, width: int) -> tuple[int, int]:
    """Latent size of a mask: each of three halvings rounds up."""
    for _ in range(3):
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


def planes(rgb: torch.Tensor, *, half_size: bool = False) -> torch.Tensor:
    """The palette's seven planes (white, red, green, blue, yellow, magenta, cyan), exclusive of each other.

    Args:
        rgb: uint8 ``(..., H, W, 3)``.
        half_size: halve height and width first (bilinear, which at a factor of two is the mean of 2x2 pixels; an odd
            last row or column is dropped) and threshold after.

    Returns:
        bool ``(..., 7, H, W)``, or ``(..., 7, H // 2, W // 2)``.
    """
    import torch

    if half_size:
        height, width = rgb.shape[-3] // 2 * 2, rgb.shape[-2] // 2 * 2
        wide = rgb[..., :height, :width, :].to(torch.int16)
        # The sum of four against four thresholds: exact, where a float mean could land on either side of 225.
        rows = wide[..., 0::2, :, :] + wide[..., 1::2, :, :]
        on = rows[..., 0::2, :] + rows[..., 1::2, :] > 4 * THRESHOLD
    else:
        on = rgb > THRESHOLD
    codes = on[..., 0] + 2 * on[..., 1] + 4 * on[..., 2]
    return torch.stack([codes == _code(colour) for colour in PLANES], dim=-3)


def mask_latent(rgb: torch.Tensor, *, half_size: bool, additional_spatial_downsample: int = 1) -> torch.Tensor:
    """RGB masks to the network's mask channels.

    Planes, then their area mean on the latent grid, then the first frame four times and the others in groups of four,
    stacked on the channel axis frame-major: channel = subframe * 7 + plane.

    Args:
        rgb: uint8 ``(B, T, H, W, 3)``, ``T = 4k + 1``.
        half_size: for the driving mask of a model with ``driving_downsample`` 2.
        additional_spatial_downsample: shrink the latent grid further by this factor.

    Returns:
        float32 ``(B, 28, 1 + (T - 1) / 4, h, w)`` in [0, 1], on ``rgb``'s device.

    Raises:
        InputError: wrong type or shape, or a frame count that is not ``4k + 1``.
    """
    import torch
    from torch.nn import functional

    if rgb.ndim != 5 or rgb.shape[-1] != 3 or rgb.dtype != torch.uint8:
        raise InputError(f"a mask is {rgb.dtype} of shape {tuple(rgb.shape)}; it must be uint8 (B, T, H, W, 3).")
    batch, frames, height, width, _ = rgb.shape
    if frames % SUBFRAMES != 1:
        raise InputError(f"a mask has {frames} frames; it must have {SUBFRAMES}k + 1, like the video it belongs to.")
    if half_size:
        height, width = height // 2, width // 2
    grid = tuple(-(-size // additional_spatial_downsample) for size in latent_grid(height, width))
    if min(grid) < 1:
        raise InputError(f"a mask of {rgb.shape[2]}x{rgb.shape[3]} pixels is too small for this model.")
    pooled = torch.cat(
        [
            functional.adaptive_avg_pool2d(planes(chunk, half_size=half_size).float(), grid)
            for chunk in rgb.flatten(0, 1).split(_CHUNK)
        ]
    ).unflatten(0, (batch, frames))
    pooled = torch.cat([pooled[:, :1].expand(-1, SUBFRAMES - 1, -1, -1, -1), pooled], dim=1)
    return pooled.reshape(batch, -1, SUBFRAMES * len(PLANES), *grid).transpose(1, 2).contiguous()
