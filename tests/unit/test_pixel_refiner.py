"""The refining decoder: what it sees, what it leaves alone, and that long segments are refined in parts."""

import pytest
import torch
from tiny import patch_vae

from scail2.models import autoencoder
from scail2.models.autoencoder import AutoencoderPatchTransform
from scail2.models.pixel_refiner import PixelRefiner


@pytest.fixture
def vae() -> AutoencoderPatchTransform:
    torch.manual_seed(1)
    refining = AutoencoderPatchTransform(z_dim=16, num_static_channels=8, refiner_widths=(8, 12), refiner_blocks=(1, 1))
    torch.nn.init.normal_(refining.refiner.leave.weight, std=0.05)
    return refining.eval()


@pytest.fixture
def exact(monkeypatch):
    """In float32, where single frames can be compared to the last digits."""
    monkeypatch.setattr(autoencoder, "has_native_bf16", lambda device: False)


def latents(frames: int, seed: int = 0) -> torch.Tensor:
    return 0.3 * torch.randn(2, 16, frames, 4, 6, generator=torch.Generator().manual_seed(seed))


def test_a_fresh_refiner_changes_nothing():
    torch.manual_seed(0)
    fresh = AutoencoderPatchTransform(z_dim=16, num_static_channels=8, refiner_widths=(8, 12), refiner_blocks=(1, 1))
    assert torch.equal(fresh.decode(latents(3)).sample, patch_vae().decode(latents(3)).sample)


@torch.no_grad()
def test_a_frame_is_refined_from_itself_and_its_neighbours(vae, exact):
    clip = vae.decode_linear(latents(3))
    whole = vae.refine(clip, range(9))
    changed = clip.clone()
    changed[:, :, 4] = changed[:, :, 4].flip(-1)
    differs = (vae.refine(changed, range(9)) - whole).abs().amax(dim=(0, 1, 3, 4)) > 1e-5
    assert differs.tolist() == [False, False, False, True, True, True, False, False, False]
    # A clip's ends stand in for the frames that are missing before and after.
    longer = torch.cat([clip[:, :, :1], clip, clip[:, :, -1:]], dim=2)
    torch.testing.assert_close(vae.refine(longer, range(1, 10)), whole, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_long_segment_is_refined_in_parts(vae, exact, monkeypatch):
    z = latents(6)
    at_once = vae.decode_linear(z)
    at_once = vae.refine(at_once, range(21)).clamp(-1, 1)
    seen = []
    monkeypatch.setattr(PixelRefiner, "forward", recording(PixelRefiner.forward, seen))
    torch.testing.assert_close(vae.decode(z).sample, at_once, atol=1e-5, rtol=0)
    assert [len(frames) for frames in seen] == [16, 16, 10]  # two clips of 8, 8 and 5 frames


@torch.no_grad()
def test_only_wanted_frames_are_refined_and_are_what_they_would_be_among_all(vae, exact, monkeypatch):
    z = latents(6)
    whole = vae.decode(z).sample
    seen = []
    monkeypatch.setattr(PixelRefiner, "forward", recording(PixelRefiner.forward, seen))
    torch.testing.assert_close(vae.decode_frames(z, range(5, 19)), whole[:, :, 5:19], atol=1e-5, rtol=0)
    assert [len(frames) for frames in seen] == [16, 12]  # two clips of 8 and 6 frames
    plain = patch_vae()
    assert torch.equal(plain.decode_frames(z, range(5, 19)), plain.decode(z).sample[:, :, 5:19])


def recording(forward, seen):
    def record(self, frames):
        seen.append(frames)
        return forward(self, frames)

    return record


@torch.no_grad()
def test_decoding_from_mid_clip_gives_the_same_frames(vae):
    z = latents(4)
    torch.testing.assert_close(
        vae.decode_linear(z[:, :, 2:], first_alone=False), vae.decode_linear(z)[:, :, 5:], atol=1e-6, rtol=0
    )


@torch.no_grad()
def test_bfloat16_arithmetic_stays_close(vae, monkeypatch):
    results = []
    for native in (False, True):
        monkeypatch.setattr(autoencoder, "has_native_bf16", lambda device, native=native: native)
        results.append(vae.decode(latents(3)).sample)
    assert results[1].dtype == torch.float32
    assert 0 < (results[0] - results[1]).abs().max() < 0.03


@torch.no_grad()
def test_colours_of_a_frame_do_not_hang_on_its_other_end(vae, exact):
    clip = vae.decode_linear(0.3 * torch.randn(1, 16, 1, 4, 20, generator=torch.Generator().manual_seed(3)))
    other = clip.clone()
    other[..., 120:] = 1.0
    here, there = (vae.refine(c, range(1))[..., :40] for c in (clip, other))
    torch.testing.assert_close(here, there, atol=1e-5, rtol=0)


def test_saved_weights_bring_the_refiner_back(vae, tmp_path):
    vae.save_pretrained(tmp_path)
    again = AutoencoderPatchTransform.from_pretrained(tmp_path)
    assert torch.equal(again.decode(latents(2)).sample, vae.decode(latents(2)).sample)


def test_levels_need_widths_and_blocks():
    with pytest.raises(ValueError, match="2 widths"):
        PixelRefiner((8, 12), (1,))
