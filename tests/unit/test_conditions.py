"""Model inputs: shapes, normalisation, blackout, halving, history, batches."""

import numpy as np
import pytest
import torch
from tiny import bare_transformer, patch_vae, tiny_transformer, tiny_vae

from scail2 import conditions as cond
from scail2.conditions import ConditionGeometry
from scail2.errors import InputError
from scail2.masks import mask_latent

HALF, FULL = ConditionGeometry(), ConditionGeometry(driving_downsample=1)
BLUE, WHITE, BLACK = (0, 0, 255), (255, 255, 255), (0, 0, 0)


@pytest.fixture(scope="module")
def vae():
    vae = tiny_vae()
    # Real statistics differ per channel; so must these, or a swapped axis would pass.
    vae.register_to_config(latents_mean=[0.1 * i for i in range(16)], latents_std=[1 + 0.2 * i for i in range(16)])
    return vae


def painted(shape: tuple[int, ...], background: tuple[int, int, int]) -> torch.Tensor:
    mask = torch.tensor(background, dtype=torch.uint8).expand(*shape, 3).clone()
    mask[..., 8:24, 8:16, :] = torch.tensor(BLUE, dtype=torch.uint8)
    return mask


def inputs(batch: int = 1, frames: int = 5, size: int = 32, mode: str = "animation", seed: int = 0) -> dict:
    rng = torch.Generator().manual_seed(seed)
    reference_background, driving_background = (WHITE, BLACK) if mode == "animation" else (BLACK, WHITE)
    return {
        "mode": mode,
        "reference": torch.rand(batch, 3, size, size, generator=rng) * 2 - 1,
        "reference_mask": painted((batch, size, size), reference_background),
        "driving": torch.rand(batch, 3, frames, size, size, generator=rng) * 2 - 1,
        "driving_mask": painted((batch, frames, size, size), driving_background),
    }


@pytest.mark.parametrize("mode", ["animation", "replacement"])
@pytest.mark.parametrize(("geometry", "grid"), [(HALF, 2), (FULL, 4)])
def test_shapes(vae, mode, geometry, grid):
    built = cond.build(vae, geometry, **inputs(frames=9, mode=mode), history=torch.zeros(1, 3, 5, 32, 32))
    assert built.reference_latents.shape == (1, 16, 1, 4, 4)
    assert built.reference_masks.shape == (1, 28, 1, 4, 4)
    assert built.driving_latents.shape == (1, 16, 3, grid, grid)
    assert built.driving_masks.shape == (1, 28, 3, grid, grid)
    assert built.history_latents.shape == (1, 16, 2, 4, 4)
    assert built.latent_shape == (1, 16, 3, 4, 4)
    assert built.batch == 1
    mask = built.history_mask()
    assert mask.shape == (1, 1, 3, 4, 4)
    assert mask[:, :, :2].min() == 1
    assert mask[:, :, 2:].max() == 0
    assert all(t.dtype == torch.float32 for t in (built.reference_latents, built.driving_latents, built.driving_masks))


def test_latents_are_the_mode_normalised_per_channel_and_decoding_inverts_it(vae):
    pixels = inputs()["driving"]
    latents = cond.encode_video(vae, pixels)
    with torch.no_grad():
        raw = vae.encode(pixels).latent_dist.mode()
        for channel in (0, 3, 15):
            expected = (raw[:, channel] - 0.1 * channel) / (1 + 0.2 * channel)
            torch.testing.assert_close(latents[:, channel], expected)
        decoded = vae.decode(raw).sample.clamp(-1, 1)
    torch.testing.assert_close(cond.decode_latents(vae, latents), decoded, atol=1e-5, rtol=1e-5)
    assert torch.equal(latents, cond.encode_video(vae, pixels)), "the mode is taken, nothing is sampled"


