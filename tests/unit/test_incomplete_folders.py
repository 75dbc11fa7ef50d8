"""Folders of encoders and autoencoders that lack tensors, or hold others: random numbers never take their place."""

import json
from pathlib import Path

import pytest
import torch
from checkpoint_files import official_state, randomised
from generator_material import saved_wan_animate_2, tiny_wan_animate
from safetensors.torch import load_file, save_file
from tiny import IMAGE_DIM, TEXT_DIM, tiny_image_encoder, tiny_pipeline, tiny_text_encoder, tiny_tokenizer, tiny_vae

from scail2 import load_pipeline
from scail2.checkpoints.encoders import load_image_encoder, load_text_encoder, load_vae
from scail2.cli.app import main
from scail2.errors import InputError
from scail2.loading.conversion import convert
from scail2.synthesis.generators.wan_animate import WanAnimateGenerator
from scail2.synthesis.generators.wan_animate_2 import WanAnimate2Generator

TEXT_TENSOR = "encoder.block.0.layer.0.SelfAttention.q.weight"
IMAGE_TENSOR = "encoder.layers.1.mlp.fc1.weight"
VAE_TENSOR = "decoder.conv_out.weight"


def text_output(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[3, 5, 8, 1]])).last_hidden_state


def image_output(model: torch.nn.Module) -> torch.Tensor:
    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return model(pixels).last_hidden_state


def vae_output(model: torch.nn.Module) -> torch.Tensor:
    latents = torch.randn(1, 16, 1, 2, 2, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return model.decode(latents).sample


KINDS = {
    "text": (tiny_text_encoder, load_text_encoder, text_output, TEXT_TENSOR),
    "image": (tiny_image_encoder, load_image_encoder, image_output, IMAGE_TENSOR),
    "vae": (tiny_vae, load_vae, vae_output, VAE_TENSOR),
}


def change(folder: Path, edit) -> None:
    """Edits the tensors of a folder's safetensors, shard by shard; ``edit`` returns what is to be stored."""
    for file in folder.glob("*.safetensors"):
        save_file(edit(load_file(file)), file, metadata={"format": "pt"})


def without(name: str):
    return lambda state: {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_loads_whole_or_not_at_all(tmp_path, kind, shards):
    make, load, output, tensor = KINDS[kind]
    model = randomised(make(), 1)
    model.save_pretrained(tmp_path, max_shard_size="4KB" if shards else "1GB")
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) is shards
    assert torch.equal(output(load(tmp_path)), output(model))
    change(tmp_path, without(tensor))
    for index in tmp_path.glob("*.index.json"):
        content = json.loads(index.read_text())
        del content["weight_map"][tensor]
        index.write_text(json.dumps(content))
    told = (
        rf"The tensors in {tmp_path} do not fit its configuration: 1 missing: {tensor}; .* download or convert it again"
    )
    with pytest.raises(InputError, match=told):
        load(tmp_path)


def test_a_shard_that_lacks_what_its_index_promises(tmp_path):
    randomised(tiny_text_encoder(), 1).save_pretrained(tmp_path, max_shard_size="1KB")
    change(tmp_path, without(TEXT_TENSOR))
    with pytest.raises(InputError, match=rf"1 missing: {TEXT_TENSOR}"):
        load_text_encoder(tmp_path)


def test_a_tied_embedding_is_stored_once_under_either_name(tmp_path):
    model = randomised(tiny_text_encoder(), 1)
    model.save_pretrained(tmp_path)
    change(
        tmp_path,
        lambda state: without("shared.weight")(state) | {"encoder.embed_tokens.weight": state["shared.weight"]},
    )
    assert torch.equal(text_output(load_text_encoder(tmp_path)), text_output(model))
    change(tmp_path, without("encoder.embed_tokens.weight"))
    with pytest.raises(InputError, match=r"2 missing: encoder.embed_tokens.weight, shared.weight"):
        load_text_encoder(tmp_path)


def test_pytorch_files_are_compared_too(tmp_path):
    model = randomised(tiny_text_encoder(), 1)
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    state = model.state_dict()
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert torch.equal(text_output(load_text_encoder(tmp_path)), text_output(model))
    torch.save(without(TEXT_TENSOR)(state), tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=rf"1 missing: {TEXT_TENSOR}"):
        load_text_encoder(tmp_path)


def test_another_architecture_and_another_number_of_layers(tmp_path):
    text, image = randomised(tiny_text_encoder(), 1), randomised(tiny_image_encoder(), 1)
    text.save_pretrained(tmp_path / "text")
    image.save_pretrained(tmp_path / "image")
    change(tmp_path / "text", lambda _: {name: value.contiguous() for name, value in image.state_dict().items()})
    with pytest.raises(InputError, match=r"13 missing: encoder.block.0.layer.0.SelfAttention.k.weight, .* …; 32 that"):
        load_text_encoder(tmp_path / "text")
    config = tmp_path / "image" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_hidden_layers": 1}))
    with pytest.raises(
        InputError, match=r"configuration: 16 that do not belong to it: encoder.layers.1.layer_norm1.bias"
    ):
        load_image_encoder(tmp_path / "image")


def test_other_networks_may_lie_beside(tmp_path):
    """Files of a whole CLIP hold its text tower, its projections, and the positions that older versions stored."""
    model = randomised(tiny_image_encoder(), 1)
    model.save_pretrained(tmp_path)
    beside = {
        "text_model.final_layer_norm.weight": torch.ones(4),
        "visual_projection.weight": torch.ones(8, IMAGE_DIM),
        "logit_scale": torch.tensor(4.6),
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
    }
    change(tmp_path, lambda state: {f"vision_model.{name}": value for name, value in state.items()} | beside)
    assert torch.equal(image_output(load_image_encoder(tmp_path)), image_output(model))


@pytest.mark.parametrize(
    ("part", "tensor"), [("text_encoder", TEXT_TENSOR), ("image_encoder", IMAGE_TENSOR), ("vae", VAE_TENSOR)]
)
def test_pipelines_are_loaded_whole(tmp_path, part, tensor):
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path)
    load_pipeline(tmp_path)
    change(tmp_path / part, without(tensor))
    with pytest.raises(InputError, match=rf"{part} do not fit its configuration: 1 missing: {tensor}"):
        load_pipeline(tmp_path)
    if part != "vae":
        later = load_pipeline(tmp_path, placement="encoders-first").encoder_source
        with pytest.raises(InputError, match=f"1 missing: {tensor}"), later.text() if "text" in part else later.image():
            pass


