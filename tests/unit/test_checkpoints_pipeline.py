"""Loose public files -> one diffusers folder -> a pipeline; and the commands around it."""

import json
import re
from pathlib import Path

import pytest
import torch
from checkpoint_files import (
    WORDS,
    official_state,
    published_clip,
    published_umt5,
    published_vae,
    randomised,
    save_fp8,
    save_training,
)
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file
from tiny import bare_pipeline, patch_vae, tiny_tokenizer
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from scail2.checkpoints.encoders import load_vae
from scail2.checkpoints.official_names import to_diffusers_name
from scail2.checkpoints.tensor_files import open_tensor_file
from scail2.cli.app import main
from scail2.errors import InputError
from scail2.loading.by_name import load_pipeline
from scail2.loading.component_files import FileKind, find_components, kind_of
from scail2.loading.components import load_autoencoder
from scail2.loading.conversion import convert
from scail2.loading.inventory import describe
from scail2.loading.places import parse_lora


@pytest.fixture(scope="module")
def models() -> dict[str, torch.nn.Module]:
    """Small encoders and VAE of the real classes; CLIP is 80 wide, one head, so that its file shows its heads."""
    text = UMT5Config(
        vocab_size=9, d_model=32, d_kv=8, d_ff=16, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    image = CLIPVisionConfig(
        hidden_size=80,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=28,
        patch_size=14,
        hidden_act="gelu",
    )
    return {
        "vae": randomised(AutoencoderKLWan(base_dim=4, z_dim=16), 1),
        "text_encoder": randomised(UMT5EncoderModel(text), 2),
        "image_encoder": randomised(CLIPVisionModel(image), 3),
    }


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return official_state(text_dim=32, image_dim=80)


@pytest.fixture
def repository(models, state, tmp_path) -> Path:
    """An official repository: every file under its public name."""
    folder = tmp_path / "SCAIL-2"
    (folder / "model" / "1").mkdir(parents=True)
    save_file(state, folder / "scail2_14b.safetensors")
    (folder / "config.json").write_text(json.dumps({"dim": 64, "num_layers": 2, "model_type": "i2v", **WORDS}))
    torch.save(published_vae(models["vae"]), folder / "Wan2.1_VAE.pth")
    torch.save(published_umt5(models["text_encoder"]), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    clip = "models_clip_open-clip-xlm-roberta-large-vit-huge-14-onlyvisual.pth"
    torch.save(published_clip(models["image_encoder"]), folder / clip)
    tiny_tokenizer().save_pretrained(folder / "google" / "umt5-xxl")
    return folder


def run(*arguments: str) -> None:
    """The command, ending well."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 0


def assert_components(pipe, models, state) -> None:
    for name, value in state.items():
        assert torch.equal(pipe.transformer.get_parameter(to_diffusers_name(name)), value), name
    for component, model in models.items():
        loaded = getattr(pipe, component).state_dict()
        for name, value in model.state_dict().items():
            assert torch.equal(loaded[name], value), f"{component} {name}"
    assert pipe.tokenizer("a puppet dances")["input_ids"] == [3, 4, 5, 1]


# ---- whole pipelines ----------------------------------------------------------------------------------------------


def test_one_command_makes_a_pipeline_folder_of_an_official_repository(repository, models, state, tmp_path, capsys):
    run("convert", str(repository), "--out", str(tmp_path / "out"))
    assert "transformer from" in capsys.readouterr().out
    assert_components(load_pipeline(tmp_path / "out"), models, state)
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]
    found = describe(tmp_path / "out")
    assert found.kind == "pipeline"
    assert found.components["transformer"].startswith("SCAIL2Transformer3DModel, 0.2 million parameters")
    assert found.components["scheduler"] == "UniPCMultistepScheduler"


def test_a_repository_is_a_model_without_converting_it(repository, models, state):
    pipe = load_pipeline(repository)
    assert_components(pipe, models, state)
    assert type(pipe.scheduler).__name__ == "UniPCMultistepScheduler"
    assert_components(load_pipeline(repository / "scail2_14b.safetensors"), models, state)


def test_the_training_branchs_repository_keeps_files_in_folders(repository, models, state):
    (repository / "scail2_14b.safetensors").unlink()
    save_training(state, repository / "model" / "1" / "fsdp2_rank_0000_checkpoint.pt")
    (repository / "umt5-xxl").mkdir()
    (repository / "models_t5_umt5-xxl-enc-bf16.pth").rename(repository / "umt5-xxl" / "models_t5_umt5-xxl-enc-bf16.pth")
    found = find_components(repository)
    assert found.transformer.name == "fsdp2_rank_0000_checkpoint.pt"
    assert found.text_encoder.parent.name == "umt5-xxl"
    with pytest.raises(InputError, match="number of heads"):
        load_pipeline(repository)  # the published configuration lies beside another file


def test_comfy_folders_and_files_given_by_name(models, state, tmp_path):
    comfy = tmp_path / "models"
    for name in ("diffusion_models", "vae", "text_encoders", "clip_vision"):
        (comfy / name).mkdir(parents=True)
    transformer = comfy / "diffusion_models" / "scail2_fp8_scaled.safetensors"
    save_fp8(state, transformer, style="scale_weight")
    save_file(published_vae(models["vae"]), comfy / "vae" / "wan_2.1_vae.safetensors")
    save_file({"first_stage_model.x": torch.zeros(2)}, comfy / "vae" / "another.safetensors")
    vision = {f"vision_model.{name}": value for name, value in models["image_encoder"].state_dict().items()}
    save_file(vision, comfy / "clip_vision" / "clip_vision_h.safetensors")
    found = find_components(transformer)
    assert (found.vae.name, found.text_encoder) == ("wan_2.1_vae.safetensors", None)
    assert find_components(comfy) == found
    config = tmp_path / "config.json"
    config.write_text(json.dumps(WORDS))
    arguments = ["convert", str(transformer), "--pipeline", "--config", str(config), "--dtype", "bfloat16"]
    run(*arguments, "--out", str(tmp_path / "out"))
    pipe = load_pipeline(tmp_path / "out")
    assert pipe.transformer.patch_embedding.weight.dtype == torch.bfloat16
    assert pipe.vae.dtype == torch.float32
    assert pipe.text_encoder is None
    torch.save(published_umt5(models["text_encoder"]), comfy / "text_encoders" / "umt5.pth")
    with pytest.raises(InputError, match="comes without a tokenizer"):
        convert(transformer, tmp_path / "again", config=WORDS, pipeline=True)
    assert not (tmp_path / "again").exists()
    save_file(published_vae(models["vae"]), comfy / "vae" / "copy.safetensors")
    with pytest.raises(InputError, match=r"several files for the vae .*copy.safetensors.*wan_2.1_vae"):
        find_components(transformer)
    assert find_components(transformer, vae=comfy / "vae" / "copy.safetensors").vae.name == "copy.safetensors"


def test_a_folder_with_the_small_models_autoencoder_is_taken_as_what_it_is(state, tmp_path):
    save_file(state, tmp_path / "scail2.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(WORDS))
    vae = patch_vae()
    vae.save_pretrained(tmp_path / "small")
    given = ["convert", str(tmp_path / "scail2.safetensors"), "--config", str(tmp_path / "config.json")]
    run(*given, "--vae", str(tmp_path / "small"), "--out", str(tmp_path / "out"))
    loaded = load_pipeline(tmp_path / "out").vae
    assert type(loaded) is type(vae)
    video = torch.rand(1, 3, 5, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    assert torch.equal(loaded.encode(video).latent_dist.mode(), vae.encode(video).latent_dist.mode())
    # Converting lets go of the weights it has written; what is loaded elsewhere keeps its own.
    assert torch.equal(load_autoencoder(tmp_path / "small").image_basis, vae.image_basis)
    with pytest.raises(InputError, match=r"small holds 'AutoencoderPatchTransform', not the Wan 2\.1 autoencoder"):
        load_vae(tmp_path / "small")
    for name in ("PixelRefiner", "CLIPVisionModel"):
        config = json.loads((tmp_path / "small" / "config.json").read_text()) | {"_class_name": name}
        (tmp_path / "small" / "config.json").write_text(json.dumps(config))
        with pytest.raises(InputError, match=f"'{name}' is no autoencoder class"):
            convert(tmp_path / "scail2.safetensors", tmp_path / "no", components={"vae": tmp_path / "small"})


def test_comfys_packed_tokenizer(models, state, tmp_path):
    import sentencepiece

    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(["a puppet dances in the rain", "the puppet jumps", "rain falls on the stage"] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=40,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    packed = (tmp_path / "spiece.model").read_bytes()
    text = {n: v.clone() for n, v in models["text_encoder"].state_dict().items() if "embed_tokens" not in n}
    text["spiece_model"] = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
    save_file(text, tmp_path / "umt5_xxl_fp16.safetensors")
    save_file(state, tmp_path / "scail2.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"dim": 64, **WORDS}))
    with pytest.raises(InputError, match=r"no VAE near .*scail2.safetensors"):
        load_pipeline(tmp_path)
    torch.save(published_vae(models["vae"]), tmp_path / "Wan2.1_VAE.pth")
    pipe = load_pipeline(tmp_path / "scail2.safetensors")
    expected = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    assert pipe.tokenizer("the puppet")["input_ids"] == [*expected.encode("the puppet"), 1]


# ---- single files, other directions -------------------------------------------------------------------------------


def test_each_public_file_alone_becomes_its_class(repository, models, tmp_path):
    classes = {
        "Wan2.1_VAE.pth": "AutoencoderKLWan",
        "models_t5_umt5-xxl-enc-bf16.pth": "umt5",
        "models_clip_open-clip-xlm-roberta-large-vit-huge-14-onlyvisual.pth": "clip",
        "scail2_14b.safetensors": "SCAIL2Transformer3DModel",
    }
    for index, (name, expected) in enumerate(classes.items()):
        convert(repository / name, tmp_path / str(index))
        assert expected in (tmp_path / str(index) / "config.json").read_text()
    save_file({"x.lora_down.weight": torch.ones(1, 2)}, tmp_path / "lora.safetensors")
    with pytest.raises(InputError, match="is a LoRA"):
        convert(tmp_path / "lora.safetensors", tmp_path / "lora")
    with pytest.raises(InputError, match="exists already"):
        convert(repository / "Wan2.1_VAE.pth", tmp_path / "0")
    with pytest.raises(InputError, match="choose one of diffusers, official, comfy"):
        convert(repository, tmp_path / "x", to="onnx")


def test_back_to_published_names_from_a_pipeline_folder(repository, state, tmp_path):
    convert(repository, tmp_path / "pipe")
    for to in ("official", "comfy"):
        convert(tmp_path / "pipe", tmp_path / f"{to}.safetensors", to=to, torch_dtype=torch.float32)
        written = load_file(tmp_path / f"{to}.safetensors")
        assert written.keys() == state.keys()
        assert all(torch.equal(written[name], value) for name, value in state.items())


def test_a_pipeline_folder_becomes_one_in_another_type(repository, models, state, tmp_path):
    convert(repository, tmp_path / "pipe")
    (tmp_path / "pipe" / "magnitudes.json").write_text("{}")
    for name, dtype in (("same", None), ("half", torch.bfloat16)):
        lines = convert(tmp_path / "pipe", tmp_path / name, pipeline=True, torch_dtype=dtype)
        assert lines[-1] == f"transformer from {tmp_path / 'pipe' / 'transformer'} (diffusers)"
        pipe = load_pipeline(tmp_path / name)
        assert {pipe.transformer.dtype, pipe.text_encoder.dtype, pipe.image_encoder.dtype} == {dtype or torch.float32}
        assert pipe.vae.dtype is torch.float32
        for key, value in models["vae"].state_dict().items():
            assert torch.equal(pipe.vae.state_dict()[key], value)
        words = (tmp_path / "pipe" / "model_index.json").read_text()
        assert (tmp_path / name / "model_index.json").read_text() == words
        assert (tmp_path / name / "magnitudes.json").read_text() == "{}"
    with pytest.raises(InputError, match="is a whole pipeline already: leave --vae out"):
        convert(tmp_path / "pipe", tmp_path / "x", pipeline=True, components={"vae": repository / "Wan2.1_VAE.pth"})
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("to", ["official", "comfy"])
def test_published_names_have_no_pipelines(repository, tmp_path, to):
    out, vae = tmp_path / "out.safetensors", repository / "Wan2.1_VAE.pth"
    with pytest.raises(InputError, match=rf"--to {to} writes the transformer alone: leave --pipeline, --vae out"):
        convert(repository, out, to=to, pipeline=True, components={"vae": vae, "text_encoder": None})
    assert not out.exists()


def test_kinds_are_told_by_content(repository):
    kinds = {path.name: kind_of(open_tensor_file(path)) for path in repository.glob("*.*") if path.suffix != ".json"}
    assert {name.split("_")[0] + name[-4:]: kind for name, kind in kinds.items()} == {
        "scail2sors": FileKind.TRANSFORMER,
        "Wan2.1.pth": FileKind.VAE,
    } | {"models.pth": kinds["models_t5_umt5-xxl-enc-bf16.pth"]}
    assert sorted(kinds.values()) == ["image_encoder", "text_encoder", "transformer", "vae"]


# ---- names, commands ----------------------------------------------------------------------------------------------


def test_model_names(tmp_path):
    with pytest.raises(InputError, match="write hub:someone/model"):
        load_pipeline("someone/model")
    with pytest.raises(InputError, match=r"There is no model nothing\.safetensors"):
        load_pipeline("nothing.safetensors")
    bare_pipeline().save_pretrained(tmp_path / "small")
    with pytest.raises(InputError, match="name a pipeline folder"):
        load_pipeline(tmp_path / "small" / "transformer")
    lora = {"blocks.0.self_attn.q.diff_b": torch.ones(24)}
    save_file(lora, tmp_path / "a.safetensors")
    before = load_pipeline(tmp_path / "small").transformer.blocks[0].attn1.to_q.bias
    after = load_pipeline(tmp_path / "small", loras=[f"{tmp_path}/a.safetensors:0.5"]).transformer
    assert torch.allclose(after.blocks[0].attn1.to_q.bias, before + 0.5)
    assert parse_lora(tmp_path / "a.safetensors")[1] == 1.0
    assert parse_lora((tmp_path / "a.safetensors", 2))[1] == 2.0
    with pytest.raises(InputError, match="no LoRA file"):
        parse_lora("absent.safetensors:0.5")
    with pytest.raises(InputError, match=r"no LoRA file .*dpo:much. A strength .* comes nano-dpo"):
        parse_lora("nano-dpo:much")


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("gpu", "no kind of device called 'gpu'"),
        ("cuda:99", "no device cuda:99 on this machine: use cpu"),
        ("cpu:1", "no device cpu:1"),
        ("meta", "no device meta"),
        ("xla:0", "no device xla:0"),
    ],
)
def test_a_device_that_is_not_there_is_refused_before_anything_is_loaded(device, said, monkeypatch):
    monkeypatch.setattr("scail2.loading.by_name._load_folder", None)
    with pytest.raises(InputError, match=said) as refused:
        load_pipeline(device=device)
    assert "\n" not in str(refused.value)
    monkeypatch.undo()
    assert load_pipeline(device=torch.device("cpu")).device.type == "cpu"


def test_cuda_is_refused_where_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match="PyTorch finds no device cuda on this machine: use cpu"):
        load_pipeline(tmp_path, device="cuda")


def test_info_and_models(repository, state, tmp_path, capsys):
    save_training(state, tmp_path / "train.pt")
    run("info", str(tmp_path / "train.pt"), "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["dialect"], found["complete"]) == ("transformer", "training", None)
    assert found["parameters"] == sum(value.numel() for value in state.values())
    assert "number of heads" in found["problem"]
    run("info", str(repository / "scail2_14b.safetensors"))
    output = capsys.readouterr().out
    assert "transformer (official)" in output
    assert "exactly those of its configuration" in output
    run("info", "nano-dpo")
    output = capsys.readouterr().out
    assert "lora" in output
    assert re.search(r"rank +20", output)
    assert "1.9 MiB" in output
    run("models")
    output = capsys.readouterr().out
    assert "Embedded model" in output
    assert "quality" in output


def test_bad_input_ends_in_one_sentence_and_code_2(tmp_path, capsys):
    for arguments in (
        ["info", str(tmp_path / "absent.safetensors")],
        ["convert", str(tmp_path / "absent"), "--out", str(tmp_path / "o")],
        ["convert", str(tmp_path), "--out", str(tmp_path / "o"), "--dtype", "int8"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith("error: ")
