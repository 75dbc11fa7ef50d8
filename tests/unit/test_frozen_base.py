"""Adapters on weights that are kept small: the gradients of ordinary training, and weights that are there while they work."""

import copy
import dataclasses

import pytest
import torch
from peft import LoraConfig
from tiny import forward_inputs, tiny_transformer
from training_material import configuration, make_world

from scail2.devices import Precision
from scail2.errors import InputError
from scail2.loading.placing import is_block_linear
from scail2.request.placement import WeightStorage
from scail2.training.config import FrozenConfig, LoRAConfig, LossConfig, OptimizerConfig
from scail2.training.frozen import keep_frozen
from scail2.training.recipes import recipe
from scail2.training.session import build_trainer, count_parameters, export_transformer, load_trainable

TARGETS = r"blocks\.\d+\.(?:.*\.)?(?:to_q|to_k|to_v|to_out\.0|net\.0\.proj|net\.2)"


def adapted():
    """A tiny network of all parts with adapters that are not at zero."""
    torch.manual_seed(0)
    model = tiny_transformer().requires_grad_(False)
    model.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=TARGETS, init_lora_weights=False))
    return model


def gradients(model):
    inputs = forward_inputs(model)
    result = model(**inputs, return_dict=False)[0]
    (result * torch.linspace(-1, 1, result.numel()).view_as(result)).sum().backward()
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.requires_grad}
    return result.detach(), found


def rounded(model, storage):
    """The same network whose frozen matrices are whole numbers of what ``storage`` makes of them."""
    model = copy.deepcopy(model)
    for name, layer in model.named_modules():
        if not is_block_linear(layer, name) or layer.weight.requires_grad:
            continue
        weight = layer.weight.data
        if storage is WeightStorage.INT8:
            scale = weight.abs().amax(1, keepdim=True) / 127
            layer.weight.data = torch.round(weight / scale) * scale
        elif storage is WeightStorage.NF4:
            functional = pytest.importorskip("bitsandbytes").functional
            packed, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
            layer.weight.data = functional.dequantize_4bit(packed, state)
    return model


@pytest.mark.parametrize("storage", [WeightStorage.FULL, WeightStorage.INT8, WeightStorage.NF4])
@pytest.mark.parametrize("offload", [True, False])
def test_adapters_get_the_gradients_of_ordinary_training(storage, offload):
    model = adapted()
    expected, wanted = gradients(rounded(model, storage))
    keep_frozen(model, FrozenConfig(storage=storage, precision=Precision.FLOAT32, offload=offload, token_chunk=7))
    assert all(each.weight.numel() == 0 for name, each in model.named_modules() if name.endswith("base_layer"))
    result, found = gradients(model)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=2e-5, rtol=2e-4, msg=name)
    assert max(each.abs().max() for each in wanted.values()) > 1e-3
    # Between visits nothing is left in the layers, and a pass without gradients gives the same.
    assert all(each.weight.numel() == 0 for name, each in model.named_modules() if name.endswith("base_layer"))
    with torch.no_grad():
        again = model(**forward_inputs(model), return_dict=False)[0]
    torch.testing.assert_close(again, result, atol=1e-5, rtol=1e-5)


def test_a_recipe_trains_adapters_on_frozen_weights_and_goes_on(tmp_path):
    world = make_world(tmp_path)
    changes = {"lora": LoRAConfig(rank=2), "loss": LossConfig(), "steps": 2, "ema_decay": 0.0}
    changes["optimizer"] = OptimizerConfig(learning_rate=1e-3, clip_norm=1.0, decay_from=1.0)
    frozen = FrozenConfig(storage=WeightStorage.FULL, precision=Precision.FLOAT32, token_chunk=16)
    ordinary = build_trainer(configuration(world, **changes), tmp_path / "ordinary", device="cpu")
    ordinary.run()
    config = configuration(world, frozen=frozen, **changes)
    build_trainer(dataclasses.replace(config, steps=1), tmp_path / "lean", device="cpu").run()
    lean = build_trainer(config, tmp_path / "lean", device="cpu")
    assert count_parameters(lean.transformer) == count_parameters(ordinary.transformer)
    lean.run()
    trained = dict(ordinary.transformer.named_parameters())
    for name, weight in lean.transformer.named_parameters():
        if weight.requires_grad:
            assert weight.dtype == torch.float32
            torch.testing.assert_close(weight, trained[name], atol=2e-5, rtol=0, msg=name)
    first, second = (
        export_transformer(each, tmp_path / name, tmp_path / f"{name}-out").read_bytes()
        for each, name in ((configuration(world, **changes), "ordinary"), (config, "lean"))
    )
    assert len(first) == len(second)


def test_what_frozen_weights_need_is_said(tmp_path):
    config = configuration(make_world(tmp_path), frozen=FrozenConfig())
    with pytest.raises(InputError, match="keeps weights frozen but trains no adapters"):
        load_trainable(config)
    config = dataclasses.replace(config, lora=LoRAConfig(rank=2), gradient_checkpointing=True)
    with pytest.raises(InputError, match="no checkpointing, no --compile"):
        load_trainable(config)
    small = recipe("finetune_lora_24gb")
    assert small.frozen == FrozenConfig(storage=WeightStorage.INT8, offload=True)
    assert small.lora.rank == 32