def test_replacement_blacks_out_the_reference_outside_characters_unless_told_not_to(vae):
    clip = inputs(mode="replacement")
    region = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    region[..., 8:24, 8:16] = True
    blacked = torch.where(region, clip["reference"], torch.tensor(-1.0))
    for black_out, expected in ((True, blacked), (False, clip["reference"])):
        built = cond.build(vae, HALF, **clip, black_out_reference=black_out)
        assert torch.equal(built.reference_latents, cond.encode_video(vae, expected.unsqueeze(2)))
    animated = cond.build(vae, HALF, **inputs())
    assert torch.equal(animated.reference_latents, cond.encode_video(vae, inputs()["reference"].unsqueeze(2)))


def test_black_out_hides_only_what_is_marked_by_nothing(vae):
    """A white area says that it is to be seen, in the primary and in any additional reference, in either mode."""
    clip = inputs(mode="replacement")
    mask = clip["reference_mask"].clone()
    mask[:, :, 20:] = 255
    mask[:, 0, 0] = torch.tensor([225, 226, 0], dtype=torch.uint8)  # 225 is off, 226 is on
    mask[:, 0, 1] = 225
    seen = torch.zeros(1, 1, 32, 32, dtype=torch.bool)
    seen[..., 8:24, 8:16] = seen[..., 20:] = seen[..., 0, 0] = True
    expected = torch.where(seen, clip["reference"], torch.tensor(-1.0))
    assert torch.equal(cond.blackout(clip["reference"], mask), expected)
    scene = torch.rand(1, 1, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    white = torch.full((1, 1, 32, 32, 3), 255, dtype=torch.uint8)
    built = cond.build(vae, HALF, **clip, additional_references=scene, additional_reference_masks=white)
    assert torch.equal(built.additional_reference_latents, cond.encode_video(vae, scene[:, 0].unsqueeze(2)))


def test_driving_enters_at_half_size_as_the_mean_of_two_by_two_pixels(vae):
    clip = inputs()
    mean = clip["driving"].unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).mean(dim=(4, 6))
    torch.testing.assert_close(cond.halve(clip["driving"]), mean)
    built = cond.build(vae, HALF, **clip)
    torch.testing.assert_close(built.driving_latents, cond.encode_video(vae, mean), atol=1e-5, rtol=1e-5)
    assert torch.equal(built.driving_masks, mask_latent(clip["driving_mask"], half_size=True))
    assert torch.equal(built.reference_masks, mask_latent(clip["reference_mask"][:, None], half_size=False))
    full = cond.build(vae, FULL, **clip)
    assert torch.equal(full.driving_latents, cond.encode_video(vae, clip["driving"]))
    assert torch.equal(full.driving_masks, mask_latent(clip["driving_mask"], half_size=False))


def test_a_batch_is_its_samples_side_by_side(vae):
    one, two = inputs(seed=1, mode="replacement"), inputs(seed=2, mode="replacement")
    both = {k: v if k == "mode" else torch.cat([v, two[k]]) for k, v in one.items()}
    built, singles = cond.build(vae, HALF, **both), [cond.build(vae, HALF, **clip) for clip in (one, two)]
    assert built.batch == 2
    for name in ("reference_latents", "driving_latents", "reference_masks", "driving_masks"):
        expected = torch.cat([getattr(single, name) for single in singles])
        torch.testing.assert_close(getattr(built, name), expected, atol=1e-5, rtol=1e-5)


def test_additional_references_are_pictures_of_their_own_in_the_order_given(vae):
    clip, extra = inputs(), torch.stack([inputs(seed=s)["reference"] for s in (3, 4)], dim=1)
    masks = clip["reference_mask"][:, None].expand(-1, 2, -1, -1, -1)
    built = cond.build(vae, HALF, **clip, additional_references=extra, additional_reference_masks=masks)
    assert built.additional_reference_latents.shape == (1, 16, 2, 4, 4)
    assert built.additional_reference_masks.shape == (1, 28, 2, 4, 4)
    for i in range(2):
        alone = cond.encode_video(vae, extra[:, i].unsqueeze(2))
        assert torch.equal(built.additional_reference_latents[:, :, i : i + 1], alone)
    with pytest.raises(InputError, match="one mask each"):
        cond.build(vae, HALF, **clip, additional_references=extra)
    with pytest.raises(InputError, match="differ in number"):
        cond.build(vae, HALF, **clip, additional_references=extra, additional_reference_masks=masks[:, :1])


