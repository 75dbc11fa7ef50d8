"""Preference training on cached pairs of puppets, at toy size."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from training_material import cache_preferences, configuration, make_world, preferring, weights

from scail2.data.dataset import LatentDataset
from scail2.data.samples import collate
from scail2.devices import Precision
from scail2.errors import InputError
from scail2.training.batches import cut_window, step_generator
from scail2.training.config import LossConfig, PreferenceConfig
from scail2.training.recipes import recipe
from scail2.training.session import build_trainer


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = make_world(tmp_path_factory.mktemp("preferences"))
    cache_preferences(folder)
    return folder


def log(folder) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.BFLOAT16])
def test_fresh_adapters_are_the_reference_to_the_bit(world, tmp_path, precision):
    """Whatever rounds differently with and without adapters would be taken for a preference, thousands of times larger."""
    trainer = build_trainer(preferring(world), tmp_path)
    seen = []
    trainer.transformer.register_forward_hook(lambda _m, _a, output: seen.append(output[0].detach().clone()))
    terms = {}
    with trainer.context.autocast(precision):
        for _, told in trainer.objective.losses(trainer.batches(0), step_generator(0, 0, 2)):
            terms |= told
    reference, rejected_reference, rejected, preferred, again = seen
    assert torch.equal(reference, preferred)
    assert torch.equal(rejected_reference, rejected)
    assert torch.equal(rejected, again)
    assert not torch.equal(preferred, rejected)
    assert (float(terms["logit"]), float(terms["implicit_accuracy"])) == (0.0, 0.5)
    assert float(terms["preference"]) == pytest.approx(np.log(2))
    assert all(p.requires_grad for n, p in trainer.transformer.named_parameters() if "lora_" in n)


def test_both_videos_get_the_same_noise_and_time(world, tmp_path):
    trainer = build_trainer(preferring(world), tmp_path)
    calls = []
    trainer.transformer.register_forward_pre_hook(lambda _m, _a, kwargs: calls.append(kwargs), with_kwargs=True)
    batch = trainer.batches(0)
    list(trainer.objective.losses(batch, step_generator(0, 0, 2)))
    t = calls[0]["timestep"] / 1000
    assert all(torch.equal(call["timestep"], calls[0]["timestep"]) for call in calls)
    share = t.view(-1, 1, 1, 1, 1)
    videos = [
        batch.latents.target,
        batch.latents.rejected,
        batch.latents.rejected,
        batch.latents.target,
        batch.latents.rejected,
    ]
    noises = [(call["hidden_states"] - (1 - share) * video) / share for call, video in zip(calls, videos, strict=True)]
    assert all(torch.allclose(noise, noises[0], atol=1e-3) for noise in noises)
    assert all(torch.equal(call["driving_latents"], batch.latents.driving) for call in calls)


def stirred(trainer):
    """Adapters that do something, so that neither side is zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in trainer.transformer.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return {n: p for n, p in trainer.transformer.named_parameters() if p.requires_grad}


def test_two_passes_give_the_joint_gradient(world, tmp_path):
    settings = PreferenceConfig(beta=200.0, weight=0.5)
    trainer = build_trainer(preferring(world, preference=settings), tmp_path)
    parameters, objective, batch = stirred(trainer), trainer.objective, trainer.batches(1)
    for loss, _ in objective.losses(batch, step_generator(0, 1, 2)):
        loss.backward()
    ours = {name: p.grad.clone() for name, p in parameters.items()}
    trainer.optimizers.drop_gradients()

    draw, latents = objective.draw(batch, step_generator(0, 1, 2)), batch.latents
    region = latents.regions[:, latents.region_names.index("hands")][:, None]
    rate = (draw.t.square() / draw.t.clamp(min=0.3)).view(-1, 1, 1, 1, 1)

    def error(video):
        velocity = objective.velocity(video, draw)
        squares = rate * (velocity - (draw.noise - video)).square()
        return velocity, (region * squares).flatten(1).sum(1) / (squares.shape[1] * region.flatten(1).sum(1))

    trainer.transformer.disable_adapters()
    with torch.no_grad():
        fixed = [error(video)[1] for video in (latents.target, latents.rejected)]
    trainer.transformer.enable_adapters()
    velocity, preferred = error(latents.target)
    _, rejected = error(latents.rejected)
    logit = -0.5 * settings.beta * ((preferred - fixed[0]) - (rejected - fixed[1]))
    sft = (rate * (velocity - (draw.noise - latents.target)).square()).mean()
    (sft - settings.weight * F.logsigmoid(logit).mean()).backward()
    assert logit.abs().max() > 0.01
    for name, parameter in parameters.items():
        scale = float(parameter.grad.abs().max())
        # float32's rounding, which differs with the processor: 1e-6 with AVX-512, 2e-6 with AVX2.
        assert float((ours[name] - parameter.grad).abs().max()) <= 1e-5 * max(1.0, scale), name
    assert max(float(g.abs().max()) for g in ours.values()) > 1e-3


