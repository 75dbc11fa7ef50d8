"""A finished training as a folder to give away."""

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_material import configuration, make_world
from typer.testing import CliRunner

from scail2.checkpoints.lora import apply_loras
from scail2.checkpoints.transformer_files import read_transformer
from scail2.cli.app import build_app
from scail2.errors import InputError
from scail2.files.public.embedded import embedded_model_path
from scail2.files.storage import hash_file
from scail2.loading.conversion import convert
from scail2.models.transformer import SCAIL2Transformer3DModel
from scail2.training.card_results import results
from scail2.training.config import LoRAConfig, LossConfig, PreferenceConfig
from scail2.training.publication import Card, publish
from scail2.training.session import build_trainer, export_transformer, load_trainable
from scail2.training.state import latest_state, load_weights

CARD = Card(title="Toy hands", licence="mit", data_note="Drawn by me.")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def adapted(world, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "adapted"
    config = configuration(world, steps=3, lora=LoRAConfig(rank=2, alpha=4.0), loss=LossConfig(), ema_decay=0.0)
    build_trainer(config, run).run()
    export_transformer(config, run, run / "adapter")
    return config, run


def test_adapters_are_published_as_one_file_that_others_read(adapted, world, tmp_path):
    config, run = adapted
    assert publish(run, tmp_path / "out", CARD) == ["README.md", "toy.safetensors"]
    trained, fused = load_trainable(config), load_trainable(dataclasses.replace(config, lora=None))
    load_weights(latest_state(run / "checkpoints"), trained)
    apply_loras(fused, [(tmp_path / "out" / "toy.safetensors", 1.0)])
    layer = trained.blocks[1].attn1.to_q
    change = 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight  # alpha 4 over rank 2
    assert change.abs().max() > 0
    torch.testing.assert_close(fused.blocks[1].attn1.to_q.weight, layer.base_layer.weight + change)


def test_the_card_says_what_was_trained_on_what(adapted, world, tmp_path):
    _, run = adapted
    measures = {"animation_single": {"clips": 3, "hand_psnr": 21.25, "limb_iou": None}, "settings": {"clips": 3}}
    (tmp_path / "measures.json").write_text(json.dumps(measures))
    publish(run, tmp_path / "out", dataclasses.replace(CARD, evaluations=(tmp_path / "measures.json",)))
    card = (tmp_path / "out" / "README.md").read_text()
    front = card.split("---\n")[1]
    assert 'license: "mit"' in front
    assert 'base_model: "model"' in front
    assert '"lora"' in front
    (tmp_path / "card.md").write_text("# Pairs\n\n## Licences\n\nCC-BY-4.0\n")
    publish(run, tmp_path / "carded", dataclasses.replace(CARD, data_card=tmp_path / "card.md"))
    assert "### Pairs\n\n#### Licences\n\nCC-BY-4.0\n" in (tmp_path / "carded" / "README.md").read_text()
    for line in (
        "# Toy hands",
        "Drawn by me.",
        "| steps | 3 |",
        "| samples | 12 |",
        "| samples a step | 4 |",
        "rank 2",
    ):
        assert line in card, line
    assert "| of them animation_single |" in card
    assert "| frames x height x width | 9x32x32 (12) |" in card
    assert '"puppets"' in card
    assert "| measures.json | animation_single | 3 | – | 21.250 |" in card
    assert str(world) not in card  # names, not places
    (tmp_path / "measures.json").write_text("{}")
    with pytest.raises(InputError, match="holds no results"):
        publish(run, tmp_path / "other", dataclasses.replace(CARD, evaluations=(tmp_path / "measures.json",)))
    assert not (tmp_path / "other").exists()


def test_adapters_are_merged_into_whole_weights(adapted, tmp_path):
    config, run = adapted
    publish(run, tmp_path / "out", CARD, merge=True)
    merged = read_transformer(SCAIL2Transformer3DModel, tmp_path / "out" / "toy.safetensors").state_dict()
    fused = load_trainable(dataclasses.replace(config, lora=None))
    before = {name: value.clone() for name, value in fused.state_dict().items()}
    apply_loras(fused, [(run / "adapter" / "toy.safetensors", 1.0)])
    assert all(torch.equal(value, merged[name]) for name, value in fused.state_dict().items())
    changed = [name for name in merged if not torch.equal(merged[name], before[name])]
    assert len(changed) == 12  # without text a block has six such layers
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Full weights, with low-rank adapters (rank 2) merged, for SCAIL-2" in card
    assert "scail2 convert toy.safetensors --out trained/transformer" in card
    assert '"lora"' not in card.split("---\n")[1]


def test_a_second_stage_is_trained_on_top_of_the_first(adapted, world, tmp_path):
    config, first = adapted
    adapter = first / "adapter" / "toy.safetensors"
    second = dataclasses.replace(config, name="second", fused=(f"{adapter}:0.5",), seed=4, steps=2)
    build_trainer(second, tmp_path / "run").run()
    export_transformer(second, tmp_path / "run", tmp_path / "run" / "adapter")
    start = load_trainable(second)
    start.disable_adapters()
    fused = load_trainable(dataclasses.replace(config, lora=None))
    apply_loras(fused, [(adapter, 0.5)])
    layer = "blocks.1.attn1.to_q"
    assert torch.equal(start.get_submodule(layer).base_layer.weight, fused.get_submodule(layer).weight)
    # Merged: both stages. As a LoRA: the second alone, and the card says what it belongs on.
    publish(tmp_path / "run", tmp_path / "whole", CARD, merge=True)
    apply_loras(fused, [(tmp_path / "run" / "adapter" / "second.safetensors", 1.0)])
    merged = read_transformer(SCAIL2Transformer3DModel, tmp_path / "whole" / "second.safetensors").state_dict()
    for name, value in fused.state_dict().items():
        torch.testing.assert_close(value, merged[name], rtol=1e-6, atol=1e-7)
    publish(tmp_path / "run", tmp_path / "lora", CARD)
    card = (tmp_path / "lora" / "README.md").read_text()
    assert "on top of `toy.safetensors` at 0.5" in card
    before = card.split("## The stage before: `toy.safetensors` at 0.5")[1].split("## ")[0]
    assert "| steps | 3 |" in before
    assert "| of them animation_single |" in before


def commands(card: str) -> list[str]:
    return card.split("## Use\n\n```sh\n")[1].split("\n```")[0].split("\n")


def test_the_cards_commands_make_a_model_of_whole_weights(adapted, world, tmp_path, monkeypatch):
    """With the pipeline's folder beside the file: everything else is taken from it, the transformer is the published one."""
    _, run = adapted
    publish(run, tmp_path / "out", CARD, merge=True)
    monkeypatch.chdir(tmp_path / "out")
    shutil.copytree(world / "model", "model")
    *preparing, converting, animating = commands((tmp_path / "out" / "README.md").read_text())
    for line in preparing:
        subprocess.run(["sh", "-c", line], check=True)
    done = CliRunner().invoke(build_app(), shlex.split(converting)[1:], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert animating.startswith("scail2 animate --model trained ")
    merged, made = (
        read_transformer(SCAIL2Transformer3DModel, path) for path in ("toy.safetensors", "trained/transformer")
    )
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in merged.state_dict().items())
    stored = [json.loads(Path(each, "transformer", "config.json").read_text()) for each in ("model", "trained")]
    assert stored[0] == stored[1]
    assert hash_file(Path("trained/vae")) == hash_file(world / "model" / "vae")


def test_a_loras_model_is_named_unless_it_comes_with_the_package(adapted, tmp_path):
    _, run = adapted
    publish(run, tmp_path / "own", CARD)
    assert commands((tmp_path / "own" / "README.md").read_text())[0].startswith(
        "scail2 animate --model model --lora toy.safetensors "
    )
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    facts = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(facts | {"model": str(embedded_model_path())}))
    publish(copy, tmp_path / "embedded", CARD)
    assert commands((tmp_path / "embedded" / "README.md").read_text())[0].startswith(
        "scail2 animate --lora toy.safetensors "
    )


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """A full fine-tune of one step, the stage before others."""
    run = tmp_path_factory.mktemp("runs") / "sft"
    config = configuration(world, steps=1, loss=LossConfig(), ema_decay=0.0)
    build_trainer(config, run).run()
    export_transformer(config, run, run / "transformer")
    return config, run


