"""The trainer on real cached latents of puppets, at toy size."""

import dataclasses
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from training_material import configuration, make_world, weights

from scail2.data.dataset import LatentDataset
from scail2.data.samples import collate
from scail2.errors import InputError
from scail2.loading.components import load_autoencoder
from scail2.models.autoencoder import AutoencoderPatchTransform
from scail2.training.batches import step_generator
from scail2.training.config import (
    LoRAConfig,
    LossConfig,
    SheetConfig,
)
from scail2.training.latent_batches import LatentBatches
from scail2.training.nano.autoencoder import fit_basis, reconstruction_psnr
from scail2.training.objectives.supervised import FlowMatchingObjective
from scail2.training.session import build_trainer, export_transformer, load_trainable
from scail2.training.sheets import ContactSheets


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("learning"))


def test_resumed_training_is_bit_identical(world, tmp_path):
    build_trainer(configuration(world), tmp_path / "whole").run()
    stopped = build_trainer(configuration(world), tmp_path / "parts")
    read = stopped.batches

    def interrupted_at_step_3(micro_step: int):
        if micro_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(micro_step)

    stopped.batches = interrupted_at_step_3
    stopped.run()
    assert stopped.step == 3
    # A killed run has no checkpoint of its last step, but a half-written one and a log that is ahead.
    checkpoints = tmp_path / "parts" / "checkpoints"
    (checkpoints / "step-00000003").rename(checkpoints / ".step-00000003.partial")
    trainer = build_trainer(configuration(world), tmp_path / "parts")
    trainer.run()
    assert (trainer.step, trainer.samples) == (6, 24)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert torch.equal(value, parts[name]), name
    steps = (tmp_path / "parts" / "log.jsonl").read_text().count("\n")
    assert steps == 6


def test_training_lowers_the_loss(world, tmp_path):
    trainer = build_trainer(configuration(world, steps=40, checkpoint_every=1000), tmp_path)

    def loss() -> float:
        objective = FlowMatchingObjective(trainer.transformer, configuration(world, loss=LossConfig(space="sample")))
        batch = trainer.batches.read(3)
        with torch.no_grad():
            return float(objective.loss(batch, torch.Generator().manual_seed(5))[0])

    before = loss()
    trainer.run()
    assert loss() < 0.7 * before


def test_contact_sheets_are_drawn_by_the_averaged_weights_and_change_nothing(world, tmp_path):
    build_trainer(configuration(world), tmp_path / "plain").run()
    sheets = SheetConfig(every=3, rows=2)
    build_trainer(configuration(world, sheets=sheets), tmp_path / "shown").run()
    first, last = (Image.open(tmp_path / "shown" / "samples" / f"step-000000{step}.png") for step in (3, 6))
    # A row of 32 pixels for each sample below the heading: reference, and three times driving, output, truth.
    assert first.size == last.size == (32 * 10 + 4 * 3, 14 + 2 * (32 + 4))
    first, last = (np.asarray(image).astype(int) for image in (first, last))
    outputs = [slice(32 + 4 + 32 + place * (3 * 32 + 4), 32 + 4 + 64 + place * (3 * 32 + 4)) for place in range(3)]
    changed = np.abs(first - last)[14:]
    assert all(changed[:, columns].any() for columns in outputs)
    for columns in outputs:
        changed[:, columns] = 0
    assert not changed.any()
    plain, shown = weights(tmp_path / "plain"), weights(tmp_path / "shown")
    assert all(torch.equal(value, shown[name]) for name, value in plain.items())


def test_contact_sheets_show_the_truth_where_the_network_predicts_it(world):
    """The pixels come out in the right place and order: a network that knows the answer reproduces the truth columns."""
    config = configuration(world)
    dataset = LatentDataset(config.data.shards)
    sheets = ContactSheets(load_autoencoder(world / "model" / "vae"), dataset, SheetConfig(rows=2))
    truth = iter([sheet.latents.target for sheet in sheets.samples])
    transformer = load_trainable(config)
    transformer.forward = lambda hidden_states, **_: (hidden_states - next(truth),)
    picture = sheets(transformer, torch.device("cpu"))[14:]
    for place in range(3):
        start = 32 + 4 + place * (3 * 32 + 4)
        assert np.abs(picture[:, start + 32 : start + 64].astype(int) - picture[:, start + 64 : start + 96]).max() <= 1


def test_contact_sheets_without_an_autoencoder_are_refused_before_training(world, tmp_path):
    shutil.copytree(world / "model" / "transformer", tmp_path / "model" / "transformer")
    config = configuration(world, model=str(tmp_path / "model"), sheets=SheetConfig(every=1))
    with pytest.raises(InputError, match="autoencoder"):
        build_trainer(config, tmp_path / "run")


def test_batches_are_a_function_of_the_step(world):
    data = configuration(world).data
    first, second = (LatentBatches(LatentDataset(data.shards), data, seed=3) for _ in range(2))
    ahead = [first(step) for step in range(5)][4]
    alone = second(4)
    assert ahead.frame_offset == alone.frame_offset
    assert ahead.latents.keys == alone.latents.keys
    assert torch.equal(ahead.latents.driving, alone.latents.driving)


