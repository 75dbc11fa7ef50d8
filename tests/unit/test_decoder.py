import dataclasses

import numpy as np
import pytest
import torch
from tiny import bare_transformer

from scail2.data.puppet_source import PuppetSource
from scail2.data.recipe import SampleKind, recipe
from scail2.data.triplets import draw_triplet
from scail2.models.autoencoder import AutoencoderPatchTransform
from scail2.training.decoder import (
    DecoderTraining,
    decoder_sample,
    random_crops,
    refiner_loss,
    train_decoder,
    with_refiner,
)
from scail2.training.parallel import ParallelContext


@pytest.fixture(scope="module")
def sample():
    vae = AutoencoderPatchTransform(z_dim=12, num_static_channels=9)
    transformer = bare_transformer(in_channels=16, out_channels=12)
    generator = np.random.default_rng(0)
    pair = PuppetSource(frames=5, height=32, width=32).pair(SampleKind.ANIMATION_SINGLE, 0, generator)
    triplet = draw_triplet(pair, SampleKind.ANIMATION_SINGLE, recipe("nano"), generator)
    return vae, decoder_sample(vae, transformer, triplet, torch.Generator().manual_seed(0))


def test_fresh_refiner_changes_nothing_and_learns(sample):
    vae, clip = sample
    refined = with_refiner(vae, 8, 1)
    latents = clip.true[None].float()
    assert torch.equal(refined.decode(latents).sample, vae.decode(latents).sample)
    truth = clip.pixels[None].float() / 127.5 - 1
    weight = torch.ones(1, 1, *truth.shape[2:])
    optimizer = torch.optim.Adam(refined.refiner.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        loss = refiner_loss(refined.decode(clip.generated[None].float()).sample, truth, weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_training_moves_the_refiner_only(sample):
    vae, clip = sample
    refined = with_refiner(vae, 8, 1)
    before = {name: value.clone() for name, value in refined.state_dict().items()}
    config = DecoderTraining(minutes=0.005, crop=16, frames=5, batch_size=2)
    assert train_decoder(refined, [clip], config, ParallelContext.detect()) > 0
    changed = {name for name, value in refined.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(name.startswith("refiner.") for name in changed)


def test_crops_cut_pixels_and_latents_alike(sample):
    vae, clip = sample
    config = DecoderTraining(crop=16, frames=5, batch_size=6, generated_share=0.0)
    pixels, weight, latents = random_crops([clip], config, 8, torch.Generator().manual_seed(3))
    # The linear basis is a plain projection: decoded crops of latents are crops of the decoded clip.
    torch.testing.assert_close(vae.encode(pixels).latent_dist.mode(), latents, atol=2e-2, rtol=0)
    assert set(weight.unique().tolist()) <= {1.0, 4.0}
    generated = random_crops(
        [clip], dataclasses.replace(config, generated_share=1.0), 8, torch.Generator().manual_seed(3)
    )[2]
    assert not torch.equal(generated, latents)
