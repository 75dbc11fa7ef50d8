"""Adapters that were trained here are read by everybody: published names, the same effect."""

import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file
from tiny import tiny_transformer

from scail2.checkpoints.lora import apply_loras
from scail2.checkpoints.lora_export import write_lora
from scail2.errors import InputError


def adapted(alpha: float):
    model = tiny_transformer()
    config = LoraConfig(
        r=4, lora_alpha=alpha, target_modules=r"blocks\.\d+\.(?:.*\.)?(?:to_q|to_out\.0|net\.0\.proj|net\.2)"
    )
    model.add_adapter(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model, {n: p.detach() for n, p in model.named_parameters() if "lora_" in n}


@pytest.mark.parametrize("alpha", [4, 8])
def test_a_written_adapter_does_what_the_trained_one_did(tmp_path, alpha):
    model, adapters = adapted(alpha)
    file = tmp_path / "a.safetensors"
    write_lora(file, adapters, alpha=alpha, metadata={"recipe": "dpo"})
    names = set(load_file(file))
    pair = "diffusion_model.blocks.1.self_attn.o.lora_{}.weight"
    assert {pair.format("down"), pair.format("up")} <= names
    assert {"diffusion_model.blocks.0.ffn.0.lora_up.weight", "diffusion_model.blocks.0.ffn.2.lora_down.weight"} <= names
    assert (len(names) == len(adapters)) == (alpha == 4)
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["recipe"] == "dpo"
    fused = tiny_transformer()
    apply_loras(fused, [(file, 1.0)])
    layer = model.blocks[1].attn1.to_out[0]
    change = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    expected = tiny_transformer().blocks[1].attn1.to_out[0].weight + change
    torch.testing.assert_close(fused.blocks[1].attn1.to_out[0].weight, expected, atol=1e-6, rtol=1e-6)


def test_only_adapters_are_written(tmp_path):
    with pytest.raises(InputError, match="no low-rank adapter"):
        write_lora(tmp_path / "a.safetensors", {"blocks.0.attn1.to_q.weight": torch.zeros(2, 2)}, alpha=1)
    assert not list(tmp_path.iterdir())
