import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tolerances import TOLERANCES

from scail2.errors import InputError
from scail2.masks import (
    BINDING_SLOTS,
    PLANES,
    BindingSlot,
    check_polarity,
    latent_grid,
    mask_latent,
    paint_mask,
    palette_codes,
    planes,
    split_mask,
)

GOLDENS = Path(__file__).parents[1] / "goldens"
DESCRIPTION = json.loads((GOLDENS / "masks.json").read_text())
CASES = {case["name"]: case for case in DESCRIPTION["cases"]}
TENSORS = load_file(GOLDENS / "masks.safetensors")


@pytest.mark.parametrize("name", CASES)
def test_latent_is_the_published_one(name):
    case = CASES[name]
    latent = mask_latent(
        TENSORS[case["rgb"]][None],
        half_size=case["path"] == "driving",
        additional_spatial_downsample=case["additional_spatial_downsample"],
    )
    assert latent.dtype == torch.float32
    assert latent.shape[1:] == TENSORS[case["expected"]].shape
    assert (latent[0] - TENSORS[case["expected"]]).abs().max().item() <= TOLERANCES["masks"]


@pytest.mark.parametrize("length", DESCRIPTION["temporal_lengths"], ids=lambda x: str(x["T"]))
def test_only_4k_plus_1_frames_are_taken(length):
    rgb = torch.zeros(1, length["T"], 16, 16, 3, dtype=torch.uint8)
    if length["ok"]:
        assert mask_latent(rgb, half_size=False).shape == (1, 28, (length["T"] + 3) // 4, 2, 2)
    else:
        with pytest.raises(InputError, match="4k \\+ 1"):
            mask_latent(rgb, half_size=False)


def test_samples_of_a_batch_are_independent():
    rgb = torch.stack([TENSORS[f"{name}/rgb"] for name in ("all_black_T5_16x16", "all_white_T5_16x16")])
    both = mask_latent(rgb, half_size=False)
    for index in range(2):
        assert torch.equal(both[index], mask_latent(rgb[index : index + 1], half_size=False)[0])


@pytest.mark.parametrize("wrong", [torch.zeros(1, 1, 8, 8, 3), torch.zeros(1, 8, 8, 3, dtype=torch.uint8)])
def test_floats_and_missing_dimensions_are_refused(wrong):
    with pytest.raises(InputError, match="uint8"):
        mask_latent(wrong, half_size=False)


def test_a_mask_too_small_to_halve_is_refused():
    with pytest.raises(InputError, match="too small"):
        mask_latent(torch.zeros(1, 1, 1, 8, 3, dtype=torch.uint8), half_size=True)


def test_225_is_off_and_226_is_on():
    pixels = np.array([[225, 0, 0], [226, 0, 0], [226, 226, 226], [225, 226, 226]], dtype=np.uint8)
    assert palette_codes(pixels).tolist() == [0, 1, 7, 6]
    quad = torch.tensor([225, 225, 225, 225, 225, 225, 225, 226], dtype=torch.uint8).reshape(2, 2, 2)
    halved = planes(quad[..., None].expand(-1, -1, -1, 3), half_size=True)
    assert halved[:, 0].flatten().tolist() == [False, True]


def test_slots_are_handed_out_in_the_published_order_and_differ():
    assert [slot.name for slot in BINDING_SLOTS] == ["BLUE", "RED", "GREEN", "MAGENTA", "CYAN", "YELLOW"]
    assert len({slot.rgb for slot in BindingSlot}) == 6
    assert len(set(PLANES)) == 7


@settings(deadline=None, max_examples=40)
@given(
    owner=st.lists(st.integers(-1, 5), min_size=12, max_size=12),
    slots=st.permutations(BINDING_SLOTS),
    background=st.sampled_from(["white", "black"]),
)
def test_painting_and_splitting_are_inverse(owner, slots, background):
    owners = np.array(owner).reshape(1, 3, 4)
    characters = np.stack([owners == index for index in range(6)])
    mask = paint_mask(characters, slots, background)
    assert mask.shape == (1, 3, 4, 3)
    found = split_mask(mask)
    for character, slot in zip(characters, slots, strict=True):
        assert np.array_equal(found[slot], character)
    assert np.array_equal((mask == (255 if background == "white" else 0)).all(-1), owners == -1)
    shown = planes(torch.from_numpy(mask)).sum(dim=-3)
    assert torch.equal(shown, torch.from_numpy((mask > 225).any(-1).astype(np.int64)))


def test_pictures_are_painted_without_time_and_later_characters_lie_in_front():
    characters = np.zeros((2, 2, 3), dtype=bool)
    characters[0, :, :2] = True
    characters[1, :, 1:] = True
    mask = paint_mask(characters, [BindingSlot.BLUE, BindingSlot.RED], "white")
    assert mask.shape == (2, 3, 3)
    assert [tuple(pixel) for pixel in mask[0].tolist()] == [(0, 0, 255), (255, 0, 0), (255, 0, 0)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 4, 4), bool), [BindingSlot.RED], "white"), "one slot per character"),
        ((np.zeros((4, 4), bool), [BindingSlot.RED] * 4, "white"), "dimensions"),
        ((np.zeros((1, 4, 4), bool), [BindingSlot.RED], "grey"), "'white' or 'black'"),
    ],
)
def test_painting_refuses(arguments, message):
    with pytest.raises(InputError, match=message):
        paint_mask(*arguments)


@given(height=st.integers(1, 300), width=st.integers(1, 300))
def test_latent_grid_is_an_eighth_rounded_up(height, width):
    assert latent_grid(height, width) == (-(-height // 8), -(-width // 8))


def masks_for(mode: str, slots=(BindingSlot.BLUE,), driving_slots=None) -> tuple[np.ndarray, np.ndarray]:
    characters = np.zeros((len(slots), 8, 8), dtype=bool)
    for index in range(len(slots)):
        characters[index, 2:6, 2 * index : 2 * index + 2] = True
    reference, driving = ("white", "black") if mode == "animation" else ("black", "white")
    return (
        paint_mask(characters, slots, reference),
        paint_mask(characters[:, None], driving_slots or slots, driving),
    )


@pytest.mark.parametrize("mode", ["animation", "replacement"])
def test_polarity_of_right_masks_has_no_problem(mode):
    assert check_polarity(*masks_for(mode), mode) == []


def test_polarity_names_what_contradicts_the_mode():
    problems = check_polarity(*masks_for("replacement"), "animation")
    assert problems == [
        "The reference mask has a black background; animation mode needs a white one.",
        "The driving mask has a white background; animation mode needs a black one.",
    ]


def test_polarity_names_unbound_slots_and_empty_masks():
    reference, driving = masks_for("animation", driving_slots=(BindingSlot.RED,))
    first, second = check_polarity(reference, driving, "animation")
    assert "driving mask uses red" in first
    assert "reference mask uses blue" in second
    empty = np.zeros_like(driving)
    assert any("driving mask shows no character" in p for p in check_polarity(reference, empty, "animation"))


def test_polarity_names_lossy_masks_and_ignores_a_missing_background():
    reference, driving = masks_for("animation")
    blurred = reference.copy()
    blurred[:2] = 128
    assert any("not in the palette" in p for p in check_polarity(blurred, driving, "animation"))
    filled = np.full_like(reference, 0)
    filled[..., 2] = 255
    assert check_polarity(filled, driving, "animation") == []
