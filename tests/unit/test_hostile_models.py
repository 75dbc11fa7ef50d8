"""Model folders, indexes and shards that ask for too much or lead outside: refused before anything is built or read."""

import io
import json
import os
import shutil
import socket
import tarfile
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from scail2.checkpoints.adapter_words import own_alpha
from scail2.checkpoints.model_folder import check_component, shards_of
from scail2.checkpoints.tensor_files import open_tensor_file
from scail2.checkpoints.transformer_files import open_transformer
from scail2.data.shards import DamageReport, ShardWriter, find_shards, index_path, read_index
from scail2.errors import InputError
from scail2.files.public.embedded import embedded_model_path
from scail2.loading.by_name import load_pipeline
from scail2.loading.components import load_transformer
from scail2.loading.facts import stored_facts
from scail2.loading.inventory import describe
from scail2.models.transformer import SCAIL2Transformer3DModel
from scail2.request.paths import absolute_lora
from scail2.training.records import TrainingRecord
from scail2.video import VideoReader

NANO = embedded_model_path()


@pytest.fixture
def small(tmp_path) -> Path:
    """A pipeline folder with the embedded model's configurations, linked weights would lead outside, so they are copied."""
    shutil.copytree(NANO, tmp_path / "model")
    return tmp_path / "model"


def change(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


TRANSFORMER = [
    ({"num_layers": 10**9}, "1000000000"),
    ({"num_layers": 10**6}, "1000000 'num_layers', but its weights have only"),
    ({"num_layers": "6"}, "'num_layers' must be a whole number, not '6'"),
    ({"num_layers": -1}, "it must be from 0 to"),
    ({"patch_size": 2}, "'patch_size' must be a list"),
    ({"patch_size": [1, 2]}, "'patch_size' must have 3 entries"),
    ({"patch_size": [1, 2, 10**18]}, "'patch_size' is 1000000000000000000"),
    ({"ffn_dim": 1e6}, "'ffn_dim' must be a whole number"),
    ({"eps": "tiny"}, "'eps' must be a number"),
    ({"windows": 3}, "'windows' is no setting"),
]


@pytest.mark.parametrize(("wrong", "told"), TRANSFORMER, ids=[str(wrong) for wrong, _ in TRANSFORMER])
def test_configurations_of_a_transformer_are_checked_before_it_is_built(small, wrong, told):
    change(small / "transformer" / "config.json", **wrong)
    for load in (load_pipeline, lambda folder: load_transformer(folder / "transformer")):
        with pytest.raises(InputError, match=told):
            load(small)


AUTOENCODER = [
    ({"scale_factor_spatial": 10**6}, "'image_basis' a tensor of shape"),
    ({"z_dim": 65, "latents_mean": None, "latents_std": None}, "'image_basis' a tensor of shape"),
    ({"decoder_blocks": 10**6}, "1000000 'decoder_blocks'"),
    ({"latents_mean": {"a": 1}}, "'latents_mean' must be a list"),
    ({"latents_mean": ["a"] * 64}, r"'latents_mean\[0\]' must be a number"),
    ({"latents_mean": [0.5] * 63}, "63 numbers as 'latents_mean' of latents with 64 channels"),
    ({"latents_std": []}, "0 numbers as 'latents_std' of latents with 64 channels"),
]


@pytest.mark.parametrize(("wrong", "told"), AUTOENCODER, ids=[str(wrong) for wrong, _ in AUTOENCODER])
def test_configurations_of_an_autoencoder_are_checked_before_it_is_built(small, wrong, told):
    change(small / "vae" / "config.json", **wrong)
    with pytest.raises(InputError, match=told):
        load_pipeline(small)


PLANNED = [
    ({"z_dim": 32, "latents_mean": None, "latents_std": None}, r"\(32, 192\), but in its weights it is of shape"),
    ({"scale_factor_spatial": 4}, r"\(64, 48\), but in its weights it is of shape \(64, 192\)"),
    ({"refiner_widths": [48, 96]}, "'refiner_widths' of 2 levels and 'refiner_blocks' of 3"),
    ({"latents_std": [1.0, 2.0]}, "2 numbers as 'latents_std' of latents with 64 channels"),
]


@pytest.mark.parametrize(("wrong", "told"), PLANNED, ids=[str(wrong) for wrong, _ in PLANNED])
def test_a_plan_sees_what_of_an_autoencoder_cannot_be(small, wrong, told):
    change(small / "vae" / "config.json", **wrong)
    with pytest.raises(InputError, match=told):
        stored_facts(small, name="small")


def test_an_autoencoder_s_channels_need_not_be_said(small):
    config = json.loads((small / "vae" / "config.json").read_text())
    assert config.pop("z_dim") == 64
    (small / "vae" / "config.json").write_text(json.dumps(config))
    assert stored_facts(small, name="small").shape.autoencoder.z_dim == 64
    assert load_pipeline(small).vae.config.z_dim == 64


def test_layers_of_other_peoples_classes_are_counted_too(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"num_hidden_layers": 2}}))
    with pytest.raises(InputError, match="asks for 2 'num_hidden_layers', but its weights have only 1"):
        check_component(tmp_path)


