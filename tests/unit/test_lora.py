"""LoRA: fused exactly as the golden says, undone bit for bit, held as adapters where that loses nothing."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_transformer

import scail2
from scail2.checkpoints.lora import adapter_state_dict, apply_loras, fused_loras, save_lora, unfuse_loras
from scail2.checkpoints.official_names import to_diffusers_name
from scail2.errors import InputError

GOLDENS = Path(__file__).parent.parent / "goldens"
Q = "blocks.0.self_attn.q"


@pytest.fixture(scope="module")
def golden() -> dict:
    return json.loads((GOLDENS / "lora.json").read_text())


@pytest.fixture(scope="module")
def golden_tensors() -> dict[str, torch.Tensor]:
    return load_file(GOLDENS / "lora.safetensors")


@pytest.fixture(scope="module")
def golden_lora(golden_tensors) -> dict[str, torch.Tensor]:
    return {name[5:]: value for name, value in golden_tensors.items() if name.startswith("lora/")}


@pytest.fixture
def network():
    words = json.loads((GOLDENS / "dit_cases.json").read_text())["config"]
    return scail2.load_transformer(GOLDENS / "dit_tiny.safetensors", words)


def golden_forward(network, case_name: str) -> torch.Tensor:
    """The golden case's forward pass."""
    cases = json.loads((GOLDENS / "dit_cases.json").read_text())["cases"]
    inputs = next(case["inputs"] for case in cases if case["name"] == case_name)
    tensors = load_file(GOLDENS / "dit_cases.safetensors")
    with torch.no_grad():
        return network(
            tensors[inputs["x"]],
            tensors[inputs["t"]],
            tensors[inputs["context.0"]][None],
            tensors[inputs["clip_fea"]],
            reference_latents=tensors[inputs["ref_latents"]],
            reference_masks=tensors[inputs["ref_masks"]][:, :, :1],
            driving_latents=tensors[inputs["pose_latents"]],
            driving_masks=tensors[inputs["driving_masks"]],
            mode=case_name,
        ).sample


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(model, before: dict[str, torch.Tensor]) -> None:
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


# ---- the golden ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.8, 1.0])
def test_the_golden_lora_fuses_exactly_and_comes_out_again(network, golden, golden_tensors, golden_lora, strength):
    before = snapshot(network)
    (report,) = apply_loras(network, [(golden_lora, strength)])
    assert (report.lora_pairs, report.weight_diffs, report.bias_diffs) == (32, 17, 38)
    assert (report.source_tensors, report.target_tensors) == (119, 86)
    expected = golden_tensors[f"expected_animation_alpha{strength}"]
    assert (golden_forward(network, golden["case"]) - expected).abs().max() < golden["suggested_atol"]
    if strength == golden["alpha"]:
        state = network.state_dict()
        for name, fused in golden["fused"].items():
            value = state[to_diffusers_name(name)].flatten()
            probes = torch.tensor(fused["probe_value"])
            assert torch.allclose(value[fused["probe_index"]], probes, atol=1e-6), name
            assert float(value.double().sum()) == pytest.approx(fused["sum"], abs=1e-4), name
    unfuse_loras(network)
    assert_same(network, before)


def pair(module: str = Q, rank: int = 3, rows: int = 128, columns: int = 128) -> dict[str, torch.Tensor]:
    down, up = torch.ones(rank, columns), torch.ones(rows, rank)
    return {f"diffusion_model.{module}.lora_down.weight": down, f"diffusion_model.{module}.lora_up.weight": up}


def refused_files() -> dict[str, tuple[dict[str, torch.Tensor], float, str]]:
    """The golden's list of files that must raise: contents, strength, part of the sentence."""
    down, up = (f"diffusion_model.{Q}.lora_{side}.weight" for side in ("down", "up"))
    whole = pair()
    nan = {**whole, down: torch.full((3, 128), torch.nan)}
    return {
        "empty": ({}, 1, "is empty"),
        "missing_up": ({down: whole[down]}, 1, "has no .*lora_up.weight' beside it"),
        "orphan_up": ({up: whole[up]}, 1, "has no .*lora_down.weight' beside it"),
        "unknown_target": (pair("blocks.9.self_attn.q"), 1, "which the model does not have"),
        "rank_mismatch": ({**whole, down: torch.ones(4, 128)}, 1, "one common rank"),
        "wrong_delta_shape": ({**whole, down: torch.ones(3, 64)}, 1, r"makes a \(128, 64\)"),
        "diff_shape": ({f"{Q}.diff": torch.ones(128, 127)}, 1, "is \\(128, 127\\)"),
        "diff_b_shape": ({f"{Q}.diff_b": torch.ones(127)}, 1, "is \\(127,\\)"),
        "nan": (nan, 1, "NaN or infinity"),
        "integer": ({f"{Q}.diff_b": torch.ones(128, dtype=torch.int32)}, 1, "not floating point"),
        "modulation_diff": ({"blocks.0.modulation.diff": torch.ones(1, 6, 128)}, 1, "does not have"),
        "duplicate_target": (
            {**whole, **{name.removeprefix("diffusion_model."): value.clone() for name, value in whole.items()}},
            1,
            "are both for",
        ),
        "conv_low_rank": (pair("patch_embedding", rows=128, columns=80), 1, r"which is \(128, 20, 1, 2, 2\)"),
        "alpha_inf": (whole, float("inf"), "must be a number from -1000 to 1000"),
    }


