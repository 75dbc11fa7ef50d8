"""What a step does besides the loss: adapters where they belong, steps that are skipped, warnings, caches of earlier versions."""

import dataclasses
import io
import json
import logging
import re
import tarfile
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save, save_file
from tiny import tiny_transformer
from training_material import configuration, make_world, weights

from scail2.checkpoints.official_names import to_diffusers_name
from scail2.data.dataset import LatentDataset
from scail2.data.samples import collate
from scail2.errors import InputError
from scail2.training.config import DataConfig, LoRAConfig, LossConfig, OptimizerConfig, TrainConfig
from scail2.training.latent_batches import LatentBatches
from scail2.training.session import _in_blocks, build_trainer, export_transformer, load_trainable
from scail2.training.state import latest_state, read_progress


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("steps"))


def test_adapters_sit_on_ten_layers_of_each_block_and_change_nothing_yet(tmp_path):
    plain = (
        tiny_transformer()
    )  # with text and picture embedders, whose layers have the same names as those of the blocks
    plain.save_pretrained(tmp_path / "transformer")
    config = TrainConfig(name="x", model=str(tmp_path), steps=1, data=DataConfig(shards=""), lora=LoRAConfig(rank=8))
    adapted = load_trainable(config)
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 10 * len(plain.blocks)
    assert all(name.startswith("blocks.") for name in trained)
    assert not any("add_" in name for name in trained)  # the picture's own keys and values have none
    assert not any(p.any() for name, p in trained.items() if "lora_B" in name)
    spread = torch.cat([p.detach().flatten() for name, p in trained.items() if "lora_A" in name]).std()
    assert float(spread) == pytest.approx(1 / 8, rel=0.1)
    assert adapted.peft_config["default"].lora_alpha == 8


def test_the_14b_gets_the_published_400_pairs():
    published = json.loads((Path(__file__).parents[1] / "goldens" / "keys_14b.json").read_text())
    names = [to_diffusers_name(name) for name in published["keys"] if name.endswith(".weight")]
    pattern = re.compile(_in_blocks(LoRAConfig().target_modules))
    adapted = [name for name in names if pattern.fullmatch(name.removesuffix(".weight"))]
    assert len(adapted) == 400
    assert not any("norm" in name or "add_" in name for name in adapted)


class Poisoned:
    """The trainer's micro-batches, some with a target that is not a number."""

    def __init__(self, batches, steps):
        self.batches, self.steps = batches, steps
        self.resume_at = batches.resume_at

    def __call__(self, micro_step):
        batch = self.batches(micro_step)
        if micro_step not in self.steps:
            return batch
        target = torch.full_like(batch.latents.target, float("nan"))
        return dataclasses.replace(batch, latents=dataclasses.replace(batch.latents, target=target))


def test_a_step_that_is_not_finite_changes_no_weight_and_is_counted(world, tmp_path, caplog):
    config = configuration(world, steps=2, accumulation=2, checkpoint_every=1)
    trainer = build_trainer(config, tmp_path / "run")
    trainer.batches = Poisoned(trainer.batches, {3})  # the second half of step 2
    trainer.run()
    for file in ("weights.safetensors", "average.safetensors"):
        before, after = (load_file(tmp_path / "run" / "checkpoints" / f"step-0000000{n}" / file) for n in (1, 2))
        assert all(torch.equal(value, after[name]) for name, value in before.items())
    after = weights(tmp_path / "run")
    assert "step 2 skipped" in caplog.text
    assert read_progress(latest_state(tmp_path / "run" / "checkpoints")).skipped == 1
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [0, 1]
    again = build_trainer(dataclasses.replace(config, steps=3), tmp_path / "run")
    again.run()
    assert again.skipped.total == 1
    assert not all(torch.equal(value, after[name]) for name, value in weights(tmp_path / "run").items())


def test_several_skipped_steps_in_a_row_end_the_run(world, tmp_path):
    trainer = build_trainer(configuration(world, steps=9, accumulation=1, most_skipped=3), tmp_path)
    trainer.batches = Poisoned(trainer.batches, {1, 3, 4, 5, 6})
    with pytest.raises(InputError, match=r"stopped at step 6: .* in 3 steps in a row"):
        trainer.run()
    assert latest_state(tmp_path / "checkpoints").name == "step-00000004"


def test_checkpoints_of_earlier_versions_are_gone_on_with(world, tmp_path):
    build_trainer(configuration(world, steps=2), tmp_path).run()
    file = latest_state(tmp_path / "checkpoints") / "optimizer.pt"
    saved = torch.load(file, weights_only=True)
    del saved["skipped"]
    torch.save(saved, file)
    trainer = build_trainer(configuration(world, steps=4), tmp_path)
    trainer.run()
    assert (trainer.step, trainer.skipped.total) == (4, 0)