def test_block_numbers_in_a_file_build_no_more_blocks_than_it_has_tensors(small):
    path = small / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    loose = small.parent / "loose.safetensors"
    save_file(tensors | {"blocks.999999999.scale_shift_table": torch.zeros(1, 6, 512)}, loose)
    with pytest.raises(InputError, match="1000000000"):
        open_transformer(SCAIL2Transformer3DModel, loose, {"num_heads": 8})


INDEX = [
    ({"model_index.json": []}, "must be a table"),
    ({"model_index.json": {"vae": [1, 2]}}, r"'vae\[0\]' must be text"),
    ({"model_index.json": {"vae": ["a"]}}, "'vae' must have 2 entries"),
    ({"model_index.json": {"../../etc": ["a", "b"]}}, "names the component '../../etc'"),
]


@pytest.mark.parametrize(("files", "told"), INDEX, ids=[told for _, told in INDEX])
def test_model_indexes_are_typed(small, files, told):
    for name, content in files.items():
        (small / name).write_text(json.dumps(content))
    for read in (load_pipeline, describe):
        with pytest.raises(InputError, match=told):
            read(small)


# ---- pointing outside -----------------------------------------------------------------------------------------------


@pytest.fixture
def secret(tmp_path) -> Path:
    (tmp_path / "outside").mkdir()
    save_file({"secret": torch.arange(3.0)}, tmp_path / "outside" / "secret.safetensors")
    (tmp_path / "folder").mkdir()
    return tmp_path / "outside" / "secret.safetensors"


def write_index(folder: Path, weight_map: object) -> Path:
    path = folder / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


@pytest.mark.parametrize("how", ["../outside/secret.safetensors", "absolute", "link", "folder link", "a/b.safetensors"])
def test_indexes_that_name_files_elsewhere_are_refused(secret, how):
    folder = secret.parent.parent / "folder"
    name = str(secret) if how == "absolute" else how
    if how == "link":
        name = "inside.safetensors"
        (folder / name).symlink_to(secret)
    elif how == "folder link":
        (folder / "sub").symlink_to(secret.parent)
        name = "sub/secret.safetensors"
    write_index(folder, {"secret": name})
    for read in (open_tensor_file, check_component, load_transformer):
        with pytest.raises(InputError, match=r"is not a file beside it|leads out of its folder"):
            read(folder)


def test_links_inside_the_folder_and_those_of_the_hub_cache_are_read(secret):
    folder = secret.parent.parent / "folder"
    shutil.copy(secret, folder / "true.safetensors")
    (folder / "name.safetensors").symlink_to("true.safetensors")
    assert open_tensor_file(write_index(folder, {"secret": "name.safetensors"})).read("secret").tolist() == [0, 1, 2]
    snapshot = secret.parent.parent / "models--a--b" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    blobs = snapshot.parent.parent / "blobs"
    blobs.mkdir()
    shutil.copy(secret, blobs / "0123")
    (snapshot / "x.safetensors").symlink_to("../../blobs/0123")
    assert shards_of(write_index(snapshot, {"secret": "x.safetensors"})) == [snapshot / "x.safetensors"]


WRONG_INDEX = [[], 3, {"a": 1}, {"a": ["b"]}, {"a": ""}, {"a": ".."}, {"a": "absent.safetensors"}, {"a": "x\0y"}, None]


@pytest.mark.parametrize("weight_map", WRONG_INDEX, ids=[str(each) for each in WRONG_INDEX])
def test_wrong_indexes_are_refused(tmp_path, weight_map):
    with pytest.raises(InputError, match=r"index\.json"):
        open_tensor_file(write_index(tmp_path, weight_map))