def test_the_list_of_refused_files_is_the_goldens(golden):
    # The published fusing knows neither alpha nor peft's names; people's files have both.
    read_here = {"alpha_tensor", "lora_A_naming"}
    assert [each["name"] for each in golden["raises"] if each["name"] not in read_here] == list(refused_files())


@pytest.mark.parametrize("name", list(refused_files()))
def test_bad_files_are_refused_and_nothing_is_changed(network, name, tmp_path):
    content, strength, message = refused_files()[name]
    before = snapshot(network)
    good = {f"{Q}.diff_b": torch.ones(128)}
    with pytest.raises(InputError, match=message):
        apply_loras(network, [(good, 1.0), (content, strength)])
    assert_same(network, before)
    assert not fused_loras(network).loras


# ---- more than the golden -----------------------------------------------------------------------------------------


def random_pairs(model, seed: int, rank: int = 2) -> dict[str, torch.Tensor]:
    """DPO-like: attention and feed-forward pairs in every block."""
    generator, state = torch.Generator().manual_seed(seed), {}
    modules = [f"{attention}_attn.{part}" for attention in ("self", "cross") for part in "qkvo"] + ["ffn.0", "ffn.2"]
    for block in range(len(model.blocks)):
        for module in modules:
            name = f"blocks.{block}.{module}"
            rows, columns = model.get_parameter(to_diffusers_name(f"{name}.weight")).shape
            shapes = {"down": (rank, columns), "up": (rows, rank)}
            for side, shape in shapes.items():
                state[f"diffusion_model.{name}.lora_{side}.weight"] = 0.1 * torch.randn(shape, generator=generator)
    return state


def test_modulation_norm_and_patch_embedding_differences():
    model = tiny_transformer()
    before = snapshot(model)
    lora = {
        "diffusion_model.blocks.1.diff_m": torch.full((1, 6, 24), 0.5),
        "diffusion_model.head.diff_m": torch.full((1, 2, 24), 0.25),
        "diffusion_model.blocks.0.norm3.diff": torch.full((24,), 1.0),
        "diffusion_model.patch_embedding_mask.diff": torch.full((24, 28, 1, 2, 2), 2.0),
    }
    (report,) = apply_loras(model, [(lora, 2.0)])
    assert report.modulation_diffs == 2
    changes = {name: value - before[name] for name, value in model.state_dict().items()}
    changed = {name: float(change.flatten()[0]) for name, change in changes.items() if change.any()}
    assert changed == pytest.approx(
        {
            "blocks.1.scale_shift_table": 1.0,
            "scale_shift_table": 0.5,
            "blocks.0.norm2.weight": 2.0,
            "patch_embedding_mask.weight": 4.0,
        },
        abs=1e-5,
    )


def test_entries_for_other_input_channels_are_left_out_only_when_asked():
    model = tiny_transformer()
    lora = {
        "diffusion_model.patch_embedding.diff": torch.ones(24, 36, 1, 2, 2),
        "diffusion_model.patch_embedding.diff_b": torch.ones(24),
        "diffusion_model.patch_embedding_pose.diff_b": torch.ones(24),
    }
    with pytest.raises(InputError, match=r"is \(24, 36, 1, 2, 2\), but 'patch_embedding.weight'"):
        apply_loras(model, [(lora, 1.0)])
    before = snapshot(model)
    apply_loras(model, [(lora, 1.0)], skip=["patch_embedding"])
    assert torch.equal(model.patch_embedding.bias, before["patch_embedding.bias"])
    assert torch.equal(model.patch_embedding_pose.bias, before["patch_embedding_pose.bias"] + 1)
    with pytest.raises(InputError, match=r"nothing for 'blocks\.9'"):
        apply_loras(model, [(lora, 1.0)], skip=["blocks.9"])