def test_history_replaces_the_first_latents_and_only_those(vae):
    history = inputs(seed=5)["driving"]
    built = cond.build(vae, HALF, **inputs(frames=9), history=history)
    latents = torch.randn(built.latent_shape)
    kept = built.with_history(latents)
    assert torch.equal(kept[:, :, :2], cond.encode_video(vae, history))
    assert torch.equal(kept[:, :, 2:], latents[:, :, 2:])
    first = cond.build(vae, HALF, **inputs(frames=9))
    assert first.history_mask() is None
    assert first.with_history(latents) is latents


@pytest.mark.parametrize("transformer", [tiny_transformer(text_dim=None, image_dim=None), bare_transformer()])
def test_model_kwargs_are_what_the_transformer_takes(transformer):
    geometry = ConditionGeometry.of(transformer)
    assert geometry.driving_downsample == transformer.config.driving_downsample
    built = cond.build(patch_vae(), geometry, **inputs(batch=2, frames=9), history=torch.zeros(2, 3, 5, 32, 32))
    seen = []
    handle = transformer.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    with torch.no_grad():
        sample = transformer(
            hidden_states=torch.randn(built.latent_shape), timestep=torch.tensor([500.0, 20.0]), **built.model_kwargs()
        ).sample
    handle.remove()
    assert sample.shape == built.latent_shape
    assert seen == [built.num_tokens(geometry)]


def test_moving_and_casting_keeps_the_original(vae):
    built = cond.build(vae, HALF, **inputs())
    half = built.to(dtype=torch.bfloat16)
    assert half.reference_latents.dtype == half.driving_masks.dtype == torch.bfloat16
    assert built.reference_latents.dtype == torch.float32
    assert half.mode is built.mode


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"driving": torch.zeros(1, 3, 6, 32, 32), "driving_mask": painted((1, 6, 32, 32), BLACK)},
            "4n.1 frames, not 6",
        ),
        ({"reference": torch.zeros(1, 3, 64, 64)}, "resize both"),
        ({"driving": torch.zeros(1, 3, 5, 32, 40)}, "multiple of 32"),
        ({"reference_mask": painted((1, 32, 16), WHITE)}, "mask must be uint8 RGB"),
        ({"driving_mask": painted((1, 5, 32, 32), BLACK).float()}, "mask must be uint8 RGB"),
        ({"reference": torch.zeros(1, 3, 32, 32, dtype=torch.uint8)}, "floating point"),
        ({"mode": "both"}, "mode"),
    ],
)
def test_refusals(vae, change, message):
    with pytest.raises(InputError, match=message):
        cond.build(vae, HALF, **inputs() | change)


def test_sizes_name_the_nearest_that_fit(vae):
    with pytest.raises(InputError, match=r"500x900 .* nearest size is 512x896"):
        HALF.check_size(vae, 500, 900)
    HALF.check_size(vae, 704, 1280)
    FULL.check_size(vae, 16, 48)
    assert HALF.size_step(vae) == (32, 32)
    assert FULL.size_step(vae) == (16, 16)


def test_character_region_is_the_six_colours_only():
    colours = np.array([BLACK, WHITE, BLUE, (255, 0, 0), (0, 226, 0), (225, 225, 225), (226, 225, 0)], np.uint8)
    region = cond.character_region(torch.from_numpy(colours))
    assert region.tolist() == [False, False, True, True, True, False, True]
