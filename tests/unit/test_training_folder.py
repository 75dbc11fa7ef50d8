"""A training's folder: what it may write to, and that it goes on only as it was begun."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
from training_material import cache_samples, configuration, make_world

from scail2.checkpoints.lora_export import write_lora
from scail2.cli.app import main
from scail2.devices import Precision
from scail2.errors import InputError
from scail2.files.ownership import locked
from scail2.files.storage import hash_file
from scail2.training import run_folder
from scail2.training.config import FrozenConfig, LoRAConfig, PreferenceConfig
from scail2.training.recipes import RECIPES
from scail2.training.session import build_trainer, export_transformer, load_trainable


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return make_world(tmp_path_factory.mktemp("learning"))


@pytest.fixture
def toy(world, monkeypatch):
    """`scail2 train nano` of the toy world; returns its exit code."""
    monkeypatch.setitem(RECIPES, "nano", lambda: configuration(world, steps=2))

    def train(output: Path, *options: str) -> int:
        with pytest.raises(SystemExit) as end:
            main(["train", "nano", "--output", str(output), "--device", "cpu", *options])
        return end.value.code or 0

    return train


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_model_and_foreign_folders_are_not_trained_in(world, toy, tmp_path, capsys):
    shutil.copytree(world / "model", tmp_path / "model")
    shutil.copytree(world / "latents", tmp_path / "latents")
    (tmp_path / "theirs" / "transformer").mkdir(parents=True)
    (tmp_path / "theirs" / "transformer" / "weights.bin").write_bytes(b"years of work")
    (tmp_path / "theirs" / "config.json").write_text('{"name": "mine", "steps": 1}')
    (tmp_path / "alias").symlink_to(tmp_path / "model")
    before = tree(tmp_path)
    model, data = ["--model", str(tmp_path / "model")], ["--data", str(tmp_path / "latents")]
    for output, options, said in (
        ("model", model, "is also the model"),
        ("alias", model, "is also the model"),
        ("theirs/../model", model, "is also the model"),
        ("model/out", model, "lies inside the model"),
        ("latents/run", data, "lies inside the training data"),
        (".", model, "lies inside the output"),
        ("model", [], "holds other files and no training runs"),
        ("theirs", [], "holds other files and no training runs"),
        ("theirs/config.json", [], "is a file"),
    ):
        assert toy(tmp_path / output, *options) == 2, output
        error = capsys.readouterr().err
        assert said in error, output
        assert len(error.strip().splitlines()) == 1
    assert tree(tmp_path) == before


def test_a_training_in_use_is_refused(toy, tmp_path, capsys):
    with locked(tmp_path / "run"):
        assert toy(tmp_path / "run") == 2
    assert f"run is in use by process {os.getpid()}" in capsys.readouterr().err
    assert toy(tmp_path / "run") == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} - {"tensorboard"} == {
        "config.json", "log.jsonl", "checkpoints", "transformer"
    }  # fmt: skip


def test_links_inside_a_run_are_not_followed(toy, tmp_path, capsys):
    assert toy(tmp_path / "run") == 0
    shutil.move(tmp_path / "run" / "checkpoints", tmp_path / "elsewhere")
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path)
    capsys.readouterr()
    assert toy(tmp_path / "run", "--steps", "4") == 2
    assert "checkpoints is a link" in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_going_on_otherwise_is_refused_and_told(world, toy, tmp_path, capsys):
    run = tmp_path / "run"
    assert toy(run) == 0
    shutil.copytree(world / "model", tmp_path / "moved")
    shutil.copytree(world / "model", tmp_path / "other")
    weights_file = tmp_path / "other" / "transformer" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights_file.read_bytes())
    content[-1] ^= 1
    weights_file.write_bytes(content)
    cache_samples(world, tmp_path / "latents", samples=8, samples_per_shard=4, seed=5)
    before = tree(run)
    for options, said in (
        (["--seed", "7"], "another seed (0, now 7)"),
        (["--rate", "0.5"], "another optimizer.learning_rate (0.001, now 0.0005)"),
        (["--batch-size", "1"], "another data.batch_size (2, now 1)"),
        (["--data", str(tmp_path / "latents")], "another data ("),
        (["--model", str(tmp_path / "other")], "another model ("),
    ):
        capsys.readouterr()
        assert toy(run, "--steps", "3", *options) == 2, options
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert said in error
        assert "was trained to step 2" in error
        assert "--change" in error
    assert tree(run) == before
    assert toy(run, "--steps", "3", "--model", str(tmp_path / "moved")) == 0  # the same weights elsewhere
    assert not (run / "changes.jsonl").exists()
    assert toy(run, "--steps", "4", "--seed", "7", "--change") == 0
    assert json.loads((run / "changes.jsonl").read_text()) == {"step": 3, "changed": {"seed": [0, 7]}}
    assert toy(run, "--steps", "5", "--seed", "7") == 0
    assert (run / "changes.jsonl").read_text().count("\n") == 1


@pytest.fixture
def lora(world, tmp_path):
    """Writes a LoRA file of the toy model; returns its path."""

    def write(name: str, seed: int) -> Path:
        model = load_trainable(configuration(world, lora=LoRAConfig(rank=2), seed=seed))
        write_lora(tmp_path / name, {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}, alpha=2)
        return tmp_path / name

    return write


def test_a_changed_lora_is_told_by_its_content(toy, lora, tmp_path, capsys):
    run, file = tmp_path / "run", lora("first.safetensors", 1)
    assert toy(run, "--lora", f"{file}:0.5") == 0
    moved = Path(shutil.copy(file, tmp_path / "moved.safetensors"))
    assert toy(run, "--lora", f"{moved}:0.50", "--steps", "3") == 0  # the same weights elsewhere
    digests = [hash_file(file)[:16], hash_file(lora("first.safetensors", 2))[:16]]
    before = tree(run)
    for given, said in (
        ([f"{file}:0.5"], "another fused (["),
        ([f"{moved}:0.75"], "another fused (["),
        ([], "another fused (["),
        ([f"{moved}:0.5", file], "another fused (["),
    ):
        capsys.readouterr()
        assert toy(run, "--steps", "4", *(word for each in given for word in ("--lora", str(each)))) == 2, given
        assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert tree(run) == before
    moved.write_bytes(file.read_bytes())
    assert toy(run, "--steps", "4", "--lora", f"{moved}:0.5") == 2  # another content at one place
    told = capsys.readouterr().err
    assert f'another fused (["{digests[0]}:0.5"], now ["{digests[1]}:0.5"])' in told
    assert toy(run, "--steps", "4", "--lora", f"{moved}:0.5", "--change") == 0
    told = json.loads((run / "changes.jsonl").read_text())
    assert told == {"step": 3, "changed": {"fused": [[f"{digests[0]}:0.5"], [f"{digests[1]}:0.5"]]}}


@pytest.mark.parametrize("name", ["lora", "frozen", "preference"])
def test_a_part_that_is_taken_up_or_dropped_is_a_change(world, tmp_path, name):
    """Also in a run of a version that did not know the part."""
    run = tmp_path / "run"
    without = configuration(world, steps=2)
    build_trainer(without, run).run()
    part = {"lora": LoRAConfig(rank=2), "frozen": FrozenConfig(), "preference": PreferenceConfig()}[name]
    having = dataclasses.replace(without, steps=3, **{name: part})
    assert list(run_folder._changes(run, having)) == [name]
    with pytest.raises(InputError, match=rf"with another {name} \(none, now {{"):
        run_folder.refuse_change(run, having)
    run_folder.save_config(run, having)
    assert list(run_folder._changes(run, without)) == [name]
    with pytest.raises(InputError, match=rf"with another {name} \({{.*, now none\)"):
        run_folder.refuse_change(run, without)
    stored = json.loads((run / "config.json").read_text())
    del stored[name]
    (run / "config.json").write_text(json.dumps(stored))
    assert list(run_folder._changes(run, having)) == [name]
    assert not run_folder._changes(run, without)


def test_a_run_of_an_earlier_version_is_compared_by_its_settings(world, tmp_path):
    run = tmp_path / "run"
    build_trainer(configuration(world, steps=2), run).run()
    stored = json.loads((run / "config.json").read_text())
    del stored["inputs"]
    assert stored["precision"] == "float32"
    (run / "config.json").write_text(json.dumps(stored | {"precision": "fp32"}))
    build_trainer(configuration(world, steps=3), run)
    with pytest.raises(InputError, match=r"another seed \(0, now 3\)"):
        build_trainer(configuration(world, steps=3, seed=3), run)
    with pytest.raises(InputError, match=r"another precision \(float32, now bfloat16\)"):
        build_trainer(configuration(world, steps=3, precision=Precision.BFLOAT16), run)


def test_exports_replace_exports_and_set_everything_else_aside(world, tmp_path):
    run, place = tmp_path / "run", tmp_path / "run" / "transformer"
    config = configuration(world, steps=1)
    build_trainer(config, run).run()
    export_transformer(config, run, place)
    first = tree(place)
    export_transformer(config, run, place)
    assert tree(place) == first
    longer = configuration(world, steps=3)
    build_trainer(longer, run).run()
    export_transformer(longer, run, place)
    second = tree(place)
    assert second.keys() == first.keys()
    assert second != first
    assert not (run / "superseded").exists()
    (place / "notes.txt").write_text("the best so far")
    export_transformer(longer, run, place)
    assert tree(place) == second
    assert tree(run / "superseded" / "transformer-1") == second | {"notes.txt": b"the best so far"}
    shutil.rmtree(place)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "weights.bin").write_bytes(b"years of work")
    place.symlink_to(tmp_path / "theirs")
    export_transformer(longer, run, place)
    assert tree(place) == second
    assert not place.is_symlink()
    assert tree(tmp_path / "theirs") == {"weights.bin": b"years of work"}
    assert not list(run.rglob("*.partial"))


def test_models_are_told_apart_by_their_weights(world, tmp_path):
    shutil.copytree(world / "model", tmp_path / "a")
    assert run_folder._model_identity(tmp_path / "a") == run_folder._model_identity(world / "model")
    big = tmp_path / "a" / "transformer" / "diffusion_pytorch_model.safetensors"
    with big.open("r+b") as file:
        file.truncate(40 << 20)
    one = run_folder._model_identity(tmp_path / "a")
    with big.open("r+b") as file:
        file.seek((40 << 20) - 1)
        file.write(b"x")
    assert run_folder._model_identity(tmp_path / "a") != one