def test_only_what_the_hands_touch_is_preferred(world, tmp_path):
    """Another rejected video outside the hands changes nothing; inside it does."""
    trainer = build_trainer(preferring(world), tmp_path)
    stirred(trainer)
    batch = trainer.batches(0)
    hands = batch.latents.regions[:, batch.latents.region_names.index("hands")][:, None] > 0

    def preference(rejected):
        latents = dataclasses.replace(batch.latents, rejected=rejected)
        generator = step_generator(0, 0, 2)
        draw = trainer.objective.draw(batch, generator)
        region = latents.region_weight((("hands", 1.0),))
        with torch.no_grad():
            velocity = trainer.objective.velocity(batch.latents.rejected, draw)
        return trainer.objective._error(velocity, rejected, draw, region)

    rejected = batch.latents.rejected
    outside = torch.where(hands, rejected, rejected + 5)
    inside = torch.where(hands, rejected + 5, rejected)
    assert torch.equal(preference(rejected), preference(outside))
    assert (preference(rejected) != preference(inside)).all()


def test_history_and_excluded_cells_are_not_compared(world, tmp_path):
    base = preferring(world)
    data = dataclasses.replace(base.data, middle_history_probability=1.0, history_probability=1.0)
    trainer = build_trainer(dataclasses.replace(base, data=data), tmp_path)
    batch = trainer.batches(0)
    empty = torch.zeros_like(batch.latents.character)
    empty[:, :, 2:] = 1
    batch = dataclasses.replace(batch, latents=dataclasses.replace(batch.latents, excluded=empty))
    terms = {}
    for _, told in trainer.objective.losses(batch, step_generator(0, 0, 2)):
        terms |= told
    # The first two latent frames are history, the third is excluded: no cell is left.
    assert (float(terms["reference_error"]), float(terms["sft"])) == (0.0, 0.0)


def test_regions_weigh_what_the_recipe_says(world):
    batch = collate([LatentDataset(world / "preferences")[0]])
    hands, faces, feet = (batch.regions[:, batch.region_names.index(n)][:, None] for n in ("hands", "faces", "feet"))
    weight = batch.region_weight((("hands", 1.0), ("faces", 0.25)))
    assert torch.equal(weight, torch.maximum(hands, 0.25 * faces))
    assert torch.equal(batch.region_weight((("feet", 2.0),)), 2 * feet)
    for each in (hands, faces, feet):
        assert 0 < each.mean() < 0.5
        assert set(each.unique().tolist()) == {0.0, 1.0}
    told = (
        r"tails, but the samples hold hands, faces, feet; .* boxes around those regions \(scail2 preferences --boxes\)"
    )
    with pytest.raises(InputError, match=told):
        batch.region_weight((("tails", 1.0),))


def test_windows_cut_both_videos_and_the_regions_alike(world):
    latents = collate([LatentDataset(world / "preferences")[1]])
    cut = cut_window(latents, 1, 2).latents
    for name in ("target", "rejected", "regions"):
        assert torch.equal(getattr(cut, name), getattr(latents, name)[:, :, 1:3])


def test_training_prefers_and_resumes_bit_for_bit(world, tmp_path):
    config = preferring(world, steps=16, checkpoint_every=8, optimizer=dataclasses.replace(
        preferring(world).optimizer, decay_from=1.0, learning_rate=5e-3
    ), preference=PreferenceConfig(beta=2000.0, weight=0.1))  # fmt: skip
    build_trainer(config, tmp_path / "whole").run()
    lines = log(tmp_path / "whole")
    names = ("sft", "preference", "delta_preferred", "delta_rejected", "logit", "implicit_accuracy", "saturation")
    assert all(name in line for line in lines for name in names)
    late = [line for line in lines if line["step"] > 8]
    assert np.mean([line["implicit_accuracy"] for line in late]) >= 0.6
    assert np.mean([line["logit"] for line in late]) > 0
    assert np.mean([line["delta_preferred"] for line in late]) < 0
    build_trainer(dataclasses.replace(config, steps=8), tmp_path / "parts").run()
    build_trainer(config, tmp_path / "parts").run()
    whole, parts = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


