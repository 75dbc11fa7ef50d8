"""What is saved comes back whole or is refused, and what is no picture, no number or no weight is never passed on."""

import json
import math

import numpy as np
import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback
from safetensors.torch import load_file, save_file
from tiny import footage, patch_vae, tiny_pipeline

from scail2 import load_pipeline
from scail2.checkpoints.lora import apply_loras
from scail2.errors import InputError
from scail2.pipeline import SCAIL2Pipeline

MODULES = ("blocks.0.attn1.to_q", "blocks.1.ffn.net.0.proj")


@pytest.fixture(scope="module")
def inputs():
    made = footage(9)
    return {name: made[name] for name in ("image", "driving_video", "reference_mask", "driving_mask")}


def pipeline():
    torch.manual_seed(0)
    pipe = tiny_pipeline(vae=patch_vae())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def frames(pipe, inputs, **changes):
    given = {"mode": "animation", "num_inference_steps": 2, "output_type": "np", "prompt": "a", "guidance_scale": 1.0}
    return pipe(**inputs, generator=torch.Generator().manual_seed(0), **given | changes).frames


def adapter(pipe, spread=1.0):
    torch.manual_seed(1)
    state = {}
    for name in MODULES:
        weight = pipe.transformer.get_submodule(name).weight
        state[f"transformer.{name}.lora_A.weight"] = spread * torch.randn(2, weight.shape[1])
        state[f"transformer.{name}.lora_B.weight"] = spread * torch.randn(weight.shape[0], 2)
    return state


@pytest.fixture
def saved(tmp_path):
    pipeline().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("load", [SCAIL2Pipeline.from_pretrained, load_pipeline])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("missing", "do not fit its configuration: 1 missing: blocks.1.ffn.net.2.weight"),
        ("foreign", "do not fit its configuration: 1 that do not belong to it: blocks.7.attn1.to_q.weight"),
        ("shape", "blocks.1.ffn.net.2.weight expected shape"),
        ("layers", "that do not belong to it: blocks.1."),
    ],
)
def test_a_folder_is_loaded_whole_or_not_at_all(saved, load, change, told):
    """diffusers warns, and goes on with weights that are nowhere, or are nobody's."""
    weights = saved / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    if change == "missing":
        del state["blocks.1.ffn.net.2.weight"]
    elif change == "foreign":
        state["blocks.7.attn1.to_q.weight"] = torch.zeros(2)
    elif change == "shape":
        state["blocks.1.ffn.net.2.weight"] = torch.zeros(3, 3)
    else:
        path = saved / "transformer" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"num_layers": 1}))
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match=told):
        load(saved)


def test_a_pipeline_that_could_not_come_back_is_not_saved(saved, tmp_path, inputs):
    pipe = pipeline()
    pipe.load_lora_weights(adapter(pipe), adapter_name="a")
    with pytest.raises(InputError, match=r"has unfused adapters .blocks\.0\.attn1\.to_q\.base_layer"):
        pipe.save_pretrained(tmp_path / "adapted")
    assert not (tmp_path / "adapted").exists()
    wanted = frames(pipe, inputs)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "fused")
    np.testing.assert_allclose(frames(SCAIL2Pipeline.from_pretrained(tmp_path / "fused"), inputs), wanted, atol=1e-5)
    elsewhere = load_pipeline(saved, placement="encoders-first")
    with pytest.raises(InputError, match="would be saved without them"):
        elsewhere.save_pretrained(tmp_path / "without")
    assert not (tmp_path / "without").exists()
    load_pipeline(placement="encoders-first").save_pretrained(tmp_path / "embedded")  # which has none to lose
    assert load_pipeline(tmp_path / "embedded").transformer.num_parameters() == 18_217_728


def test_loras_are_fused_beside_an_adapter(inputs):
    one, other = pipeline(), pipeline()
    one.load_lora_weights(adapter(one, 0.3), adapter_name="a")
    apply_loras(one.transformer, [(adapter(other, 0.2), 1.0)])
    apply_loras(other.transformer, [(adapter(other, 0.2), 1.0)])
    other.load_lora_weights(adapter(other, 0.3), adapter_name="a")
    assert np.array_equal(frames(one, inputs), frames(other, inputs))


@pytest.mark.parametrize("output_type", ["np", "pt", "pil", "uint8"])
def test_an_overflow_is_no_black_film(inputs, output_type):
    pipe = pipeline()
    embeds = pipe.encode_prompt("a").prompt_embeds * float("nan")
    with pytest.raises(InputError, match="the model overflowed"):
        frames(pipe, inputs, prompt=None, prompt_embeds=embeds, output_type=output_type)


def test_none_is_as_ever(inputs):
    pipe = pipeline()
    wanted = frames(pipe, inputs, mode="replacement", allow_mask_mismatch=True)
    changes = {"black_out_reference": None, "start_segment": None, "callback_on_step_end_tensor_inputs": None}
    assert np.array_equal(frames(pipe, inputs, mode="replacement", allow_mask_mismatch=True, **changes), wanted)


@pytest.mark.parametrize("scale", [math.nan, math.inf, None, "x"])
def test_a_scale_that_is_none_touches_no_adapter(inputs, scale):
    pipe = pipeline()
    pipe.load_lora_weights(adapter(pipe), adapter_name="a")
    before = frames(pipe, inputs)
    with pytest.raises(InputError, match="must be a finite number"):
        frames(pipe, inputs, attention_kwargs={"scale": scale})
    assert np.array_equal(frames(pipe, inputs), before)


def test_another_pipeline_over_the_same_components(inputs):
    pipe = pipeline()
    other = SCAIL2Pipeline.from_pipe(pipe)
    assert other is not pipe
    assert other.transformer is pipe.transformer
    other.set_progress_bar_config(disable=True)
    assert np.array_equal(frames(other, inputs), frames(pipe, inputs))


def test_what_is_no_saved_pipeline_is_told_in_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    for source, told in (
        (tmp_path / "absent", "There is no folder"),
        (tmp_path / "file", "There is no folder"),
        ("absent", "There is no folder absent"),
        (tmp_path, "holds no saved pipeline"),
    ):
        with pytest.raises(InputError, match=told):
            SCAIL2Pipeline.from_pretrained(source)


def test_a_callback_of_diffusers_ends_the_guidance(inputs):
    pipe = pipeline()
    guided = {"guidance_scale": 3.0, "num_inference_steps": 4, "negative_prompt": "b"}

    def same_text(pipe, step, timestep, tensors):
        """With one text on both sides guidance has nothing to add."""
        return {"negative_prompt_embeds": tensors["prompt_embeds"]} if step >= 1 else {}

    cut = frames(
        pipe, inputs, callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1), **guided
    )
    seen = {"callback_on_step_end": same_text, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
    wanted = frames(pipe, inputs, **seen, **guided)
    np.testing.assert_allclose(cut, wanted, atol=1e-5)
    assert np.abs(cut - frames(pipe, inputs, **guided)).max() > 1e-3
    assert np.array_equal(frames(pipe, inputs, **guided), frames(pipe, inputs, **guided)), (
        "the next call is guided again"
    )
