"""What a training takes of a card: forms against counts, what fits where, and what is refused with what would fit."""

import dataclasses
import json
import re

import pytest
import torch
from fake_costs import Costs
from peft import LoraConfig
from training_material import cache_samples, make_world

from scail2.budget import memory
from scail2.budget.machines import GIB, named_machine
from scail2.budget.measuring import pass_inputs, small_network
from scail2.budget.operations import SequenceShape
from scail2.budget.shapes import AutoencoderShape, TransformerShape
from scail2.budget.training import TrainingWork, adapted_channels, refuse_training, training_needs
from scail2.cli.app import main
from scail2.cli.training_plan import work_of
from scail2.errors import InputError
from scail2.request.placement import WeightStorage
from scail2.training.config import FrozenConfig, LoRAConfig
from scail2.training.frozen import keep_frozen
from scail2.training.recipes import recipe
from scail2.training.session import _in_blocks, finish_adapters

CPU = torch.device("cpu")
LARGE = TransformerShape()
CLIP = (81, 512, 896)
SMALL = TransformerShape(
    num_attention_heads=2,
    attention_head_dim=128,
    ffn_dim=691,
    num_layers=3,
    text_dim=16,
    text_length=16,
    image_dim=None,
)


def counted(kind):
    """A training pass of a small network on real tensors: what lived at once, and the work in the budget's words."""
    size, frames = (128, 256), 9
    sequence, frozen = SequenceShape.of(SMALL, AutoencoderShape(), size, frames), kind == "frozen"
    network = small_network(SMALL, torch.bfloat16 if frozen else torch.float32, CPU)
    network.requires_grad_(kind == "full").train()
    if kind != "full":
        network.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=_in_blocks(LoRAConfig().target_modules)))
        finish_adapters(network)
    if frozen:
        keep_frozen(network, FrozenConfig(token_chunk=128, offload=False))
    else:
        network.enable_gradient_checkpointing()
    inputs = pass_inputs(SMALL, size, frames, CPU)
    with Costs() as costs:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = network(**inputs, return_dict=False)[0]
        result.square().mean().backward()
    work = TrainingWork(
        sequence=sequence,
        steps=1,
        rank=None if kind == "full" else 4,
        adapted=adapted_channels(SMALL),
        frozen=WeightStorage.INT8 if frozen else None,
        token_chunk=128,
    )
    return costs, work


@pytest.mark.parametrize("kind", ["full", "lora", "frozen"])
def test_a_training_pass_takes_what_the_forms_say(kind):
    costs, work = counted(kind)
    machine = dataclasses.replace(named_machine("4090", None), is_cpu=True)
    told = training_needs(SMALL, work, machine).device_bytes
    expected = told["gradients"] + told["kept for the backward pass"] + told["a block's passes"]
    if kind == "frozen":
        expected += memory.block_bytes(SMALL, 2)  # which comes while it works
    assert expected == pytest.approx(costs.peak, rel=0.1)


def test_adapters_of_the_14b_train_on_24_gigabytes():
    card, config = named_machine("RTX 4090", None), recipe("finetune_lora_24gb")
    needs = training_needs(LARGE, work_of(config, LARGE, AutoencoderShape(), CLIP), card)
    assert needs.peak <= 22 * GIB
    assert needs.device_bytes["trained"] == 4 * 32 * 40 * (8 * 2 * 5120 + 2 * (5120 + 13824))
    assert 40 < needs.main_bytes / GIB < 64
    refuse_training(LARGE, work_of(config, LARGE, AutoencoderShape(), CLIP), card, needs)
    # Each of the recipe's means is needed.
    for change in (
        {"storage": WeightStorage.FULL, "offload": False},
        {"storage": WeightStorage.INT8, "offload": False},
    ):
        changed = dataclasses.replace(config, frozen=FrozenConfig(**change))
        assert training_needs(LARGE, work_of(changed, LARGE, AutoencoderShape(), CLIP), card).peak > card.memory
    ranked = dataclasses.replace(config, lora=LoRAConfig(rank=128))
    assert training_needs(LARGE, work_of(ranked, LARGE, AutoencoderShape(), CLIP), card).peak > 24 * GIB


def test_what_does_not_fit_is_refused_with_what_would():
    card = named_machine("H100", None)
    work = work_of(recipe("finetune"), LARGE, AutoencoderShape(), CLIP)
    alone = training_needs(LARGE, work, card)
    with pytest.raises(InputError, match=r"needs 30\d\.\d GB of each H100 80 GB, which has 79\.1 GB") as refused:
        refuse_training(LARGE, work, card, alone)
    cards, sequence = map(int, re.search(r"--nproc (\d+) --sequence-parallel (\d+)", str(refused.value)).groups())
    together = training_needs(LARGE, work, card, cards, sequence)
    assert together.peak <= card.memory
    refuse_training(LARGE, work, card, together)
    assert "the recipe finetune_lora_24gb on one card" in str(refused.value)
    # Twice the cards with the same split: half the time, the same work in all; moments are shared.
    more = training_needs(LARGE, work, card, 2 * cards, sequence)
    assert more.step_seconds == pytest.approx(together.step_seconds / 2, rel=0.01)
    assert more.card_hours == pytest.approx(together.card_hours, rel=0.01)
    assert more.device_bytes["moments"] == together.device_bytes["moments"] / 2
    assert more.device_bytes["kept for the backward pass"] == together.device_bytes["kept for the backward pass"]