def weights_of(folder):
    return load_file(sorted((folder / "checkpoints").glob("step-*"))[-1] / "weights.safetensors")


def test_a_run_whose_winner_worsens_is_stopped_with_that_word(world, tmp_path):
    settings = PreferenceConfig(patience=3, most_worse=-0.5)  # nothing is half as wrong after three steps
    trainer = build_trainer(preferring(world, preference=settings), tmp_path)
    with pytest.raises(InputError, match=r"stopped at step 3: the winner worsens: over the last 3 steps .* --rate"):
        trainer.run()
    concern = build_trainer(
        preferring(world, preference=PreferenceConfig(patience=2, most_worse=0.05)), tmp_path / "b"
    ).objective.concern
    assert concern({"delta_preferred": 0.5, "reference_error": 1.0}) is None  # one step is no trend
    assert "27.5% above" in concern({"delta_preferred": 0.05, "reference_error": 1.0})
    assert concern({"delta_preferred": 0.0, "reference_error": 1.0}) is None
    assert concern({"delta_preferred": -0.2, "reference_error": 1.0}) is None


def test_recipes_and_caches_that_do_not_fit_are_refused_in_words(world, tmp_path):
    pairs_only = preferring(world, data=dataclasses.replace(preferring(world).data, shards=str(world / "latents")))
    with pytest.raises(InputError, match="hold none: make them with scail2 preferences"):
        build_trainer(pairs_only, tmp_path / "a").run()
    with pytest.raises(InputError, match="needs LoRA"):
        build_trainer(preferring(world, lora=None), tmp_path / "b")
    tails = preferring(world, preference=PreferenceConfig(regions=(("tails", 1.0),)))
    with pytest.raises(InputError, match="regions tails"):
        build_trainer(tails, tmp_path / "c").run()


def test_supervised_training_may_weigh_the_hands(world, tmp_path):
    """The comparison that the published method is held against: the loss on the preferred video, more of it on hands."""
    loss = LossConfig(space="sample", character_weight=2.0)
    plain = dataclasses.replace(preferring(world, preference=None), loss=loss)
    weighted = dataclasses.replace(plain, loss=dataclasses.replace(loss, regions=(("hands", 3.0),)))
    losses = []
    for name, config in (("plain", plain), ("weighted", weighted)):
        trainer = build_trainer(config, tmp_path / name)
        losses.append(trainer.objective.loss(trainer.batches(0), step_generator(0, 0, 2))[0].item())
        batch = trainer.batches(0).latents
    draw = trainer.objective.draw(trainer.batches(0), step_generator(0, 0, 2))
    velocity = trainer.objective.velocity(batch.target, draw)
    hands = batch.regions[:, batch.region_names.index("hands")][:, None]
    rate = (draw.t.square() / draw.t.clamp(min=0.3)).view(-1, 1, 1, 1, 1)
    before = 1 + 2 * batch.character.mean(1, keepdim=True)
    extra = (3 * hands * before * rate * (velocity - (draw.noise - batch.target)).square()).mean().item()
    assert losses[1] - losses[0] == pytest.approx(extra, rel=1e-4)


def test_the_published_numbers_are_the_recipes():
    config = recipe("dpo")
    assert (config.preference.beta, config.preference.weight, config.preference.regions) == (
        5000,
        0.01,
        (("hands", 1.0),),
    )
    assert (config.lora.rank, config.steps, config.data.batch_size * config.accumulation) == (128, 400, 24)
    assert config.optimizer.learning_rate == 1e-4


def test_supervised_recipes_train_on_preference_caches_too(world, tmp_path):
    data = dataclasses.replace(configuration(world).data, shards=str(world / "preferences"), mixture=(), window=None)
    config = configuration(world, data=data, steps=1, loss=LossConfig(space="sample"))
    trainer = build_trainer(config, tmp_path)
    trainer.run()
    assert weights(tmp_path)
