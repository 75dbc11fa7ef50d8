"""What is known of a model before it is loaded: from true headers of full-size files, and from small ones by value."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sparse_models
import torch
from checkpoint_files import (
    WORDS,
    official_state,
    published_clip,
    published_umt5,
    published_vae,
    randomised,
    save_fp8,
    save_gguf,
    save_training,
)
from diffusers import AutoencoderKLWan
from run_material import make_material, make_request, save_lora, save_model
from safetensors.torch import load_file, save_file
from tiny import bare_transformer, tiny_tokenizer, tiny_transformer
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from scail2.budget.machines import named_machine
from scail2.budget.shapes import TransformerShape, block_shapes, parameter_shapes
from scail2.cli.app import main
from scail2.cli.plan import budget_rows
from scail2.errors import InputError
from scail2.loading.by_name import load_pipeline
from scail2.loading.conversion import convert
from scail2.loading.facts import FROM_FILES, stored_facts
from scail2.request.placement import Placement, PlacementKind, WeightStorage
from scail2.runs import RunDirectory
from scail2.runs.loaded_model import fingerprint
from scail2.runs.masking import RefusedPlanError
from scail2.runs.model import ModelHandle, read_facts
from scail2.runs.sealed import write_sealed

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "model",
    [
        tiny_transformer,
        bare_transformer,
        lambda: tiny_transformer(text_dim=None),
        lambda: tiny_transformer(image_dim=None, cross_attn_norm=False),
    ],
)
def test_parameters_are_those_of_the_network(model):
    network = model()
    known = {name: value for name, value in network.config.items() if name in TransformerShape.__dataclass_fields__}
    shape = TransformerShape(**known)
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert parameter_shapes(shape) == wanted
    assert shape.parameters == sum(value.numel() for value in network.parameters())
    assert shape.block_parameters == sum(value.numel() for value in network.blocks[0].parameters())
    assert block_shapes(shape).keys() == dict(network.blocks[0].named_parameters()).keys()


@pytest.mark.parametrize(
    ("make", "nbytes", "form"),
    [
        (sparse_models.official, 32.79e9, "bfloat16"),
        (sparse_models.sharded, 32.79e9, "bfloat16"),
        (sparse_models.comfy_fp8, 16.64e9, "float8_e4m3fn"),
        (sparse_models.gguf_q4, 10.07e9, "GGUF"),
        (sparse_models.pickled, 65.58e9, "float32"),
    ],
)
def test_the_published_14b_is_known_by_its_headers(tmp_path, make, nbytes, form):
    path = make(tmp_path)
    sparse_models.write_companions(tmp_path)
    facts = stored_facts(path, name="14b")
    weights = facts.shape.transformer.weights
    assert weights.parameters == pytest.approx(16_395_544_384, abs=1000)
    assert weights.nbytes == pytest.approx(nbytes, rel=1e-3)
    assert weights.format == form
    assert replace(facts.shape.transformer, weights=TransformerShape().weights) == TransformerShape()
    assert (facts.size_step, facts.native_size, facts.largest_size) == ((32, 32), (512, 896), (1920, 1920))
    assert (facts.segment_frame_length, facts.prev_segment_conditioning_frames, facts.takes_text) == (81, 5, True)
    assert facts.shape.text_encoder.weights.parameters == 5_680_910_336
    assert facts.shape.image_encoder.num_attention_heads == 16
    assert facts.shape.autoencoder.weights.parameters == 126_892_531


def test_a_plan_of_30_gigabytes_with_given_masks_needs_neither_torch_nor_memory(tmp_path):
    model = sparse_models.official(tmp_path)
    sparse_models.write_companions(tmp_path)
    job = make_material(tmp_path / "job", frames=9)
    command = ["plan", "--model", model, "--json", "--run-dir", tmp_path / "film.run", "--device", "cpu"]
    for name in ("reference", "driving"):
        command += [f"--{name}", job[name], f"--{name}-mask", job[f"{name}_mask"][0]]
    code = (
        "import re, sys\n"
        "from scail2.cli.app import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n"
        "    heavy = [name for name in ('torch', 'diffusers', 'transformers', 'accelerate') if name in sys.modules]\n"
        "    used = re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())\n"
        "    print(heavy, int(used[1]) // 1024, file=sys.stderr)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    heavy, _, used = done.stderr.strip().splitlines()[-1].rpartition(" ")
    assert heavy == "[]"
    assert int(used) <= 600  # MiB
    plan = json.loads(done.stdout)
    assert (plan["width"], plan["height"], len(plan["segments"])) == (672, 672, 1)
    assert read_facts(tmp_path / "film.run").fingerprint.startswith(FROM_FILES)


def test_a_job_that_no_placement_fits_is_refused_with_a_plan_to_look_at(tmp_path):
    model = sparse_models.official(tmp_path)
    sparse_models.write_companions(tmp_path)
    request = make_request(tmp_path / "job", frames=9, model=str(model), height=1600, width=1600, device="cpu")
    run = RunDirectory.create(tmp_path / "film.run", request)
    with pytest.raises(RefusedPlanError, match=r"does not fit a card of 4 GB .* What would fit: ") as refused:
        run.plan(machine=named_machine(None, 4))
    assert not (tmp_path / "film.run" / "masks").exists(), "nobody looks for characters in vain"
    assert refused.value.plan["preflight"]["facts"] == {}
    budget = refused.value.plan["budget"]
    assert (budget["fits"], budget["memory_gib"]) == (False, 4)
    assert budget["needs"]["placement"]["vae_tiled"]
    assert f"even as {Placement(**placed(budget))} (" in dict(budget_rows(budget))["needs"]
    run.plan(machine=named_machine("H200", None))


def placed(budget: dict) -> dict:
    values = budget["needs"]["placement"]
    return values | {"kind": PlacementKind(values["kind"]), "storage": WeightStorage(values["storage"])}


# ---- identity -------------------------------------------------------------------------------------------------------


def small_repository(folder: Path, state: dict) -> Path:
    """A transformer of small size with everything beside it, under public names."""
    folder.mkdir()
    text = UMT5Config(
        vocab_size=9, d_model=32, d_kv=8, d_ff=16, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    sizes = {"hidden_size": 80, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 1}
    image = CLIPVisionConfig(**sizes, image_size=28, patch_size=14, hidden_act="gelu")
    save_file(state, folder / "scail2.safetensors")
    (folder / "config.json").write_text(json.dumps({"dim": 64, "num_layers": 2, "model_type": "i2v", **WORDS}))
    torch.save(published_vae(randomised(AutoencoderKLWan(base_dim=4, z_dim=16), 1)), folder / "Wan2.1_VAE.pth")
    torch.save(published_umt5(randomised(UMT5EncoderModel(text), 2)), folder / "umt5.pth")
    torch.save(published_clip(randomised(CLIPVisionModel(image), 3)), folder / "clip.pth")
    tiny_tokenizer().save_pretrained(folder / "google" / "umt5-xxl")
    return folder


def known(path: Path, **how) -> str:
    return stored_facts(path, name="small", **how).fingerprint


def test_a_model_is_the_same_however_it_is_stored_and_another_one_is_not(tmp_path):
    state = official_state(text_dim=32, image_dim=80)
    folder = small_repository(tmp_path / "a", state)
    convert(folder, tmp_path / "converted")
    first = known(folder)
    assert known(tmp_path / "converted") == first
    (folder / "scail2.safetensors").unlink()
    save_training(state, folder / "scail2.pt")
    assert known(folder) == first
    assert known(folder, precision="bfloat16") != first
    (folder / "scail2.pt").unlink()
    save_fp8(state, folder / "scail2.safetensors", style="rows")
    rows = known(folder)
    (folder / "scail2.safetensors").unlink()
    save_gguf(state, folder / "scail2.gguf", "Q8_0")
    blocks = known(folder)
    save_gguf(state, folder / "scail2.gguf", "Q8_0", flatten_convolutions=True)
    assert known(folder) == blocks
    save_gguf(state, folder / "scail2.gguf", "F32", flatten_convolutions=True)
    assert known(folder) == first
    (folder / "scail2.gguf").unlink()
    state["blocks.1.ffn.2.bias"] = state["blocks.1.ffn.2.bias"] + 1
    save_file(state, folder / "scail2.safetensors")
    assert len({first, rows, blocks, known(folder)}) == 4


def test_a_lora_s_fingerprint_has_what_is_noted_beside_it(tmp_path):
    """peft notes alpha in a file of its own; what is added is the product times alpha over rank."""
    model, lora = save_model(tmp_path / "model"), save_lora(tmp_path / "adapter_model.safetensors")
    request = make_request(tmp_path, frames=9, model=str(model), lora=(str(lora),), device="cpu")
    plain = known(model, loras=[(lora, 1.0)])
    found = {}
    for alpha in (1, 8):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": alpha, "peft_type": "LORA"}))
        found[alpha] = known(model, loras=[(lora, 1.0)])
        if alpha == 1:
            noted = ModelHandle(request).facts(tmp_path).fingerprint
    assert len({plain, *found.values()}) == 3
    handle = ModelHandle(request, folder=tmp_path)
    assert not handle.unchanged_since(tmp_path)
    assert handle.facts(tmp_path).fingerprint != noted
    save_file(load_file(lora), lora, metadata={"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 8})})
    assert known(model, loras=[(lora, 1.0)]) == found[8], "the same words, noted in the header"


def test_what_does_not_fit_is_told_without_loading_it(tmp_path):
    state = official_state(text_dim=32, image_dim=80)
    folder = small_repository(tmp_path / "a", state)
    (folder / "umt5.pth").rename(folder / "elsewhere")
    del state["blocks.1.self_attn.q.weight"]
    save_file(state, folder / "scail2.safetensors")
    with pytest.raises(InputError, match=r"1 missing: blocks.1.self_attn.q.weight"):
        stored_facts(folder, name="small")
    (folder / "Wan2.1_VAE.pth").unlink()
    with pytest.raises(InputError, match="There is no VAE near"):
        stored_facts(folder, name="small")


def test_a_run_of_an_earlier_version_knows_its_model_again(tmp_path):
    """Earlier versions noted a hash of the loaded weights; its segments are keyed by it and stay."""
    model = save_model(tmp_path / "model")
    request = make_request(tmp_path, frames=9, num_inference_steps=1, model=str(model), device="cpu")
    run = RunDirectory.create(tmp_path / "film.run", request)
    run.plan()
    facts = read_facts(run.path)
    assert facts.fingerprint.startswith(FROM_FILES)
    earlier = facts.to_json() | {"fingerprint": fingerprint(load_pipeline(model)), "files": "moved since"}
    del earlier["shape"]
    write_sealed(run.path / "model.json", earlier)
    handle = ModelHandle(request, folder=run.path)
    assert handle.unchanged_since(run.path)
    assert handle.facts(run.path).fingerprint == earlier["fingerprint"]
    assert read_facts(run.path).files == facts.files
    other = earlier | {"fingerprint": "0" * 64, "files": "moved since"}
    write_sealed(run.path / "model.json", other)
    assert not ModelHandle(request, folder=run.path).unchanged_since(run.path)
    assert ModelHandle(request, folder=run.path).facts(run.path).fingerprint == facts.fingerprint


def test_a_pipeline_that_is_handed_in_is_compared_with_the_files_of_the_run(tmp_path):
    model = save_model(tmp_path / "model")
    request = make_request(tmp_path, frames=9, num_inference_steps=1, model=str(model), device="cpu")
    run = RunDirectory.create(tmp_path / "film.run", request)
    run.execute()
    pipe, events = load_pipeline(model), []
    run.resume(pipe, events=lambda event: events.append(event.name))
    assert "segment_skipped" in events
    with torch.no_grad():
        pipe.transformer.blocks[0].ffn.net[2].bias.add_(1)
    with pytest.raises(InputError, match="has changed since this run began"):
        run.resume(pipe)


def test_a_size_beyond_the_model_s_positions_is_told_and_one_beyond_the_memory_refused(capsys):
    """Also on a CPU, which reads weights again where they do not fit: what is computed has nowhere else to be."""
    example = ROOT / "src" / "scail2" / "assets" / "example" / "animation"
    given = ["plan", "--reference", example / "reference.png", "--driving", example / "driving.mp4", "--device", "cpu"]
    given += ["--reference-mask", example / "reference_mask.png", "--driving-mask", example / "driving_mask.mkv"]
    given += ["--frames", "100", "--json"]
    told = {}
    for height in (128, 256, 8000):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, given), "--height", str(height)])
        captured = capsys.readouterr()
        plan = json.loads(captured.out)
        told[height] = {each["code"] for each in plan["preflight"]["findings"]} & {"size", "length"}
        assert (ended.value.code, plan["budget"]["fits"]) == ((2, False) if height == 8000 else (0, True))
    assert told == {128: {"length"}, 256: {"size", "length"}, 8000: {"size", "length"}}
    assert "GB of main memory, even as" in captured.err