def test_a_step_of_full_training_is_so_many_passes():
    """4.31 forward passes, counted with torch's own counter over a checkpointed step of the 14B."""
    card = named_machine("A100 80 GB", None)
    step = training_needs(LARGE, work_of(recipe("finetune"), LARGE, AutoencoderShape(), CLIP), card).step_seconds / 16
    forward = 3.155e15 / (0.61 * 312e12)
    assert step / forward == pytest.approx(4.31, rel=0.05)


def test_the_command_plans_what_is_cached_and_trains_nothing(tmp_path, capsys, monkeypatch):
    world = make_world(tmp_path)
    cache_samples(world, world / "more", samples=4)
    given = ["train", "finetune_lora", "--model", world / "model", "--data", world / "more", "--plan", "--json"]
    with pytest.raises(SystemExit) as ended:
        main([*map(str, given), "--card", "4090", "--nproc", "2", "--price", "0.5", "--steps", "7"])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["frames"], told["height"], told["width"], told["steps"]) == (9, 32, 32, 7)
    assert (told["needs"]["cards"], told["machine"]) == (2, "RTX 4090")
    assert told["cost"] == pytest.approx(told["needs"]["card_hours"] * 0.5, abs=0.01)
    assert told["notes"] == ["what the cards send each other is not in the time"]
    with pytest.raises(SystemExit) as ended:
        main(["train", "finetune", "--plan", "--size", "896x512x81", "--memory", "24", "--json"])
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["tokens"] == 48_832
    assert "What would fit: --nproc" in captured.err
    with pytest.raises(SystemExit) as ended:
        main(["train", "finetune", "--plan", "--size", "896x512"])
    assert ended.value.code == 2
    assert "must be WIDTHxHEIGHTxFRAMES" in capsys.readouterr().err


def test_a_recipe_at_704p_is_reckoned_at_704p(capsys):
    for recipe_name, tokens in {"finetune": 95_920, "finetune_512p": 48_832, "dpo": 48_832}.items():
        with pytest.raises(SystemExit):
            main(["train", recipe_name, "--plan", "--memory", "400", "--json"])
        assert json.loads(capsys.readouterr().out)["tokens"] == tokens
    with pytest.raises(SystemExit) as ended:
        main(["train", "finetune", "--plan", "--card", "H100", "--nproc", "8"])
    assert ended.value.code == 2
    assert "--nproc 8 --sequence-parallel 4" in capsys.readouterr().err


def test_windows_take_a_window_s_time_and_a_whole_clip_s_memory():
    card, small = named_machine("RTX 4090", None), TransformerShape(num_layers=2, driving_downsample=1)
    windowed = recipe("nano_dpo")
    whole = dataclasses.replace(windowed, data=dataclasses.replace(windowed.data, window=None))
    alone = dataclasses.replace(windowed, data=dataclasses.replace(windowed.data, whole_share=0.0))
    many, few, fewest = (
        training_needs(small, work_of(each, small, AutoencoderShape(), (17, 512, 896)), card)
        for each in (whole, windowed, alone)
    )
    assert few.peak == many.peak
    assert few.step_seconds == pytest.approx(0.2 * many.step_seconds + 0.8 * fewest.step_seconds)
    assert fewest.step_seconds < 0.5 * many.step_seconds


def test_a_size_between_the_model_s_steps_is_refused_with_the_nearest(capsys):
    for size, nearest in {"100x100x17": "96x96x17", "128x128x16": "128x128x17", "1x128x17": "16x128x17"}.items():
        with pytest.raises(SystemExit) as ended:
            main(["train", "nano_dpo", "--plan", "--size", size])
        assert ended.value.code == 2
        assert f"the nearest is {nearest}." in capsys.readouterr().err


def test_nobody_states_what_a_cpu_reaches(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SCAIL2_HOME", str(tmp_path))
    with pytest.raises(SystemExit):
        main(["train", "nano_dpo", "--plan", "--device", "cpu", "--json"])
    assert json.loads(capsys.readouterr().out)["within"] is None
    with pytest.raises(SystemExit):
        main(["train", "nano_dpo", "--plan", "--device", "cpu"])
    assert "a guess until" in capsys.readouterr().out