def test_several_loras_under_bfloat16_are_rounded_once(tmp_path):
    model = tiny_transformer().to(torch.bfloat16)
    before = snapshot(model)
    first, second = random_pairs(model, 1), random_pairs(model, 2)
    save_file(first, tmp_path / "first.safetensors")
    torch.save(second, tmp_path / "second.pt")  # the published DPO file is a pickle
    apply_loras(model, [(tmp_path / "first.safetensors", 0.8), (tmp_path / "second.pt", -0.3)])
    name = "blocks.1.ffn.net.0.proj.weight"
    deltas = [
        (
            lora["diffusion_model.blocks.1.ffn.0.lora_up.weight"]
            @ lora["diffusion_model.blocks.1.ffn.0.lora_down.weight"]
        )
        for lora in (first, second)
    ]
    expected = (before[name].float() + 0.8 * deltas[0] - 0.3 * deltas[1]).to(torch.bfloat16)
    assert torch.equal(model.get_parameter(name), expected)
    assert [strength for _, strength in fused_loras(model).loras] == [0.8, -0.3]
    unfuse_loras(model)
    assert_same(model, before)
    unfuse_loras(model)  # nothing fused: nothing happens


def test_fused_in_two_calls_and_undone_together():
    model = tiny_transformer()
    before = snapshot(model)
    parameters = dict(model.named_parameters())
    apply_loras(model, [(random_pairs(model, 1), 1.0)])
    apply_loras(model, [(random_pairs(model, 2), 1.0)])
    assert all(dict(model.named_parameters())[name] is parameter for name, parameter in parameters.items())
    unfuse_loras(model)
    assert_same(model, before)
    apply_loras(model, [(random_pairs(model, 1), 1.0)], reversible=False)
    assert not fused_loras(model).originals
    with pytest.raises(InputError, match="reversible=False"):
        unfuse_loras(model)
    with pytest.raises(InputError, match="another choice"):
        apply_loras(model, [(random_pairs(model, 1), 1.0)])


def test_adapters_equal_fusing_and_are_saved_for_comfy(tmp_path):
    model, other = tiny_transformer(), tiny_transformer()
    first, second = random_pairs(model, 1, rank=2), random_pairs(model, 2, rank=3)
    apply_loras(model, [(first, 0.8), (second, 0.5)])
    names = ["first", "second"]
    for name, pairs in zip(names, (first, second), strict=True):
        other.load_lora_adapter(adapter_state_dict(other, pairs), prefix=None, adapter_name=name)
    other.set_adapters(names, [0.8, 0.5])
    inputs = torch.randn(4, 24)
    assert torch.allclose(model.blocks[0].attn1.to_q(inputs), other.blocks[0].attn1.to_q(inputs), atol=1e-5)
    assert torch.allclose(model.blocks[1].ffn(inputs), other.blocks[1].ffn(inputs), atol=1e-5)
    save_lora(other, tmp_path / "out.safetensors", names[1])
    saved = load_file(tmp_path / "out.safetensors")
    assert saved.keys() == second.keys()
    assert all(torch.allclose(saved[name], second[name], atol=1e-6) for name in second)
    with pytest.raises(InputError, match="no adapter 'absent'"):
        save_lora(other, tmp_path / "out.safetensors", "absent")


def test_files_with_full_differences_are_no_adapters():
    model = tiny_transformer()
    lora = random_pairs(model, 1) | {"diffusion_model.blocks.0.norm3.diff": torch.ones(24)}
    with pytest.raises(InputError, match="1 full differences beside its low-rank pairs"):
        adapter_state_dict(model, lora)


def test_an_adapter_trained_here_is_fused_with_its_alpha(tmp_path):
    from peft import LoraConfig

    trained = tiny_transformer()
    trained.add_adapter(
        LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "ffn.net.2"], alpha_pattern={"attn2.to_q": 2}), "mine"
    )
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    trained.save_lora_adapter(tmp_path, adapter_name="mine")
    model = tiny_transformer()
    apply_loras(model, [(tmp_path / "pytorch_lora_weights.safetensors", 1.0)])
    inputs = torch.randn(3, 24)
    assert torch.allclose(model.blocks[0].attn2.to_q(inputs), trained.blocks[0].attn2.to_q(inputs), atol=1e-4)
    save_lora(trained, tmp_path / "comfy.safetensors", "mine")
    again = tiny_transformer()
    apply_loras(again, [(tmp_path / "comfy.safetensors", 1.0)])
    assert torch.allclose(again.blocks[1].attn1.to_q.weight, model.blocks[1].attn1.to_q.weight, atol=1e-5)


def test_quantised_weights_are_refused():
    model = tiny_transformer()
    model.blocks[0].attn1.to_q.weight = torch.nn.Parameter(
        model.blocks[0].attn1.to_q.weight.to(torch.float8_e4m3fn), requires_grad=False
    )
    with pytest.raises(InputError, match="fuse LoRAs before quantising"):
        apply_loras(model, [(random_pairs(model, 1), 1.0)])
