"""The network against the float64 restatement of its specification, and that restatement against the goldens."""

import json
import random
from pathlib import Path

import pytest
import scail2_oracle as oracle
import torch
from safetensors.torch import load_file
from tolerances import TOLERANCES

from scail2 import SCAIL2Transformer3DModel
from scail2.checkpoints.official_names import to_official_name
from scail2.masks import mask_latent
from scail2.models.rope import SCAIL2RotaryPosEmbed, rotary_table
from scail2.modes import AnimationMode

GOLDENS = Path(__file__).parents[1] / "goldens"
FORWARD_ARGUMENTS = {
    "x": "hidden_states",
    "t": "timestep",
    "text": "encoder_hidden_states",
    "clip": "encoder_hidden_states_image",
    "ref": "reference_latents",
    "ref_mask": "reference_masks",
    "driving": "driving_latents",
    "driving_mask": "driving_masks",
    "more_refs": "additional_reference_latents",
    "more_masks": "additional_reference_masks",
    "history": "history_mask",
}


def random_model(rng: random.Random, **changes) -> SCAIL2Transformer3DModel:
    """A small network of random shape; every parameter is randomised, heads and gates that start at zero included."""
    config = {
        "num_attention_heads": rng.choice([1, 2, 3]),
        "attention_head_dim": rng.choice([8, 12, 14, 20, 40]),
        "ffn_dim": rng.choice([24, 50]),
        "num_layers": rng.choice([1, 2, 3]),
        "freq_dim": rng.choice([16, 32]),
        "text_dim": rng.choice([10, 24]),
        "image_dim": rng.choice([12, 20]),
        "text_length": rng.choice([6, 9]),
        "image_length": rng.choice([3, 5]),
    }
    model = SCAIL2Transformer3DModel(**(config | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def random_inputs(rng: random.Random, config) -> dict[str, torch.Tensor]:
    batch, frames, channels = rng.choice([1, 2]), rng.choice([1, 2, 3, 5]), config.out_channels
    height, width = rng.choice([4, 8, 12]), rng.choice([4, 8, 12])
    small = (frames, height // config.driving_downsample, width // config.driving_downsample)
    inputs = {
        "x": torch.randn(batch, channels, frames, height, width),
        "t": torch.rand(batch) * 1000,
        "ref": torch.randn(batch, channels, 1, height, width),
        "ref_mask": torch.rand(batch, 28, 1, height, width),
        "driving": torch.randn(batch, channels, *small),
        "driving_mask": torch.rand(batch, 28, *small),
    }
    if config.text_dim is not None:
        inputs["text"] = torch.randn(batch, rng.randint(1, config.text_length), config.text_dim)
    if config.image_dim is not None:
        inputs["clip"] = torch.randn(batch, config.image_length, config.image_dim)
    if more := rng.choice([0, 0, 1, 2]):
        inputs["more_refs"] = torch.randn(batch, channels, more, height, width)
        inputs["more_masks"] = torch.rand(batch, 28, more, height, width)
    if rng.random() < 0.5:
        inputs["history"] = torch.zeros(batch, 1, frames, height, width)
        inputs["history"][:, :, :2] = 1
    return inputs


def oracle_words(config) -> dict:
    return {
        "heads": config.num_attention_heads,
        "head_dim": config.attention_head_dim,
        "layers": config.num_layers,
        "eps": config.eps,
        "freq_dim": config.freq_dim,
        "text_length": config.text_length,
        "theta": config.rope_theta,
        "height_shift": config.rope_reference_height_shift,
        "width_shift": config.rope_driving_width_shift,
        "downsample": config.driving_downsample,
    }


def assert_agrees(model: SCAIL2Transformer3DModel, rng: random.Random, mode: str, offset: int = 0) -> None:
    inputs = random_inputs(rng, model.config)
    weights = {to_official_name(name): value for name, value in model.state_dict().items()}
    expected = oracle.forward(weights, oracle_words(model.config), inputs, mode, offset)
    arguments = {FORWARD_ARGUMENTS[name]: value for name, value in inputs.items()}
    with torch.no_grad():
        output = model(**arguments, mode=mode, frame_offset=offset, return_prediction=True).sample
    scale = max(1.0, expected.abs().max().item())
    assert expected.std() > 0.05
    assert (output - expected).abs().max().item() <= TOLERANCES["oracle"] * scale


@pytest.mark.parametrize("seed", range(10))
def test_forward_agrees_on_random_shapes(seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    assert_agrees(random_model(rng), rng, rng.choice(["animation", "replacement"]))


@pytest.mark.parametrize("mode", ["animation", "replacement"])
def test_forward_agrees_for_small_checkpoints(mode):
    rng = random.Random(7)
    model = random_model(
        rng,
        in_channels=12,
        out_channels=8,
        text_dim=None,
        image_dim=None,
        driving_downsample=1,
        rope_theta=100.0,
        rope_reference_height_shift=8,
        rope_driving_width_shift=9,
        prediction_type="sample",
    )
    assert_agrees(model, rng, mode)
    assert_agrees(model, rng, mode, offset=3)


def test_forward_agrees_with_text_alone():
    rng = random.Random(3)
    assert_agrees(random_model(rng, image_dim=None), rng, "animation")


def test_rope_agrees_and_window_positions_are_those_of_the_whole():
    rope = SCAIL2RotaryPosEmbed(20, theta=500.0, reference_height_shift=11, driving_width_shift=7)
    words = {"head_dim": 20, "theta": 500.0, "height_shift": 11, "width_shift": 7, "downsample": 2}
    for mode, more in ((AnimationMode.ANIMATION, 0), (AnimationMode.REPLACEMENT, 2)):
        layout = rope.layout(mode, (5, 4, 6), more)
        cos, sin = rotary_table(layout, 20, 500.0)
        expected = oracle.rotary_factors(words, mode.value, more, (5, 4, 6))
        torch.testing.assert_close(torch.complex(cos, sin), expected, atol=1e-12, rtol=0)
        window = rotary_table(rope.layout(mode, (2, 4, 6), more, 3), 20, 500.0)[0]
        whole = cos[layout.video_slice].unflatten(0, (5, -1))
        references = layout.reference_tokens
        torch.testing.assert_close(window[references : references + 48].unflatten(0, (2, -1)), whole[3:5])


@pytest.mark.parametrize("half_size", [False, True])
def test_mask_latent_agrees(half_size):
    palette = torch.tensor([[255 * (code >> bit & 1) for bit in range(3)] for code in range(8)], dtype=torch.uint8)
    for frames, height, width in ((1, 16, 16), (5, 19, 30), (9, 34, 21)):
        rgb = palette[torch.randint(8, (frames, height, width))]
        rgb[..., :3, :] = torch.randint(220, 231, (frames, height, 3, 3), dtype=torch.uint8)
        expected = oracle.mask_latent(rgb, half_size)
        output = mask_latent(rgb[None], half_size=half_size)[0]
        assert (output - expected).abs().max().item() <= TOLERANCES["masks"]


@pytest.mark.parametrize("name", ["animation", "replacement_batch2_history_addref1"])
def test_oracle_itself_meets_the_goldens(name):
    description = json.loads((GOLDENS / "dit_cases.json").read_text())
    case = next(case for case in description["cases"] if case["name"] == name)
    tensors, config = load_file(GOLDENS / "dit_cases.safetensors"), description["config"]
    given = {key: tensors[value] for key, value in case["inputs"].items()}
    text = torch.zeros(case["batch"], config["text_len"], config["text_dim"])
    for sample, length in enumerate(case["context_lengths"]):
        text[sample, :length] = given[f"context.{sample}"]
    inputs = {
        "x": given["x"],
        "t": given["t"],
        "text": text,
        "clip": given["clip_fea"],
        "ref": given["ref_latents"],
        "ref_mask": given["ref_masks"][:, :, :1],
        "driving": given["pose_latents"],
        "driving_mask": given["driving_masks"],
        "more_refs": given.get("additional_ref_latents"),
        "more_masks": given.get("additional_ref_masks"),
        "history": given.get("history_mask"),
    }
    words = {
        "heads": config["num_heads"],
        "head_dim": config["dim"] // config["num_heads"],
        "layers": config["num_layers"],
        "eps": config["eps"],
        "freq_dim": config["freq_dim"],
        "text_length": config["text_len"],
        "theta": 10000.0,
        "height_shift": 120,
        "width_shift": 120,
        "downsample": 2,
    }
    output = oracle.forward(load_file(GOLDENS / "dit_tiny.safetensors"), words, inputs, case["mode"])
    assert (output - tensors[case["expected"]]).abs().max().item() <= TOLERANCES["forward"]
