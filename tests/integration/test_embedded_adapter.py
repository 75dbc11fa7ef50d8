"""The adapter that ships with the embedded model: found by its name, and it draws hands closer."""

import dataclasses

import numpy as np
import pytest
import torch

from scail2 import load_pipeline
from scail2.errors import InputError
from scail2.evaluation.protocols import evaluate_pipeline
from scail2.files.public.embedded import embedded_lora, embedded_model_path
from scail2.loading.places import parse_lora
from scail2.request.animation import AnimationRequest
from scail2.request.placement import WeightStorage
from scail2.training import session
from scail2.training.config import FrozenConfig
from scail2.training.recipes import nano_dpo


def test_an_adapter_is_found_by_its_name_unless_a_file_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = embedded_lora("nano-dpo")
    assert parse_lora("nano-dpo") == (shipped, 1.0)
    assert parse_lora("nano-dpo:0.5") == (shipped, 0.5)
    named = AnimationRequest(reference="a.png", driving="b.mp4", output="c.mp4", lora=("nano-dpo:0.5",))
    assert named.lora == (f"{shipped}:0.5",)
    for wrong in ("nano-dpo2", "../loras/nano-dpo"):
        assert embedded_lora(wrong) is None
        with pytest.raises(InputError, match=f"There is no LoRA file {wrong}"):
            parse_lora(wrong)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.safetensors").touch()
    assert parse_lora("~/own.safetensors:2") == (tmp_path / "own.safetensors", 2.0)
    (tmp_path / "nano-dpo").touch()
    assert parse_lora("nano-dpo")[0].absolute() == tmp_path / "nano-dpo"


def test_small_differences_survive_in_half_precision():
    """Weights are stored in float16: what an adapter adds is mostly below the last bit of their bfloat16 rounding."""
    plain, adapted = (load_pipeline(loras=loras, dtype="float32").transformer for loras in ([], ["nano-dpo"]))
    half = load_pipeline(loras=["nano-dpo"], dtype="bfloat16").transformer
    before = dict(plain.named_parameters())
    other = dict(half.named_parameters())
    for name, weight in adapted.named_parameters():
        if torch.equal(weight, before[name]):
            continue
        assert torch.equal(other[name], weight.bfloat16()), name
    assert any(each.dtype == torch.bfloat16 for each in other.values())


def test_a_training_fuses_it_as_a_run_does(monkeypatch):
    """Also under a frozen bfloat16 base, where its adapters would else learn against rounded differences."""
    monkeypatch.setattr(session, "keep_frozen", lambda *given: None)  # which empties the parameters
    half = load_pipeline(loras=["nano-dpo"], dtype="bfloat16").transformer
    frozen = FrozenConfig(storage=WeightStorage.FULL, offload=False)
    config = dataclasses.replace(
        nano_dpo(), model=str(embedded_model_path()), fused=("nano-dpo",), frozen=frozen, gradient_checkpointing=False
    )
    trained = {
        name.replace(".base_layer", ""): each for name, each in session.load_trainable(config).named_parameters()
    }
    for name, weight in half.named_parameters():
        assert torch.equal(trained[name], weight), name


def test_hands_are_drawn_closer_and_the_rest_stays():
    measures = {}
    for name, loras in {"plain": [], "adapted": ["nano-dpo"]}.items():
        pipe = load_pipeline(loras=loras, dtype="float32")
        pipe.set_progress_bar_config(disable=True)
        report = evaluate_pipeline(pipe, "test", 4, tasks=["animation_single"], frames=9, size=(128, 128))
        clips = report.tasks["animation_single"].outputs
        measures[name] = {each: np.mean([clip[each] for clip in clips]) for each in clips[0]}
    gain = {name: measures["adapted"][name] - measures["plain"][name] for name in measures["plain"]}
    assert gain["hand_psnr"] > 0.1
    assert abs(gain["head_psnr"]) < 0.1
    assert gain["character_psnr"] > 0
    assert gain["background_psnr"] > -0.3
