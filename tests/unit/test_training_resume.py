"""Going on: from a checkpoint, from another run, after a kill, and with what does not fit."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny import bare_transformer
from training_material import CHANNELS, GRID_SHIFTS, SHARES, cache_samples, configuration, make_world

from scail2.data.dataset import LatentDataset
from scail2.data.puppet_source import PuppetSource
from scail2.errors import InputError
from scail2.training import state
from scail2.training.config import LossConfig, MixtureKnot, OptimizerConfig, SheetConfig
from scail2.training.latent_batches import LatentBatches
from scail2.training.recipes import with_overrides
from scail2.training.session import build_trainer
from scail2.training.state import latest_state


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("learning"))


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory) -> Path:
    """A run of six steps, 24 samples."""
    folder = tmp_path_factory.mktemp("finished")
    build_trainer(configuration(world), folder).run()
    return folder


def test_a_run_begun_from_another_keeps_its_own_rates(world, finished, tmp_path):
    own = OptimizerConfig(
        learning_rate=3e-4, muon_learning_rate=0.005, weight_decay=0.02, betas=(0.8, 0.9), clip_norm=1.0
    )
    trainer = build_trainer(configuration(world, optimizer=own), tmp_path, start_from=finished)
    muon, adamw = (optimizer.param_groups[0] for optimizer in trainer.optimizers.optimizers)
    assert (muon["initial_lr"], adamw["initial_lr"]) == (0.005, 3e-4)
    assert (adamw["weight_decay"], adamw["betas"]) == (0.02, (0.8, 0.9))
    moments = trainer.optimizers.optimizers[1].state_dict()["state"]
    assert any(values["exp_avg"].any() for values in moments.values())
    assert (trainer.step, trainer.samples) == (0, 24)


def test_the_rates_of_a_recipe_are_scaled_together(world):
    base = configuration(world, optimizer=OptimizerConfig(learning_rate=4e-3, muon_learning_rate=0.02))
    slower = with_overrides(base, rate=0.5, steps=9)
    assert (slower.optimizer.learning_rate, slower.optimizer.muon_learning_rate) == (2e-3, 0.01)
    assert slower.steps == 9
    assert with_overrides(base) == base


def test_the_mixture_follows_the_samples_seen(world, finished, tmp_path):
    """A run that goes on after 24 samples does not begin again with samples that drive themselves."""
    base = configuration(world)
    knots = (("self_driven", 1.0),), (("self_driven", 1.0),), SHARES
    mixture = tuple(MixtureKnot(samples=n, shares=shares) for n, shares in zip((0, 20, 21), knots, strict=True))
    config = dataclasses.replace(base, data=dataclasses.replace(base.data, mixture=mixture))
    fresh = build_trainer(config, tmp_path / "fresh")
    going_on = build_trainer(config, tmp_path / "on", start_from=finished)

    def self_driven(trainer) -> list[bool]:
        batches = (trainer.batches.read(step).latents for step in range(4))
        return [torch.equal(batch.driving, batch.target) for batch in batches]

    assert self_driven(fresh) == [True] * 4
    assert self_driven(going_on) == [False] * 4
    going_on.run()
    resumed = build_trainer(dataclasses.replace(config, steps=8), tmp_path / "on")
    resumed.run()
    assert self_driven(resumed) == [False] * 4
    assert resumed.samples == 24 + 8 * 4


def test_another_batch_size_on_resume_does_not_shift_the_mixture(world):
    data = configuration(world).data
    dataset = LatentDataset(data.shards)
    two, four = (LatentBatches(dataset, dataclasses.replace(data, batch_size=size), seed=0) for size in (2, 4))
    two.resume_at(4, samples=8)
    four.resume_at(4, samples=8)
    for batches in (two, four):
        latents = [batches.read(step).latents for step in range(4, 24)]
        assert any(not torch.equal(batch.driving, batch.target) for batch in latents)


def test_checkpoints_that_do_not_fit_are_refused_in_words(world, finished, tmp_path):
    wide = tmp_path / "wide"
    shutil.copytree(world / "model", wide)
    wider = bare_transformer(in_channels=CHANNELS + 4, out_channels=CHANNELS, num_attention_heads=3, **GRID_SHIFTS)
    wider.save_pretrained(wide / "transformer")
    plain = OptimizerConfig(learning_rate=1e-3)
    cases = {
        "does not fit this model": configuration(world, model=str(wide)),
        "optimiser .* does not fit": configuration(world, optimizer=plain),
    }
    for message, config in cases.items():
        with pytest.raises(InputError, match=message):
            build_trainer(config, tmp_path / "run", start_from=finished)
    without = tmp_path / "without"
    build_trainer(configuration(world, ema_decay=0.0), without).run()
    with pytest.raises(InputError, match="no averaged weights"):
        build_trainer(configuration(world), tmp_path / "run", start_from=without)


def _edited(changes):
    def damage(folder):
        kept = torch.load(folder / "optimizer.pt", weights_only=True)
        torch.save(kept | changes if isinstance(changes, dict) else changes, folder / "optimizer.pt")

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_edited({"step": "six"}), "its step is no count"),
        (_edited({"samples": -1}), "its samples is no count"),
        (_edited({"average_updates": 2**60}), "its average_updates is no count"),
        (_edited({"more": 1}), "does not hold what a checkpoint holds"),
        (_edited([1, 2]), "does not hold what a checkpoint holds"),
        (_edited({"optimizers": 5}), "does not fit this recipe"),
        (_edited({"optimizers": [{"state": []}]}), "does not fit this recipe"),
        (lambda folder: (folder / "optimizer.pt").write_bytes(b"PK\x03\x04 nothing"), "optimizer.pt is damaged"),
        (lambda folder: (folder / "optimizer.pt").write_bytes(b""), "optimizer.pt is damaged"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"\xff" * 64), "weights.safetensors is damaged"),
        (lambda folder: (folder / "average.safetensors").write_bytes(b"\0" * 8), "average.safetensors is damaged"),
    ],
)
def test_a_damaged_checkpoint_is_refused_with_the_way_to_the_one_before(world, finished, tmp_path, damage, said):
    shutil.copytree(finished, tmp_path / "run")
    damage(latest_state(tmp_path / "run" / "checkpoints"))
    with pytest.raises(InputError, match=said):
        build_trainer(configuration(world), tmp_path / "run").run()


def test_a_refused_resume_leaves_the_run_as_it_was(world, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_bytes()
    other = configuration(world, optimizer=OptimizerConfig(learning_rate=1e-3))
    with pytest.raises(InputError):
        build_trainer(other, tmp_path / "run").run()
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_a_finished_run_is_not_written_again(world, finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "run")
    monkeypatch.setattr(state, "save_file", lambda *_: pytest.fail("nothing new to save"))
    newest = build_trainer(configuration(world), tmp_path / "run").run()
    assert newest.name == "step-00000006"


def test_a_kill_while_a_checkpoint_is_replaced_leaves_a_whole_one(world, finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "run")
    trainer = build_trainer(configuration(world), tmp_path / "run")
    trainer.run()
    checkpoints = tmp_path / "run" / "checkpoints"
    whole = {"weights.safetensors", "average.safetensors", "optimizer.pt"}
    with monkeypatch.context() as patch:
        patch.setattr(state.Staging, "publish", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            trainer.save()
    assert latest_state(checkpoints).name == "step-00000004"
    assert {path.name for path in (checkpoints / "superseded" / "step-00000006-1").iterdir()} == whole
    shutil.rmtree(checkpoints / "superseded")
    for _ in range(2):
        assert trainer.save() == latest_state(checkpoints)
    assert {path.name for path in latest_state(checkpoints).iterdir()} == whole
    assert {path.name for path in checkpoints.iterdir()} == {"step-00000004", "step-00000006"}


def test_only_whole_checkpoints_of_ours_are_gone_on_with_and_pruned(world, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "step-notes").mkdir()
    (checkpoints / "step-notes" / "why.txt").write_text("keep")
    (checkpoints / "step-99999999").symlink_to(finished / "checkpoints" / "step-00000006")
    (checkpoints / "step-88888888").mkdir()
    (checkpoints / "step-00000004" / "mine.txt").write_text("keep")
    before = {path.name: path.read_bytes() for path in (finished / "checkpoints" / "step-00000006").iterdir()}
    trainer = build_trainer(configuration(world, steps=8, keep_checkpoints=1), tmp_path / "run")
    assert trainer.run().name == "step-00000008"
    assert {path.name for path in checkpoints.iterdir()} == {
        "step-notes", "step-99999999", "step-88888888", "step-00000004", "step-00000008"
    }  # fmt: skip
    assert [path.name for path in (checkpoints / "step-00000004").iterdir()] == ["mine.txt"]
    assert {path.name: path.read_bytes() for path in (checkpoints / "step-99999999").iterdir()} == before


def test_kinds_that_were_not_cached_are_left_out_with_a_warning(world, caplog):
    data = configuration(world).data
    knots = (*data.mixture, MixtureKnot(samples=20, shares=(("replacement_multi", 0.5), *SHARES)))
    batches = LatentBatches(LatentDataset(data.shards), dataclasses.replace(data, mixture=knots), seed=0)
    assert "replacement_multi" in caplog.text
    kinds = {kind.value for step in range(10, 40) for kind in batches.read(step).latents.kinds}
    assert kinds <= {"self_driven", "animation_single", "replacement_single"}
    only = (MixtureKnot(samples=0, shares=(("pose_multi", 1.0),)),)
    with pytest.raises(InputError, match="pose_multi"):
        LatentBatches(LatentDataset(data.shards), dataclasses.replace(data, mixture=only), seed=0)


def test_without_a_mixture_samples_count_alike_and_short_clips_need_no_window(world):
    data = dataclasses.replace(configuration(world).data, mixture=(), window=99)
    batch = LatentBatches(LatentDataset(data.shards), data, seed=0).read(0)
    assert batch.latents.target.shape[2] == 3


def test_pose_driven_samples_are_supervised_where_parts_are_known(world, tmp_path):
    """A pose render has no body parts; the reference and the target still have."""
    source = PuppetSource(frames=9, height=32, width=32, with_poses=True)
    cache_samples(world, tmp_path / "latents", recipe="nano+pose_driving", source=source)
    base = configuration(world)
    mixture = (MixtureKnot(samples=0, shares=SHARES),)
    data = dataclasses.replace(base.data, shards=str(tmp_path / "latents"), mixture=mixture)
    trainer = build_trainer(dataclasses.replace(base, data=data, steps=2), tmp_path / "run")
    trainer.run()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(0 < line["alignment"] < 1 for line in lines)


def test_part_supervision_without_parts_is_refused(world, tmp_path):
    class Plain(PuppetSource):
        num_parts = 0

    cache_samples(world, tmp_path / "latents", source=Plain(frames=9, height=32, width=32), samples=16)
    base = configuration(world)
    data = dataclasses.replace(base.data, shards=str(tmp_path / "latents"))
    with pytest.raises(InputError, match="body parts"):
        build_trainer(dataclasses.replace(base, data=data), tmp_path / "run")
    build_trainer(dataclasses.replace(base, data=data, loss=LossConfig()), tmp_path / "run")


def test_sheets_of_samples_for_another_model_are_refused_before_training(world, tmp_path):
    cache_samples(world, tmp_path / "half", samples=2, driving_downsample=2)
    sheets = SheetConfig(every=1, shards=str(tmp_path / "half"))
    with pytest.raises(InputError, match="do not fit the model"):
        build_trainer(configuration(world, sheets=sheets), tmp_path / "run")