def rewritten(shard, change):
    """A shard with changed samples, as another version would have written it."""
    with tarfile.open(shard) as tar:
        members = {info.name: tar.extractfile(info).read() for info in tar.getmembers()}
    keys = sorted({name.split(".")[0] for name in members})
    shard.with_suffix(".index.json").unlink()
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key in keys:
            meta, tensors = change(json.loads(members[f"{key}.json"]), load(members[f"{key}.safetensors"]))
            payload = save(tensors)
            meta["crc32"] = {"safetensors": zlib.crc32(payload)}
            for name, content in ((f"{key}.json", json.dumps(meta).encode()), (f"{key}.safetensors", payload)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def test_caches_of_the_first_format_are_read_with_their_scale(world, tmp_path):
    folder = make_world(tmp_path / "world") / "latents"
    shard = sorted(folder.glob("*.tar"))[0]
    now = collate([LatentDataset(shard)[0]])

    def to_first_format(meta, tensors):
        del meta["levels"], meta["augmented_share"]
        bytes_of = {
            n: (t.float() * 255 / 64).round().to(torch.uint8) for n, t in tensors.items() if t.dtype == torch.uint8
        }
        return meta, tensors | bytes_of

    rewritten(shard, to_first_format)
    old = collate([LatentDataset(shard)[0]])
    assert not torch.equal(old.driving_mask, now.driving_mask)
    torch.testing.assert_close(old.driving_mask, now.driving_mask, atol=0.501 / 255, rtol=0)
    assert torch.equal(old.target, now.target)


def test_empty_captions_are_told_of_where_prompts_are_trained_on(world, tmp_path, caplog):
    folder = make_world(tmp_path / "world") / "latents"
    data = DataConfig(shards=str(folder), batch_size=2)
    caplog.set_level(logging.WARNING)
    LatentBatches(LatentDataset(folder), data, seed=0).tell_of_empty_captions()
    assert "caption" not in caplog.text  # a model without a text encoder has no prompts to ignore

    def with_prompts(meta, tensors):
        said = {"caption": "a puppet dances" if meta["kind"].startswith("replacement") else " "}
        return meta | said, tensors | {"prompt_embeds": torch.zeros(4, 2)}

    for shard in folder.glob("*.tar"):
        rewritten(shard, with_prompts)
    dataset = LatentDataset(folder)
    empty = len(dataset.indices_of("animation_single"))
    assert 0 < empty < len(dataset) == 12
    LatentBatches(dataset, data, seed=0).tell_of_empty_captions()
    assert f"{empty} of 12 samples have an empty caption" in caplog.text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"keep_checkpoints": -1}, "'keep_checkpoints': must be from 1"),
        ({"accumulation": 0}, "'accumulation': must be from 1"),
        ({"log_every": 0}, "'log_every': must be from 1"),
        ({"checkpoint_every": 0}, "'checkpoint_every'"),
        ({"seed": -1}, "'seed': must be from 0"),
        ({"seed": 2**64}, "seed"),
        ({"loss": LossConfig(space="Velocity")}, r"'loss\.space'"),
        ({"loss": LossConfig(reduction="x")}, r"'loss\.reduction'"),
        ({"optimizer": OptimizerConfig(decay="x")}, r"'optimizer\.decay'"),
        ({"optimizer": OptimizerConfig(learning_rate=float("inf"))}, "learning_rate"),
        ({"lora": LoRAConfig(rank=0)}, r"'lora\.rank'"),
        ({"precision": "x"}, "'precision'"),
    ],
    ids=str,
)
def test_a_configuration_of_ones_own_is_checked_before_anything_is_made(world, tmp_path, change, told):
    config = configuration(world, **change)
    with pytest.raises(InputError, match=rf"The configuration of toy cannot be used: .*{told}"):
        build_trainer(config, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_weights_that_are_no_numbers_are_not_exported(world, tmp_path):
    config = configuration(world, steps=1, checkpoint_every=1)
    trainer = build_trainer(config, tmp_path / "run")
    checkpoint = trainer.run()
    broken = load_file(checkpoint / "average.safetensors")
    name = next(iter(broken))
    save_file(broken | {name: torch.full_like(broken[name], float("nan"))}, checkpoint / "average.safetensors")
    with pytest.raises(InputError, match=f"1 tensors that are not finite .{re.escape(name)}"):
        export_transformer(config, tmp_path / "run", tmp_path / "export")
    assert not (tmp_path / "export").exists()
