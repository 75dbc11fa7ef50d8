"""Attention kernels, compilation and step caches: what they change, and what refuses them."""

import json
import math
import shlex
from dataclasses import asdict

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry
from run_material import make_request, save_model
from tiny import SIZE, bare_pipeline, footage, tiny_pipeline

from scail2 import load_pipeline
from scail2.budget.machines import named_machine
from scail2.cli.app import main
from scail2.errors import InputError
from scail2.loading.magnitudes import find_magnitudes, keep_magnitudes
from scail2.loading.speed import set_attention, speed_up
from scail2.pipeline.magnitudes import measure_magnitudes
from scail2.request.placement import Placement, PlacementKind
from scail2.request.speed import AttentionKernel, Magnitudes, Speed, StepCache
from scail2.runs import RunDirectory
from scail2.runs.segment_store import SegmentStore

CPU, RESIDENT = torch.device("cpu"), Placement(kind=PlacementKind.RESIDENT)

STILL = Magnitudes((1000.0, 0.0), (0.0, 0.0))  # of blocks that always add as much


def frames(pipe, steps=2, **options):
    generator = torch.Generator().manual_seed(0)
    options |= {"num_inference_steps": steps, "generator": generator, "output_type": "pt"}
    made = pipe(**footage(5), mode="animation", **options)
    return made.frames


def test_an_attention_kernel_is_set_for_one_pipeline_and_nothing_else():
    default = _AttentionBackendRegistry.get_active_backend()
    pipe, other = bare_pipeline(), bare_pipeline()
    speed_up(pipe.transformer, CPU, Speed(attention=AttentionKernel.SDPA), RESIDENT)
    kernels = {each.attn1.processor._attention_backend for each in pipe.transformer.blocks}
    assert {str(each.value) for each in kernels} == {"native"}
    assert {each.attn1.processor._attention_backend for each in other.transformer.blocks} == {None}
    assert _AttentionBackendRegistry.get_active_backend() == default
    assert torch.equal(frames(pipe), frames(other))


@pytest.mark.parametrize("kernel", ["flash", "flash3", "sage", "cudnn"])
def test_kernels_that_are_not_here_are_refused_in_one_sentence(kernel):
    pipe = bare_pipeline()
    with pytest.raises(InputError, match=f"Attention {kernel} needs an NVIDIA GPU; on cpu use --attention sdpa"):
        speed_up(pipe.transformer, CPU, Speed(attention=AttentionKernel(kernel)), RESIDENT)
    if kernel != "cudnn":
        with pytest.raises(InputError, match=f"Attention {kernel} needs .*, which is not here"):
            set_attention(pipe.transformer, torch.device("cuda"), AttentionKernel(kernel))


def test_choices_that_exclude_each_other_are_refused(monkeypatch):
    transformer = bare_pipeline().transformer
    with pytest.raises(InputError, match="--compile needs weights that stay: --placement block-offload moves them"):
        speed_up(transformer, CPU, Speed(compile=True), Placement(kind=PlacementKind.BLOCK_OFFLOAD))
    with pytest.raises(InputError, match="--compile and --cache first-block exclude each other"):
        speed_up(transformer, CPU, Speed(compile=True, cache=StepCache.FIRST_BLOCK), RESIDENT)
    monkeypatch.setenv("CXX", "no-such-compiler")
    fresh = bare_pipeline().transformer
    with pytest.raises(InputError, match=r"needs a C\+\+ compiler on a CPU: no-such-compiler is not here"):
        speed_up(fresh, CPU, Speed(compile=True), RESIDENT)


