"""The network against numbers of the published code: forward passes, activations inside, positions, single operations."""

import functools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tolerances import TOLERANCES

import scail2
from scail2.checkpoints.official_names import config_from_official, to_official_name
from scail2.models.blocks import rotate_pairs
from scail2.models.condition_embedder import ImageProjection, timestep_sinusoid
from scail2.models.rope import SCAIL2RotaryPosEmbed, rotary_table
from scail2.modes import AnimationMode

GOLDENS = Path(__file__).parents[1] / "goldens"
CASES = {case["name"]: case for case in json.loads((GOLDENS / "dit_cases.json").read_text())["cases"]}
ROPE_CASES = {case["name"]: case for case in json.loads((GOLDENS / "rope.json").read_text())["cases"]}


@functools.cache
def tensors(name: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDENS / f"{name}.safetensors")


@pytest.fixture(scope="module")
def model():
    config = json.loads((GOLDENS / "dit_cases.json").read_text())["config"]
    return scail2.load_transformer(GOLDENS / "dit_tiny.safetensors", config=config)


def arguments(case: dict) -> dict:
    given = {key: tensors("dit_cases")[value] for key, value in case["inputs"].items()}
    longest = max(case["context_lengths"])
    text = torch.stack(
        [
            torch.nn.functional.pad(given[f"context.{sample}"], (0, 0, 0, longest - length))
            for sample, length in enumerate(case["context_lengths"])
        ]
    )
    history = given.get("history_mask")
    return {
        "hidden_states": given["x"],
        "timestep": given["t"],
        "encoder_hidden_states": text,
        "encoder_hidden_states_image": given["clip_fea"],
        "reference_latents": given["ref_latents"],
        "reference_masks": given["ref_masks"][:, :, :1],
        "driving_latents": given["pose_latents"],
        "driving_masks": given["driving_masks"],
        "mode": case["mode"],
        "additional_reference_latents": given.get("additional_ref_latents"),
        "additional_reference_masks": given.get("additional_ref_masks"),
        "history_mask": None if history is None else history[:, :1],
    }


def assert_close(output: torch.Tensor, expected: torch.Tensor, tolerance: str) -> None:
    assert output.shape == expected.shape
    assert (output - expected).abs().max().item() <= TOLERANCES[tolerance]


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_forward(model, name):
    case = CASES[name]
    assert_close(model(**arguments(case)).sample, tensors("dit_cases")[case["expected"]], "forward")


@torch.no_grad()
def test_all_four_known_channels_of_the_published_history_mask_are_taken(model):
    case = CASES["animation_history"]
    full = arguments(case) | {"history_mask": tensors("dit_cases")[case["inputs"]["history_mask"]]}
    assert_close(model(**full).sample, tensors("dit_cases")[case["expected"]], "forward")


@pytest.mark.parametrize("name", ["animation", "replacement_addref2"])
@torch.no_grad()
def test_activations_inside(model, name):
    found = {}

    def keep(key):
        return lambda module, inputs, output: found.__setitem__(key, output)

    embedder = model.condition_embedder
    watched = {
        "text_context": embedder.text_embedder,
        "image_context": embedder.image_embedder,
        "time_embedding": embedder.time_embedder,
        "time_projection": embedder.time_proj,
        "head_out": model.proj_out,
    }
    for index, block in enumerate(model.blocks):
        watched |= {f"block{index}_self_attn_out": block.attn1, f"block{index}_cross_attn_out": block.attn2}
        watched |= {f"block{index}_ffn_out": block.ffn, f"block{index}_out": block}
    handles = [module.register_forward_hook(keep(key)) for key, module in watched.items()]
    handles.append(
        model.blocks[0].register_forward_pre_hook(lambda module, inputs: found.__setitem__("tokens_in", inputs[0]))
    )
    model(**arguments(CASES[name]))
    for handle in handles:
        handle.remove()
    expected = {k.split("/")[1]: v for k, v in tensors("dit_intermediates").items() if k.split("/")[0] == name}
    assert set(expected) <= set(found)
    for key, value in expected.items():
        assert_close(found[key], value, "intermediates")


@pytest.mark.parametrize("name", ROPE_CASES)
def test_rope(name):
    case = ROPE_CASES[name]
    rope = SCAIL2RotaryPosEmbed(case["head_dim"])
    layout = rope.layout(AnimationMode(case["mode"]), tuple(case["grid"]), case["additional_refs"])
    assert layout.total == case["tokens"]
    cos, sin = rotary_table(layout, case["head_dim"], 10000.0)
    assert cos.dtype == torch.float64
    assert_close(cos, tensors("rope")[f"{name}/cos"], "rope")
    assert_close(sin, tensors("rope")[f"{name}/sin"], "rope")
    if case["has_apply"]:
        factors, _ = rope(layout, torch.device("cpu"))
        assert_close(
            rotate_pairs(tensors("rope")[f"{name}/x"], factors), tensors("rope")[f"{name}/x_rotated"], "rotated"
        )


def test_timestep_sinusoid():
    ops = tensors("ops")
    for dim in (128, 256):
        assert_close(timestep_sinusoid(ops["timestep/t"], dim), ops[f"timestep/sinusoid_{dim}"], "ops")


@torch.no_grad()
def test_norms_and_image_projection(model):
    ops, block = tensors("ops"), model.blocks[0]
    query_norm, cross_norm = block.attn1.norm_q, block.norm2
    keep = query_norm.weight.data, cross_norm.weight.data, cross_norm.bias.data
    try:
        query_norm.weight.data = ops["norm/rms_weight"]
        cross_norm.weight.data, cross_norm.bias.data = ops["norm/layernorm_weight"], ops["norm/layernorm_bias"]
        assert_close(query_norm(ops["norm/x"]), ops["norm/rms_eps1e-6"], "ops")
        assert_close(cross_norm(ops["norm/x"]), ops["norm/layernorm_affine_eps1e-6"], "ops")
        assert_close(block.norm1(ops["norm/x"]), ops["norm/layernorm_noaffine_eps1e-6"], "ops")
    finally:
        query_norm.weight.data, cross_norm.weight.data, cross_norm.bias.data = keep
    projection = model.condition_embedder.image_embedder
    assert isinstance(projection, ImageProjection)
    assert_close(projection(ops["img_emb/x"]), ops["img_emb/expected"], "image_projection")


def test_names_and_shapes_of_the_14b():
    published = json.loads((GOLDENS / "keys_14b.json").read_text())
    words = {**published["config"], "text_dim": 4096}
    with torch.device("meta"):
        network = scail2.SCAIL2Transformer3DModel(**config_from_official(words))
        default = scail2.SCAIL2Transformer3DModel()
    shapes = {to_official_name(name): list(value.shape) for name, value in network.state_dict().items()}
    assert len(shapes) == published["count"] == 1307
    assert shapes == published["keys"]
    assert sum(value.numel() for value in network.parameters()) == published["num_params"]
    assert {name: value.shape for name, value in default.state_dict().items()} == {
        name: value.shape for name, value in network.state_dict().items()
    }
