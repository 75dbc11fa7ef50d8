import copy

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttnProcessor, WanTransformerBlock
from tolerances import TOLERANCES

from scail2 import SCAIL2Transformer3DModel
from scail2.errors import InputError
from scail2.models.rope import SCAIL2RotaryPosEmbed
from scail2.models.transformer import MIN_SAMPLE_TIME, velocity_from_sample
from scail2.modes import AnimationMode

SMALL = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 2, "freq_dim": 16}
FULL = SMALL | {"text_dim": 10, "image_dim": 14, "image_length": 3}
BARE = SMALL | {"text_dim": None, "image_dim": None, "driving_downsample": 1, "prediction_type": "sample"}


def make(config: dict, **changes) -> SCAIL2Transformer3DModel:
    """Every parameter random: zero-initialised ones would let an unused input go unnoticed."""
    torch.manual_seed(1)
    model = SCAIL2Transformer3DModel(**(config | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def inputs_for(model: SCAIL2Transformer3DModel, batch: int = 2, frames: int = 3, size: int = 8) -> dict:
    config, generator = model.config, torch.Generator().manual_seed(2)

    def randn(*shape):
        return torch.randn(batch, *shape, generator=generator)

    small = size // config.driving_downsample
    inputs = {
        "hidden_states": randn(16, frames, size, size),
        "timestep": torch.tensor([300.0, 900.0])[:batch],
        "reference_latents": randn(16, 1, size, size),
        "reference_masks": randn(28, 1, size, size),
        "driving_latents": randn(16, frames, small, small),
        "driving_masks": randn(28, frames, small, small),
        "additional_reference_latents": randn(16, 1, size, size),
        "additional_reference_masks": randn(28, 1, size, size),
        "history_mask": torch.zeros(batch, 1, frames, size, size),
        "mode": "replacement",
    }
    inputs["history_mask"][:, :, 0] = 1
    if config.text_dim is not None:
        inputs["encoder_hidden_states"] = randn(6, config.text_dim)
    if config.image_dim is not None:
        inputs["encoder_hidden_states_image"] = randn(config.image_length, config.image_dim)
    return inputs


@pytest.fixture(scope="module")
def full():
    return make(FULL)


@pytest.fixture(scope="module")
def bare():
    return make(BARE)


@torch.no_grad()
def run(model, inputs, **changes) -> torch.Tensor:
    return model(**(inputs | changes)).sample


def test_blocks_are_exactly_the_library_class(full, bare):
    for model in (full, bare):
        assert all(type(block) is WanTransformerBlock for block in model.blocks)


@pytest.mark.parametrize("kind", ["full", "bare"])
def test_every_input_matters(kind, request):
    model = request.getfixturevalue(kind)
    inputs = inputs_for(model)
    base = run(model, inputs)
    for name, value in inputs.items():
        changed = "animation" if name == "mode" else 1 - value if name == "history_mask" else value.flip(-1)
        assert (run(model, inputs, **{name: changed}) - base).abs().max() > 1e-3, name
    assert (run(model, inputs, frame_offset=2) - base).abs().max() > 1e-3


def test_samples_of_a_batch_are_independent(full):
    inputs = inputs_for(full)
    one = {name: value if name == "mode" else value[1:] for name, value in inputs.items()}
    torch.testing.assert_close(run(full, inputs)[1:], run(full, one), atol=TOLERANCES["forward"], rtol=0)


def test_short_text_is_padded_with_zeros(full):
    inputs = inputs_for(full)
    padded = torch.zeros(2, 512, 10)
    padded[:, :6] = inputs["encoder_hidden_states"]
    assert torch.equal(run(full, inputs), run(full, inputs, encoder_hidden_states=padded))


def test_tuple_output(full):
    inputs = inputs_for(full)
    assert torch.equal(full(**inputs, return_dict=False)[0], full(**inputs).sample)


def test_the_modes_enum_and_its_name_are_the_same(full):
    inputs = inputs_for(full)
    assert torch.equal(run(full, inputs), run(full, inputs, mode=AnimationMode.REPLACEMENT))


# ---- prediction -----------------------------------------------------------------------------------------------------


def test_sample_prediction_becomes_a_velocity(bare):
    inputs = inputs_for(bare)
    velocity, sample = run(bare, inputs), run(bare, inputs, return_prediction=True)
    t = inputs["timestep"].reshape(-1, 1, 1, 1, 1) / 1000
    torch.testing.assert_close(inputs["hidden_states"] - t * velocity, sample, atol=1e-5, rtol=1e-5)


def test_velocity_of_the_true_sample_is_noise_minus_sample():
    sample, noise = torch.randn(2, 3, 16, 2, 4, 4).unbind(0)
    t = torch.tensor([0.2, 0.7, 1.0]).reshape(-1, 1, 1, 1, 1)
    velocity = velocity_from_sample((1 - t) * sample + t * noise, sample, 1000 * t.flatten())
    torch.testing.assert_close(velocity, noise - sample, atol=1e-5, rtol=1e-5)
    assert velocity_from_sample(noise, sample, torch.zeros(3)).isfinite().all()
    at_zero = velocity_from_sample(sample + 1e-3, sample, torch.zeros(3))
    torch.testing.assert_close(at_zero * MIN_SAMPLE_TIME, torch.full_like(sample, 1e-3), atol=1e-6, rtol=0)


def test_velocity_prediction_is_returned_as_it_is(full):
    inputs = inputs_for(full)
    assert torch.equal(run(full, inputs), run(full, inputs, return_prediction=True))


# ---- what the blocks are made of ------------------------------------------------------------------------------------


def test_without_text_and_image_there_is_no_cross_attention(bare):
    assert not [name for name in bare.state_dict() if "attn2" in name or "norm2" in name or "text_embedder" in name]


def test_attention_is_that_of_the_library_processor(bare):
    stock = copy.deepcopy(bare)
    for block in stock.blocks:
        block.attn1.set_processor(WanAttnProcessor())
    inputs = inputs_for(bare)
    ours, theirs = run(bare, inputs), run(stock, inputs)
    assert (ours - theirs).abs().max().item() <= TOLERANCES["rearranged"] * theirs.abs().max().item()


@pytest.mark.parametrize("kind", ["full", "bare"])
def test_overwriting_intermediates_without_gradients_changes_nothing(kind, request):
    model = request.getfixturevalue(kind)
    inputs = inputs_for(model)
    before = {name: value.clone() for name, value in inputs.items() if name != "mode"}
    with_gradients, without = model(**inputs).sample, run(model, inputs)
    scale = without.abs().max().item()
    assert (with_gradients - without).abs().max().item() <= TOLERANCES["rearranged"] * scale
    assert torch.equal(run(model, inputs), without)
    assert all(torch.equal(inputs[name], value) for name, value in before.items())


# ---- positions ------------------------------------------------------------------------------------------------------


def test_positions_are_computed_once_a_layout_and_survive_inference_mode(bare):
    model, inputs = copy.deepcopy(bare), inputs_for(bare)
    model.rope._tables.clear()
    with torch.inference_mode():
        model(**inputs)
    (first,) = model.rope._tables.values()
    model(**inputs).sample.sum().backward()
    (second,) = model.rope._tables.values()
    assert first is second
    run(model, inputs, mode="animation")
    assert len(model.rope._tables) == 2


def test_driving_factors_are_shorter_than_one_only_when_averaged():
    for downsample, shorter in ((2, True), (1, False)):
        rope = SCAIL2RotaryPosEmbed(12, driving_downsample=downsample)
        layout = rope.layout(AnimationMode.ANIMATION, (2, 4, 4))
        factors, _ = rope(layout, torch.device("cpu"))
        modulus = factors[0, :, 0].unflatten(-1, (-1, 2)).norm(dim=-1)
        driving = modulus[layout.video_slice.stop :]
        assert len(driving) == layout.driving_tokens
        assert (driving.min().item() < 0.99) is shorter
        torch.testing.assert_close(modulus[: layout.video_slice.stop], torch.ones_like(modulus[: -len(driving)]))


def test_an_odd_head_width_is_refused():
    with pytest.raises(InputError, match="even"):
        SCAIL2Transformer3DModel(**(BARE | {"attention_head_dim": 13}))


# ---- precision, training, compilation -------------------------------------------------------------------------------


def gradients(model, inputs, **autocast) -> dict[str, torch.Tensor]:
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bool(autocast)):
        model(**inputs, return_prediction=True).sample.square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_gradient_checkpointing_changes_no_gradient(full):
    model, inputs = copy.deepcopy(full).train(), inputs_for(full)
    plain = gradients(model, inputs)
    model.enable_gradient_checkpointing()
    checkpointed = gradients(model, inputs)
    assert all(value.abs().max() > 0 for value in plain.values())
    for name, value in plain.items():
        torch.testing.assert_close(checkpointed[name], value, msg=name)


@pytest.mark.parametrize("kind", ["full", "bare"])
def test_bfloat16_autocast_trains(kind, request):
    model, inputs = request.getfixturevalue(kind), inputs_for(request.getfixturevalue(kind))
    exact, rough = gradients(model, inputs), gradients(model, inputs, autocast=True)
    # All together: some gradients (of key biases, say) nearly cancel, and have no relative precision of their own.
    exact, rough = (torch.cat([value.flatten() for value in each.values()]) for each in (exact, rough))
    assert ((rough - exact).norm() / exact.norm()).item() <= TOLERANCES["bfloat16"]


def test_loading_in_bfloat16_keeps_the_timestep_path_exact(full, tmp_path):
    full.save_pretrained(tmp_path)
    half = SCAIL2Transformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert half.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    t = torch.tensor([3.25, 999.9])
    for exact, loaded in zip(full.condition_embedder.embed_time(t), half.condition_embedder.embed_time(t), strict=True):
        assert torch.equal(exact, loaded)
    inputs = {k: v.bfloat16() if k not in ("mode", "timestep") else v for k, v in inputs_for(full).items()}
    output = run(half, inputs)
    assert output.dtype == torch.bfloat16
    exact = run(full, inputs_for(full))
    assert ((output - exact).norm() / exact.norm()).item() <= TOLERANCES["bfloat16"]


def test_the_whole_model_compiles_without_graph_breaks():
    model = make(FULL, num_layers=1, driving_downsample=1, prediction_type="sample")
    inputs = inputs_for(model, size=4)
    compiled, eager = run(torch.compile(model, backend="eager", fullgraph=True), inputs), run(model, inputs)
    assert (compiled - eager).abs().max().item() <= TOLERANCES["rearranged"] * eager.abs().max().item()


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference_latents": None}, "reference_latents and reference_masks are needed"),
        ({"driving_masks": None}, "driving_latents and driving_masks are needed"),
        ({"additional_reference_masks": None}, "must be given together"),
        ({"encoder_hidden_states": None}, "encoder_hidden_states is needed"),
        ({"encoder_hidden_states": torch.zeros(2, 513, 10)}, "at most 512"),
        ({"encoder_hidden_states": torch.zeros(2, 6, 11)}, "width 11"),
        ({"encoder_hidden_states_image": torch.zeros(2, 4, 14)}, "3 are taken"),
        ({"reference_latents": torch.zeros(2, 16, 2, 8, 8)}, "additional references"),
        ({"driving_latents": torch.zeros(2, 16, 3, 8, 8)}, r"driving_latents .*\(2, 16, 3, 4, 4\)"),
        ({"driving_masks": torch.zeros(2, 7, 3, 4, 4)}, "driving_masks"),
        ({"timestep": torch.zeros(1)}, "timestep"),
        ({"history_mask": torch.zeros(2, 2, 3, 8, 8)}, "history_mask"),
        ({"hidden_states": torch.zeros(2, 16, 3, 6, 8)}, "multiple of 4"),
        ({"mode": "both"}, "'animation' or 'replacement'"),
    ],
)
def test_wrong_inputs_are_refused(full, changes, message):
    with pytest.raises(InputError, match=message):
        run(full, inputs_for(full), **changes)


def test_text_for_a_model_without_text_is_refused(bare):
    with pytest.raises(InputError, match="takes no encoder_hidden_states"):
        run(bare, inputs_for(bare), encoder_hidden_states=torch.zeros(2, 6, 10))


@pytest.mark.parametrize(
    "wrong",
    [
        {"in_channels": 16},
        {"patch_size": (2, 2, 2)},
        {"mask_channels": 7},
        {"prediction_type": "noise"},
        {"driving_downsample": 0},
        {"qk_norm": None},
    ],
)
def test_impossible_configurations_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        SCAIL2Transformer3DModel(**(BARE | wrong))