def test_of_whole_weights_of_the_embedded_model_the_package_has_the_rest(whole, tmp_path, monkeypatch):
    _, run = whole
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    facts = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(facts | {"model": str(embedded_model_path())}))
    publish(copy, tmp_path / "out", CARD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    for line in commands((tmp_path / "out" / "README.md").read_text())[:2]:
        subprocess.run(["sh", "-c", line], check=True)
    assert hash_file(tmp_path / "trained" / "vae") == hash_file(embedded_model_path() / "vae")
    assert not (tmp_path / "trained" / "transformer").exists()


def test_the_card_tells_of_a_model_that_is_a_run(whole, world, tmp_path):
    """A preference stage after a full fine-tune: the run's weights are what it was trained on, the rest is the pipeline's."""
    config, first = whole
    second = dataclasses.replace(config, name="second", model=str(first), lora=LoRAConfig(rank=2), seed=4)
    build_trainer(second, tmp_path / "run").run()
    export_transformer(second, tmp_path / "run", tmp_path / "run" / "adapter")
    publish(tmp_path / "run", tmp_path / "lora", CARD)
    card = (tmp_path / "lora" / "README.md").read_text()
    assert commands(card)[0].startswith("scail2 animate --model sft --lora second.safetensors ")
    before = card.split("## The stage before: `sft`, the model that this was trained on")[1].split("## ")[0]
    assert "| steps | 1 |" in before
    assert "| of them animation_single |" in before
    publish(tmp_path / "run", tmp_path / "merged", CARD, merge=True)
    assert commands((tmp_path / "merged" / "README.md").read_text())[0] == "cp -r model trained"


def test_a_run_notes_what_it_started_from_and_its_card_tells(adapted, tmp_path):
    config, first = adapted
    second = dataclasses.replace(config, name="second", steps=1, seed=4)
    build_trainer(second, tmp_path / "run", start_from=first).run()
    checkpoint = str(latest_state(first / "checkpoints"))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["start_from"] == checkpoint
    longer = dataclasses.replace(second, steps=2)
    build_trainer(longer, tmp_path / "run").run()  # goes on, and began with the same
    assert json.loads((tmp_path / "run" / "config.json").read_text())["start_from"] == checkpoint
    export_transformer(longer, tmp_path / "run", tmp_path / "run" / "adapter")
    publish(tmp_path / "run", tmp_path / "out", CARD)
    card = (tmp_path / "out" / "README.md").read_text()
    before = card.split("## The stage before: `adapted`, whose checkpoint this began with")[1].split("## ")[0]
    assert "| steps | 3 |" in before
    assert str(first) not in card


def test_what_cannot_be_merged_is_refused(adapted, world, tmp_path):
    _, run = adapted
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    facts = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(facts | {"model": str(tmp_path / "gone")}))
    with pytest.raises(InputError, match=r"is not at .*gone any more"):
        publish(copy, tmp_path / "out", CARD, merge=True)
    (copy / "config.json").write_text(json.dumps(facts | {"lora": None}))
    with pytest.raises(InputError, match="no adapters to merge"):
        publish(copy, tmp_path / "out", CARD, merge=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["official", "diffusers"])