def write_tar(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for each in members:
            tar.addfile(each, io.BytesIO(b"{}") if each.isfile() else None)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, 2 if kind == tarfile.REGTYPE else 0
    return info


OUTSIDE = [
    member("../../secret.json"),
    member("/etc/secret.json"),
    member("a/../../b.json"),
    member("0.safetensors", tarfile.SYMTYPE, "/etc/passwd"),
    member("0.safetensors", tarfile.LNKTYPE, "0.json"),
    member("0.safetensors", tarfile.CHRTYPE),
]


@pytest.mark.parametrize("wrong", OUTSIDE, ids=lambda info: f"{info.name} {info.type}")
def test_shards_whose_members_lead_outside_are_refused(tmp_path, wrong):
    path = write_tar(tmp_path / "shard.tar", member("0.json"), wrong)
    with pytest.raises(InputError, match=r"leads out of its folder|is a link or device"):
        read_index(path, DamageReport())


def test_shards_of_a_folder_may_not_be_links_to_elsewhere(tmp_path):
    (tmp_path / "folder").mkdir()
    path = write_tar(tmp_path / "shard.tar", member("0.json"))
    (tmp_path / "folder" / "shard.tar").symlink_to(path)
    with pytest.raises(InputError, match="leads out of its folder"):
        find_shards(tmp_path / "folder")
    assert find_shards(path) == [path]


def test_members_that_an_index_places_outside_its_shard_are_found_by_scanning_instead(tmp_path):
    with ShardWriter(tmp_path / "shard.tar") as writer:
        writer.write("0", {"a": 1}, {"bin": b"payload"})
    index = json.loads(index_path(tmp_path / "shard.tar").read_text())
    for place in ([-512, 7], [512, 10**9], [512], ["a", "b"], None):
        index["samples"][0]["members"]["bin"] = place
        index_path(tmp_path / "shard.tar").write_text(json.dumps(index))
        report = DamageReport()
        (record,) = read_index(tmp_path / "shard.tar", report)
        assert record.read("bin") == b"payload"
        assert list(report.shards) == ["shard.index.json"]


def test_the_number_of_members_is_limited_and_the_limit_can_be_raised(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "many.tar", *(member(f"{number}.json") for number in range(30)))
    monkeypatch.setenv("SCAIL2_MAX_MEMBERS", "20")
    with pytest.raises(InputError, match=r"many\.tar: 21 members are more than the 20 allowed.*SCAIL2_MAX_MEMBERS"):
        read_index(path, DamageReport())
    monkeypatch.setenv("SCAIL2_MAX_MEMBERS", "30")
    report = DamageReport()
    assert read_index(path, report) == []
    assert len(report.samples) == 30  # JSON alone is no sample


def test_patterns_of_a_lora_that_could_match_for_ever_are_not_tried():
    assert own_alpha({"blocks.0.attn1": 8.0, r"^blocks\.1\.attn1$": 4.0}, 2.0, "blocks.1.attn1") == 4.0
    with pytest.raises(InputError, match="no module's name"):
        own_alpha({"(a+)+$": 1.0}, 2.0, "a" * 64 + "!")


def test_a_model_that_is_a_pipe_or_device_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="is a pipe or device"):
        open_tensor_file(tmp_path / "model.safetensors")


def test_an_animation_may_not_unpack_to_more_pixels_than_allowed(tmp_path, monkeypatch):
    path = tmp_path / "bomb.gif"
    frames = [Image.new("L", (1024, 1024), 255 * (number % 2)) for number in range(8)]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)
    assert path.stat().st_size < 100_000
    assert len(VideoReader(path)) == 8
    monkeypatch.setenv("SCAIL2_MAX_PIXELS", str(8 * 2**20 - 1))
    with pytest.raises(InputError, match=r"bomb\.gif \(8 pictures of 1024×1024\): 8,388,608 pixels are more than"):
        VideoReader(path)


@pytest.mark.parametrize("strength", ["1e308", "nan", "-inf", "1001"])
def test_strengths_that_no_lora_has_are_refused(strength):
    with pytest.raises(InputError, match="must be a number from -1000 to 1000"):
        absolute_lora(f"a.safetensors:{strength}")
    assert absolute_lora("/a.safetensors:-2.5") == "/a.safetensors:-2.5"


def test_saved_models_do_not_tell_where_they_came_from(small, tmp_path):
    load_pipeline(small).save_pretrained(tmp_path / "saved")
    for path in (tmp_path / "saved").rglob("*.json"):
        assert str(tmp_path) not in path.read_text()
        assert "_name_or_path" not in path.read_text()
    assert load_pipeline(tmp_path / "saved").config.native_width == 128


def test_event_files_do_not_name_the_machine(tmp_path):
    pytest.importorskip("tensorboard")
    record = TrainingRecord(tmp_path, from_step=0)
    record.write(1, loss=0.5)
    record.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    assert ".host." in path.name
    assert socket.gethostname() not in path.name