@pytest.mark.parametrize("cache", [StepCache.FIRST_BLOCK, StepCache.MAG, StepCache.TAYLORSEER])
def test_step_caches_skip_blocks_and_forget_between_segments(cache, monkeypatch):
    monkeypatch.setattr("scail2.loading.speed.FIRST_BLOCK_THRESHOLD", 10.0)  # skips whatever it may
    counts, films = {}, {}
    for each in (StepCache.OFF, cache):
        pipe = bare_pipeline()
        speed_up(pipe.transformer, CPU, Speed(cache=each), RESIDENT, STILL)
        calls = []
        feed_forward = pipe.transformer.blocks[1].ffn.net[2] if cache is not StepCache.TAYLORSEER else None
        attention = pipe.transformer.blocks[1].attn1.to_q
        (feed_forward or attention).register_forward_hook(lambda *_, calls=calls: calls.append(1))
        films[each] = [frames(pipe, 8), frames(pipe, 8)]
        counts[each] = len(calls)
    assert 0 < counts[cache] < counts[StepCache.OFF]
    assert torch.equal(*films[cache])
    assert not torch.equal(films[cache][0], films[StepCache.OFF][0])


def test_what_is_not_exact_makes_segments_of_its_own(tmp_path):
    request = make_request(tmp_path, frames=5, model=str(save_model(tmp_path / "model")), device="cpu")
    keys = {}
    for name, changes in {
        "exact": {},
        "sdpa": {"attention": "sdpa"},
        "cached": {"cache": "taylorseer"},
        "small": {"weights": "fp8"},
        "offloaded": {"placement": "block-offload"},
    }.items():
        run = RunDirectory.create(tmp_path / "film.run", request.with_changes(**changes))
        run.execute()
        keys[name] = SegmentStore(run.path).record(0).key
    assert keys["exact"] == keys["sdpa"] == keys["offloaded"]
    assert len({keys["exact"], keys["cached"], keys["small"]}) == 3


def test_segments_skipped_by_other_magnitudes_are_rendered_again(tmp_path, monkeypatch):
    monkeypatch.setenv("SCAIL2_HOME", str(tmp_path / "home"))
    folder = save_model(tmp_path / "model")
    request = make_request(tmp_path, frames=5, model=str(folder), device="cpu", cache="mag")
    states = []
    for measured in (STILL, STILL, Magnitudes((1000.0, 0.0), (1.0, 0.0))):
        keep_magnitudes(folder, [], measured)
        run = RunDirectory.create(tmp_path / "film.run", request)
        events: list[str] = []
        run.execute(events=lambda event, events=events: events.append(event.name))
        states.append("segment_finished" in events)
    assert states == [True, False, True]


def test_a_pipeline_takes_speed_when_it_is_loaded(tmp_path):
    folder = save_model(tmp_path / "model")
    pipe = load_pipeline(folder, device="cpu", speed=Speed(cache=StepCache.FIRST_BLOCK))
    assert pipe.transformer.is_cache_enabled
    with pytest.raises(InputError, match="Attention sage needs an NVIDIA GPU"):
        load_pipeline(folder, device="cpu", speed=Speed(attention=AttentionKernel.SAGE))


def test_magnitudes_give_every_schedule_its_ratios():
    known = Magnitudes((1000.0, 500.0, 100.0), (2.0, 1.0, 0.0))
    assert known.ratios([1000.0, 750.0, 500.0, 300.0, 50.0]) == pytest.approx([1.0, *[math.exp(-0.5)] * 4])
    assert known.ratios([700.0]) == [1.0]
    for wrong in (((1.0,), (0.0,)), ((1.0, 2.0), (0.0, 0.0)), ((2.0, 1.0), (0.0,))):
        with pytest.raises(InputError, match="two or more falling timesteps"):
            Magnitudes(*wrong)


def test_magnitudes_are_the_norms_of_what_blocks_add():
    pipe = bare_pipeline()
    with torch.no_grad():  # blocks that leave everything as it is but for their feed-forward layers' biases
        for block in pipe.transformer.blocks:
            for linear in (block.attn1.to_out[0], block.ffn.net[2]):
                linear.weight.zero_()
                linear.bias.zero_()
            block.scale_shift_table.zero_()
        pipe.transformer.condition_embedder.time_proj.weight.zero_()
        bias = pipe.transformer.condition_embedder.time_proj.bias.view(6, -1)
        bias.zero_()
        bias[5] = 1.0
        pipe.transformer.blocks[1].ffn.net[2].bias[:4] = 3.0  # a residual of norm 6 at every token
    found = measure_magnitudes(pipe, lambda: frames(pipe, 3))
    assert len(found.timesteps) == 3
    assert found.timesteps[0] == 1000.0
    assert found.log_norms == pytest.approx([math.log(6.0)] * 3, abs=1e-4)