def test_whole_clips_have_their_share(world):
    data = dataclasses.replace(configuration(world).data, whole_share=0.5)
    batches = LatentBatches(LatentDataset(data.shards), data, seed=0)
    lengths = [batches.read(step).latents.target.shape[2] for step in range(40)]
    assert set(lengths) == {2, 3}
    assert 10 <= lengths.count(3) <= 30


def test_self_driven_share_drives_clips_with_themselves(world):
    data = configuration(world).data
    batch = LatentBatches(LatentDataset(data.shards), data, seed=0).read(0)
    assert torch.equal(batch.latents.driving, batch.latents.target)
    later = LatentBatches(LatentDataset(data.shards), dataclasses.replace(data, mixture=data.mixture[1:]), seed=0)
    drives = [b.latents for b in map(later.read, range(20))]
    assert any(not torch.equal(b.driving, b.target) for b in drives)


def test_clean_history_is_kept_and_out_of_the_loss(world, tmp_path):
    base = configuration(world)
    data = dataclasses.replace(base.data, window=None, middle_history_probability=1.0)
    trainer = build_trainer(dataclasses.replace(base, data=data), tmp_path)
    given = {}
    trainer.transformer.register_forward_pre_hook(lambda _m, _a, kwargs: given.update(kwargs), with_kwargs=True)
    batch = trainer.batches(0)
    trainer.objective.loss(batch, step_generator(0, 0, 2))
    assert given["history_mask"][:, :, :2].all()
    assert not given["history_mask"][:, :, 2:].any()
    assert torch.equal(given["hidden_states"][:, :, :2], batch.latents.target[:, :, :2])
    assert not torch.equal(given["hidden_states"][:, :, 2:], batch.latents.target[:, :, 2:])


def test_history_is_more_frequent_in_samples_cut_from_the_middle(world, tmp_path):
    base = configuration(world)
    data = dataclasses.replace(base.data, window=None, history_probability=0.0, middle_history_probability=1.0)
    trainer = build_trainer(dataclasses.replace(base, data=data), tmp_path)
    given = {}
    trainer.transformer.register_forward_pre_hook(lambda _m, _a, kwargs: given.update(kwargs), with_kwargs=True)
    batch = trainer.batches(0)
    assert all(batch.latents.from_middle)  # puppets move endlessly
    middle = tuple(number % 2 == 1 for number in range(len(batch.latents.keys)))
    batch = dataclasses.replace(batch, latents=dataclasses.replace(batch.latents, from_middle=middle))
    trainer.objective.loss(batch, step_generator(0, 0, 2))
    assert tuple(given["history_mask"][:, 0, 0, 0, 0].bool().tolist()) == middle


def test_where_a_sample_was_cut_comes_from_its_meta(world):
    samples = [
        dataclasses.replace(LatentDataset(configuration(world).data.shards)[0], meta=meta)
        for meta in ({}, {"start": 0}, {"start": 0.25})
    ]
    assert collate(samples).from_middle == (False, False, True)


def test_lora_trains_adapters_only_and_exports_them(world, tmp_path):
    config = configuration(world, steps=2, lora=LoRAConfig(rank=2), loss=LossConfig(), ema_decay=0.0)
    trainer = build_trainer(config, tmp_path)
    names = [n for n, p in trainer.transformer.named_parameters() if p.requires_grad]
    assert names
    assert all("lora_" in name for name in names)
    trainer.run()
    exported = export_transformer(config, tmp_path, tmp_path / "adapter")
    assert exported == tmp_path / "adapter" / "toy.safetensors"
    names = load_file(exported)
    assert len(names) == len([n for n, p in trainer.transformer.named_parameters() if p.requires_grad])
    assert names["diffusion_model.blocks.1.self_attn.o.lora_up.weight"].shape[1] == 2


def test_damaged_shard_is_reported_and_training_goes_on(world, tmp_path):
    shards = tmp_path / "latents"
    shutil.copytree(world / "latents", shards)
    victim = sorted(shards.glob("*.tar"))[0]
    payload = bytearray(victim.read_bytes())
    payload[len(payload) // 2 : len(payload) // 2 + 4096] = bytes(4096)
    victim.write_bytes(payload)
    data = dataclasses.replace(configuration(world).data, shards=str(shards))
    trainer = build_trainer(configuration(world, data=data, steps=6), tmp_path / "run")
    trainer.run()
    assert trainer.step == 6
    assert trainer.batches.dataset.damage.lines()


def test_fitted_basis_keeps_more_than_an_arbitrary_one():
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate(
        torch.rand(4, 3, 3, 4, 4, generator=generator) * 2 - 1, size=(9, 32, 32), mode="trilinear"
    )
    clips = [clip[None] for clip in smooth]
    plain = AutoencoderPatchTransform(z_dim=12, num_static_channels=9)
    fitted = fit_basis(plain, clips[:3])
    assert reconstruction_psnr(fitted, clips[3]) > reconstruction_psnr(plain, clips[3]) + 10
    assert len(set(fitted.config.latents_std)) == 1
    rows = fitted.video_basis @ fitted.video_basis.T
    torch.testing.assert_close(rows, torch.eye(12), atol=1e-5, rtol=0)