@pytest.mark.parametrize("part", ["text_encoder", "image_encoder"])
def test_conversion_takes_no_folder_that_lacks_tensors(tmp_path, part, capsys):
    torch.save(official_state(text_dim=TEXT_DIM, image_dim=IMAGE_DIM), tmp_path / "wan.pth")
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    made = {"vae": tiny_vae(), "text_encoder": tiny_text_encoder(), "image_encoder": tiny_image_encoder()}
    for name, model in made.items():
        model.save_pretrained(tmp_path / name)
    tensor = TEXT_TENSOR if part == "text_encoder" else IMAGE_TENSOR
    change(tmp_path / part, without(tensor))
    given = [f"--{name.replace('_', '-')}={tmp_path / name}" for name in (*made, "tokenizer")]
    words = json.dumps({"num_heads": 2, "image_length": 5})
    (tmp_path / "words.json").write_text(words)
    with pytest.raises(SystemExit) as stopped:
        main(
            [
                "convert",
                str(tmp_path / "wan.pth"),
                *given,
                f"--config={tmp_path / 'words.json'}",
                f"--out={tmp_path / 'out'}",
            ]
        )
    assert stopped.value.code == 2
    assert f"1 missing: {tensor}" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_pipeline_in_another_type_is_made_of_whole_encoders(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "pipe")
    change(tmp_path / "pipe" / "image_encoder", without(IMAGE_TENSOR))
    with pytest.raises(InputError, match=f"1 missing: {IMAGE_TENSOR}"):
        convert(tmp_path / "pipe", tmp_path / "out", pipeline=True, torch_dtype=torch.bfloat16)
    assert not (tmp_path / "out").exists()


def test_generators_are_loaded_whole(tmp_path):
    tiny_wan_animate().save_pretrained(tmp_path / "1")
    saved_wan_animate_2(tmp_path / "2")
    generators = [
        lambda: WanAnimateGenerator(tmp_path / "1", dtype="float32"),
        lambda: WanAnimate2Generator(tmp_path / "2", dtype="float32", compiled=False),
    ]
    for number, generator in enumerate(generators, 1):
        assert generator().pipeline.transformer is not None
        folder = tmp_path / str(number) / "transformer"
        lost = min(load_file(next(folder.glob("*.safetensors"))))
        change(folder, without(lost))
        with pytest.raises(InputError, match=f"1 missing: {lost}"):
            generator().pipeline  # noqa: B018  (loads)