def test_mag_takes_what_was_measured_of_these_weights_or_came_with_them(tmp_path, monkeypatch):
    monkeypatch.setenv("SCAIL2_HOME", str(tmp_path / "home"))
    folder = save_model(tmp_path / "model")
    request = make_request(tmp_path, frames=5, model=str(folder), device="cpu", cache="mag")
    with pytest.raises(InputError, match=f"scail2 calibrate --model {folder}"):
        RunDirectory.create(tmp_path / "film.run", request).plan()
    RunDirectory.create(tmp_path / "elsewhere.run", request).plan(machine=named_machine("RTX 4090", None))
    with pytest.raises(InputError, match="--cache mag needs to know"):
        load_pipeline(folder, device="cpu", speed=Speed(cache=StepCache.MAG))
    (folder / "magnitudes.json").write_text(json.dumps(asdict(STILL)))
    assert find_magnitudes(folder) == STILL
    measured = Magnitudes((1000.0, 10.0), (1.0, 0.5))
    keep_magnitudes(folder, [], measured)
    assert find_magnitudes(folder) == measured, "of exactly these weights before what somebody put beside them"
    pipe = load_pipeline(folder, device="cpu", speed=Speed(cache=StepCache.MAG))
    for steps in (3, 5):
        seen: list[float] = []
        frames(pipe, steps, callback_on_step_end=lambda *at, seen=seen: seen.append(float(at[2])))
        assert len(seen) == steps
        ratios = pipe.transformer._cache_config.mag_ratios.tolist()
        assert ratios == pytest.approx([*measured.ratios(seen)[:-1], math.inf]), "the last step is computed"


def test_calibrate_measures_a_model_for_mag_and_keeps_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SCAIL2_HOME", str(tmp_path / "home"))
    folder = save_model(tmp_path / "model")
    words = ["calibrate", "--device", "cpu", "--size", "32", "--steps", "3"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--model", str(folder), "--json"])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    found = find_magnitudes(folder)
    assert asdict(found) == {name: tuple(values) for name, values in told.items()}
    assert found.timesteps[0] == 1000.0
    assert len(found.timesteps) == 3
    for word, value in {"--size": "32", "--steps": "3", "--lora": "nano-dpo"}.items():
        with pytest.raises(SystemExit) as ended:
            main(["calibrate", word, value])
        assert ended.value.code == 2
        assert f"{word} belongs to the measuring of a model: name it with --model." in capsys.readouterr().err


def test_calibrate_measures_a_model_that_takes_text(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SCAIL2_HOME", str(tmp_path / "home"))
    tiny_pipeline().save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", "--device", "cpu", "--size", str(SIZE), "--steps", "3", "--model", str(tmp_path / "model")])
    assert ended.value.code == 0, capsys.readouterr().err
    assert len(find_magnitudes(tmp_path / "model").timesteps) == 3


def test_the_command_that_measures_a_model_can_be_copied_whatever_its_path(tmp_path, monkeypatch):
    monkeypatch.setenv("SCAIL2_HOME", str(tmp_path / "home"))
    folder = save_model(tmp_path / "my model")
    with pytest.raises(InputError) as refused:
        find_magnitudes(folder)
    _, _, command = str(refused.value).partition("not measured: ")
    assert shlex.split(command) == ["scail2", "calibrate", "--model", str(folder)]


def test_the_embedded_model_brings_its_magnitudes(tmp_path, monkeypatch):
    monkeypatch.setenv("SCAIL2_HOME", str(tmp_path))
    found = find_magnitudes(None)
    assert len(found.timesteps) == 24
    assert 0.5 < found.ratios([1000.0, found.timesteps[-1]])[1] < 0.8