def test_loras_become_part_of_converted_weights(adapted, world, tmp_path, to):
    _, run = adapted
    file = run / "adapter" / "toy.safetensors"
    out = tmp_path / ("out.safetensors" if to == "official" else "out")
    convert(world / "model" / "transformer", out, to=to, torch_dtype=torch.bfloat16, loras=[f"{file}:0.5"])
    fused = read_transformer(SCAIL2Transformer3DModel, world / "model" / "transformer")
    apply_loras(fused, [(file, 0.5)])
    expected = fused.state_dict()
    found = read_transformer(SCAIL2Transformer3DModel, out).state_dict()
    # Added in float32 and rounded once, as whoever fuses them in memory does.
    assert all(torch.equal(value, expected[name].to(value.dtype)) for name, value in found.items())


def test_every_sort_of_result_has_its_table(tmp_path):
    interval = {"mean": 0.25, "low": -0.1, "high": 0.5}
    shares = {name: interval | {"mean": mean} for name, mean in (("win", 0.683), ("tie", 0.034), ("lose", 0.283))}
    files = {
        "bench.json": {"studio_bench": {"ssim": 0.645, "psnr": 19.09, "fvd": 287.1, "clips": 3,
                                        "intervals": {"psnr": [18.0, 20.0], "ssim": [None, None]}},
                       "clips": {}, "settings": {}},
        "judgement.json": {"systems": {"ours": {"imaging": {"mean": interval | {"mean": 4.43}, "spread": 0.2}}},
                           "comparisons": [], "settings": {"judge": {"model": "eyes"}}},
        "votes.json": {"votes": [shares | {"system": "ours", "against": "a|b", "question": "motion", "margin": interval,
                                           "votes": 60, "people": 5}]},
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    text = results([tmp_path / name for name in files])
    assert "| bench.json | 3 | 0.645 | 19.090 (18.000 … 20.000) | – | 287.100 |" in text
    assert "| judgement.json | eyes | ours | imaging | 4.43 (-0.10 … 0.50) | 0.20 |" in text
    assert "| votes.json | ours | a\\|b | motion | 68.3 / 3.4 / 28.3 | 0.25 (-0.10 … 0.50) | 60 by 5 |" in text
    (tmp_path / "votes.json").write_text('{"votes": [3]}')
    with pytest.raises(InputError, match=r"votes\.json holds no results"):
        results([tmp_path / "votes.json"])


def test_whole_transformers_are_published_in_the_published_names(world, tmp_path):
    config = configuration(world, steps=1)
    build_trainer(config, tmp_path / "run").run()
    with pytest.raises(InputError, match="no exported transformer"):
        publish(tmp_path / "run", tmp_path / "out", CARD)
    export_transformer(config, tmp_path / "run", tmp_path / "run" / "transformer")
    publish(tmp_path / "run", tmp_path / "out", CARD)
    file = tmp_path / "out" / "toy.safetensors"
    assert "blocks.0.self_attn.q.weight" in load_file(file)
    again = read_transformer(SCAIL2Transformer3DModel, file)
    ours = SCAIL2Transformer3DModel.from_pretrained(tmp_path / "run" / "transformer").state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in again.state_dict().items())
    with pytest.raises(InputError, match="exists already"):
        publish(tmp_path / "run", tmp_path / "out", CARD)


def test_preference_runs_say_so_and_other_folders_are_refused(adapted, tmp_path):
    _, run = adapted
    copy = tmp_path / "run"
    (copy / "adapter").mkdir(parents=True)
    (copy / "adapter" / "toy.safetensors").write_bytes((run / "adapter" / "toy.safetensors").read_bytes())
    config = json.loads((run / "config.json").read_text())
    config["preference"] = dataclasses.asdict(PreferenceConfig())
    config["data"]["shards"] = str(tmp_path / "gone")
    (copy / "config.json").write_text(json.dumps(config))
    publish(copy, tmp_path / "out", CARD)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| β, λ, regions | 5000.0, 0.01, hands 1 |" in card
    assert "The cache `gone` was not there" in card
    with pytest.raises(InputError, match="no training's folder"):
        publish(tmp_path, tmp_path / "b", CARD)
    with pytest.raises(InputError, match="one line of text"):
        Card(title="", licence="mit")
    with pytest.raises(
        InputError, match=r"as the Hub spells it, such as mit, apache-2\.0 or other, not 'free for all'"
    ):
        Card(title="Hands", licence="free for all")
